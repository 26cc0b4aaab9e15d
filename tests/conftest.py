"""The tiny world: real digits with some wrong labels, a small net with BatchNorm, its training run and its record."""

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import Tensor, nn

from unlearn_hooks.controls import halves
from unlearn_hooks.plan import Plan
from unlearn_hooks.recorder import record
from unlearn_hooks.references import add_reference
from unlearn_hooks.training_record import TrainingRecord
from unlearn_plugin.data import ImageData, Samples
from unlearn_plugin.progress import Progress
from unlearn_plugin.unlearners.base import Evidence

torch.set_num_threads(1)  # one thread for each worker, and for what the tests start
os.environ.setdefault("OMP_NUM_THREADS", "1")

TRAINED, HELD_OUT, CLASSES, EPOCHS, BATCH = 96, 80, 10, 12, 32


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what takes long, unless it is asked for."""
    if os.environ.get("UNLEARN_SLOW"):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="takes long; UNLEARN_SLOW=1 runs it"))


class Rows:
    """A data set of tensors that gives (image, label)."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.images[row], int(self.labels[row])


def image_data(images: Tensor, labels: Tensor, classes: int = CLASSES) -> ImageData:
    """Images and labels as the plugin's data, with the row as id."""
    return ImageData(
        dataset=Rows(images, labels),
        ids=tuple(str(row) for row in range(len(labels))),
        labels=labels,
        classes=tuple(str(label) for label in range(classes)),
        deterministic=True,
    )


class Net(nn.Sequential):
    """Two convolutions with BatchNorm, dropout, and a linear head."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Flatten(), nn.Dropout(0.1), nn.Linear(16 * 16, CLASSES),
        )  # fmt: skip


def fresh_net(seed: int) -> Net:
    """The net with random weights that depend on the seed alone."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return Net()


@dataclass
class World:
    """What a company has: data, a trained model, and the record of its training with a pair of half-data models."""

    train: ImageData
    heldout: ImageData
    trained: nn.Module
    record: TrainingRecord
    fresh: Callable[[int], nn.Module]

    def model(self) -> nn.Module:
        """A private copy of the trained model, in evaluation mode as a loaded checkpoint is."""
        return copy.deepcopy(self.trained).eval()

    def evidence(self, forget: Tensor, *, forgotten_classes: tuple[int, ...] = (), seed: int = 0) -> Evidence:
        """All that a method may look at when some rows are to be forgotten."""
        kept = torch.ones(len(self.train), dtype=torch.bool)
        kept[forget] = False
        return Evidence(
            forget=Samples(self.train, forget),
            retain=Samples(self.train, kept.nonzero().flatten()),
            tuning=Samples(self.heldout, torch.arange(len(self.heldout) // 2)),
            record=self.record,
            classes=len(self.train.classes),
            forgotten_classes=forgotten_classes,
            fresh=self.fresh,
            accelerator=Accelerator(cpu=True),
            seed=seed,
            progress=Progress(enabled=False),
        )


def digits(seed: int = 0) -> tuple[Tensor, Tensor]:
    """All 1,797 real digits as float images (1, 8, 8), one label in five wrong, in a random order."""
    images, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    wrong = rng.random(len(labels)) < 0.2
    labels = np.where(wrong, (labels + rng.integers(1, 10, len(labels))) % 10, labels)
    order = rng.permutation(len(labels))
    return torch.tensor(images[order] / 8 - 1).float().reshape(-1, 1, 8, 8), torch.tensor(labels[order]).long()


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    images, labels = digits()
    train = image_data(images[:TRAINED], labels[:TRAINED])
    heldout = image_data(images[TRAINED : TRAINED + HELD_OUT], labels[TRAINED : TRAINED + HELD_OUT])
    folder = tmp_path_factory.mktemp("world") / "record"
    with torch.random.fork_rng([]):
        torch.manual_seed(7)
        model = Net()
        _train(model, train, folder)
        _add_pair(train, folder)
    return World(train, heldout, model, TrainingRecord.open(folder), fresh_net)


def _train(model: nn.Module, train: ImageData, folder: Path) -> None:
    loader = torch.utils.data.DataLoader(train.dataset, batch_size=BATCH, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * len(loader))
    model.train()
    with record(folder, model, optimizer, plan=Plan(steps=6)) as recorder:
        for _ in range(EPOCHS):
            for images, labels in recorder.batches(loader):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(images), labels).backward()
                optimizer.step()
                schedule.step()


def _add_pair(train: ImageData, folder: Path) -> None:
    """A pair for methods; a few epochs on half of the data are enough to say something."""
    for half in halves(train.dataset, 0, 0, labels=train.labels):
        other = fresh_net(20 + half.side)
        optimizer = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9)
        images, labels = train.images(half.rows()), train.labels[half.rows()]
        for _ in range(12):
            optimizer.zero_grad()
            nn.functional.cross_entropy(other(images), labels).backward()
            optimizer.step()
        add_reference(folder, other, train.dataset, half, purpose="method")
