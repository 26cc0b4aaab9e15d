"""Games: can an attacker tell models that unlearned a sample from models that never saw it? One game per sample."""

import numpy as np
from jaxtyping import Float64
from scipy.stats import beta, norm

__all__ = ["DELTA", "bounded_epsilon", "largest_epsilon", "likelihood_ratio_auc"]

DELTA = 0.01  # of (epsilon, delta)-unlearning
_PRIOR = 4.0  # degrees of freedom with which the variance typical of all samples counts beside a sample's own


def likelihood_ratio_auc(
    unlearned: Float64[np.ndarray, "u s"], retrained: Float64[np.ndarray, "r s"]
) -> Float64[np.ndarray, " s"]:
    """AUC of the per-sample likelihood-ratio attack on unlearning (U-LiRA), without the bias of small numbers.

    Formula: for each sample, AUC = mean over pairs (i, j) of [L_ij(u_i) > L_ij(r_j)], ties half, with the score
    L_ij(x) = log N(x; mean, var of U without u_i) - log N(x; mean, var of R without r_j). Scoring every pair by models
    of neither makes the two exchangeable if U and R are alike, so that the expectation is then exactly 0.5 however
    few models there are; scored in the sample it would exceed 0.5, scored by leaving out one it would fall short.
    Variances are shrunken: (4 v0 + (n - 1) v) / (4 + n - 1), with v0 the median over the samples.

    Args:
        unlearned: Margins by models that were trained on the samples and unlearned them; two models or more.
        retrained: Margins by models that were never trained on them; two or more.

    Returns:
        One AUC per sample; 0.5 if the attacker can do no better than guess. Values below it are chance.

    Source: Hayes et al. 2024, arXiv 2403.01218; shrinkage after Zarifzadeh et al. and BaVarIA, arXiv 2603.11799. The
    leave-pair-out scoring is ours.
    """
    wins = np.zeros(unlearned.shape[1])
    other = [_without(retrained, j) for j in range(len(retrained))]
    mean_r, var_r = (np.stack([fit[part] for fit in other]) for part in (0, 1))
    for i, margin in enumerate(unlearned):
        mean_u, var_u = _without(unlearned, i)
        theirs = np.asarray(norm.logpdf(margin, mean_u, var_u**0.5) - norm.logpdf(margin, mean_r, var_r**0.5))
        ours = np.asarray(norm.logpdf(retrained, mean_u, var_u**0.5) - norm.logpdf(retrained, mean_r, var_r**0.5))
        wins += (theirs > ours).sum(0) + 0.5 * (theirs == ours).sum(0)
    return wins / (len(unlearned) * len(retrained))


def _without(
    margins: Float64[np.ndarray, "n s"], left_out: int
) -> tuple[Float64[np.ndarray, " s"], Float64[np.ndarray, " s"]]:
    """Mean and shrunken variance of each sample over all models but one."""
    kept = np.delete(margins, left_out, axis=0)
    if len(kept) < 2:
        return kept[0], np.ones_like(kept[0])
    variance = kept.var(0, ddof=1)
    freedom = len(kept) - 1
    shrunken = (_PRIOR * np.median(variance) + freedom * variance) / (_PRIOR + freedom)
    return kept.mean(0), np.maximum(shrunken, np.finfo(np.float64).tiny)


def bounded_epsilon(
    unlearned: Float64[np.ndarray, "u s"],
    retrained: Float64[np.ndarray, "r s"],
    *,
    level: float = 0.95,
    delta: float = DELTA,
) -> Float64[np.ndarray, " s"]:
    """Lower confidence bound of the epsilon of (epsilon, delta)-unlearning, for each sample.

    Formula: epsilon >= log((P_low - delta) / Q_high), with P the probability that a model of one kind falls on a side
    of a threshold on the margin, Q that of the other kind, and Clopper-Pearson bounds that hold together with
    probability `level`. Threshold, side and kinds are chosen on every second model and the bound is computed on the
    others. At least 0.

    Args:
        unlearned: Margins by models that were trained on the samples and unlearned them.
        retrained: Margins by models that were never trained on them.
        level: Confidence of each bound; for a statement about many samples divide 1 - level by their number.
        delta: Probability that may be given away.

    Returns:
        One bound per sample; `largest_epsilon` says what it can be at most with so many models.

    Source: rule of Hayes et al. 2024, arXiv 2403.01218, and of the NeurIPS 2023 competition, with bounds in place of
    estimates: those are far above 0 even where both kinds are the same.
    """
    rules = np.quantile(np.concatenate([unlearned[::2], retrained[::2]]), np.linspace(0.02, 0.98, 49), axis=0)
    best = np.full(unlearned.shape[1], -np.inf)
    bound = np.zeros(unlearned.shape[1])
    for rule in rules:
        for first, second in ((unlearned, retrained), (retrained, unlearned)):
            for above in (True, False):
                guess = _bound(*_counts(first[::2], second[::2], rule, above=above), level, delta)
                found = _bound(*_counts(first[1::2], second[1::2], rule, above=above), level, delta)
                better = guess > best
                best, bound = np.where(better, guess, best), np.where(better, found, bound)
    return np.maximum(bound, 0.0)


def largest_epsilon(models: int, *, level: float = 0.95, delta: float = DELTA) -> float:
    """Compute what `bounded_epsilon` can be at most: all models of one kind on one side, all others on the other.

    Args:
        models: Models of each kind that the bound is computed on; half of those given.
        level: Confidence of the bound.
        delta: Probability that may be given away.

    Returns:
        The ceiling, at least 0.
    """
    whole = np.array([models])
    return max(0.0, float(_bound(whole, whole, 0 * whole, whole, level, delta)[0]))


def _counts(
    first: Float64[np.ndarray, "a s"],
    second: Float64[np.ndarray, "b s"],
    rule: Float64[np.ndarray, " s"],
    *,
    above: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """How many of each kind lie on a side, and how many there are: hits, out of, false ones, out of."""
    hits, false = (((one > rule) if above else (one <= rule)).sum(0) for one in (first, second))
    return hits, np.full_like(hits, len(first)), false, np.full_like(false, len(second))


def _bound(
    hits: np.ndarray, of: np.ndarray, false: np.ndarray, out_of: np.ndarray, level: float, delta: float
) -> Float64[np.ndarray, " s"]:
    tail = (1 - level) / 2
    low = np.where(hits > 0, beta.ppf(tail, np.maximum(hits, 1), of - hits + 1), 0.0)
    high = np.where(false < out_of, beta.ppf(1 - tail, false + 1, np.maximum(out_of - false, 1)), 1.0)
    return np.log(np.maximum(low - delta, np.finfo(np.float64).tiny) / high)
