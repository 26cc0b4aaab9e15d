"""Calibrated null control: how often does the calibrated test cry wolf on data that were never trained on?"""

from dataclasses import dataclass

from torch import nn

from unlearn_plugin.metrics._calibration import matched_scores
from unlearn_plugin.metrics.base import Trial
from unlearn_plugin.metrics.null_control import NullControl
from unlearn_plugin.statistics import Matched

__all__ = ["CalibratedNullControl"]


@dataclass(frozen=True, kw_only=True)
class CalibratedNullControl(NullControl):
    """Share of false alarms of `calibrated_membership`, counted as `null_control` counts those of `membership`.

    Source: see `NullControl`.
    """

    tier = "B"
    title = "Null control, calibrated"
    explanation = (
        "How often the calibrated membership test raises an alarm where there is nothing to find; about 2.5 % is right."
    )

    def _scores(self, model: nn.Module, trial: Trial) -> Matched | None:
        return matched_scores(model, trial)
