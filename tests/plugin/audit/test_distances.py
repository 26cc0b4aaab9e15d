"""Distances against scipy and closed forms; their tests keep their promise where nothing differs."""

import numpy as np
import pytest
from scipy.stats import energy_distance, entropy

from unlearn_plugin.audit.distances import energy_test, excess_klom, klom


def margins(seed: int, models: int, samples: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, (models, samples))


def test_the_energy_distance_of_one_sample_is_scipys_squared_and_doubled() -> None:
    first, second = margins(1, 12, 1, 0.8), margins(2, 15, 1)
    assert energy_test(first, second).value == pytest.approx(energy_distance(first[:, 0], second[:, 0]) ** 2)


def test_equal_groups_are_at_distance_zero_and_never_significant() -> None:
    first = margins(3, 8, 5)
    found = energy_test(first, first)
    assert found.value == pytest.approx(0.0, abs=1e-12)
    assert found.p_value == 1.0


def test_the_energy_test_raises_false_alarms_as_often_as_promised() -> None:
    alarms = sum(energy_test(margins(2 * s, 5, 40), margins(2 * s + 1, 7, 40)).p_value <= 0.05 for s in range(150))
    assert 1 <= alarms <= 16  # 7.5 expected; both ends are beyond the 99.5 % points of the binomial distribution


def test_dependent_samples_are_no_more_than_one_model() -> None:
    """A thousand copies of one sample must not turn chance into significance."""
    copies = [np.repeat(margins(seed, 4, 1), 1000, axis=1) for seed in (5, 6)]
    single = [one[:, :1] for one in copies]
    assert energy_test(*copies).p_value == pytest.approx(energy_test(*single).p_value)


def test_a_shift_is_found_with_a_handful_of_models() -> None:
    assert energy_test(margins(7, 6, 50, 0.8), margins(8, 6, 50)).p_value < 0.01


def test_klom_is_the_kl_divergence_of_the_smoothed_histograms() -> None:
    first, second = np.array([[0.0], [0.0], [20.0]]), np.array([[0.0], [20.0], [20.0]])
    p, q = np.full(20, 0.5), np.full(20, 0.5)
    p[[0, -1]] += [2, 1]
    q[[0, -1]] += [1, 2]
    assert klom(first, second)[0] == pytest.approx(entropy(p, q))


def test_the_largest_margin_is_counted() -> None:
    first, second = np.array([[0.0], [1.0], [2.0]]), np.array([[0.0], [1.0], [1.95]])
    assert klom(first, second)[0] == pytest.approx(0.0), "2.0 and 1.95 share the last bin"


def test_raw_klom_is_above_zero_where_nothing_differs_and_the_excess_is_not() -> None:
    first, second = margins(9, 100, 400), margins(10, 200, 400)
    assert klom(first, second[:100]).mean() > 0.1
    assert abs(excess_klom(first, second).value) < 0.02


def test_the_excess_finds_a_difference_and_keeps_its_promise() -> None:
    assert excess_klom(margins(11, 30, 100, 1.0), margins(12, 60, 100)).p_value == pytest.approx(1 / 200)
    alarms = sum(
        excess_klom(margins(2 * s, 8, 20), margins(2 * s + 1, 16, 20), seed=s).p_value <= 0.05 for s in range(60)
    )
    assert alarms <= 8  # 3 expected
