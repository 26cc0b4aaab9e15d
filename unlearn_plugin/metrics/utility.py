"""Utility: is the model still good at what it is for?"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool
from torch import nn

from unlearn_plugin.measurement import FEWEST, Measurement
from unlearn_plugin.metrics.base import Goal, Metric, Split, Trial
from unlearn_plugin.statistics import paired_difference, proportion

__all__ = ["Utility"]


@dataclass(frozen=True, kw_only=True)
class Utility(Metric):
    """Accuracy on data never trained on, with its paired difference to the model before.

    The value is the accuracy on the controls. Classes that are requested as a whole, now or by an earlier request, are
    left out of it, of the drop and of the classes' own rows: what the model should do on them is not defined by
    accuracy. How often held-out images of the classes requested now are still recognised is reported by itself, in
    ``details["forgotten_classes"]`` for all of them together, and in ``details["best_forgotten_class"]`` for the one
    that is surest to be recognised. A class of which a tenth or more of the training samples was requested is not
    looked at for the worst drop, and is named in ``details["largely_requested"]``: a model retrained without so many of
    them loses accuracy there as well. Where F is very small neither that name nor the accuracy on F is given.

    Source: exact intervals of Clopper and Pearson; paired differences of Newcombe 1998. The interval of the worst
    class is widened for the number of classes (Bonferroni), because the worst of many looks bad by chance.
    """

    about_forget = False
    goal = Goal.HIGH
    title = "Utility"
    explanation = "How often the model is right on pictures it was never trained on."
    source = "standard"

    def measure(self, model: nn.Module, trial: Trial) -> Measurement:
        """Measure accuracies of `model`, and what changed against the model before.

        Args:
            model: The model before, after, or the reference.
            trial: What the judge looks at.

        Returns:
            Accuracy on the controls outside the forgotten classes.
        """
        labels = trial.outputs(model, "controls").labels.numpy()
        right = _right(model, trial, "controls")
        wanted = np.isin(labels, trial.forgotten_classes)
        kept = ~wanted & ~np.isin(labels, trial.earlier_classes)
        details: dict[str, Any] = {
            "controls": _share(right[kept]),
            "retain": _share(_right(model, trial, "retain")),
            "forget": _share(_right(model, trial, "forget")) if len(trial.forget) >= FEWEST else None,
            "forgotten_classes": _share(right[wanted]),
            "best_forgotten_class": _best_forgotten_class(right[wanted], labels[wanted], trial.classes),
            "per_class": [
                {"class": trial.classes[label], **(_share(right[labels == label]) or {})}
                for label in np.unique(labels[kept])
            ],
            "largely_requested": [
                trial.classes[label] for label in trial.largely_requested if len(trial.forget) >= FEWEST
            ],
            "drop": None,
            "worst_class_drop": None,
        }
        if not kept.any():
            return Measurement(value=None, details=details, note="There are no controls outside the forgotten classes.")
        if model is not trial.original:
            before = _right(trial.original, trial, "controls")
            details["drop"] = asdict(paired_difference(before[kept], right[kept]))
            looked_at = kept & ~np.isin(labels, trial.largely_requested)
            details["worst_class_drop"] = _worst_class_drop(
                before[looked_at], right[looked_at], labels[looked_at], trial.classes
            )
        share = proportion(int(right[kept].sum()), int(kept.sum()))
        return Measurement(value=share.value, low=share.low, high=share.high, n=share.n, details=details)


def _right(model: nn.Module, trial: Trial, split: Split) -> Bool[np.ndarray, " n"]:
    found: Bool[np.ndarray, " n"] = trial.outputs(model, split).correct.numpy()
    return found


def _share(right: Bool[np.ndarray, " n"], confidence: float = 0.95) -> dict[str, Any] | None:
    return asdict(proportion(int(right.sum()), len(right), confidence)) if len(right) else None


def _best_forgotten_class(
    right: Bool[np.ndarray, " n"], labels: np.ndarray, classes: tuple[str, ...]
) -> dict[str, Any] | None:
    """The forgotten class with the highest lower end of its recall, its interval widened for their number."""
    present = np.unique(labels)
    confidence = 1 - 0.05 / max(1, len(present))
    shares = [{"class": classes[label], **(_share(right[labels == label], confidence) or {})} for label in present]
    return max(shares, key=lambda share: share["low"], default=None)


def _worst_class_drop(
    before: Bool[np.ndarray, " n"],
    after: Bool[np.ndarray, " n"],
    labels: np.ndarray,
    classes: tuple[str, ...],
) -> dict[str, Any] | None:
    """The class whose drop is shown to be largest: the one with the lowest upper end."""
    present = np.unique(labels)
    if not len(present):
        return None
    confidence = 1 - 0.05 / len(present)
    drops = [
        {
            "class": classes[label],
            **asdict(paired_difference(before[labels == label], after[labels == label], confidence)),
        }
        for label in present
    ]
    return min(drops, key=lambda drop: drop["high"])
