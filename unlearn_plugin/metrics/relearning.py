"""Relearning: does further training on the retained data alone bring the requested data back?"""

import copy
from dataclasses import dataclass

from torch import nn

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.measurement import Measurement
from unlearn_plugin.metrics._contest import NOT_COMPARABLE, Contest
from unlearn_plugin.metrics.base import Goal, Metric, Trial
from unlearn_plugin.training import Recipe, train

__all__ = ["Relearning"]

_NORMED = (nn.LayerNorm, nn.GroupNorm)  # networks that SGD at the usual rate does not suit


@dataclass(frozen=True, kw_only=True)
class Relearning(Metric):
    """The membership test once more, on a copy that was trained a little further on the retained data.

    Training that never shows F can undo a shallow edit, because what was learnt from F still lies in the weights. A
    copy of the model is trained for `epochs` passes over R (as the judge holds it, at most 10,000 samples) or `steps`
    steps, whichever ends first, at a constant rate: SGD with momentum 0.9 at 0.01, or AdamW at 1e-4 for networks
    with LayerNorm or GroupNorm. A model that never saw F gives 0.5 however long it is trained on other data.

    Another processor may train to slightly different weights, so this number is repeatable on one machine only.

    Attributes:
        epochs: Passes over R.
        steps: Steps, at most.
        batch_size: Samples per step.
        samples: Samples of F, and controls, that are looked at, at most.

    Source: arXiv 2505.22310 (forget accuracy after training on retained data). We take the AUC against unseen data,
    which needs no retrained model to compare with.
    """

    epochs: int = 2
    steps: int = 500
    batch_size: int = 64
    samples: int = 2000

    tier = "B"
    repeatable = False
    goal = Goal.LIKE_REFERENCE
    title = "After further training"
    explanation = (
        "Whether the requested pictures can be told apart again once the model is trained a little further, without "
        "them: 0.5 means not at all, 1 means always. Further training is usual, and must not bring anything back."
    )
    source = "https://arxiv.org/abs/2505.22310"

    def measure(self, model: nn.Module, trial: Trial) -> Measurement:
        """Train a copy of `model` and attack it.

        Args:
            model: The model before, after, or the reference; left as it is.
            trial: What the judge looks at.

        Returns:
            The AUC; missing when no class of F has enough controls, or the copy cannot be trained.
        """
        copied = copy.deepcopy(model).requires_grad_(True)
        try:
            train(
                copied, trial.retain, self._recipe(model), accelerator=trial.accelerator, seed=trial.seed,
                progress=trial.progress, after_step=lambda made: made >= self.steps,
            )  # fmt: skip
        except UnlearnError as error:
            return Measurement.missing(f"The copy could not be trained: {error}")
        found = Contest.of(trial, self.samples).attack(copied, trial)
        if found is None:
            return Measurement.missing(NOT_COMPARABLE)
        details = {"p_value": found["p_value"]}
        return Measurement(value=found["value"], low=found["low"], high=found["high"], n=found["n"], details=details)

    def _recipe(self, model: nn.Module) -> Recipe:
        normed = any(isinstance(module, _NORMED) for module in model.modules())
        return Recipe(
            optimizer="adamw" if normed else "sgd", learning_rate=1e-4 if normed else 0.01, schedule="constant",
            epochs=self.epochs, batch_size=self.batch_size,
        )  # fmt: skip
