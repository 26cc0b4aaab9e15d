"""Recorded trainings in an ordinary loop, and the same loop over a loader that really leaves F out of its batches."""

import copy
import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from tests.conftest import Rows, digits, fresh_net, image_data
from unlearn_hooks.plan import Plan
from unlearn_hooks.randomness import RandomStates
from unlearn_hooks.recorder import Recorder, record
from unlearn_hooks.training_record import TrainingRecord
from unlearn_plugin.data import ImageData, Samples
from unlearn_plugin.progress import Progress
from unlearn_plugin.unlearners.base import Evidence

ROWS, BATCH, EPOCHS = 40, 8, 4
FORGET = torch.tensor([3, 4, 11, 17, 29])
CHEAP = Plan(steps=2, features=False, samples=False)


class Noisy(Rows):
    """Random changes from torch's generator and numpy's."""

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        image, label = super().__getitem__(row)
        return image + 0.1 * torch.randn(()) + 0.1 * np.random.normal(), label


class Flipped(Noisy):
    """And from `random`, which the checks of signatures in tests draw from as well: for processes without these."""

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        image, label = super().__getitem__(row)
        return (image.flip(-1) if random.random() < 0.5 else image), label


class Without(Iterable[list[int]]):
    """Batches of rows without some of them; a batch that has none left is left out."""

    def __init__(self, batches: Iterable[list[int]], left_out: Tensor) -> None:
        self.batches, self.left_out = batches, set(left_out.tolist())

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            kept = [row for row in batch if row not in self.left_out]
            if kept:
                yield kept


def sgd(model: nn.Module) -> Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-3, nesterov=True)


def adamw(model: nn.Module) -> Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.01, betas=(0.8, 0.99), weight_decay=0.1)


@dataclass
class LiveRun:
    """A training as a user writes it: shuffled, BatchNorm, dropout, a cosine schedule."""

    folder: Path
    optimize: Callable[[nn.Module], Optimizer] = sgd
    read: type[Rows] = Rows
    workers: int = 0
    accumulate: int = 1
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    plan: Plan = CHEAP
    epochs: int = EPOCHS
    rows_of_epoch: Callable[[int], Iterable[list[int]] | None] = lambda epoch: None  # else shuffled
    states: list[RandomStates] = field(default_factory=list)

    def __post_init__(self) -> None:
        images, labels = digits()
        self.data: ImageData = image_data(images[:ROWS], labels[:ROWS])
        dataset = self.read(images[:ROWS], labels[:ROWS])
        self.data = replace(self.data, dataset=dataset, deterministic=self.read is Rows)
        self.start = fresh_net(5)
        self.model = copy.deepcopy(self.start)

    def recorded(self) -> "LiveRun":
        torch.manual_seed(3)
        random.seed(3)
        np.random.seed(3)
        optimizer = self.optimize(self.model)
        with record(self.folder, self.model, optimizer, plan=self.plan) as recorder:
            self.train(self.model, optimizer, recorder=recorder)
        return self

    def without(self, forget: Tensor) -> nn.Module:
        """The same run, each epoch from its own random state, over a loader that never reads F."""
        model = copy.deepcopy(self.start)
        self.train(model, self.optimize(model), left_out=forget)
        return model

    def train(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        recorder: Recorder | None = None,
        left_out: Tensor | None = None,
        first: int = 0,
    ) -> None:
        model.train()
        for epoch in range(first, self.epochs):
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * 0.5 * (1 + math.cos(math.pi * epoch / EPOCHS))
            loader = self.loader(epoch, left_out)
            if recorder is not None:
                self.states[epoch:] = [RandomStates.now()]
                self.an_epoch(model, optimizer, recorder.batches(loader))
            else:
                self.states[epoch].set()
                self.an_epoch(model, optimizer, loader)

    def loader(self, epoch: int, left_out: Tensor | None) -> DataLoader:
        own = self.rows_of_epoch(epoch)
        if left_out is None and own is None:
            return DataLoader(self.data.dataset, batch_size=BATCH, shuffle=True, num_workers=self.workers)
        batches = BatchSampler(RandomSampler(self.data.dataset), BATCH, False) if own is None else own
        batches = batches if left_out is None else Without(batches, left_out)
        return DataLoader(self.data.dataset, batch_sampler=batches, num_workers=self.workers)

    def an_epoch(self, model: nn.Module, optimizer: Optimizer, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        optimizer.zero_grad()
        for number, (images, labels) in enumerate(batches):
            loss = nn.functional.cross_entropy(model(images), labels, label_smoothing=self.label_smoothing)
            (loss / self.accumulate).backward()
            if (number + 1) % self.accumulate == 0:
                if self.clip_norm is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), self.clip_norm)
                optimizer.step()
                optimizer.zero_grad()

    def record(self) -> TrainingRecord:
        return TrainingRecord.open(self.folder)

    def evidence(self, forget: Tensor = FORGET) -> Evidence:
        rows = torch.arange(ROWS)
        return Evidence(
            forget=Samples(self.data, forget), retain=Samples(self.data, rows[~torch.isin(rows, forget)]),
            record=self.record(), classes=10, fresh=fresh_net, accelerator=Accelerator(cpu=True),
            progress=Progress(enabled=False),
        )  # fmt: skip


def same(first: nn.Module, second: nn.Module) -> bool:
    """Whether all parameters and buffers are equal, bit by bit."""
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
