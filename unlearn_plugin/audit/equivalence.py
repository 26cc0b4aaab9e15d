"""Equivalence: is a model one of many retrained ones, as far as a number can tell?"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32
from scipy.stats import t as student
from torch import Tensor

__all__ = ["Place", "centred_alignment", "place_among"]


@dataclass(frozen=True)
class Place:
    """Where one number lies among those of retrained models.

    Attributes:
        value: The number of the model in question.
        mean: Mean over the retrained models.
        spread: Their standard deviation.
        low: Lower end of the 95 % prediction interval for one more retrained model.
        high: Upper end.
        models: How many retrained models there are.
        inside: Whether the value lies within the interval.
    """

    value: float
    mean: float
    spread: float
    low: float
    high: float
    models: int
    inside: bool

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def place_among(
    value: float, retrained: Sequence[float], *, likeness: bool = False, level: float = 0.95
) -> Place | None:
    """See whether a number could be that of one more retrained model.

    Formula: mean +- t_(n-1) s sqrt(1 + 1/n), the prediction interval for one more value of a normal distribution, with
    s the standard deviation (n - 1 in its denominator).

    A likeness is a number of two models: the value is its mean over the retrained models, and that of a retrained
    model its mean over the other n - 1. These share pairs, which makes their spread too small. For a likeness
    m + a_i + a_j + e_ij of models i and j, retrained model i has a_i (n - 2) / (n - 1) and what all have in common, so
    s (n - 1) / (n - 2) estimates the spread of a, and takes the place of s. With it the interval is exact where e is 0
    and holds more than promised where a is 0: s^2 then stands for 1 / (n - 2) of the variance of e where
    1 / (n - 1) is due.

    Args:
        value: The number of the model in question.
        retrained: The same number of the retrained models.
        likeness: The numbers are means of a likeness.
        level: Probability with which one more retrained model lies inside.

    Returns:
        The place; ``None`` for fewer than three retrained models, whose spread nobody knows.

    Source: standard; for a likeness ours.
    """
    n = len(retrained)
    if n < 3:
        return None
    mean, spread = float(np.mean(retrained)), float(np.std(retrained, ddof=1))
    estimate = spread * (n - 1) / (n - 2) if likeness else spread
    reach = float(student.ppf(0.5 + level / 2, n - 1)) * estimate * (1 + 1 / n) ** 0.5
    low, high = mean - reach, mean + reach
    return Place(value, mean, spread, low, high, n, low <= value <= high)


def centred_alignment(first: Float32[Tensor, "n a"], second: Float32[Tensor, "n b"]) -> float:
    """Compare two models' features of the same samples: linear CKA, in [0, 1].

    Formula: |Y^T X|_F^2 / (|X^T X|_F |Y^T Y|_F) with the columns of X and Y centred; 1 for features that are rotations
    of each other, 0 for constant ones.

    Args:
        first: Features by one model.
        second: Features by the other.

    Returns:
        The alignment.

    Source: Kornblith et al. 2019, arXiv 1905.00414.
    """
    x, y = (features.double() - features.double().mean(0) for features in (first, second))
    size = (x.T @ x).norm() * (y.T @ y).norm()
    return float((y.T @ x).norm() ** 2 / size) if float(size) else 0.0
