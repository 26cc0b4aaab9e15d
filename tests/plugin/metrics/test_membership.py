"""Membership on margins that are chosen, so the AUC is known."""

import json

import numpy as np
import pytest
import torch

from tests.plugin.trials import HeadOnly, make_trial, with_margins
from unlearn_plugin.exposure import tail_rate
from unlearn_plugin.metrics.base import Trial
from unlearn_plugin.metrics.membership import Membership
from unlearn_plugin.statistics import match_classes, stratified_auc

CLASSES = 4


def trial_of(forget: torch.Tensor, controls: torch.Tensor, *, model=None, labels=None, others=None, **changes) -> Trial:
    labels = [row % CLASSES for row in range(len(forget))] if labels is None else labels
    others = [row % CLASSES for row in range(len(controls))] if others is None else others
    return make_trial(
        (with_margins(forget, labels, CLASSES), labels),
        (with_margins(torch.zeros(8), [0, 1, 2, 3] * 2, CLASSES), [0, 1, 2, 3] * 2),
        (with_margins(controls, others, CLASSES), others),
        original=model or HeadOnly(CLASSES, CLASSES),
        classes=CLASSES,
        **changes,
    )


def normal(size: int, mean: float, seed: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) + mean


def measure(trial: Trial):
    return Membership().measure(trial.original, trial)


def test_the_value_is_the_auc_of_the_margins_within_classes() -> None:
    forget, controls = normal(60, 1.0, 0), normal(400, 0.0, 1)
    found = measure(trial_of(forget, controls))
    expected = stratified_auc(match_classes(forget.numpy(), np.arange(60) % 4, controls.numpy(), np.arange(400) % 4))
    assert found.value == pytest.approx(expected.value, abs=1e-3)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=2e-3)
    assert found.details["lower95"] == pytest.approx(expected.lower95, abs=2e-3)
    assert found.details["upper95"] == pytest.approx(expected.upper95, abs=2e-3)
    assert found.details["lower975"] == found.low
    assert (found.n, found.details["n_controls"], found.details["n_untested"]) == (60, 400, 0)


def test_a_difference_between_classes_alone_is_no_signal() -> None:
    shift = torch.tensor([0.0, 5.0, 10.0, 15.0])
    labels, others = [3] * 50, [row % 4 for row in range(400)]
    found = measure(
        trial_of(normal(50, 0, 2) + shift[labels], normal(400, 0, 3) + shift[others], labels=labels, others=others)
    )
    assert found.low < 0.5 < found.high


def test_samples_without_controls_of_their_class_are_counted_as_untested() -> None:
    found = measure(trial_of(normal(40, 1, 4), normal(100, 0, 5), others=[0, 1] * 50))
    assert (found.n, found.details["n_untested"], found.details["n_controls"]) == (20, 20, 100)


def test_without_any_comparable_control_it_says_so() -> None:
    found = measure(trial_of(normal(6, 1, 6), normal(20, 0, 7), labels=[2] * 6, others=[0, 1] * 10))
    assert found.value is None
    assert "held-out" in (found.note or "")


def test_subjects_make_the_interval_wider() -> None:
    people = normal(40, 0.5, 8).repeat_interleave(5)
    controls = normal(400, 0, 9)
    alone = measure(trial_of(people, controls))
    clustered = measure(trial_of(people, controls, subjects=[row // 5 for row in range(200)]))
    assert clustered.value == alone.value
    assert clustered.high - clustered.low > 1.5 * (alone.high - alone.low)


def test_subjects_follow_the_samples_that_are_kept() -> None:
    forget = normal(200, 0.5, 10)
    subjects = [0 if row % 4 in (2, 3) else row for row in range(200)]  # classes 2 and 3 will be left out
    found = measure(trial_of(forget, normal(100, 0, 11), others=[0, 1] * 50, subjects=subjects))
    alone = measure(trial_of(forget, normal(100, 0, 11), others=[0, 1] * 50))
    assert (found.low, found.high) == (alone.low, alone.high)


def test_the_rate_at_one_per_cent_is_null_with_too_few_controls() -> None:
    few, many = (measure(trial_of(normal(30, 1, 12), normal(size, 0, 13))) for size in (498, 499))
    assert few.details["tpr"] == {"0.01": None, "0.001": None}
    assert many.details["tpr"]["0.001"] is None
    forget, controls = normal(30, 1, 12).numpy(), normal(499, 0, 13).numpy()
    expected = tail_rate(match_classes(forget, np.arange(30) % 4, controls, np.arange(499) % 4), 0.01)
    assert many.details["tpr"]["0.01"]["value"] == expected.value
    assert many.details["tpr"]["0.01"]["fpr_high"] == expected.fpr_high


@pytest.mark.parametrize(("size", "shown"), [(19, False), (20, True)])
def test_curves_are_drawn_from_twenty_samples_on(size: int, shown: bool) -> None:
    details = measure(trial_of(normal(size, 1, 14), normal(200, 0, 15))).details
    assert (details["histogram"] is not None) == shown
    assert (details["roc"] is not None) == shown


def test_before_and_after_share_edges_that_come_from_the_original_and_are_whole_at_the_ends() -> None:
    trial = trial_of(normal(50, 1, 16), normal(300, 0, 17))
    wider = HeadOnly(CLASSES, CLASSES, weight=3 * torch.eye(CLASSES))
    before, after = (Membership().measure(model, trial).details["histogram"] for model in (trial.original, wider))
    assert before["edges"] == after["edges"]
    assert len(before["edges"]) == 21
    assert before["edges"][0] == int(before["edges"][0])
    assert before["edges"][-1] == int(before["edges"][-1])
    for histogram in (before, after):  # what lies outside is in the outer bins
        assert (sum(histogram["forget"]), sum(histogram["controls"])) == (50, 300)
    assert after["controls"][0] + after["controls"][-1] > before["controls"][0] + before["controls"][-1]


def test_equal_margins_everywhere_still_have_a_histogram() -> None:
    histogram = measure(trial_of(torch.zeros(30), torch.zeros(100))).details["histogram"]
    assert sum(histogram["forget"]) == 30
    assert histogram["edges"] == sorted(set(histogram["edges"]))


def test_the_roc_is_coarse_and_the_details_are_json_without_a_single_score() -> None:
    forget = normal(50, 1, 18)
    details = measure(trial_of(forget, normal(300, 0, 19))).details
    assert 2 <= len(details["roc"]) <= 101
    text = json.dumps(details)
    assert all(f"{score:.5f}" not in text for score in forget.tolist())
    assert "sample-" not in text
