"""Statistics of the judge: exact proportions, paired differences, AUC within classes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64
from scipy.optimize import brentq
from scipy.stats import binomtest, norm
from scipy.stats import t as student

__all__ = [
    "MIN_CONTROLS_PER_CLASS",
    "Auc",
    "Estimate",
    "Matched",
    "effective_number",
    "match_classes",
    "paired_difference",
    "pooled_auc",
    "proportion",
    "share_below",
    "stratified_auc",
]

MIN_CONTROLS_PER_CLASS = 5  # below, a within-class comparison is too coarse to count
_SMALL = 30  # independent units below which a normal approximation with estimated variance is not trusted


@dataclass(frozen=True)
class Estimate:
    """A number with its two-sided interval.

    Attributes:
        value: Point estimate.
        low: Lower end.
        high: Upper end.
        n: Samples it rests on.
    """

    value: float
    low: float
    high: float
    n: int


def proportion(hits: int, n: int, confidence: float = 0.95) -> Estimate:
    """Share with the exact interval of Clopper and Pearson.

    Args:
        hits: Successes.
        n: Trials, at least 1.
        confidence: Two-sided level.

    Returns:
        hits / n; each end leaves at most (1 - confidence) / 2 outside, whatever the true share.

    Source: Clopper and Pearson 1934, Biometrika 26(4); scipy's ``binomtest``.
    """
    interval = binomtest(hits, n).proportion_ci(confidence_level=confidence, method="exact")
    return Estimate(hits / n, float(interval.low), float(interval.high), n)


def paired_difference(
    before: Bool[np.ndarray, " n"], after: Bool[np.ndarray, " n"], confidence: float = 0.95
) -> Estimate:
    """Difference of two proportions measured on the same samples: after minus before.

    Formula: D = p1 - p2 with Wilson intervals [l1, u1], [l2, u2] of the two shares, and phi the correlation of the
    pairs, corrected towards 0;
    low = D - sqrt((p1-l1)^2 - 2 phi (p1-l1)(u2-p2) + (u2-p2)^2), high = D + sqrt((u1-p1)^2 - 2 phi (u1-p1)(p2-l2) +
    (p2-l2)^2).

    Args:
        before: Whether each sample was right before.
        after: Whether the same sample is right after.
        confidence: Two-sided level.

    Returns:
        The difference with its interval; exists where McNemar's statistic does not, such as without any change.

    Source: Newcombe 1998, Statistics in Medicine 17:2635-2650, method 10.
    """
    n = len(before)
    p1, p2 = float(after.mean()), float(before.mean())
    low1, high1 = _wilson(p1, n, confidence)
    low2, high2 = _wilson(p2, n, confidence)
    phi = _corrected_phi(before, after)
    down, up = (p1 - low1, high2 - p2), (high1 - p1, p2 - low2)
    below = math.sqrt(max(0.0, down[0] ** 2 - 2 * phi * down[0] * down[1] + down[1] ** 2))
    above = math.sqrt(max(0.0, up[0] ** 2 - 2 * phi * up[0] * up[1] + up[1] ** 2))
    return Estimate(p1 - p2, p1 - p2 - below, p1 - p2 + above, n)


def _wilson(share: float, n: int, confidence: float) -> tuple[float, float]:
    interval = binomtest(round(share * n), n).proportion_ci(confidence_level=confidence, method="wilson")
    return float(interval.low), float(interval.high)


def _corrected_phi(before: Bool[np.ndarray, " n"], after: Bool[np.ndarray, " n"]) -> float:
    n = len(before)
    both, neither = int((before & after).sum()), int((~before & ~after).sum())
    gained, lost = int((~before & after).sum()), int((before & ~after).sum())
    spread = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    if spread == 0:
        return 0.0
    together = both * neither - gained * lost
    corrected = together if together < 0 else max(0.0, together - n / 2)
    return float(corrected / math.sqrt(spread))


@dataclass(frozen=True)
class Matched:
    """Scores of forget samples and of the controls of their classes.

    Attributes:
        forget: Scores of the forget samples whose class has enough controls.
        forget_class: Their classes, renumbered from 0.
        controls: Scores of the controls of these classes.
        controls_class: Their classes, in the same numbering.
        kept: Which of all forget samples are in `forget`.
    """

    forget: Float[np.ndarray, " f"]
    forget_class: Int64[np.ndarray, " f"]
    controls: Float[np.ndarray, " c"]
    controls_class: Int64[np.ndarray, " c"]
    kept: Bool[np.ndarray, " all"]


def match_classes(
    forget: Float[np.ndarray, " f"],
    forget_labels: Int64[np.ndarray, " f"],
    controls: Float[np.ndarray, " c"],
    control_labels: Int64[np.ndarray, " c"],
) -> Matched | None:
    """Keep what can be compared within a class: classes of F with at least `MIN_CONTROLS_PER_CLASS` controls.

    Args:
        forget: Scores of F.
        forget_labels: Their classes.
        controls: Scores of data never trained on.
        control_labels: Their classes.

    Returns:
        The comparable scores; ``None`` when no class of F has enough controls.
    """
    present, counts = np.unique(control_labels, return_counts=True)
    usable = np.intersect1d(present[counts >= MIN_CONTROLS_PER_CLASS], forget_labels)
    if len(usable) == 0:
        return None
    kept, used = np.isin(forget_labels, usable), np.isin(control_labels, usable)
    return Matched(
        forget=forget[kept].astype(np.float64),
        forget_class=np.searchsorted(usable, forget_labels[kept]),
        controls=controls[used].astype(np.float64),
        controls_class=np.searchsorted(usable, control_labels[used]),
        kept=kept,
    )


@dataclass(frozen=True)
class Auc:
    """Probability that a forget sample scores higher than a control of its class.

    Attributes:
        value: Point estimate; 0.5 means the two cannot be told apart.
        low: Lower end of the two-sided 95 % interval, so also the one-sided 97.5 % lower bound.
        high: Upper end of the two-sided 95 % interval.
        lower95: One-sided 95 % lower bound.
        upper95: One-sided 95 % upper bound.
        n_forget: Forget samples compared.
        n_controls: Controls compared with.
        p_value: One-sided, of "at most 0.5"; below 0.025 exactly where `low` is above 0.5.
    """

    value: float
    low: float
    high: float
    lower95: float
    upper95: float
    n_forget: int
    n_controls: int
    p_value: float


def stratified_auc(matched: Matched, subjects: Int64[np.ndarray, " f"] | None = None) -> Auc:
    """AUC compared within classes and combined with the classes' shares of F.

    Formula: A = sum_c w_c A_c with w_c = n_(f,c) / n_f and A_c = P[s(F_c) > s(C_c)] + P[equal] / 2, which is the mean
    over F of V_i, the share of same-class controls that sample i beats. Variance as DeLong's:
    sum_i (V_i - A)^2 / (n_f (n_f - 1)) + sum_c w_c^2 var(V_(c,j)) / n_c, with V_(c,j) the share of F_c that beats
    control j. With subjects, the first term is k/(k-1) sum_s (sum_(i in s) (V_i - A))^2 / n_f^2 over the k subjects.
    Bounds are normal on the logit scale.

    With fewer than 30 controls, or samples or subjects by their `effective_number`, or at 0 or 1, where the estimated
    variance cannot be trusted, bounds come from inverting |A - theta| <= z sqrt(Var(theta)) with the variance *at
    theta*, which at 0.5 is the Mann-Whitney null variance (m + n_c + 1) / (12 m n_c) of each class, with m the
    effective number. So one subject with many samples beside some with one each counts as little more than one.

    Args:
        matched: Scores and classes.
        subjects: Data subject of each forget sample in `matched`; ``None`` makes every sample its own.

    Returns:
        The AUC with its bounds.

    Source: DeLong et al. 1988, Biometrics 44:837-845; Obuchowski 1997, Biometrics 53:567-578 (clusters; our controls
    have none, so its cross term vanishes); Newcombe 2006, Statistics in Medicine 25:559-573, method 5 (variance at
    theta). We take residuals around A, not A_c: a class with a single forget sample then counts with its spread.
    """
    beaten = _placements(matched.forget, matched.forget_class, matched.controls, matched.controls_class)
    value = float(beaten.mean())
    units = np.arange(len(beaten)) if subjects is None else np.unique(subjects, return_inverse=True)[1]
    independent = effective_number(units)
    variance = 0.0
    if min(independent, len(matched.controls)) >= _SMALL:
        variance = _delong_variance(matched, beaten, units)
    weights = _null_weights(matched, independent / len(beaten))
    return _auc(value, variance, weights, norm, (len(beaten), len(matched.controls)))


def effective_number(units: Int64[np.ndarray, " n"]) -> float:
    """Independent observations that samples of several subjects are worth, if those of one subject agree altogether.

    Formula: (sum_s n_s)^2 / sum_s n_s^2, the variance of one sample over that of the mean of all. k subjects with as
    many samples each count as k; a subject with most of the samples counts for the others, too.

    Args:
        units: Subject of each sample, by any numbers.

    Returns:
        Between 1 and the number of subjects.

    Source: Kish 1965, Survey Sampling (design effect with clusters that agree).
    """
    sizes = np.unique(units, return_counts=True)[1]
    return float(len(units) ** 2 / (sizes**2).sum())


def pooled_auc(parts: Sequence[Matched]) -> Auc:
    """Mean of the AUCs of several requests that were compared with the same controls.

    Variance: that of the parts' AUCs over their number, plus what the shared controls add (DeLong, on the mean of what
    the parts say of each control). Bounds use Student's t with one degree of freedom less than parts.

    Args:
        parts: At least two, with the same classes and the same controls in the same order; scores may be of different
            models.

    Returns:
        The AUC with its bounds; `n_forget` counts the samples of all parts.
    """
    values = [_placements(part.forget, part.forget_class, part.controls, part.controls_class).mean() for part in parts]
    beating = [1 - _placements(part.controls, part.controls_class, part.forget, part.forget_class) for part in parts]
    first, value = parts[0], float(np.mean(values))
    variance = float(np.var(values, ddof=1)) / len(parts) + _control_variance(first, np.mean(beating, axis=0))
    counts = (sum(len(part.forget) for part in parts), len(first.controls))
    return _auc(value, variance, _null_weights(first, 1.0), student(len(parts) - 1), counts)


def _auc(value: float, variance: float, weights: tuple[float, float], law: Any, counts: tuple[int, int]) -> Auc:  # noqa: ANN401  # scipy's
    """Bounds on the logit scale; by the null variance, made from the weights, where the estimated one does not do."""
    levels = [float(law.ppf(level)) for level in (0.025, 0.975, 0.05, 0.95)]
    if variance > 0 and 0 < value < 1:
        low, high, lower95, upper95 = (_logit_bound(value, variance, z) for z in levels)
        above = math.log(value / (1 - value)) * value * (1 - value) / math.sqrt(variance)
    else:
        low, high, lower95, upper95 = (_score_bound(value, weights, z) for z in levels)
        above = (value - 0.5) / math.sqrt(_variance_at(0.5, weights))
    return Auc(value, low, high, lower95, upper95, *counts, p_value=float(law.sf(above)))


def _placements(
    scores: Float[np.ndarray, " a"],
    classes: Int64[np.ndarray, " a"],
    others: Float[np.ndarray, " b"],
    other_classes: Int64[np.ndarray, " b"],
) -> Float[np.ndarray, " a"]:
    """Share of same-class `others` below each score, equal ones counting half."""
    at_most, below = share_below(scores, classes, others, other_classes)
    halved: Float[np.ndarray, " a"] = (at_most + below) / 2
    return halved


def share_below(
    scores: Float[np.ndarray, " a"],
    classes: Int64[np.ndarray, " a"],
    others: Float[np.ndarray, " b"],
    other_classes: Int64[np.ndarray, " b"],
) -> tuple[Float[np.ndarray, " a"], Float[np.ndarray, " a"]]:
    """Share of same-class `others` that are at most, and strictly below, each score; all classes in one sort.

    Args:
        scores: Any.
        classes: Their classes, numbered from 0.
        others: What they are compared with; every class of `scores` has some.
        other_classes: Their classes.

    Returns:
        The two shares of each score.
    """
    distinct, ranks = np.unique(np.concatenate([scores, others]), return_inverse=True)
    keys = ranks + len(distinct) * np.concatenate([classes, other_classes])
    mine, theirs = keys[: len(scores)], np.sort(keys[len(scores) :])
    sizes = np.bincount(other_classes, minlength=int(classes.max()) + 1)
    start = (np.cumsum(sizes) - sizes)[classes]
    at_most, below = (np.searchsorted(theirs, mine, side) - start for side in ("right", "left"))
    return at_most / sizes[classes], below / sizes[classes]


def _delong_variance(matched: Matched, beaten: Float[np.ndarray, " f"], units: Int64[np.ndarray, " f"]) -> float:
    sums = np.bincount(units, weights=beaten - beaten.mean())
    k, n = len(sums), len(beaten)
    of_forget = k / (k - 1) * float((sums**2).sum()) / n**2
    beating = 1 - _placements(matched.controls, matched.controls_class, matched.forget, matched.forget_class)
    return of_forget + _control_variance(matched, beating)


def _control_variance(matched: Matched, beating: Float[np.ndarray, " c"]) -> float:
    """What the choice of the controls adds, from the share of F that beats each."""
    sizes = np.bincount(matched.controls_class)
    means = np.bincount(matched.controls_class, weights=beating) / sizes
    squares = np.bincount(matched.controls_class, weights=(beating - means[matched.controls_class]) ** 2)
    shares = np.bincount(matched.forget_class) / len(matched.forget)
    return float((shares**2 * squares / (sizes - 1) / sizes).sum())


def _logit_bound(value: float, variance: float, z: float) -> float:
    logit = math.log(value / (1 - value)) + z * math.sqrt(variance) / (value * (1 - value))
    return 1 / (1 + math.exp(-logit))


def _null_weights(matched: Matched, independent_share: float) -> tuple[float, float]:
    """The two sums over classes that make Var(theta), see `_variance_at`."""
    forget = np.bincount(matched.forget_class)
    shares = forget / forget.sum()
    m, n = forget * independent_share, np.bincount(matched.controls_class)
    base = shares**2 / (m * n)
    return float(base.sum()), float((base * ((m + n) / 2 - 1)).sum())


def _variance_at(theta: float, weights: tuple[float, float]) -> float:
    """Variance of the AUC if it is theta.

    Formula: theta (1 - theta) sum_c w_c^2 [1 + N_c ((1-theta)/(2-theta) + theta/(1+theta))] / (m_c n_c), with
    N_c = (m_c + n_c) / 2 - 1.
    """
    shape = (1 - theta) / (2 - theta) + theta / (1 + theta)
    return theta * (1 - theta) * (weights[0] + weights[1] * shape)


def _score_bound(value: float, weights: tuple[float, float], z: float) -> float:
    """Theta farthest from `value`, below it for z < 0 and above it for z > 0, that |z| standard errors still reach."""
    if z > 0:
        return 1 - _score_bound(1 - value, weights, -z)  # the variance is symmetric around 1/2
    if value <= 0:
        return 0.0
    top = min(value, 1 - 1e-9)  # at 1 itself the variance vanishes, a root that is no bound
    return float(brentq(lambda theta: value - theta + z * math.sqrt(_variance_at(theta, weights)), 0.0, top))
