"""What the judge looks at in a world of the benchmarks: as `unlearn apply` makes it, from data in memory."""

from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from unlearn_hooks.controls import recorded_holdout
from unlearn_hooks.references import recorded_references
from unlearn_hooks.training_record import TrainingRecord
from unlearn_plugin.data import ImageData, Samples
from unlearn_plugin.metrics.base import Trial
from unlearn_plugin.out_of_sample import mean_recorded_loss
from unlearn_plugin.progress import Progress

_LARGE_PART = 0.1  # of a class; as in `unlearn_plugin.splits`


class World(Protocol):
    """A recorded training with a sealed holdout and a pair of half models for the judge."""

    data: ImageData
    trained: Tensor
    original: nn.Module
    record: TrainingRecord
    seed: int


def make_trial(
    world: World, forget: Tensor, retain: Tensor, *, one_subject: bool, classes: tuple[int, ...] = ()
) -> Trial:
    """What the judge looks at for one request; `classes` are those requested as a whole."""
    held, references = recorded_holdout(world.record), recorded_references(world.record, "judge")
    losses = mean_recorded_loss(world.record, world.data)
    rows = {"forget": forget, "retain": retain, "controls": held.verdict, "tuning": held.tuning}
    return Trial(
        **{split: Samples(world.data, chosen) for split, chosen in rows.items()},
        subjects=torch.zeros(len(forget), dtype=torch.int64) if one_subject else None,
        forgotten_classes=classes,
        largely_requested=tuple(label for label in _largely_requested(world, forget) if label not in classes),
        classes=world.data.classes,
        original=world.original,
        accelerator=Accelerator(cpu=True),
        seed=world.seed,
        batch_size=500,
        progress=Progress(enabled=False),
        references={
            split: references.one_of_each_pair(rows[split], world.seed) for split in ("forget", "controls", "tuning")
        },
        recorded_loss={} if losses is None else {"forget": losses[forget], "retain": losses[retain]},
    )


def _largely_requested(world: World, forget: Tensor) -> list[int]:
    requested, there = (
        torch.bincount(world.data.labels[rows], minlength=len(world.data.classes)) for rows in (forget, world.trained)
    )
    found: list[int] = ((requested > 0) & (requested >= _LARGE_PART * there)).nonzero().flatten().tolist()
    return found
