"""How every network of the suite is trained, with some rows left out of every batch if wanted."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.utils.data import DataLoader, Dataset

from tests.benchmarks.suite.tasks import Task

BATCH = 50


def train(
    task: Task,
    arch: str,
    model: nn.Module,
    loader: DataLoader[Any],
    optimizer: Optimizer | None = None,
    around: Callable[[Any], Iterable[Any]] = iter,
) -> None:
    """The training of every model here; a batch of which nothing is left is no step."""
    optimizer = optimizer or make_optimizer(arch, model)
    epochs = task.trained_for(arch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
    model.train()
    for _ in range(epochs):
        for images, labels in around(loader):
            if len(labels):
                step(model, optimizer, images, labels)
            schedule.step()


class Numbered(Dataset[tuple[Tensor, int, int]]):
    """Some rows, each with its number."""

    def __init__(self, rows: Dataset[tuple[Tensor, int]], chosen: Sequence[int]) -> None:
        self._rows, self._chosen = rows, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, number: int) -> tuple[Tensor, int, int]:
        row = self._chosen[number]
        return *self._rows[row], row


def without(gone: Tensor) -> Callable[[Any], Iterable[Any]]:
    """Leaves rows out of every batch."""

    def batches(loader: Iterable[tuple[Tensor, Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels, rows in loader:
            kept = ~torch.isin(rows, gone)
            yield images[kept], labels[kept]

    return batches


def make_optimizer(arch: str, model: nn.Module) -> Optimizer:
    if "vit" in arch:
        return AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    return SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)


def step(model: nn.Module, optimizer: Optimizer, images: Tensor, labels: Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(images), labels).backward()
    optimizer.step()
