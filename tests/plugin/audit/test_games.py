"""Games against known answers: closed forms for normal margins, exactness under the null, published ceilings."""

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from unlearn_plugin.audit.games import bounded_epsilon, largest_epsilon, likelihood_ratio_auc


def margins(seed: int, models: int, samples: int, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, scale, (models, samples))


def test_without_a_difference_the_auc_is_one_half_on_average_even_with_three_models() -> None:
    for models in (3, 8):
        found = likelihood_ratio_auc(margins(1, models, 4000), margins(2, models, 4000))
        error = found.std() / len(found) ** 0.5
        assert abs(found.mean() - 0.5) < 4 * error
        assert error < 0.01


def test_swapping_the_two_kinds_of_models_changes_nothing_but_ties() -> None:
    first, second = margins(3, 6, 50, 0.7), margins(4, 5, 50)
    assert likelihood_ratio_auc(first, second) == pytest.approx(likelihood_ratio_auc(second, first))


def test_a_shift_gives_the_auc_of_the_normal_theory() -> None:
    found = likelihood_ratio_auc(margins(5, 100, 200, 1.0), margins(6, 100, 200))
    assert found.mean() == pytest.approx(norm.cdf(1 / 2**0.5), abs=0.015)


def test_it_is_two_sided_over_forgetting_shows_as_well() -> None:
    found = likelihood_ratio_auc(margins(7, 40, 200, -2.0), margins(8, 40, 200))
    assert found.mean() == pytest.approx(norm.cdf(2 / 2**0.5), abs=0.02)


def test_a_narrower_spread_around_the_same_mean_is_seen() -> None:
    found = likelihood_ratio_auc(margins(9, 60, 200, scale=0.3), margins(10, 60, 200))
    ratio = norm.cdf(1) - norm.cdf(-1)
    assert found.mean() > 0.5 + 0.25 * ratio


def test_one_model_among_constants_does_not_divide_by_zero() -> None:
    found = likelihood_ratio_auc(np.zeros((3, 4)), np.zeros((3, 4)))
    assert found == pytest.approx(np.full(4, 0.5))


@pytest.mark.parametrize(("models", "ceiling"), [(32, 2.1), (64, 2.8), (128, 3.5), (512, 4.9)])
def test_the_ceiling_is_the_known_one(models: int, ceiling: float) -> None:
    assert largest_epsilon(models) == pytest.approx(ceiling, abs=0.05)


def test_models_that_are_told_apart_reach_the_ceiling_of_their_half() -> None:
    found = bounded_epsilon(margins(11, 64, 5, 100.0), margins(12, 64, 5))
    assert found == pytest.approx(np.full(5, largest_epsilon(32)))


def test_the_bound_is_that_of_the_counted_models() -> None:
    """20 of 32 unlearned models and 2 of 32 retrained ones lie above; the other side says less."""
    unlearned = np.repeat(np.r_[np.ones(20), np.zeros(12)], 2)[:, None]
    retrained = np.repeat(np.r_[np.ones(2), np.zeros(30)], 2)[:, None]
    low = binomtest(20, 32).proportion_ci(0.95, "exact").low
    high = binomtest(2, 32).proportion_ci(0.95, "exact").high
    assert bounded_epsilon(unlearned, retrained) == pytest.approx(np.log((low - 0.01) / high))


def test_the_bound_is_rarely_above_zero_where_nothing_differs() -> None:
    found = bounded_epsilon(margins(13, 64, 600), margins(14, 64, 600))
    assert (found > 0).mean() < 0.05


def test_a_known_epsilon_is_not_exceeded_more_often_than_promised() -> None:
    """Margins 0 or 1 with probabilities (e, 1) / (1 + e): epsilon is 1, delta 0."""
    generator = np.random.default_rng(15)
    chance = np.e / (1 + np.e)
    unlearned, retrained = (generator.random((128, 1000)) < share for share in (chance, 1 - chance))
    found = bounded_epsilon(unlearned.astype(float), retrained.astype(float), delta=0.0)
    assert (found > 1).mean() < 0.05
    assert np.median(found) > 0.4
