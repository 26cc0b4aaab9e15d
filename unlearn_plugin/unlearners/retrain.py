"""retrain: train a fresh model on the retained data alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.training_record import TrainingRecord
from unlearn_hooks.updates import recorded_updates
from unlearn_plugin.splits import Need
from unlearn_plugin.training import OptimizerName, Recipe, ScheduleName, train
from unlearn_plugin.unlearners.base import Evidence, Unlearner

__all__ = ["Retrain"]

_WITHOUT_RECORD = Recipe(learning_rate=0.05, epochs=30)


@dataclass(frozen=True, kw_only=True)
class Retrain(Unlearner):
    """Train new random weights on R, by the recorded recipe of the original training where there is one.

    Every parameter and buffer is initialised anew, so nothing of F can be in the result. What is not recorded, such as
    another loss than the cross-entropy, is not repeated; augmentation is that of the data given. A training that began
    with pretrained weights is repeated by ``start=recorded``; the result is then free of F if those weights were.

    Attributes:
        start: Where training begins.
        epochs: Passes over R.
        batch_size: Samples per step.
        optimizer: Kind of optimizer.
        learning_rate: First rate.
        weight_decay: L2 penalty; the same for all parameters.
        schedule: How the rate changes.
        seed: Of the new weights and of the order of the samples.

    Source: the definition of the goal. We follow the record's parameter groups, rates and batch size.
    """

    needs: ClassVar[Need] = Need.FORGET | Need.RETAIN
    exact: ClassVar[bool] = True
    summary: ClassVar[str] = "Train a fresh model on the retained data alone; the yardstick of all others."
    source: ClassVar[str] = "standard: the definition of exact unlearning"

    start: Literal["fresh", "recorded"] = field(
        default="fresh", metadata={"help": "fresh: new random weights; recorded: the weights before the first step."}
    )
    epochs: int | None = field(default=None, metadata={"help": "Passes over the retained data; 30 without a record."})
    batch_size: int | None = field(default=None, metadata={"help": "Samples per step; 64 without a record."})
    optimizer: OptimizerName | None = field(
        default=None, metadata={"help": "sgd without a record; setting it sets all that was recorded aside."}
    )
    learning_rate: float | None = field(
        default=None, metadata={"help": "First rate, 0.05 without a record; setting it sets the recorded rates aside."}
    )
    weight_decay: float | None = field(
        default=None, metadata={"help": "0.0005 without a record; setting it sets the recorded groups aside."}
    )
    schedule: ScheduleName | None = field(default=None, metadata={"help": "cosine without a record."})
    seed: int | None = field(
        default=None,
        metadata={"help": "Of new weights and order, for a second retrained model by the same judge; none: --seed."},
    )

    def __post_init__(self) -> None:
        """Let `Recipe` check what was set; ``recorded`` can be checked only when there is a record."""
        if self.seed is not None and not 0 <= self.seed < 2**32:
            raise UnlearnError(f"seed={self.seed} is out of range; it must be 0 to {2**32 - 1}, or none.")
        replace(_WITHOUT_RECORD, **{name: value for name, value in self._set().items() if value != "recorded"})

    def unlearn(self, model: nn.Module, evidence: Evidence) -> Mapping[str, Any]:
        """Replace all weights by those of a model trained on R alone; see the base class."""
        if evidence.retain is None:
            raise UnlearnError("retrain needs the retained data; give the training data.")
        recipe = self.recipe(evidence)
        seed = evidence.seed if self.seed is None else self.seed
        fresh = evidence.fresh(seed)
        fresh.requires_grad_(True)
        if self.start == "recorded":
            fresh.load_state_dict(_first_weights(evidence.record, fresh))
        else:
            _check_all_trained(recipe, fresh)
        loss = train(
            fresh,
            evidence.retain,
            recipe,
            accelerator=evidence.accelerator,
            seed=seed,
            progress=evidence.progress,
        )
        with torch.no_grad():
            model.load_state_dict(fresh.state_dict())
        return {"recipe": recipe.as_facts(), "last_epoch_loss": loss}

    def recipe(self, evidence: Evidence) -> Recipe:
        """The recipe: what was set, else what was recorded, else the defaults.

        Args:
            evidence: Its record is asked.

        Returns:
            The recipe that `unlearn` trains by.

        Raises:
            UnlearnError: If the record's optimizer is not known and none was set.
        """
        given = self._set()
        if evidence.record is None or "optimizer" in given:
            return replace(_WITHOUT_RECORD, **given)
        recorded = Recipe.of(evidence.record)
        if "weight_decay" in given:
            recorded = replace(recorded, recorded=None, schedule="cosine")
        if "learning_rate" in given and recorded.schedule == "recorded":
            recorded = replace(recorded, schedule="cosine")
        return replace(recorded, **given)

    def _set(self) -> dict[str, Any]:
        names = ("epochs", "batch_size", "optimizer", "learning_rate", "weight_decay", "schedule")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def _first_weights(record: TrainingRecord | None, model: nn.Module) -> dict[str, Tensor]:
    updates = recorded_updates(record) if record is not None else []
    weights = updates[0].weights() if updates and updates[0].step == 0 else {}
    if weights.keys() != model.state_dict().keys():
        raise UnlearnError(
            "start=recorded needs a record that holds all weights before the first step; take start=fresh, or train "
            "again with Plan(updates=True, parameters=('*',))."
        )
    return weights


def _check_all_trained(recipe: Recipe, model: nn.Module) -> None:
    """A part that was never trained came from elsewhere; new random weights in its place would be no model."""
    if recipe.recorded is None:
        return
    trained = {name for group in recipe.recorded.groups for name in group.names}
    names = [name for name, _ in model.named_parameters()]
    idle = [name for name in names if name not in trained]
    if idle:
        raise UnlearnError(
            f"The recorded training left {len(idle)} of {len(names)} parameters as they were, such as {idle[0]!r}; "
            f"repeat it from the same weights with -o start=recorded, or train all with -o optimizer=sgd."
        )
