"""Completeness: how much of what the model knew too well about the requested data has gone?"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import nn

from unlearn_plugin.measurement import Measurement
from unlearn_plugin.metrics._calibration import NO_REFERENCES, calibrate
from unlearn_plugin.metrics.base import Goal, Metric, Trial

__all__ = ["Completeness"]

_NOISE = 2.0  # spreads of unseen samples that a sample's excess must exceed before there is anything to remove
_FEWEST = 5  # samples; a median over fewer would speak of single ones


@dataclass(frozen=True, kw_only=True)
class Completeness(Metric):
    """Share of the excess margin that is gone, for the samples that clearly had one.

    Formula: lambda_i = (s_0(x_i) - s_theta(x_i)) / s_0(x_i) over the x_i in F with s_0(x_i) > 2 spreads, s the
    calibrated scores, so 0 is the level of unseen samples in either model. The value is the median; `details` hold the
    10th percentile. 0: nothing was removed; 1: at the level of unseen samples; above 1: pushed below it. It describes
    and decides nothing: the samples are chosen by a noisy excess, so even a model that is independent of the original
    does not give exactly 1.

    Source: ours, after IAM's position between the fitted and the out-of-sample level. With o in place of g(o), a
    sample's level would be that of a model trained on half the data.
    """

    tier = "B"
    goal = Goal.CONTEXT
    title = "Completeness"
    explanation = (
        "For the requested pictures that the original knew too well: how much of that has gone. 0 is nothing, 1 the "
        "level of pictures never seen, more than 1 is below that level."
    )
    source = "after https://github.com/Happy2Git/Unlearning_Inference_IAM"

    def measure(self, model: nn.Module, trial: Trial) -> Measurement:
        """Compare the excess of F in `model` with that in the original.

        Args:
            model: The model before, after, or the reference.
            trial: What the judge looks at.

        Returns:
            The median share that is gone; missing without references, or if fewer than 5 samples had an excess.
        """
        before, after = calibrate(trial.original, trial), calibrate(model, trial)
        if before is None or after is None:
            return Measurement.missing(NO_REFERENCES)
        gone = _shares_gone(before.forget, after.forget, _NOISE * before.spread)
        if len(gone) < _FEWEST:
            return Measurement.missing("Too few of the requested samples stood out before for a share to be told.")
        details = {"tenth_percentile": float(np.quantile(gone, 0.1)), "n_requested": len(before.forget)}
        return Measurement(value=float(np.median(gone)), n=len(gone), details=details)


def _shares_gone(
    before: Float[np.ndarray, " f"], after: Float[np.ndarray, " f"], above: float
) -> Float[np.ndarray, " k"]:
    chosen = before > max(above, 0.0)  # false where there is no score
    shares: Float[np.ndarray, " k"] = (before[chosen] - after[chosen]) / before[chosen]
    return shares
