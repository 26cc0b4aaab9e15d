"""finetune: go on training on the retained data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from unlearn_plugin.splits import Need, Request
from unlearn_plugin.training import train
from unlearn_plugin.unlearners._steps import TrainedUnlearner, required
from unlearn_plugin.unlearners.base import Evidence, Preset

__all__ = ["Finetune"]


@dataclass(frozen=True, kw_only=True)
class Finetune(TrainedUnlearner):
    """Train on R from the original weights, and let F fade.

    It never looks at F. A network that fits its training data has gradients close to zero on R, so little changes
    unless the rate is high: a baseline, not a remedy.

    Source: the usual baseline (Golatkar et al. 2020, arXiv 1911.04933, section 6). Settings are ours.
    """

    needs: ClassVar[Need] = Need.FORGET | Need.RETAIN
    summary: ClassVar[str] = "Go on training on the retained data; a baseline that never looks at the forget data."
    source: ClassVar[str] = "baseline in Golatkar et al. 2020, arXiv 1911.04933"
    presets: ClassVar[Mapping[Request, Preset]] = {
        "sample": Preset(options={"learning_rate": 0.05}),
        "class": Preset(options={"learning_rate": 0.05}),
        "subject": Preset(options={"learning_rate": 0.05}),
    }

    def unlearn(self, model: nn.Module, evidence: Evidence) -> Mapping[str, Any]:
        """Train `model` on R; see the base class."""
        recipe = self.settled(evidence.request, model).recipe()
        loss = train(
            model,
            required(evidence.retain, "retained", self),
            recipe,
            accelerator=evidence.accelerator,
            seed=evidence.seed,
            progress=evidence.progress,
        )
        return {"optimizer": recipe.optimizer, "learning_rate": recipe.learning_rate, "last_epoch_loss": loss}
