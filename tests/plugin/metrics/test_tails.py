"""Tails: scipy's statistics for one class, brute force for several, p-values that hold, and the loss tail by hand."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import cramervonmises_2samp, ks_2samp

from tests.plugin.trials import HeadOnly, make_trial, with_margins
from unlearn_plugin.metrics.membership import Membership
from unlearn_plugin.metrics.tails import Tails, _one_of_each, _Pooled
from unlearn_plugin.statistics import match_classes


def normal(size: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(size, generator=torch.Generator().manual_seed(seed)) + shift


def trial_of(forget: torch.Tensor, controls: torch.Tensor, classes: int = 1, **changes):
    sides = [[row % classes for row in range(len(one))] for one in (forget, controls)]
    width = max(2, classes)
    return make_trial(
        (with_margins(forget, sides[0], width), sides[0]),
        (torch.zeros(2, width), [0, 1]),
        (with_margins(controls, sides[1], width), sides[1]),
        original=HeadOnly(width, width), classes=width, **changes,
    )  # fmt: skip


def measure(trial, **settings):
    return Tails(**settings).measure(trial.original, trial)


def test_with_one_class_the_statistics_and_p_values_are_scipys() -> None:
    forget, controls = normal(25, 0, 0.5), normal(40, 1)
    found = measure(trial_of(forget, controls), permutations=4999)
    by_distance = ks_2samp(forget.numpy(), controls.numpy())
    by_squares = cramervonmises_2samp(forget.numpy(), controls.numpy())
    n, m = 25, 40
    assert found.value == pytest.approx(by_distance.statistic, abs=1e-6)
    # scipy takes off the mean under the null, up to a constant: T = U / (n m (n + m)) - (4 n m - 1) / (6 (n + m))
    assert found.details["cramer_von_mises"] == pytest.approx(by_squares.statistic, rel=1e-5)
    assert found.details["distance_p_value"] == pytest.approx(by_distance.pvalue, abs=0.02)
    assert found.details["cramer_von_mises_p_value"] == pytest.approx(by_squares.pvalue, abs=0.02)
    assert n * m == 1000


def test_with_classes_the_distance_is_that_of_the_weighted_distribution_functions() -> None:
    generator = np.random.default_rng(0)
    forget, forget_labels = generator.normal(0.4, 1, 30).round(1), generator.integers(0, 3, 30)
    controls, labels = generator.normal(0, 1, 70).round(1), generator.integers(0, 3, 70)
    matched = match_classes(forget, forget_labels, controls, labels)
    gaps = []
    for t in np.unique(np.concatenate([forget, controls])):
        own = (forget <= t).mean()
        other = sum((forget_labels == c).mean() * (controls[labels == c] <= t).mean() for c in range(3))
        gaps.append(own - other)
    assert _Pooled(matched).statistics()[0] == pytest.approx(max(map(abs, gaps)))
    assert _Pooled(matched).gaps() == pytest.approx(np.array(gaps))


def test_a_difference_between_classes_is_no_difference_within() -> None:
    """Pooled, the two would look different, because F is nearly all of the difficult class."""
    forget_labels, labels = np.repeat([0, 1], [90, 10]), np.repeat([0, 1], [100, 100])
    generator = np.random.default_rng(1)
    forget = generator.normal(0, 1, 100) - 3.0 * (forget_labels == 0)
    controls = generator.normal(0, 1, 200) - 3.0 * (labels == 0)
    assert ks_2samp(forget, controls).pvalue < 1e-6
    matched = match_classes(forget, forget_labels, controls, labels)
    distance, squares = Tails()._p_values(matched, np.random.default_rng(0))
    assert min(distance, squares) > 0.05


def test_permutations_stay_within_classes() -> None:
    matched = match_classes(np.zeros(30), np.repeat([0, 1], [20, 10]), np.arange(50.0), np.repeat([0, 1], [20, 30]))
    pooled = _Pooled(matched)
    other = pooled.permuted(np.random.default_rng(0))
    for label, size in ((0, 20), (1, 10)):
        assert other._of_forget[pooled._classes == label].sum() == size
    assert not np.array_equal(other._of_forget, pooled._of_forget)
    assert other.gaps()[-1] == pytest.approx(0)


def test_false_alarms_of_both_tests_are_as_rare_as_they_should_be() -> None:
    generator = np.random.default_rng(2)
    alarms = np.zeros(2)
    for _ in range(200):
        matched = match_classes(
            generator.normal(size=20), np.arange(20) % 2, generator.normal(size=40), np.arange(40) % 2
        )
        alarms += np.array(Tails(permutations=99)._p_values(matched, generator)) <= 0.05
    assert (alarms <= 20).all()  # of 200 at 5 %: more than 20 has a chance of a thousandth
    assert (alarms >= 2).all()


@pytest.mark.parametrize(("shift", "scale"), [(1.0, 1.0), (-1.0, 1.0), (0.0, 3.0)])
def test_it_sees_differences_in_both_directions_and_in_spread(shift: float, scale: float) -> None:
    found = measure(trial_of(normal(80, 0, shift, scale), normal(200, 1)))
    assert found.low > 0.05
    assert found.details["distance_p_value"] < 0.05
    assert found.details["cramer_von_mises_p_value"] < 0.05


def test_the_interval_holds_the_true_distance() -> None:
    """Between N(1, 1) and N(0, 1) it is 2 Phi(1/2) - 1."""
    true = math.erf(0.5 / math.sqrt(2))
    held = 0
    for seed in range(40):
        found = measure(trial_of(normal(60, 2 * seed, 1.0), normal(120, 2 * seed + 1)), permutations=1, resamples=200)
        held += found.low <= true <= found.high
    assert held >= 35


def test_of_each_subject_one_sample_takes_part_in_the_p_values() -> None:
    matched = match_classes(np.arange(12.0), np.arange(12) % 2, np.arange(40.0), np.arange(40) % 2)
    units = np.repeat([0, 1, 2], 4)
    thin = _one_of_each(matched, units, np.random.default_rng(0))
    assert (np.array(thin.forget) // 4).tolist() == [0, 1, 2]
    assert (thin.forget_class == thin.forget % 2).all()


def test_subjects_reach_interval_and_p_values() -> None:
    forget, controls = normal(80, 0, 0.5), normal(200, 1)
    alone, few = (measure(trial_of(forget, controls, subjects=who)) for who in (None, [row // 20 for row in range(80)]))
    assert few.value == alone.value
    assert few.details["distance_p_value"] > alone.details["distance_p_value"]
    single = measure(trial_of(forget, controls, subjects=[0] * 80))
    assert (single.low, single.high) == (None, None)


def test_a_missing_high_loss_tail_is_seen_from_ninety_nine_samples_on() -> None:
    controls = torch.arange(400.0) / 100  # margins 0.00 to 3.99
    cut = torch.cat([torch.full((9,), 0.0), torch.linspace(2.0, 4.0, 191)])
    tail = measure(trial_of(cut, controls), permutations=1).details["loss_tail"]
    assert tail["value"] == pytest.approx(200 / 400)  # all controls below 2.00 have a higher loss than 95 % of F
    assert tail["n"] == 400
    assert tail["low"] < 0.5 < tail["high"]
    assert measure(trial_of(cut[:98], controls), permutations=1).details["loss_tail"] is None
    assert measure(trial_of(cut[:99], controls), permutations=1).details["loss_tail"] is not None


def test_the_same_seed_gives_the_same_numbers() -> None:
    trials = [trial_of(normal(40, 0, 0.3), normal(90, 1), seed=seed) for seed in (0, 0, 1)]
    first, again, other = (measure(trial) for trial in trials)
    assert first == again
    assert first.high != other.high


def test_nothing_to_compare_with_gives_no_number() -> None:
    found = measure(trial_of(normal(5, 0), normal(4, 1)))
    assert found.value is None
    assert found.note


def test_a_half_that_is_known_beside_a_half_that_is_suppressed_is_seen_where_the_auc_is_blind() -> None:
    forget = torch.cat([normal(100, 5, 1.0), normal(100, 6, -1.0)])
    trial = trial_of(forget, normal(1000, 7))
    membership = Membership().measure(trial.original, trial)
    assert membership.low < 0.5 < membership.high
    assert measure(trial).details["cramer_von_mises_p_value"] < 0.01


def test_with_references_the_scores_are_the_calibrated_ones() -> None:
    """All of the difference between F and controls is difficulty, which the references know."""
    margins = {"forget": normal(60, 8, -2.0), "controls": normal(300, 9), "tuning": normal(300, 10, scale=2.0)}
    outside = {split: one + normal(len(one), 20 + len(split), scale=0.3) for split, one in margins.items()}
    tuning = (with_margins(margins["tuning"], [0] * 300, 2), [0] * 300)
    plain, calibrated = (
        measure(trial_of(margins["forget"], margins["controls"], tuning=tuning, references=given)).details
        for given in ({}, outside)
    )
    assert plain["cramer_von_mises_p_value"] < 0.01 < calibrated["cramer_von_mises_p_value"]
    assert plain["loss_tail"] == calibrated["loss_tail"]
