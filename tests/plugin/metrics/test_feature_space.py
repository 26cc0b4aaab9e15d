"""The map lies in the plane of the widest directions, counts everybody, and never shows a handful of samples."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.plugin.trials import HeadOnly, make_trial
from unlearn_plugin.measurement import Measurement
from unlearn_plugin.metrics.feature_space import FeatureSpace

N, SPREAD = 4000, (0.1, 3.0, 0.1, 2.0, 0.1, 0.1)


def cloud(seed: int, n: int = N, shift: float = 0.0) -> Tensor:
    """Normal features of the given spread, moved along the widest direction."""
    features = torch.randn(n, len(SPREAD), generator=torch.Generator().manual_seed(seed)) * torch.tensor(SPREAD)
    features[:, 1] += shift
    return features


def measured(forget: Tensor, retain: Tensor | None = None) -> Measurement:
    kept = cloud(0) if retain is None else retain
    width = kept.shape[1]
    trial = make_trial(
        (forget, [0] * len(forget)), (kept, [0] * len(kept)), (kept[:10], [0] * len(kept[:10])),
        original=HeadOnly(width, 2), classes=2,
    )  # fmt: skip
    return FeatureSpace().measure(trial.original, trial)


def fields(found: Measurement, who: str) -> np.ndarray:
    return np.array(found.details["map"][who])


def test_the_value_is_the_variance_of_the_two_widest_directions() -> None:
    variances = np.square(SPREAD)
    assert measured(cloud(1)).value == pytest.approx((9 + 4) / variances.sum(), abs=0.002)


def test_retained_samples_fill_the_map_as_their_normal_density_does() -> None:
    widest = fields(measured(cloud(1)), "retain").sum(1)
    ends = np.linspace(-2.326, 2.326, 15)  # 1 % to 99 % of a normal, in 14 fields
    middle = 0.5 * (ends[:-1] + ends[1:])
    density = np.exp(-(middle**2) / 2)
    assert widest[1:-1] / widest[1:-1].sum() == pytest.approx(density[1:-1] / density[1:-1].sum(), abs=0.015)


def test_everybody_is_counted_and_who_lies_beyond_is_in_the_outer_fields() -> None:
    found = measured(cloud(1, 50, shift=100.0))
    for who in ("retain", "forget"):
        assert fields(found, who).sum() == pytest.approx(1.0, abs=0.01)
    assert fields(found, "forget")[-1].sum() == pytest.approx(1.0, abs=0.01)


def test_a_handful_of_samples_is_not_shown() -> None:
    assert measured(cloud(1, 19)).details == {"map": None}
    assert measured(cloud(1, 20)).details["map"] is not None


def test_one_feature_makes_no_map() -> None:
    found = measured(cloud(1)[:, :1], cloud(0)[:, :1])
    assert found.value is None
    assert "two features" in str(found.note)


def test_constant_features_do_not_break_it() -> None:
    assert measured(torch.zeros(30, 6), torch.zeros(40, 6)).value == 0.0
