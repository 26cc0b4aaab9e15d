"""The calibrated test: the same numbers as the plain one, on other scores; and more power."""

import json

import numpy as np
import pytest

from tests.plugin.metrics.test_calibration import CLASSES, made_trial
from tests.plugin.trials import HeadOnly
from unlearn_plugin.exposure import tail_rate
from unlearn_plugin.measurement import Measurement
from unlearn_plugin.metrics._calibration import matched_scores
from unlearn_plugin.metrics._difficulty import out_of_sample_difficulty
from unlearn_plugin.metrics.base import Trial
from unlearn_plugin.metrics.calibrated_membership import CalibratedMembership
from unlearn_plugin.metrics.membership import Membership
from unlearn_plugin.statistics import stratified_auc


def measure(trial: Trial) -> Measurement:
    return CalibratedMembership().measure(trial.original, trial)


def test_the_value_is_the_auc_of_the_scores_within_classes_with_its_bounds() -> None:
    trial = made_trial(0.7)
    found, matched = measure(trial), matched_scores(trial.original, trial)
    expected = stratified_auc(matched)
    assert (found.value, found.low, found.high) == (expected.value, expected.low, expected.high)
    assert found.details["lower95"] == expected.lower95
    assert found.details["upper95"] == expected.upper95
    assert (found.n, found.details["n_controls"], found.details["n_untested"]) == (200, 600, 0)


def test_what_a_sample_shows_by_its_own_difficulty_no_longer_hides_what_is_remembered() -> None:
    trials = [made_trial(0.8, n=60, seed=seed) for seed in range(8)]
    calibrated = [measure(trial).details["lower95"] > 0.5 for trial in trials]
    plain = [Membership().measure(trial.original, trial).details["lower95"] > 0.5 for trial in trials]
    assert sum(calibrated) == 8
    assert sum(plain) < 5


@pytest.mark.slow
def test_false_alarms_are_as_rare_as_they_should_be() -> None:
    alarms = sum(measure(made_trial(n=100, seed=seed, sizes=300, tuning=100)).low > 0.5 for seed in range(120))
    assert alarms <= 9  # 2.5 % expected: more than 9 of 120 has a chance of 1 in 1,000


def test_samples_without_a_margin_out_of_sample_count_as_untested_and_subjects_stay_with_theirs() -> None:
    trial = made_trial(0.5, n=80, subjects=[row // 2 for row in range(80)])
    whole = measure(trial)
    trial.references["forget"][:20] = np.nan
    part = measure(trial)
    assert part.details["n_untested"] == 20
    assert part.n == 60
    assert part.high - part.low > whole.high - whole.low


def test_the_tail_is_that_of_the_scores() -> None:
    trial = made_trial(2.0, sizes=1000)
    matched = matched_scores(trial.original, trial)
    assert measure(trial).details["tpr"]["0.01"]["value"] == tail_rate(matched, 0.01).value


def test_difficulty_is_that_of_the_references_and_the_same_for_every_model() -> None:
    trial = made_trial(2.0, harder=4.0)
    found = measure(trial).details["difficulty"]
    assert found == out_of_sample_difficulty(trial) < 0.4
    assert CalibratedMembership().measure(HeadOnly(CLASSES, CLASSES), trial).details["difficulty"] == found


@pytest.mark.parametrize("gone", ["references", "tuning"])
def test_without_references_or_tuning_controls_it_says_why_there_is_nothing(gone: str) -> None:
    trial = made_trial()
    if gone == "references":
        trial.references.clear()
    else:
        trial.references["tuning"][:] = np.nan
    found = measure(trial)
    assert found.value is None
    assert "30 tuning controls" in found.note


def test_the_details_hold_no_score_of_a_single_sample() -> None:
    trial = made_trial(1.0)
    matched = matched_scores(trial.original, trial)
    text = json.dumps(measure(trial).details)
    assert all(f"{score:.5f}" not in text for score in matched.forget)
    assert sum(measure(trial).details["histogram"]["forget"]) == 200
    small = made_trial(1.0, n=19)
    assert measure(small).details["histogram"] is None
