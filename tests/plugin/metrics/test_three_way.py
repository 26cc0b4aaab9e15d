"""The three-way test: which of two levels is nearer."""

import numpy as np
import pytest
import torch

from tests.plugin.metrics.test_calibration import made_trial
from tests.plugin.metrics.test_completeness import Moved
from unlearn_plugin.metrics._calibration import calibrate
from unlearn_plugin.metrics.three_way import ThreeWay


@pytest.mark.parametrize(("share", "expected"), [(0.0, 6.0), (0.5, 0.0), (1.0, -6.0)])
def test_the_value_is_the_difference_of_the_distances(share: float, expected: float) -> None:
    trial = made_trial(6.0, noise=0.05, tuning=3000, n=60)
    found = ThreeWay().measure(Moved(trial, 6.0, share), trial)
    assert found.value == pytest.approx(expected, abs=0.25)
    assert found.low <= found.value <= found.high


def test_the_original_is_as_far_as_its_scores() -> None:
    trial = made_trial(1.0)
    scores = calibrate(trial.original, trial).forget
    assert ThreeWay().measure(trial.original, trial).value == pytest.approx(np.abs(scores).mean())


def test_the_interval_is_that_of_95_per_cent_by_normal_theory() -> None:
    """F lies 6 + N(0, 1) above its level, so the mean of n distances has an error of 1 / sqrt(n)."""
    trial = made_trial(6.0, n=400, tuning=3000)
    found = ThreeWay(resamples=4000).measure(trial.original, trial)
    assert found.value - found.low == pytest.approx(1.96 / 20, rel=0.1)
    assert found.high - found.value == pytest.approx(1.96 / 20, rel=0.1)


def test_subjects_make_the_interval_wider_and_one_alone_has_none() -> None:
    values = [row // 20 for row in range(200)]
    alone, clustered = (made_trial(1.0, subjects=subjects) for subjects in (None, values))
    for trial in (alone, clustered):
        trial.references["forget"] += 3.0 * (torch.arange(200) // 20 % 3)  # persons differ
    widths = [(f := ThreeWay().measure(t.original, t)).high - f.low for t in (alone, clustered)]
    assert widths[1] > 1.5 * widths[0]
    single = made_trial(1.0, n=20, subjects=[0] * 20)
    assert ThreeWay().measure(single.original, single).low is None


def test_the_seed_decides_the_interval() -> None:
    first, again, other = (ThreeWay().measure((t := made_trial(1.0)).original, t) for _ in range(3))
    assert first == again == other
    changed = made_trial(1.0)
    object.__setattr__(changed, "seed", 5)
    assert ThreeWay().measure(changed.original, changed).low != first.low


def test_without_references_there_is_no_number() -> None:
    trial = made_trial()
    trial.references["forget"][:] = np.nan
    assert ThreeWay().measure(trial.original, trial).value is None
