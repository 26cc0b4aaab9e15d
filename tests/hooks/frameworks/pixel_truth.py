"""Data whose pixels tell their row, so that the batch that enters a model tells the truth about itself."""

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from unlearn_hooks import TrainingRecord
from unlearn_hooks.schedule import recorded_schedule

N, BATCH, CLASSES, SIDE = 44, 8, 3, 8


def image(row: int) -> Tensor:
    return torch.full((3, SIDE, SIDE), row / N)


def rows_in(images: Tensor) -> list[int]:
    return [round(value * N) for value in images.detach().float().flatten(1)[:, 0].tolist()]


class Pairs(Dataset[tuple[Tensor, int]]):
    def __len__(self) -> int:
        return N

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return image(row), row % CLASSES


class Named(Dataset[dict[str, object]]):
    """Samples as transformers wants them."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, row: int) -> dict[str, object]:
        return {"pixel_values": image(row), "labels": row % CLASSES}


def recorded(folder: Path) -> list[list[list[int]] | None]:
    """Micro-batches of each recorded step, in the form of the truth."""
    schedule = recorded_schedule(TrainingRecord.open(folder))
    steps = [schedule.micro_batches(step) for step in range(schedule.steps)]
    return [None if batches is None else [rows.tolist() for rows in batches] for batches in steps]


def grouped(micro: list[list[int]], size: int, per_epoch: int) -> list[list[list[int]]]:
    """Put the micro-batches of each epoch into steps of `size`; the last step of an epoch may be shorter."""
    epochs = [micro[first : first + per_epoch] for first in range(0, len(micro), per_epoch)]
    return [epoch[first : first + size] for epoch in epochs for first in range(0, len(epoch), size)]
