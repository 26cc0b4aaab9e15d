"""Tails: do the margins of F and controls differ anywhere, in either direction, and is F's high-loss tail gone?"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64
from torch import nn

from unlearn_plugin.exposure import TailRate, tail_rate
from unlearn_plugin.measurement import Measurement
from unlearn_plugin.metrics._calibration import matched_scores
from unlearn_plugin.metrics._contest import NOT_COMPARABLE
from unlearn_plugin.metrics.base import Goal, Metric, Trial
from unlearn_plugin.metrics.membership import matched_margins
from unlearn_plugin.statistics import Matched

__all__ = ["Tails"]

_MISSED = 0.05  # of F that the loss attack may take for unseen


@dataclass(frozen=True, kw_only=True)
class Tails(Metric):
    """Two-sided comparison of the margins of F with those of the controls of the same classes.

    The margins are those of the primary test: with reference models the calibrated ones, see `calibrate`. With
    D(t) = P_F[s <= t] - sum_c w_c P_(C_c)[s <= t] and w_c = n_(f,c) / n_f: the value is the Kolmogorov-Smirnov
    distance max |D|, and ``cramer_von_mises`` is n m / (n + m)^2 (sum_(x in F) D(x)^2 + m sum_c w_c mean_(C_c) D^2)
    for n = n_f and m = n_c. With one class both are the usual two-sample statistics. Their p-values come from permuting
    F and controls within classes; of each data subject only one sample, drawn by the judge's seed, takes part in that,
    because samples of one subject are no independent witnesses. The interval of the distance is the bootstrap's 95 %
    band around D, with subjects (and controls within classes) drawn anew.

    ``loss_tail`` is the share of the controls with a higher loss than all but 5 % of F, the true-negative rate of the
    loss attack: 5 % if F has the tail that unseen data have, more if training has cut it off. It needs 99 samples.

    The test is two-sided, so a difference is no residual by itself. But it sees what an AUC near 0.5 can hide, a part
    of F still known beside a part that was suppressed: with a p-value of ``cramer_von_mises`` below 1 % the verdict is
    not NO_RESIDUAL_DETECTED.

    Attributes:
        permutations: Draws for the p-values.
        resamples: Draws for the interval.

    Source: Kolmogorov and Smirnov; Anderson 1962, Annals of Mathematical Statistics 33:1148 (Cramer-von Mises); Dodd
    et al., arXiv 2510.19773 (loss tail; the abstract was at hand, the 5 % is ours).
    """

    permutations: int = 499
    resamples: int = 500

    goal = Goal.LIKE_REFERENCE
    title = "Distribution of margins"
    explanation = (
        "The largest difference between requested and unseen pictures in how sure the model is of them, in either "
        "direction: 0 means that they look the same, 1 that they have nothing in common. A small p-value means that "
        "chance hardly explains it."
    )
    source = "Kolmogorov and Smirnov; Anderson 1962; Dodd et al. 2025, https://arxiv.org/abs/2510.19773"

    def measure(self, model: nn.Module, trial: Trial) -> Measurement:
        """Compare the margins in `model`.

        Args:
            model: The model before, after, or the reference.
            trial: What the judge looks at.

        Returns:
            The Kolmogorov-Smirnov distance; missing when no class of F has enough controls.
        """
        plain = matched_margins(model, trial)
        matched = (matched_scores(model, trial) if trial.references else None) or plain
        if plain is None or matched is None:
            return Measurement.missing(NOT_COMPARABLE)
        units = np.arange(len(matched.forget))
        if trial.subjects is not None:
            units = np.unique(trial.subjects.numpy()[matched.kept], return_inverse=True)[1]
        generator = np.random.default_rng(trial.seed)
        distance, squares = _Pooled(matched).statistics()
        by_distance, by_squares = self._p_values(_one_of_each(matched, units, generator), generator)
        low, high = self._band(matched, units, distance, generator)
        tail = _loss_tail(plain)
        details: dict[str, Any] = {
            "distance_p_value": by_distance,
            "cramer_von_mises": squares,
            "cramer_von_mises_p_value": by_squares,
            "loss_tail": asdict(tail) if tail else None,
        }
        return Measurement(value=distance, low=low, high=high, n=len(matched.forget), details=details)

    def _p_values(self, matched: Matched, generator: np.random.Generator) -> tuple[float, float]:
        """Share of permutations within classes, the identity counted in, with as large a statistic."""
        pooled = _Pooled(matched)
        seen = np.array(pooled.statistics()) * (1 - 1e-12)  # an equal one counts, whatever the rounding
        larger = np.ones(2)
        for _ in range(self.permutations):
            larger += np.array(pooled.permuted(generator).statistics()) >= seen
        distance, squares = larger / (self.permutations + 1)
        return float(distance), float(squares)

    def _band(
        self, matched: Matched, units: Int64[np.ndarray, " f"], distance: float, generator: np.random.Generator
    ) -> tuple[float | None, float | None]:
        if units.max() == 0:
            return None, None  # a single subject has no spread to see
        pooled = _Pooled(matched)
        gaps = pooled.gaps()
        farthest = [
            np.abs(pooled.gaps(_redrawn(matched, units, generator)) - gaps).max() for _ in range(self.resamples)
        ]
        half = float(np.quantile(farthest, 0.95))
        return max(0.0, distance - half), min(1.0, distance + half)


def _loss_tail(matched: Matched) -> TailRate | None:
    """The controls take the place of F: how many have a loss that almost none of F has?"""
    there = np.ones(len(matched.controls), dtype=bool)
    swapped = Matched(-matched.controls, matched.controls_class, -matched.forget, matched.forget_class, there)
    return tail_rate(swapped, _MISSED)


class _Pooled:
    """Scores of F and controls in one order, with the steps that their distribution functions make there."""

    def __init__(self, matched: Matched) -> None:
        scores = np.concatenate([matched.forget, matched.controls])
        self._order = np.argsort(scores, kind="stable")
        self._classes = np.concatenate([matched.forget_class, matched.controls_class])[self._order]
        self._of_forget: Bool[np.ndarray, " n"] = self._order < len(matched.forget)
        ordered = scores[self._order]
        self._last = np.append(ordered[1:] > ordered[:-1], True)  # of equal scores: D is looked at behind all of them
        self._n, self._m = len(matched.forget), len(matched.controls)
        requested = np.bincount(matched.forget_class, minlength=int(self._classes.max()) + 1)
        self._control_step = requested / self._n / np.bincount(matched.controls_class)

    def permuted(self, generator: np.random.Generator) -> "_Pooled":
        """The same scores with F and controls exchanged at random within classes."""
        other: _Pooled = object.__new__(_Pooled)
        other.__dict__.update(self.__dict__)
        by_class = np.argsort(self._classes, kind="stable")
        shuffled = np.argsort(self._classes + generator.random(len(self._classes)))  # classes first, chance within
        other._of_forget = np.empty_like(self._of_forget)
        other._of_forget[by_class] = self._of_forget[shuffled]
        return other

    def gaps(self, steps: Float[np.ndarray, " n"] | None = None) -> Float[np.ndarray, " distinct"]:
        """D behind every distinct score; with other steps if given, F's first and then the controls'."""
        signed = self._steps() if steps is None else steps[self._order]
        found: Float[np.ndarray, " distinct"] = np.cumsum(signed)[self._last]
        return found

    def statistics(self) -> tuple[float, float]:
        """The Kolmogorov-Smirnov distance and the Cramer-von Mises statistic."""
        gaps = self.gaps()
        place = np.cumsum(self._last) - self._last
        counts = np.where(self._of_forget, 1.0, self._m * self._control_step[self._classes])
        squares = float((counts * gaps[place] ** 2).sum())
        return float(np.abs(gaps).max()), self._n * self._m / (self._n + self._m) ** 2 * squares

    def _steps(self) -> Float[np.ndarray, " n"]:
        return np.where(self._of_forget, 1 / self._n, -self._control_step[self._classes])


def _one_of_each(matched: Matched, units: Int64[np.ndarray, " f"], generator: np.random.Generator) -> Matched:
    """One sample of each subject, at random."""
    shuffled = generator.permutation(len(units))
    chosen = np.sort(shuffled[np.unique(units[shuffled], return_index=True)[1]])
    return Matched(
        matched.forget[chosen], matched.forget_class[chosen], matched.controls, matched.controls_class, matched.kept
    )


def _redrawn(
    matched: Matched, units: Int64[np.ndarray, " f"], generator: np.random.Generator
) -> Float[np.ndarray, " n"]:
    """Steps of both distribution functions after drawing subjects, and controls within classes, with replacement."""
    drawn = np.bincount(generator.integers(units.max() + 1, size=units.max() + 1), minlength=units.max() + 1)[units]
    shares = np.bincount(matched.forget_class, weights=drawn) / drawn.sum()
    sizes = np.bincount(matched.controls_class)
    by_class = np.argsort(matched.controls_class, kind="stable")
    classes = matched.controls_class[by_class]
    start = (np.cumsum(sizes) - sizes)[classes]
    chosen = by_class[start + (generator.random(len(classes)) * sizes[classes]).astype(np.int64)]
    counts = np.bincount(chosen, minlength=len(classes))
    steps: Float[np.ndarray, " n"] = np.concatenate([
        drawn / drawn.sum(),
        -(shares / sizes)[matched.controls_class] * counts,
    ])
    return steps
