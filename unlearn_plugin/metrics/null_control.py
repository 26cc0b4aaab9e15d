"""Null control: how often does the membership test cry wolf on data that were never trained on?"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64
from torch import nn

from unlearn_plugin.measurement import Measurement
from unlearn_plugin.metrics.base import Goal, Metric, Trial
from unlearn_plugin.metrics.membership import matched_margins
from unlearn_plugin.statistics import MIN_CONTROLS_PER_CLASS, Matched, proportion, stratified_auc

__all__ = ["NullControl"]

_MOST_LEFT_OUT = 0.1  # of F in classes of which no pseudo-request has anything
_ENOUGH = 20  # samples in a pseudo-request, where the real one has at least as many


@dataclass(frozen=True, kw_only=True)
class NullControl(Metric):
    """Share of false alarms over pseudo-requests drawn from the controls.

    A pseudo-request has the class mix of F and, where the controls allow, its size: at most half of a class's controls
    are drawn, the others are what it is compared with. An alarm is what the verdict calls a residual: the one-sided
    97.5 % lower bound of the AUC lies above 0.5, so 2.5 % of alarms are expected. The runs share their controls, so the
    interval, which takes them as independent, is itself an approximation. Where a tenth of F is in classes of which
    nothing can be drawn, nothing is said.

    Attributes:
        runs: Pseudo-requests to draw.

    Source: ours, after the warning of Zhang et al. 2024, arXiv 2409.19798: no claim from a membership attack without
    its false-positive rate.
    """

    runs: int = 200

    goal = Goal.LOW
    title = "Null control"
    explanation = "How often the membership test raises an alarm where there is nothing to find; about 2.5 % is right."
    source = "after Zhang et al. 2024, https://arxiv.org/abs/2409.19798"

    def measure(self, model: nn.Module, trial: Trial) -> Measurement:
        """Run the membership test on data `model` never saw.

        Args:
            model: The model before, after, or the reference.
            trial: What the judge looks at.

        Returns:
            The share of false alarms; missing when there are too few controls.
        """
        matched = self._scores(model, trial)
        sizes = np.zeros(1, dtype=np.int64) if matched is None else _request_sizes(matched)
        if (
            matched is None
            or sizes.sum() < min(len(matched.kept), _ENOUGH)
            or _left_out(matched, sizes) >= _MOST_LEFT_OUT
        ):
            return Measurement.missing("There are too few held-out samples of the requested classes.")
        generator = np.random.default_rng(trial.seed)
        alarms = sum(stratified_auc(_pseudo_request(matched, sizes, generator)).low > 0.5 for _ in range(self.runs))
        share = proportion(int(alarms), self.runs)
        details = {
            "runs": self.runs,
            "false_alarms": int(alarms),
            "low": share.low,
            "high": share.high,
            "request_size": int(sizes.sum()),
        }
        return Measurement(value=share.value, low=share.low, high=share.high, n=len(matched.controls), details=details)

    def _scores(self, model: nn.Module, trial: Trial) -> Matched | None:
        """Scores of the test whose false alarms are counted."""
        return matched_margins(model, trial)


def _request_sizes(matched: Matched) -> Int64[np.ndarray, " classes"]:
    """Samples per class: as in F, but half of the class's controls at most, and enough of them left."""
    there = np.bincount(matched.controls_class)
    spare = np.minimum(there // 2, there - MIN_CONTROLS_PER_CLASS)
    return np.minimum(np.bincount(matched.forget_class), spare)


def _left_out(matched: Matched, sizes: Int64[np.ndarray, " classes"]) -> float:
    return float((sizes[matched.forget_class] == 0).mean())


def _pseudo_request(matched: Matched, sizes: Int64[np.ndarray, " classes"], generator: np.random.Generator) -> Matched:
    """Draw `sizes` controls per class and take them for the request."""
    shuffled = generator.permutation(len(matched.controls))
    by_class = shuffled[np.argsort(matched.controls_class[shuffled], kind="stable")]
    classes = matched.controls_class[by_class]
    place = np.arange(len(classes)) - np.searchsorted(classes, classes)
    drawn = place < sizes[classes]
    wanted = drawn | (sizes[classes] > 0)  # a class nothing is drawn from is compared with nothing
    others = wanted & ~drawn
    _, renumbered = np.unique(classes[wanted], return_inverse=True)
    numbers = np.zeros_like(classes)
    numbers[wanted] = renumbered
    return Matched(
        forget=matched.controls[by_class[drawn]],
        forget_class=numbers[drawn],
        controls=matched.controls[by_class[others]],
        controls_class=numbers[others],
        kept=np.ones(int(drawn.sum()), dtype=bool),
    )
