"""Guard: what must never be written is refused, and an honest change passes."""

import copy

import pytest
import torch
from torch import nn

from tests.plugin.trials import HeadOnly, make_trial, with_margins
from unlearn_plugin.guard import inspect_change

CLASSES = 4


def trial_of(original: nn.Module, labels: list[int] | None = None, margins: torch.Tensor | None = None):
    labels = labels or [row % CLASSES for row in range(80)]
    margins = torch.ones(len(labels)) if margins is None else margins
    part = (with_margins(margins, labels, CLASSES), labels)
    return make_trial(part, part, part, original=original, classes=CLASSES)


@pytest.fixture
def original() -> HeadOnly:
    return HeadOnly(CLASSES, CLASSES)


def changed(original: HeadOnly, **entries: float) -> HeadOnly:
    model = copy.deepcopy(original)
    with torch.no_grad():
        model.fc.weight += 0.01
        for name, value in entries.items():
            getattr(model.fc, name).view(-1)[0] = value
    return model


def test_an_honest_change_passes_without_a_reason(original: HeadOnly) -> None:
    found = inspect_change(original, changed(original), trial_of(original))
    assert found == {"finite": True, "changed": True, "collapsed": False, "reasons": []}


def test_weights_bit_for_bit_the_same_are_refused(original: HeadOnly) -> None:
    found = inspect_change(original, copy.deepcopy(original), trial_of(original))
    assert found["changed"] is False
    assert len(found["reasons"]) == 1
    assert "changed nothing" in found["reasons"][0]


def test_the_smallest_change_of_one_bit_counts_as_a_change(original: HeadOnly) -> None:
    model = copy.deepcopy(original)
    with torch.no_grad():
        model.fc.weight[0, 1] = -0.0  # equal to 0.0 as a number, and not the same weights
    assert inspect_change(original, model, trial_of(original))["changed"] is True


def test_a_changed_buffer_is_a_change() -> None:
    original = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(CLASSES, affine=False), nn.Linear(CLASSES, CLASSES))
    model = copy.deepcopy(original)
    model[1].num_batches_tracked += 1
    assert inspect_change(original, model, trial_of(original))["changed"] is True


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_weights_that_are_not_finite_are_refused(original: HeadOnly, name: str, value: float) -> None:
    found = inspect_change(original, changed(original, **{name: value}), trial_of(original))
    assert found["finite"] is False
    assert any("not finite" in reason for reason in found["reasons"])
    assert found["changed"] is True


def test_finite_weights_with_scores_that_overflow_are_refused(original: HeadOnly) -> None:
    found = inspect_change(
        original,
        HeadOnly(CLASSES, CLASSES, weight=3e38 * torch.ones(4, 4)),
        trial_of(original, margins=torch.full((80,), 99.0)),
    )
    assert found["finite"] is False
    assert found["collapsed"] is False


@pytest.mark.parametrize("split", ["forget", "controls", "tuning"])
def test_scores_that_are_not_finite_are_refused_wherever_they_are(original: HeadOnly, split: str) -> None:
    labels = [row % CLASSES for row in range(80)]
    part = (with_margins(torch.ones(80), labels, CLASSES), labels)
    bad = (part[0].clone(), labels)
    bad[0][3] = torch.inf
    parts = {name: bad if name == split else part for name in ("forget", "controls", "tuning")}
    trial = make_trial(parts["forget"], part, parts["controls"], tuning=parts["tuning"], original=original, classes=4)
    found = inspect_change(original, changed(original), trial)
    assert found["finite"] is False
    assert any("not finite" in reason for reason in found["reasons"])


def test_a_model_that_says_one_class_to_everything_has_collapsed(original: HeadOnly) -> None:
    found = inspect_change(original, changed(original, bias=100.0), trial_of(original))
    assert found["collapsed"] is True
    assert "100%" in found["reasons"][0]
    assert "25%" in found["reasons"][0]


def test_one_class_is_no_collapse_where_the_data_are_of_one_class(original: HeadOnly) -> None:
    found = inspect_change(original, changed(original, bias=100.0), trial_of(original, labels=[0] * 78 + [1] * 2))
    assert found["collapsed"] is False


def test_accuracy_below_half_of_what_it_was_is_a_collapse(original: HeadOnly) -> None:
    turned = HeadOnly(CLASSES, CLASSES, weight=torch.eye(CLASSES).roll(1, 0))
    found = inspect_change(original, turned, trial_of(original))
    assert found["collapsed"] is True
    assert "0.0%" in found["reasons"][0]
    assert "100.0%" in found["reasons"][0]


@pytest.mark.parametrize(("right", "collapsed"), [(0.48, True), (0.52, False)])
def test_the_limit_is_half_of_the_accuracy_before(original: HeadOnly, right: float, collapsed: bool) -> None:
    """A model that also reads a second copy of the scores, where only some are right."""
    labels = [row % CLASSES for row in range(100)]
    now = with_margins(torch.ones(100), labels, CLASSES)
    later = with_margins(torch.where(torch.arange(100) < 100 * right, 1.0, -2.0), labels, CLASSES)
    part = (torch.cat([now, later], 1), labels)
    eye, zero = torch.eye(CLASSES), torch.zeros(CLASSES, CLASSES)
    before, after = (HeadOnly(8, CLASSES, weight=torch.cat(pair, 1)) for pair in ((eye, zero), (zero, eye)))
    trial = make_trial(part, part, part, original=before, classes=CLASSES)
    assert inspect_change(before, after, trial)["collapsed"] is collapsed


def test_a_model_that_was_weak_before_is_not_called_collapsed() -> None:
    labels = [row % CLASSES for row in range(80)]
    part = (with_margins(torch.where(torch.arange(80) < 28, 1.0, -2.0), labels, CLASSES), labels)
    original = HeadOnly(CLASSES, CLASSES)  # 35 % right, and 1.5 times chance is 37.5 %
    trial = make_trial(part, part, part, original=original, classes=CLASSES)
    model = copy.deepcopy(original)
    with torch.no_grad():
        model.fc.weight *= 1.01
    assert inspect_change(original, model, trial)["collapsed"] is False


def test_all_findings_are_told_at_once() -> None:
    broken = HeadOnly(CLASSES, CLASSES, weight=torch.full((CLASSES, CLASSES), float("nan")))
    found = inspect_change(broken, copy.deepcopy(broken), trial_of(broken))
    assert (found["finite"], found["changed"]) == (False, False)
    assert len(found["reasons"]) == 2
