"""Three-way test: do the requested data look more like unseen data now, or still more like before?"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from torch import nn

from unlearn_plugin.measurement import Measurement
from unlearn_plugin.metrics._calibration import NO_REFERENCES, calibrate
from unlearn_plugin.metrics.base import Goal, Metric, Trial

__all__ = ["ThreeWay"]


@dataclass(frozen=True, kw_only=True)
class ThreeWay(Metric):
    """Distance to the level of unseen samples, less the distance to the original.

    Formula: D = mean over F of |s_theta(x)| - |s_0(x) - s_theta(x)|, s the calibrated scores, in nats; 0 is the level
    of unseen samples. Negative: nearer to unseen; positive: nearer to the original. The interval is a percentile
    bootstrap over the data subjects. A model that only moves at random is far from the original, too, so a negative D
    is needed and not enough.

    Attributes:
        resamples: Bootstrap draws.

    Source: ours.
    """

    resamples: int = 1000

    tier = "B"
    goal = Goal.LOW
    title = "Three-way test"
    explanation = (
        "Whether the requested pictures now look more like pictures never seen (below 0) or still more like in the "
        "original model (above 0)."
    )
    source = "ours"

    def measure(self, model: nn.Module, trial: Trial) -> Measurement:
        """Compare the two distances.

        Args:
            model: The model before, after, or the reference.
            trial: What the judge looks at.

        Returns:
            The mean difference of the distances; missing without references.
        """
        before, after = calibrate(trial.original, trial), calibrate(model, trial)
        if before is None or after is None or not np.isfinite(before.forget).any():
            return Measurement.missing(NO_REFERENCES)
        there = np.isfinite(before.forget)
        difference = np.abs(after.forget[there]) - np.abs(before.forget[there] - after.forget[there])
        subjects = np.arange(len(there)) if trial.subjects is None else trial.subjects.numpy()
        low, high = self._interval(difference, subjects[there], trial.seed)
        return Measurement(value=float(difference.mean()), low=low, high=high, n=len(difference))

    def _interval(
        self, difference: Float[np.ndarray, " f"], subjects: Int64[np.ndarray, " f"], seed: int
    ) -> tuple[float | None, float | None]:
        units = np.unique(subjects, return_inverse=True)[1]
        sums, counts = np.bincount(units, weights=difference), np.bincount(units)
        if len(sums) < 2:
            return None, None
        drawn = np.random.default_rng(seed).integers(len(sums), size=(self.resamples, len(sums)))
        means = sums[drawn].sum(1) / counts[drawn].sum(1)
        return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))
