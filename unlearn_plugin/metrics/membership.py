"""Membership: can the requested data be told apart from data the model was never trained on? The primary test."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import nn

from unlearn_plugin.measurement import Measurement
from unlearn_plugin.metrics.base import Goal, Metric, Trial
from unlearn_plugin.statistics import Matched, match_classes, stratified_auc, stratified_roc, tail_rate

__all__ = ["Membership", "matched_margins"]

_BINS = 20
_SHOWN_FROM = 20  # forget samples; curves over fewer would show single samples


@dataclass(frozen=True, kw_only=True)
class Membership(Metric):
    """Attack by the margin of the true class, compared within classes.

    Formula: value = P[phi(F) > phi(C)], within classes and combined by the classes' shares of F, with the margin phi
    of `unlearn_hooks.references.log_odds` and C the controls. 0.5 is what a model that never saw F would give, if F and
    the controls are alike. `details` hold the one-sided bounds the verdict uses, the true-positive rate at low
    false-positive rates (over the pooled classes of F, since one class alone has too few controls for 1 %), and coarse
    pictures. The histogram's edges come from the model *before* unlearning, the 1 % to 99 % range of the margins of F
    and controls, rounded outwards to whole numbers, so that before, after and reference can be laid over each other;
    the outer bins hold whatever lies beyond.

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
        subjects = None if trial.subjects is None else trial.subjects.numpy()[matched.kept]
        auc = stratified_auc(matched, subjects)
        shown = auc.n_forget >= _SHOWN_FROM
        rates = {str(fpr): tail_rate(matched.forget, matched.controls, fpr) for fpr in (0.01, 0.001)}
        details: dict[str, Any] = {
            "lower95": auc.lower95,
            "upper95": auc.upper95,
            "lower975": auc.low,
            "n_controls": auc.n_controls,
            "n_untested": len(matched.kept) - auc.n_forget,
            "tpr": {fpr: asdict(rate) if rate else None for fpr, rate in rates.items()},
            "histogram": _histogram(matched, _edges(trial)) if shown else None,
            "roc": [list(point) for point in stratified_roc(matched)] if shown else None,
        }
        return Measurement(value=auc.value, low=auc.low, high=auc.high, n=auc.n_forget, details=details)


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


def _edges(trial: Trial) -> Float[np.ndarray, " edges"]:
    margins = [trial.outputs(trial.original, split).margins.numpy() for split in ("forget", "controls")]
    low, high = np.quantile(np.concatenate(margins), [0.01, 0.99])
    first = math.floor(low)
    return np.linspace(first, max(math.ceil(high), first + 1), _BINS + 1)


def _histogram(matched: Matched, edges: Float[np.ndarray, " edges"]) -> dict[str, Any]:
    inside = {"forget": matched.forget, "controls": matched.controls}
    counts = {
        name: np.histogram(np.clip(margins, edges[0], edges[-1]), edges)[0].tolist() for name, margins in inside.items()
    }
    return {"edges": edges.tolist(), **counts}
