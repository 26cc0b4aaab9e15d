"""Exposure: how many of F stand out at a low false-positive rate, and the whole curve; always within classes."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64
from scipy.stats import beta

from unlearn_plugin.statistics import Matched, effective_number, proportion, share_below

__all__ = ["TailRate", "stratified_roc", "tail_rate"]

_LEAST = 5  # controls that chance would put beyond the threshold; with fewer the rate asked for is not realised
_MOST_UNSEEN = 0.1  # of F whose class, and the others like it, are too small for any threshold


def stratified_roc(matched: Matched, points: int = 51) -> list[tuple[float, float]]:
    """ROC curve compared within classes: every class's threshold leaves at most the same share of its controls.

    Args:
        matched: Scores and classes.
        points: Evenly spaced false-positive rates from 0 to 1.

    Returns:
        (false-positive rate, true-positive rate); a score equal to a control's counts as not above it.
    """
    below = share_below(matched.forget, matched.forget_class, matched.controls, matched.controls_class)[1]
    rates = np.linspace(0, 1, points)
    caught = (1 - below[:, None] <= rates[None, :] + 1e-12).mean(axis=0)
    return [(round(float(rate), 4), round(float(share), 4)) for rate, share in zip(rates, caught, strict=True)]


@dataclass(frozen=True)
class TailRate:
    """True-positive rate at a low false-positive rate.

    Attributes:
        value: Share of F above the thresholds.
        low: Lower end of its exact two-sided 95 % interval.
        high: Upper end.
        n: Independent observations it rests on: samples, or subjects by their effective number.
        fpr_high: Upper end of the exact two-sided 95 % interval of the realised false-positive rate.
    """

    value: float
    low: float
    high: float
    n: float
    fpr_high: float


def tail_rate(matched: Matched, fpr: float, subjects: Int64[np.ndarray, " f"] | None = None) -> TailRate | None:
    """Share of F that is more extreme than all but a share of `fpr` of the controls of its own class.

    Formula: x counts if (1 + #{c : s(c) >= s(x)}) / (n_c + 1) <= fpr, its conformal p-value against the controls of its
    class. So the threshold is an observed control, never interpolated and never the nearest point of a ROC curve, which
    may exceed the rate asked for; and samples of a hard class are not hidden behind the controls of easy ones. Classes
    too small for any threshold, (n_c + 1) fpr < 1, are compared as one. The interval is that of Clopper and Pearson,
    with the effective number of subjects in place of the number of samples.

    Args:
        matched: Scores and classes; high scores are extreme.
        fpr: Nominal false-positive rate.
        subjects: Data subject of each forget sample in `matched`; ``None`` makes every sample its own.

    Returns:
        The rates; ``None`` with fewer than 5 / `fpr` - 1 controls, where `fpr` cannot be realised well enough (1 % from
        499 controls, 0.1 % from 4,999), or if a tenth of F is in classes for which there is no threshold.

    Source: conformal p-values, Vovk et al. 2005; ours.
    """
    if (len(matched.controls) + 1) * fpr < _LEAST - 1e-9:
        return None
    enough = (np.bincount(matched.controls_class) + 1) * fpr >= 1 - 1e-9
    forget_stratum, controls_stratum = (
        np.where(enough[classes], classes, len(enough)) for classes in (matched.forget_class, matched.controls_class)
    )
    caught: Bool[np.ndarray, " f"] = np.zeros(len(matched.forget), dtype=bool)
    beyond, unseen = 0, 0
    for stratum in np.unique(forget_stratum):
        mine = forget_stratum == stratum
        found = _threshold(matched.controls[controls_stratum == stratum], fpr)
        if found is None:
            unseen += int(mine.sum())
            continue
        caught[mine] = matched.forget[mine] > found
        beyond += int((matched.controls[controls_stratum == stratum] > found).sum())
    if unseen >= _MOST_UNSEEN * len(matched.forget):
        return None
    n = float(len(caught)) if subjects is None else effective_number(subjects)
    low, high = _exact(float(caught.mean()) * n, n)
    return TailRate(float(caught.mean()), low, high, n, proportion(beyond, len(matched.controls)).high)


def _threshold(controls: Float[np.ndarray, " c"], fpr: float) -> float | None:
    """The control that a score must exceed to count."""
    allowed = math.floor((len(controls) + 1) * fpr + 1e-9) - 1
    return float(np.sort(controls)[-(allowed + 1)]) if allowed >= 0 else None


def _exact(hits: float, n: float) -> tuple[float, float]:
    """Ends of the interval of Clopper and Pearson; the numbers need not be whole."""
    low = float(beta.ppf(0.025, hits, n - hits + 1)) if hits > 0 else 0.0
    high = float(beta.ppf(0.975, hits + 1, n - hits)) if hits < n else 1.0
    return low, high
