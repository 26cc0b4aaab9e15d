"""Suppression: were the requested data pushed so far down that this gives them away (the Streisand effect)?"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32
from torch import Tensor, nn

from unlearn_plugin.exposure import TailRate, tail_rate
from unlearn_plugin.measurement import Measurement
from unlearn_plugin.metrics.base import Goal, Metric, Trial
from unlearn_plugin.metrics.membership import matched_margins
from unlearn_plugin.outputs import Outputs
from unlearn_plugin.statistics import proportion

__all__ = ["Suppression", "entropy"]

_PARTS = (0.01, 0.05)  # of the controls that lie below the threshold; the finer one where there are enough controls


@dataclass(frozen=True, kw_only=True)
class Suppression(Metric):
    """Share of F that the model is less sure of than of nearly all unseen data of its classes.

    Formula: the share of F whose margin lies below those of all but 1 % of the controls of its own class, see
    `unlearn_plugin.exposure.tail_rate`. With fewer than 499 controls it is 5 % (from 99 on); ``below`` says which. A
    model that never saw F gives about 1 % (or 5 %): much more means that F was driven to where no unseen data lie.

    ``flat``: share of samples whose prediction is nearly uniform, H(p) >= `flatness` log K, in F and in these controls.

    Attributes:
        flatness: Part of the largest possible entropy from which a prediction counts as flat.

    Source: the name is from Golatkar et al. 2020, arXiv 1911.04933; shares and threshold are ours.
    """

    flatness: float = 0.9

    goal = Goal.LIKE_REFERENCE
    title = "Suppression"
    explanation = (
        "The share of requested pictures that the model is less sure of than of 99 % of the unseen pictures of the "
        "same classes (95 % where there are fewer than 499 of these). About 1 % (or 5 %) is right; a larger share "
        "means that the pictures were suppressed so much that they stand out again."
    )
    source = "Golatkar et al. 2020, https://arxiv.org/abs/1911.04933; ours"

    def measure(self, model: nn.Module, trial: Trial) -> Measurement:
        """Look at the lower end of the margins in `model`.

        Args:
            model: The model before, after, or the reference.
            trial: What the judge looks at.

        Returns:
            The share below the threshold; missing with fewer than 99 controls of F's classes.
        """
        forget, controls = trial.outputs(model, "forget"), trial.outputs(model, "controls")
        alike = np.isin(controls.labels.numpy(), forget.labels.numpy())
        rates = {str(part): _below(model, trial, part) for part in _PARTS}
        flat = {"forget": self._flat(forget), "controls": self._flat(controls)[alike]}
        details: dict[str, Any] = {
            "below": {part: asdict(rate) if rate else None for part, rate in rates.items()},
            "flat": {who: _share(one) for who, one in flat.items()},
        }
        found = next((rate for rate in rates.values() if rate), None)
        if found is None:
            note = "There are fewer than 99 held-out samples of the requested classes."
            return Measurement(value=None, details=details, note=note)
        return Measurement(value=found.value, low=found.low, high=found.high, n=len(forget.labels), details=details)

    def _flat(self, outputs: Outputs) -> Bool[np.ndarray, " n"]:
        largest = math.log(outputs.logits.shape[1])
        found: Bool[np.ndarray, " n"] = (entropy(outputs.logits) >= self.flatness * largest).numpy()
        return found


def _below(model: nn.Module, trial: Trial, part: float) -> TailRate | None:
    matched = matched_margins(model, trial)
    if matched is None:
        return None
    subjects = None if trial.subjects is None else trial.subjects.numpy()[matched.kept]
    return tail_rate(replace(matched, forget=-matched.forget, controls=-matched.controls), part, subjects)


def entropy(logits: Float32[Tensor, "n c"]) -> Float32[Tensor, " n"]:
    """Entropy of the softmax of each row.

    Formula: H(p) = - sum_j p_j log p_j, computed from log-probabilities.

    Args:
        logits: Scores before the softmax.

    Returns:
        One entropy per row, in nats; log c for a uniform prediction.
    """
    logs = logits.log_softmax(1)
    return -(logs.exp() * logs).sum(1)


def _share(flags: Bool[np.ndarray, " n"]) -> dict[str, Any] | None:
    return asdict(proportion(int(flags.sum()), len(flags))) if len(flags) else None
