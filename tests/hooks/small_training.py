"""A real training of a small net that drives collectors the way the recorder does, and remembers the truth."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from unlearn_hooks.collector import Batch, Collector, Run, Seen, Step
from unlearn_hooks.plan import Plan
from unlearn_hooks.training_record import RecordWriter, TrainingRecord

ROWS, CLASSES = 24, 3
IMAGES = torch.randn(ROWS, 6, generator=torch.Generator().manual_seed(1)).double()
LABELS = torch.arange(ROWS) % CLASSES


class Net(nn.Module):
    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.body, self.norm, self.head = nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, CLASSES)
        self.register_buffer("constant", torch.ones(100), persistent=False)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) / 2
        self.to(dtype)

    def features(self, images: Tensor) -> Tensor:
        return self.norm(self.body(images.to(self.body.weight.dtype))).relu()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def gradient(model: nn.Module, rows: Tensor) -> dict[str, Tensor]:
    """Mean gradient of the cross-entropy on some rows."""
    loss = nn.functional.cross_entropy(model(IMAGES[rows]), LABELS[rows])
    return dict(zip(dict(model.named_parameters()), torch.autograd.grad(loss, list(model.parameters())), strict=True))


@dataclass
class Truth:
    """What really happened in one step."""

    step: Step
    weights: dict[str, Tensor]
    gradient: dict[str, Tensor]
    seen: list[Seen]


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)


@dataclass
class Training:
    """Trains in batches of 8 rows, 3 steps an epoch, each split into `micro` micro-batches."""

    folder: Path
    collectors: list[Collector]
    plan: Plan = field(default_factory=Plan)
    optimize: Callable[[nn.Module], torch.optim.Optimizer] = sgd
    model: Net = field(default_factory=Net)
    micro: int = 1
    rows_known: bool = True
    labels_known: bool = True
    skipped: tuple[int, ...] = ()
    truth: list[Truth] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.optimizer = self.optimize(self.model)
        self.writer = RecordWriter(self.folder / "record")

    def start(self, first: int = 0) -> None:
        run = Run(self.model, self.optimizer, self.plan, dict(self.model.named_parameters()))
        for collector in self.collectors:
            collector.start(run, first)

    def steps(self, first: int, stop: int) -> "Training":
        for number in range(first, stop):
            self._step(number)
        return self

    def flush(self) -> None:
        for collector in self.collectors:
            collector.flush(self.writer)

    def run(self, steps: int) -> TrainingRecord:
        self.start()
        self.steps(0, steps).flush()
        return self.record()

    def record(self) -> TrainingRecord:
        (self.folder / "record" / "manifest.json").write_text(json.dumps({"schema": 1}))
        return TrainingRecord.open(self.folder / "record")

    def _step(self, number: int) -> None:
        epoch, position = divmod(number, 3)
        order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(epoch))
        rows = order[8 * position : 8 * position + 8]
        weights = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.optimizer.zero_grad(set_to_none=False)  # in place: what was not copied would change
        batches, shown = [], []
        for part in rows.chunk(self.micro):
            features = self.model.features(IMAGES[part])
            logits = self.model.head(features)
            nn.functional.cross_entropy(logits, LABELS[part]).div(self.micro).backward()
            batches.append(Batch(part if self.rows_known else None, LABELS[part] if self.labels_known else None))
            shown.append(Seen(features.detach(), logits.detach()))
            for collector in self.collectors:
                collector.batch(batches[-1], shown[-1])
        if number not in self.skipped:
            self.optimizer.step()
        rates = tuple(float(group["lr"]) for group in self.optimizer.param_groups)
        step = Step(number, epoch, tuple(batches), rates, number in self.skipped)
        applied = {n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None}
        self.truth.append(Truth(step, weights, applied, shown))
        for collector in self.collectors:
            collector.step(step, self.writer)
