"""The attack of the probes: the same number as the primary test, on a part that is drawn once and for all."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu

from tests.plugin.trials import HeadOnly, make_trial, samples_of, with_margins
from unlearn_plugin.metrics._contest import Contest, compare, without_p_value
from unlearn_plugin.metrics.membership import Membership

CLASSES = 3


def drawn(size: int, seed: int, shift: float = 0.0) -> tuple[torch.Tensor, list[int]]:
    margins = torch.randn(size, generator=torch.Generator().manual_seed(seed)) + shift
    labels = [row % CLASSES for row in range(size)]
    return with_margins(margins, labels, CLASSES), labels


def trial_of(n_forget: int = 60, n_controls: int = 300, **changes):
    model = HeadOnly(CLASSES, CLASSES)
    return make_trial(
        drawn(n_forget, 0, 0.5), drawn(30, 1), drawn(n_controls, 2), original=model, classes=CLASSES, **changes
    )


def test_on_all_samples_it_is_the_membership_test() -> None:
    trial = trial_of()
    found = Contest.of(trial, 1000).attack(trial.original, trial)
    told = Membership().measure(trial.original, trial)
    assert found == {
        "value": told.value, "low": told.low, "high": told.high, "n": told.n, "p_value": told.details["p_value"]
    }  # fmt: skip


def test_the_p_value_of_few_samples_is_that_of_the_normal_mann_whitney_test() -> None:
    generator = np.random.default_rng(0)
    forget, controls = generator.normal(0.7, 1, 12), generator.normal(0, 1, 25)
    found = compare(forget, np.zeros(12, int), controls, np.zeros(25, int))
    known = mannwhitneyu(forget, controls, alternative="greater", method="asymptotic", use_continuity=False).pvalue
    assert found["p_value"] == pytest.approx(known, rel=1e-9)


def test_subjects_widen_the_interval_and_raise_the_p_value() -> None:
    alone, together = trial_of(), trial_of(subjects=[row // 6 for row in range(60)])
    found = [Contest.of(trial, 1000).attack(trial.original, trial) for trial in (alone, together)]
    assert found[0]["value"] == found[1]["value"]
    assert found[0]["p_value"] < found[1]["p_value"]


def test_a_part_is_drawn_by_the_seed_and_keeps_each_samples_subject() -> None:
    subjects = list(range(100, 160))
    first, again, other = (Contest.of(trial_of(subjects=subjects, seed=seed), 20) for seed in (0, 0, 1))
    assert first.forget.ids == again.forget.ids != other.forget.ids
    assert len(first.forget) == len(first.controls) == 20
    assert [f"sample-{subject - 100}" for subject in first.subjects] == list(first.forget.ids)


def test_controls_are_drawn_from_the_classes_of_f_alone() -> None:
    model = HeadOnly(CLASSES, CLASSES)
    only = with_margins(torch.randn(20), [1] * 20, CLASSES), [1] * 20
    trial = make_trial(only, drawn(30, 1), drawn(300, 2), original=model, classes=CLASSES)
    contest = Contest.of(trial, 50)
    assert contest.controls.labels.tolist() == [1] * 50


def test_without_a_class_to_compare_there_is_nothing() -> None:
    assert compare(np.zeros(5), np.zeros(5, int), np.zeros(4), np.zeros(4, int)) is None
    assert without_p_value(None) is None
    assert without_p_value({"value": 0.5, "p_value": 0.5}) == {"value": 0.5}


def test_with_references_an_unusual_request_is_compared_with_equally_hard_controls() -> None:
    """F is much harder than the controls and remembered a little; only the calibrated contest sees that."""
    generator = torch.Generator().manual_seed(3)

    def part(size: int, hardness: float, known: float) -> tuple[torch.Tensor, tuple[torch.Tensor, list[int]]]:
        outside = torch.randn(size, generator=generator) - hardness
        own = outside + 0.2 * torch.randn(size, generator=generator) + known
        labels = [row % CLASSES for row in range(size)]
        return outside, (with_margins(own, labels, CLASSES), labels)

    (forget, f), (controls, c), (tuning, t) = part(60, 3.0, 1.0), part(600, 0.0, 0.0), part(600, 0.0, 0.0)
    model = HeadOnly(CLASSES, CLASSES)
    trial = make_trial(f, drawn(30, 1), c, original=model, classes=CLASSES)
    plain = Contest.of(trial, 1000).attack(model, trial)
    judged = dataclasses.replace(
        trial, tuning=samples_of(*t, CLASSES), references={"forget": forget, "controls": controls, "tuning": tuning}
    )
    calibrated = Contest.of(judged, 1000).attack(model, judged)
    assert plain["value"] < 0.2
    assert calibrated["value"] > 0.6
    assert calibrated["p_value"] < 0.01


def test_a_sample_without_a_reference_leaves_all_uncalibrated() -> None:
    trial = trial_of()
    margins = {"forget": torch.full((60,), torch.nan), "controls": torch.zeros(300), "tuning": torch.zeros(300)}
    judged = dataclasses.replace(trial, tuning=trial.controls, references=margins)
    assert Contest.of(judged, 1000).outside == ()
    assert Contest.of(judged, 1000).attack(trial.original, judged) == Contest.of(trial, 1000).attack(
        trial.original, trial
    )
