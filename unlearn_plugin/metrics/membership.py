"""Membership: can the requested data be told apart from data the model was never trained on? The primary test."""

from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from unlearn_plugin.measurement import Measurement
from unlearn_plugin.metrics._attack import attack, histogram_edges
from unlearn_plugin.metrics._difficulty import recorded_difficulty
from unlearn_plugin.metrics.base import Goal, Metric, Trial
from unlearn_plugin.statistics import Matched, match_classes

__all__ = ["Membership", "matched_margins"]


@dataclass(frozen=True, kw_only=True)
class Membership(Metric):
    """Attack by the margin of the true class, compared within classes.

    Formula: value = P[phi(F) > phi(C)], within classes and combined by the classes' shares of F, with the margin phi
    of `unlearn_hooks.references.log_odds` and C the controls. 0.5 is what a model that never saw F would give, if F and
    the controls are alike. `details` hold the one-sided bounds the verdict uses, the true-positive rate at low
    false-positive rates (over the pooled classes of F, since one class alone has too few controls for 1 %), and coarse
    pictures. The histogram's edges come from the model *before* unlearning, the 1 % to 99 % range of the margins of F
    and controls, rounded outwards to whole numbers, so that before, after and reference can be laid over each other;
    the outer bins hold whatever lies beyond. `difficulty`, how hard F is, comes of
    `unlearn_plugin.metrics._difficulty.recorded_difficulty`.

    Source: Yeom et al. 2018, arXiv 1709.01604 (loss attack); Carlini et al. 2022, arXiv 2112.03570 (margin, low
    false-positive rates). We compare within classes and give intervals; no attack model is trained.
    """

    goal = Goal.LIKE_REFERENCE
    title = "Membership"
    explanation = (
        "How well the requested pictures can be told apart from pictures of the same classes that the model never saw: "
        "0.5 means not at all, 1 means always."
    )
    source = "Yeom et al. 2018, https://arxiv.org/abs/1709.01604; Carlini et al. 2022, https://arxiv.org/abs/2112.03570"

    def measure(self, model: nn.Module, trial: Trial) -> Measurement:
        """Attack `model`.

        Args:
            model: The model before, after, or the reference.
            trial: What the judge looks at.

        Returns:
            The AUC within classes; missing when no class of F has enough controls.
        """
        matched = matched_margins(model, trial)
        if matched is None:
            return Measurement.missing("No class of the requested data has enough held-out samples to compare with.")
        margins = [trial.outputs(trial.original, split).margins.numpy() for split in ("forget", "controls")]
        found = attack(matched, trial, histogram_edges(np.concatenate(margins)))
        return replace(found, details={**found.details, "difficulty": recorded_difficulty(trial)})


def matched_margins(model: nn.Module, trial: Trial) -> Matched | None:
    """Margins of F and of the controls of the same classes.

    Args:
        model: Whose margins.
        trial: What the judge looks at.

    Returns:
        The margins; ``None`` when no class of F has enough controls.
    """
    forget, controls = trial.outputs(model, "forget"), trial.outputs(model, "controls")
    return match_classes(
        forget.margins.numpy(), forget.labels.numpy(), controls.margins.numpy(), controls.labels.numpy()
    )
