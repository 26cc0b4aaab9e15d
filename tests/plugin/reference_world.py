"""A record with a sealed holdout and a pair of reference models, made by real trainings on digits with wrong labels."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.conftest import Rows, digits, fresh_net, image_data
from unlearn_hooks import TrainingRecord, add_reference, halves, holdout, record
from unlearn_hooks.controls import Holdout
from unlearn_plugin.data import ImageData, Samples
from unlearn_plugin.job import Job
from unlearn_plugin.metrics.base import Trial
from unlearn_plugin.out_of_sample import JudgeReferences, judge_references
from unlearn_plugin.progress import Progress
from unlearn_plugin.training import Recipe, train

SAMPLES, HELD_OUT, POOL = 1300, 700, 200
RECIPE = Recipe(learning_rate=0.1, epochs=20, batch_size=32)
ACCELERATOR, QUIET = Accelerator(cpu=True), Progress(enabled=False)


@dataclass(frozen=True)
class ReferenceWorld:
    """What training left behind, and a model that never saw the first `POOL` training rows."""

    data: ImageData
    held: Holdout
    record: TrainingRecord
    references: JudgeReferences
    weights: Path
    original: nn.Module
    retrained: nn.Module

    @property
    def train_rows(self) -> Tensor:
        return torch.tensor(self.held.train.indices)

    def trial(self, rows: Tensor) -> Trial:
        """The trial of a request for some rows."""
        kept = self.train_rows[~torch.isin(self.train_rows, rows)]
        sealed = self.held.sealed()
        parts = {
            "forget": Samples(self.data, rows),
            "retain": Samples(self.data, kept),
            "controls": Samples(self.data, sealed.verdict),
            "tuning": Samples(self.data, sealed.tuning),
        }
        return Trial(
            **parts,
            references={split: self.references.margins(part) for split, part in parts.items()},
            classes=self.data.classes,
            original=self.original,
            accelerator=ACCELERATOR,
            batch_size=1000,
            progress=QUIET,
        )


def trained(data: ImageData, rows: Tensor, seed: int) -> nn.Module:
    model = fresh_net(seed)
    train(model, Samples(data, rows), RECIPE, accelerator=ACCELERATOR, seed=seed, progress=QUIET)
    return model.eval()


@cache
def make_reference_world(folder: Path) -> ReferenceWorld:
    images, labels = digits()
    data = image_data(images[:SAMPLES], labels[:SAMPLES])
    held = holdout(data.dataset, HELD_OUT, 0, labels=labels[:SAMPLES])
    rows = torch.tensor(held.train.indices)
    _record(folder, data, held)
    for half in halves(held.train, 0, 0, labels=labels[rows]):
        add_reference(folder, trained(data, half.rows(), 10 + half.side), data.dataset, half)
    found = TrainingRecord.open(folder)
    references = judge_references(found, data, seed=0)
    assert references is not None
    original, retrained = trained(data, rows, 1), trained(data, rows[POOL:], 2)
    weights = folder.with_name("weights.safetensors")
    save_file(original.state_dict(), weights)
    return ReferenceWorld(data, held, found, references, weights, original, retrained)


def both() -> tuple[Rows, Rows]:
    """What ``--data tests.plugin.reference_world:both`` gives: all that was recorded, and other digits."""
    images, labels = digits()
    return Rows(images[:SAMPLES], labels[:SAMPLES]), Rows(images[SAMPLES:], labels[SAMPLES:])


def net(num_classes: int = 10) -> nn.Module:
    """What ``--arch tests.plugin.reference_world:net`` builds."""
    return fresh_net(0)


def reference_job(world: ReferenceWorld, rows: Tensor, out: Path, **changes: object) -> Job:
    """A sound job that asks to forget some rows."""
    forget = out.with_name(f"{out.name}.txt")
    forget.write_text("\n".join(str(row) for row in rows.tolist()))
    fields = {
        "model": str(world.weights), "arch": "tests.plugin.reference_world:net", "record": str(world.record.folder),
        "data": "tests.plugin.reference_world:both", "forget": str(forget), "method": "finetune",
        "options": {"epochs": "1"}, "device": "cpu", "out": str(out),
    }  # fmt: skip
    return Job(**{**fields, **changes})


def _record(folder: Path, data: ImageData, held: Holdout) -> None:
    """One epoch is enough to seal the holdout and to name the samples."""
    model = fresh_net(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loader = torch.utils.data.DataLoader(held.train, 64)
    with record(folder, model, optimizer, holdout=held) as recorder:
        for images, labels in recorder.batches(loader):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
