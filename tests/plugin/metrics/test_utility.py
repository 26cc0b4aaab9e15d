"""Utility on predictions that are known one by one."""

import dataclasses

import pytest
import torch

from tests.plugin.trials import HeadOnly, make_trial
from unlearn_plugin.metrics.base import Trial
from unlearn_plugin.metrics.utility import Utility
from unlearn_plugin.statistics import paired_difference, proportion

CLASSES = 3


def images(labels: list[int], wrong: set[int], wrong_later: set[int]) -> torch.Tensor:
    """One-hot vectors of the prediction; the second half of each is what `later` reads."""
    now = [(label + 1) % CLASSES if place in wrong else label for place, label in enumerate(labels)]
    later = [(label + 1) % CLASSES if place in wrong_later else label for place, label in enumerate(labels)]
    one_hot = torch.eye(CLASSES)
    return torch.cat([one_hot[now], one_hot[later]], dim=1)


@pytest.fixture(scope="module")
def models() -> tuple[HeadOnly, HeadOnly]:
    eye, zero = torch.eye(CLASSES), torch.zeros(CLASSES, CLASSES)
    return (
        HeadOnly(6, 3, weight=torch.cat([eye, zero], dim=1)),
        HeadOnly(6, 3, weight=torch.cat([zero, eye], dim=1)),
    )


def trial_of(models, wrong: set[int], wrong_later: set[int], forgotten_classes: tuple[int, ...] = ()) -> Trial:
    labels = [0, 1, 2] * 20
    return make_trial(
        (images([0, 1, 2, 0] * 2, set(), {0, 4}), [0, 1, 2, 0] * 2),
        (images([0, 1], {0}, set()), [0, 1]),
        (images(labels, wrong, wrong_later), labels),
        original=models[0],
        classes=CLASSES,
        forgotten_classes=forgotten_classes,
    )


def test_the_value_is_the_accuracy_on_the_controls_with_its_exact_interval(models) -> None:
    found = Utility().measure(models[0], trial_of(models, set(range(6)), set()))
    expected = proportion(54, 60)
    assert (found.value, found.low, found.high, found.n) == (0.9, expected.low, expected.high, 60)
    assert found.details["controls"]["value"] == 0.9


def test_retain_and_forget_accuracy_stand_beside_it(models) -> None:
    trial = trial_of(models, set(), set())
    before, after = (Utility().measure(model, trial).details for model in models)
    assert (before["retain"]["value"], before["forget"]["value"]) == (0.5, 1.0)
    assert (after["retain"]["value"], after["forget"]["value"]) == (1.0, 0.75)
    assert after["forget"]["n"] == 8


def test_the_drop_is_paired_after_minus_before(models) -> None:
    wrong, later = {0, 1}, {1, 2, 3, 4, 5}
    trial = trial_of(models, wrong, later)
    drop = Utility().measure(models[1], trial).details["drop"]
    right = [torch.tensor([place not in missed for place in range(60)]).numpy() for missed in (wrong, later)]
    expected = paired_difference(*right)
    assert drop["value"] == pytest.approx(-3 / 60)
    assert (drop["low"], drop["high"]) == (expected.low, expected.high)


def test_the_original_has_no_drop_against_itself(models) -> None:
    details = Utility().measure(models[0], trial_of(models, {1}, {2})).details
    assert details["drop"] is None
    assert details["worst_class_drop"] is None


def test_the_worst_class_is_named_and_its_interval_is_wider_than_alone(models) -> None:
    later = {place for place in range(60) if place % 3 == 1 and place < 40}  # class 1 loses most
    found = Utility().measure(models[1], trial_of(models, set(), later)).details["worst_class_drop"]
    right = torch.tensor([place not in later for place in range(1, 60, 3)]).numpy()
    alone = paired_difference(torch.ones(20, dtype=torch.bool).numpy(), right)
    assert found["class"] == "class-1"
    assert found["value"] == pytest.approx(alone.value)
    assert found["high"] > alone.high


def test_every_class_has_its_row(models) -> None:
    rows = Utility().measure(models[0], trial_of(models, {0, 3}, set())).details["per_class"]
    assert [row["class"] for row in rows] == ["class-0", "class-1", "class-2"]
    assert [row["value"] for row in rows] == [0.9, 1.0, 1.0]
    assert all(row["n"] == 20 and row["low"] <= row["value"] <= row["high"] for row in rows)


def test_forgotten_classes_are_left_out_and_reported_by_themselves(models) -> None:
    of_class_2 = {place for place in range(60) if place % 3 == 2}
    trial = trial_of(models, set(), of_class_2, forgotten_classes=(2,))
    details = Utility().measure(models[1], trial).details
    assert details["controls"] == {"value": 1.0, "low": proportion(40, 40).low, "high": 1.0, "n": 40}
    assert [row["class"] for row in details["per_class"]] == ["class-0", "class-1"]
    assert details["drop"]["value"] == 0
    assert details["worst_class_drop"]["value"] == 0
    assert details["forgotten_classes"]["value"] == 0.0
    assert details["forgotten_classes"]["n"] == 20
    assert Utility().measure(models[0], trial).details["forgotten_classes"]["value"] == 1.0


def test_of_several_forgotten_classes_the_one_still_recognised_is_named_with_a_wider_interval(models) -> None:
    of_class_2 = {place for place in range(60) if place % 3 == 2}
    trial = trial_of(models, set(), of_class_2, forgotten_classes=(1, 2))
    best = Utility().measure(models[1], trial).details["best_forgotten_class"]
    assert (best["class"], best["value"], best["n"]) == ("class-1", 1.0, 20)
    assert best["low"] == proportion(20, 20, 1 - 0.05 / 2).low < proportion(20, 20).low
    assert Utility().measure(models[1], trial_of(models, set(), set())).details["best_forgotten_class"] is None


def test_of_very_few_samples_neither_their_accuracy_nor_their_class_is_told(models) -> None:
    trial = trial_of(models, set(), set())
    few = dataclasses.replace(trial, forget=trial.forget.select(torch.arange(4)), largely_requested=(1,), _outputs={})
    details = Utility().measure(models[1], few).details
    assert details["forget"] is None
    assert details["largely_requested"] == []


def test_without_a_class_request_nothing_is_said_about_forgotten_classes(models) -> None:
    assert Utility().measure(models[0], trial_of(models, set(), set())).details["forgotten_classes"] is None


def test_when_every_class_is_to_be_forgotten_there_is_no_utility(models) -> None:
    found = Utility().measure(models[1], trial_of(models, set(), set(), forgotten_classes=(0, 1, 2)))
    assert found.value is None
    assert "controls" in (found.note or "")
    assert found.details["drop"] is None


def test_a_class_of_which_much_was_requested_is_not_held_against_the_model(models) -> None:
    zeros, ones = {place for place in range(60) if place % 3 == 0}, {1, 4}
    trial = trial_of(models, set(), zeros | ones)
    spared = dataclasses.replace(trial, largely_requested=(0,), _outputs={})
    found = [Utility().measure(models[1], one).details for one in (trial, spared)]
    assert [one["worst_class_drop"]["class"] for one in found] == ["class-0", "class-1"]
    assert [one["largely_requested"] for one in found] == [[], ["class-0"]]
    assert found[0]["drop"] == found[1]["drop"]
    everything = dataclasses.replace(trial, largely_requested=(0, 1, 2), _outputs={})
    assert Utility().measure(models[1], everything).details["worst_class_drop"] is None
