"""finetune: go on training on the retained data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.splits import Need
from unlearn_plugin.training import Recipe, ScheduleName, train
from unlearn_plugin.unlearners.base import Evidence, Unlearner

__all__ = ["Finetune"]


@dataclass(frozen=True, kw_only=True)
class Finetune(Unlearner):
    """Train on R from the original weights, by SGD, and let F fade.

    It never looks at F. A network that fits its training data has gradients close to zero on R, so little changes
    unless the rate is high: a baseline, not a remedy.

    Attributes:
        epochs: Passes over R.
        learning_rate: First rate.
        batch_size: Samples per step.
        momentum: mu of SGD.
        weight_decay: L2 penalty.
        schedule: How the rate changes.

    Source: the usual baseline (Golatkar et al. 2020, arXiv 1911.04933, section 6). Settings are ours.
    """

    needs: ClassVar[Need] = Need.FORGET | Need.RETAIN
    summary: ClassVar[str] = "Go on training on the retained data; a baseline that never looks at the forget data."
    source: ClassVar[str] = "baseline in Golatkar et al. 2020, arXiv 1911.04933"

    epochs: int = field(default=5, metadata={"help": "Passes over the retained data."})
    learning_rate: float = field(default=0.05, metadata={"help": "First rate."})
    batch_size: int = field(default=64, metadata={"help": "Samples per step."})
    momentum: float = field(default=0.9, metadata={"help": "Momentum of SGD."})
    weight_decay: float = field(default=5e-4, metadata={"help": "L2 penalty."})
    schedule: ScheduleName = field(default="cosine", metadata={"help": "constant or cosine."})

    def __post_init__(self) -> None:
        self.recipe()

    def recipe(self) -> Recipe:
        """The recipe of these options."""
        return Recipe(
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            epochs=self.epochs,
            batch_size=self.batch_size,
            schedule=self.schedule,
        )

    def unlearn(self, model: nn.Module, evidence: Evidence) -> Mapping[str, Any]:
        """Train `model` on R; see the base class."""
        if evidence.retain is None:
            raise UnlearnError("finetune needs the retained data; give the training data.")
        loss = train(
            model,
            evidence.retain,
            self.recipe(),
            accelerator=evidence.accelerator,
            seed=evidence.seed,
            progress=evidence.progress,
        )
        return {"last_epoch_loss": loss}
