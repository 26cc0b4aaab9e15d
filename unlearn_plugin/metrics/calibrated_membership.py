"""Calibrated membership: the membership test on what is left of a margin when the sample's own difficulty is out."""

from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from unlearn_plugin.measurement import Measurement
from unlearn_plugin.metrics._attack import attack, histogram_edges
from unlearn_plugin.metrics._calibration import NO_REFERENCES, calibrate, matched_scores
from unlearn_plugin.metrics._difficulty import out_of_sample_difficulty
from unlearn_plugin.metrics.base import Goal, Metric, Trial

__all__ = ["CalibratedMembership"]


@dataclass(frozen=True, kw_only=True)
class CalibratedMembership(Metric):
    """Attack by the calibrated score of the true class, compared within classes.

    Formula: value = P[s(F) > s(C)], within classes and combined by the classes' shares of F, with
    s(x) = phi_theta(x) - g(o(x)) of `calibrate`: phi the margin, o the margin under models that never saw x, g what an
    unseen sample of that o is expected to have under this model. Most of the spread of margins is the samples' own
    difficulty, which says nothing about membership; without it the same request shows far more. 0.5 is what a model
    that never saw F would give, if F and the controls are alike; where they differ in difficulty, the calibration takes
    most of that difference out, and not all of it. `details` are those of `membership`; `difficulty`, how hard F is,
    comes of `unlearn_plugin.metrics._difficulty.out_of_sample_difficulty`.

    Source: see `unlearn_plugin.metrics._calibration.calibrate`.
    """

    tier = "B"
    goal = Goal.LIKE_REFERENCE
    title = "Calibrated membership"
    explanation = (
        "The membership test once more, each picture measured against what models that never saw it say about it: 0.5 "
        "means that the requested pictures cannot be told apart, 1 that they always can."
    )
    source = (
        "after Carlini et al. 2022, https://arxiv.org/abs/2112.03570, and Watson et al. 2022, "
        "https://arxiv.org/abs/2111.08440"
    )

    def measure(self, model: nn.Module, trial: Trial) -> Measurement:
        """Attack `model`.

        Args:
            model: The model before, after, or the reference.
            trial: What the judge looks at.

        Returns:
            The AUC within classes; missing without references, or when no class of F has enough controls.
        """
        matched, original = matched_scores(model, trial), calibrate(trial.original, trial)
        if matched is None or original is None:
            return Measurement.missing(NO_REFERENCES)
        scores = np.concatenate([original.forget, original.controls])
        found = attack(matched, trial, histogram_edges(scores[np.isfinite(scores)]))
        return replace(found, details={**found.details, "difficulty": out_of_sample_difficulty(trial)})
