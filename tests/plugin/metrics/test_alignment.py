"""Dimensional alignment on features whose subspace is known."""

import pytest
import torch

from tests.plugin.trials import HeadOnly, make_trial
from unlearn_plugin.metrics.alignment import Alignment, principal_directions


def gaussian(size: int, scales: list[float], seed: int) -> torch.Tensor:
    return torch.randn(size, len(scales), generator=torch.Generator().manual_seed(seed)) * torch.tensor(scales)


def trial_of(forget: torch.Tensor, retain: torch.Tensor, **changes):
    model = HeadOnly(forget.shape[1], 2)
    parts = [(features, [row % 2 for row in range(len(features))]) for features in (forget, retain, retain)]
    return make_trial(*parts, original=model, classes=2, **changes)


def measure(trial, **settings):
    return Alignment(**settings).measure(trial.original, trial)


def test_features_inside_the_retained_directions_align_fully() -> None:
    found = measure(trial_of(gaussian(40, [1, 2, 0, 0], 0), gaussian(200, [1, 1, 0, 0], 1)))
    assert found.value == pytest.approx(1.0)
    assert found.details["dimensions"] == 2
    assert found.details["of"] == 4


def test_features_outside_do_not_align_at_all() -> None:
    assert measure(trial_of(gaussian(40, [0, 0, 1, 1], 2), gaussian(200, [1, 1, 0, 0], 3))).value == pytest.approx(0.0)


def test_the_value_is_the_ratio_of_the_sums_and_not_the_mean_of_the_ratios() -> None:
    forget = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    retain = torch.tensor([[1.0, 0.0]] * 10)
    assert measure(trial_of(forget, retain)).value == pytest.approx(9 / 10)


def test_as_many_directions_are_kept_as_hold_the_energy() -> None:
    rows = torch.diag(torch.tensor([8.0, 4.0, 2.0, 1.0]).sqrt())  # second moment: 8, 4, 2, 1 of 15, times 1/4
    for energy, kept in ((0.5, 1), (0.8, 2), (0.90, 3), (0.95, 4), (1.0, 4)):
        assert principal_directions(rows, energy).shape == (4, kept)
    assert principal_directions(rows, 0.5).abs().squeeze().tolist() == pytest.approx([1, 0, 0, 0])


def test_the_moment_is_not_centred() -> None:
    constant = torch.tensor([[5.0, 0.0]]).repeat(20, 1) + gaussian(20, [0, 0.1], 4)
    assert principal_directions(constant, 0.95).abs().squeeze().tolist() == pytest.approx([1, 0], abs=0.01)


def test_the_interval_is_as_wide_as_the_spread_over_repetitions() -> None:
    retain = torch.tensor([[1.0, 0.0]] * 10)
    values = torch.tensor([measure(trial_of(gaussian(100, [1, 1], seed), retain)).value for seed in range(60)])
    found = measure(trial_of(gaussian(100, [1, 1], 99), retain))
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(values.std().item(), rel=0.35)
    assert found.low < found.value < found.high


def test_samples_of_one_subject_are_drawn_together() -> None:
    forget = gaussian(20, [1, 1], 5).repeat_interleave(10, dim=0)
    retain = torch.tensor([[1.0, 0.0]] * 10)
    alone = measure(trial_of(forget, retain))
    together = measure(trial_of(forget, retain, subjects=[row // 10 for row in range(200)]))
    assert together.value == alone.value
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_one_subject_has_a_value_and_no_interval() -> None:
    found = measure(trial_of(gaussian(20, [1, 1], 6), gaussian(20, [1, 1], 7), subjects=[3] * 20))
    assert found.value is not None
    assert (found.low, found.high) == (None, None)


def test_features_that_are_all_zero_have_no_alignment() -> None:
    assert measure(trial_of(torch.zeros(5, 2), gaussian(20, [1, 1], 8))).value is None


def test_the_same_seed_gives_the_same_interval() -> None:
    trial = trial_of(gaussian(30, [1, 1], 9), gaussian(30, [1, 0.5], 10))
    assert measure(trial) == measure(trial)
