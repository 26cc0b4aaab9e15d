"""Habits of plain loops together: an average, channels-last, bf16 autocast, accumulation, mixing after the loader."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from tests.hooks.frameworks.pixel_truth import BATCH, CLASSES, N, Pairs, grouped, recorded, rows_in
from unlearn_hooks import Recorder, TrainingRecord, record
from unlearn_hooks.features import recorded_features
from unlearn_hooks.samples import recorded_samples
from unlearn_hooks.training_record import weights_digest


class Loop:
    """`trained` is the truth, one entry per micro-batch."""

    def __init__(self, folder: Path, workers: int = 0) -> None:
        torch.manual_seed(0)
        self.folder, self.trained = folder, list[list[int]]()
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, CLASSES))
        self.model = net.to(memory_format=torch.channels_last)
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.loader = DataLoader(Pairs(), BATCH, shuffle=True, num_workers=workers)

    def recorder(self) -> Recorder:
        return record(self.folder, self.model, self.optimizer)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = self.model(images.to(memory_format=torch.channels_last))
        return nn.functional.cross_entropy(logits, labels)

    def epochs(self, rec: Recorder | None, number: int) -> None:
        for _ in range(number):
            for place, (images, labels) in enumerate(self.loader if rec is None else rec.batches(self.loader), start=1):
                self.loss(images, labels).backward()
                self.trained.append(rows_in(images))
                self.average(images)  # in training mode, with gradients: as careless as it gets
                if place % 4 == 0 or place == len(self.loader):
                    self.optimizer.step()
                    self.optimizer.zero_grad()
                    self.average.update_parameters(self.model)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_averaged_loop_in_bf16_is_recorded_exactly_and_the_average_is_not_counted(
    tmp_path: Path, workers: int
) -> None:
    loop = Loop(tmp_path, workers)
    with loop.recorder() as rec:
        loop.epochs(rec, 2)
    found = TrainingRecord.open(tmp_path)
    assert recorded(tmp_path) == grouped(loop.trained, 4, 6)
    assert recorded_features(found).n == 2 * N
    assert found.manifest["final_weights"] == weights_digest(loop.model.state_dict())
    assert rec.status().unknown == {}


def test_weights_and_average_are_the_same_with_and_without_the_recorder(tmp_path: Path) -> None:
    ends = []
    for on in (True, False):
        loop = Loop(tmp_path)
        if on:
            with loop.recorder() as rec:
                loop.epochs(rec, 2)
        else:
            loop.epochs(None, 2)
        ends.append((weights_digest(loop.model.state_dict()), weights_digest(loop.average.state_dict()), loop.trained))
    assert ends[0] == ends[1]


class Mixing:
    """A wrapper that mixes after the loader, as timm's PrefetchLoader does on its device."""

    def __init__(self, loader: DataLoader[list[Tensor]], trained: list[list[int]]) -> None:
        self.loader, self.trained = loader, trained

    def __iter__(self):  # type: ignore[no-untyped-def]
        for images, labels in self.loader:
            self.trained.append(rows_in(images))
            targets = nn.functional.one_hot(labels, CLASSES).float()
            yield 0.6 * images + 0.4 * images.flip(0), 0.6 * targets + 0.4 * targets.flip(0)


def test_mixing_after_the_loader_keeps_the_rows_and_says_that_losses_are_left_out(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    with loop.recorder() as rec:
        for images, targets in rec.batches(Mixing(loop.loader, loop.trained)):
            loop.loss(images, targets).backward()
            loop.optimizer.step()
            loop.optimizer.zero_grad()
    assert recorded(tmp_path) == grouped(loop.trained, 1, 6)
    assert recorded_samples(TrainingRecord.open(tmp_path)) == []
    assert "samples_left_out" in (tmp_path / "rank00000" / "journal.jsonl").read_text()
