"""Small recorded trainings whose counterfactual, the same run without F, is really made."""

import copy
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from tests.conftest import digits, fresh_net, image_data
from unlearn_hooks.plan import Plan
from unlearn_hooks.recorder import record
from unlearn_hooks.training_record import TrainingRecord
from unlearn_plugin.data import ImageData, Samples
from unlearn_plugin.progress import Progress
from unlearn_plugin.unlearners.base import Evidence

ROWS, BATCH = 60, 12
FORGET = torch.arange(0, ROWS, 6)
EVERY_STEP = Plan(steps=None, tail=0, weights_dtype="native", gradient_dtype="native", features=False, samples=False)


def linear(seed: int) -> nn.Module:
    """Logistic regression on pixels, in double precision."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).double()


@dataclass
class RecordedRun:
    """Batches in a fixed order, a recorded training, and the same training without F."""

    folder: Path
    plan: Plan = EVERY_STEP
    kind: type[torch.optim.Optimizer] = torch.optim.SGD
    settings: dict[str, object] = field(default_factory=lambda: {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.2})
    epochs: int = 12
    start: nn.Module = field(default_factory=lambda: linear(0))

    def __post_init__(self) -> None:
        images, labels = digits()
        self.data: ImageData = image_data(images[:ROWS], labels[:ROWS])
        orders = [torch.randperm(ROWS, generator=torch.Generator().manual_seed(e)) for e in range(self.epochs)]
        self.batches = [batch for order in orders for batch in order.split(BATCH)]
        self.model = copy.deepcopy(self.start)
        self._train(self.model, self.folder)
        self.record = TrainingRecord.open(self.folder)

    def _train(self, model: nn.Module, folder: Path) -> None:
        optimizer = self.kind(model.parameters(), **self.settings)
        loader = torch.utils.data.DataLoader(self.data.dataset, batch_sampler=[b.tolist() for b in self.batches])
        model.train()
        with record(folder, model, optimizer, plan=self.plan) as recorder:
            for images, labels in recorder.batches(loader):
                self._step(model, optimizer, images, labels)

    def _step(self, model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images.to(next(model.parameters()).dtype)), labels).backward()
        optimizer.step()

    def without(self, forget: Tensor) -> nn.Module:
        """The same run, with the forget samples dropped from their batches."""
        model = copy.deepcopy(self.start).train()
        optimizer = self.kind(model.parameters(), **self.settings)
        for rows in self.batches:
            rest = rows[~torch.isin(rows, forget)]
            self._step(model, optimizer, self.data.images(rest), self.data.labels[rest])
        return model

    def evidence(self, forget: Tensor = FORGET, **changes: object) -> Evidence:
        values = {
            "forget": Samples(self.data, forget), "retain": Samples(self.data, others(forget)),
            "record": self.record, "classes": 10, "fresh": fresh_net, "accelerator": Accelerator(cpu=True),
            "progress": Progress(enabled=False),
        }  # fmt: skip
        return Evidence(**{**values, **changes})


def others(forget: Tensor) -> Tensor:
    """All rows but these."""
    rows = torch.arange(ROWS)
    return rows[~torch.isin(rows, forget)]


def distance(first: nn.Module, second: nn.Module) -> float:
    """Distance of all weights, relative to the second's norm."""
    pairs = list(zip(first.parameters(), second.parameters(), strict=True))
    gap = sum(float((a - b).detach().square().sum()) for a, b in pairs)
    return (gap / sum(float(b.detach().square().sum()) for _, b in pairs)) ** 0.5
