"""Null control: right on sound controls, loud on unsound ones, silent where there are too few."""

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu

from tests.plugin.metrics.test_membership import normal, trial_of
from unlearn_plugin.metrics import null_control
from unlearn_plugin.metrics.null_control import NullControl
from unlearn_plugin.statistics import Auc, match_classes, proportion, stratified_auc


def measure(trial, **settings):
    return NullControl(**settings).measure(trial.original, trial)


def test_on_sound_controls_false_alarms_are_rare_and_counted_exactly() -> None:
    found = measure(trial_of(normal(60, 2, 0), normal(800, 0, 1)))
    assert found.details["runs"] == 200
    assert found.value == found.details["false_alarms"] / 200
    assert (found.low, found.high) == (proportion(found.details["false_alarms"], 200).low, found.details["high"])
    assert found.low < 0.05
    assert found.value < 0.08
    assert found.n == 800


def test_the_request_itself_does_not_matter_only_its_size_and_classes() -> None:
    controls = normal(400, 0, 2)
    assert measure(trial_of(normal(60, 9, 3), controls)) == measure(trial_of(normal(60, -9, 4), controls))


def test_the_same_seed_gives_the_same_draws_and_another_seed_others() -> None:
    first, again, other = (null_draw(seed) for seed in (0, 0, 1))
    assert np.array_equal(first.forget, again.forget)
    assert not np.array_equal(first.forget, other.forget)


def test_the_trials_seed_decides_which_pseudo_requests_are_drawn() -> None:
    trials = [trial_of(normal(20, 0, 13), normal(200, 0, 14), seed=seed) for seed in (0, 0, 1, 2, 3)]
    alarms = [measure(trial).details["false_alarms"] for trial in trials]
    assert alarms[0] == alarms[1]
    assert len(set(alarms)) > 1


def matched_example():
    return match_classes(
        np.zeros(30), np.repeat([0, 1, 2], [20, 8, 2]), np.arange(100.0), np.repeat([0, 1, 2], [30, 40, 30])
    )


def null_draw(seed: int):
    matched = matched_example()
    return null_control._pseudo_request(matched, null_control._request_sizes(matched), np.random.default_rng(seed))


def test_a_pseudo_request_has_the_classes_of_the_real_one_and_at_most_half_of_the_controls() -> None:
    drawn = null_draw(0)
    assert np.bincount(drawn.forget_class).tolist() == [15, 8, 2]  # 20 of class 0 would leave 10 of 30
    assert np.bincount(drawn.controls_class).tolist() == [15, 32, 28]
    assert sorted([*drawn.forget, *drawn.controls]) == list(range(100))  # nothing twice, nothing lost
    assert drawn.forget[drawn.forget_class == 1].min() >= 30
    assert drawn.forget[drawn.forget_class == 1].max() < 70


def test_a_class_nothing_can_be_drawn_from_is_left_out() -> None:
    matched = match_classes(np.zeros(40), np.repeat([0, 1], 20), np.arange(65.0), np.repeat([0, 1], [5, 60]))
    drawn = null_control._pseudo_request(matched, null_control._request_sizes(matched), np.random.default_rng(0))
    assert set(drawn.forget_class) == {0}
    assert drawn.controls.min() >= 5


@pytest.mark.parametrize(("forget", "controls"), [(60, 30), (12, 12)])
def test_too_few_controls_give_no_number(forget: int, controls: int) -> None:
    found = measure(trial_of(normal(forget, 0, 5), normal(controls, 0, 6)))
    assert found.value is None
    assert "too few" in (found.note or "")


@pytest.mark.parametrize(("rare", "there"), [(6, True), (8, False)])
def test_nothing_is_said_where_a_tenth_of_the_request_can_have_no_pseudo_request(rare: int, there: bool) -> None:
    labels, others = [0] * 66 + [1] * rare, [0] * 400 + [1] * 5
    found = measure(trial_of(normal(66 + rare, 0, 5), normal(405, 0, 6), labels=labels, others=others))
    assert (found.value is not None) == there


def test_no_comparable_class_gives_no_number() -> None:
    found = measure(trial_of(normal(6, 0, 7), normal(20, 0, 8), labels=[2] * 6, others=[0, 1] * 10))
    assert found.value is None


def test_a_test_that_cries_wolf_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a broken interval, an alarm on every second draw, the control says so."""

    def broken(matched, subjects=None) -> Auc:
        value = float(matched.forget.mean() > matched.controls.mean())
        return Auc(value, value, value, value, value, len(matched.forget), len(matched.controls), 1 - value)

    monkeypatch.setattr(null_control, "stratified_auc", broken)
    found = measure(trial_of(normal(60, 0, 9), normal(800, 0, 10)))
    assert found.low > 0.05
    assert 0.3 < found.value < 0.7


def test_the_number_of_runs_is_a_setting() -> None:
    found = measure(trial_of(normal(40, 0, 11), normal(200, 0, 12)), runs=20)
    assert found.details["runs"] == 20
    assert torch.tensor(found.value * 20).round() == found.details["false_alarms"]


def test_an_alarm_is_a_lower_bound_of_97_5_per_cent_above_one_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same draws, so many pass the normal Mann-Whitney test at 2.5 %, which says the same in one class."""
    drawn = []
    monkeypatch.setattr(null_control, "stratified_auc", lambda one: drawn.append(one) or stratified_auc(one))
    trial = trial_of(normal(20, 0, 15), normal(300, 0, 16), labels=[0] * 20, others=[0] * 300)
    found = measure(trial, runs=400).details["false_alarms"]
    p_values = [
        mannwhitneyu(one.forget, one.controls, use_continuity=False, alternative="greater", method="asymptotic").pvalue
        for one in drawn
    ]
    assert found == sum(p < 0.025 for p in p_values)
    assert 0 < found < sum(p < 0.05 for p in p_values)
