"""The order of the run: learning rates, batches, and the optimizer's settings."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor
from torch.optim import AdamW

from unlearn_hooks.collector import Collector, Run, Step
from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.training_record import RecordWriter, Shard, TrainingRecord

__all__ = ["Group", "Schedule", "ScheduleCollector", "recorded_schedule"]

_CHUNK = 1000  # steps per shard: a crash loses at most these, and the file stays small


@dataclass(frozen=True, kw_only=True)
class Group:
    """Settings of one parameter group of the optimizer; what the optimizer does not have stays at its default.

    Attributes:
        names: Names of the group's parameters in the model.
        momentum: mu of SGD.
        dampening: Share of the gradient that SGD keeps out of its momentum.
        nesterov: SGD steps along g + mu v instead of v.
        weight_decay: lambda; added to the gradient as lambda theta unless `decoupled`.
        betas: Decay rates of Adam's moments, or ``None``.
        eps: What Adam adds to the root of its second moment, or ``None``.
        decoupled: Weight decay acts on the weights themselves, as in AdamW.
        amsgrad: Adam divides by the largest second moment so far.
    """

    names: tuple[str, ...]
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    betas: tuple[float, ...] | None = None
    eps: float | None = None
    decoupled: bool = False
    amsgrad: bool = False


def _groups(run: Run) -> tuple[Group, ...]:
    names = {id(parameter): name for name, parameter in run.parameters.items()}
    adam_w = isinstance(run.optimizer, AdamW)
    return tuple(
        Group(
            names=tuple(names[id(parameter)] for parameter in group["params"] if id(parameter) in names),
            momentum=float(group.get("momentum", 0.0)),
            dampening=float(group.get("dampening", 0.0)),
            nesterov=bool(group.get("nesterov", False)),
            weight_decay=float(group.get("weight_decay", 0.0)),
            betas=tuple(float(beta) for beta in group["betas"]) if "betas" in group else None,
            eps=float(group["eps"]) if "eps" in group else None,
            decoupled=bool(group.get("decoupled_weight_decay", adam_w)),
            amsgrad=bool(group.get("amsgrad", False)),
        )
        for group in run.optimizer.param_groups
    )


class ScheduleCollector(Collector):
    """Learning rates, batch size, epoch and rows of every step, skipped ones included; the settings once.

    Rows are left out with ``Plan(ids="recorded")``, and for steps in which those of any micro-batch are unknown.
    """

    kind = "schedule"

    def start(self, run: Run, first_step: int) -> None:
        """Begin with an empty chunk; see the base class."""
        super().start(run, first_step)
        self._steps: list[Step] = []
        self._written: tuple[Group, ...] | None = None

    def step(self, step: Step, out: RecordWriter) -> None:
        """Take in one step; a full chunk is written."""
        if self._steps and (
            step.number != self._steps[-1].number + 1
            or len(step.learning_rates) != len(self._steps[-1].learning_rates)  # a group was added
        ):
            self.flush(out)
        self._steps.append(step)
        if len(self._steps) >= _CHUNK:
            self.flush(out)

    def flush(self, out: RecordWriter) -> None:
        """Write the open chunk; see the base class."""
        if not self._steps:
            return
        groups = _groups(self.run)
        meta: dict[str, Any] = {"optimizer": type(self.run.optimizer).__name__}
        if groups != self._written:
            meta["groups"] = [asdict(group) for group in groups]
        tensors = _chunk(self._steps, with_rows=self.run.plan.ids == "all")
        first, last = self._steps[0].number, self._steps[-1].number
        if out.append(self.kind, tensors, first=first, last=last, meta=meta) is not None:
            self._steps, self._written = [], groups


def _chunk(steps: Sequence[Step], *, with_rows: bool) -> dict[str, Tensor]:
    tensors = {
        "learning_rates": torch.tensor([step.learning_rates for step in steps], dtype=torch.float64),
        "batch_sizes": torch.tensor([_batch_size(step) for step in steps]),
        "epochs": torch.tensor([step.epoch for step in steps]),
        "skipped": torch.tensor([step.skipped for step in steps]),
    }
    if with_rows:
        micro = [[batch.rows for batch in step.batches if batch.rows is not None] for step in steps]
        micro = [rows if len(rows) == len(step.batches) else [] for rows, step in zip(micro, steps, strict=True)]
        rows = [batch.cpu() for batches in micro for batch in batches]
        tensors |= {
            "rows": torch.cat(rows).to(torch.int32) if rows else torch.zeros(0, dtype=torch.int32),
            "micro_sizes": torch.tensor([len(batch) for batch in rows], dtype=torch.int32),
            "micro_counts": torch.tensor([len(batches) for batches in micro], dtype=torch.int32),
        }
    return tensors


def _batch_size(step: Step) -> int:
    """Number of samples in a step; -1 when neither rows nor labels of a micro-batch were seen."""
    seen = [batch.labels if batch.rows is None else batch.rows for batch in step.batches]
    sizes = [len(tensor) for tensor in seen if tensor is not None]
    return sum(sizes) if sizes and len(sizes) == len(seen) else -1


class _Order:
    """The rows of every step, one chunk in memory at a time: all of them are 4 bytes per sample and epoch."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards = shards
        self._firsts = [shard.first for shard in shards]
        self._open: tuple[int, list[tuple[Tensor, ...] | None]] = (-1, [])

    def of(self, step: int) -> tuple[Tensor, ...] | None:
        position = bisect_right(self._firsts, step) - 1
        if position < 0 or step > self._shards[position].last:
            return None
        if self._open[0] != position:
            self._open = (position, _micro_batches(self._shards[position].tensors()))
        return self._open[1][step - self._firsts[position]]


def _micro_batches(tensors: dict[str, Tensor]) -> list[tuple[Tensor, ...] | None]:
    if "rows" not in tensors:
        return [None] * len(tensors["epochs"])
    batches = iter(torch.split(tensors["rows"].long(), tensors["micro_sizes"].tolist()))
    return [tuple(next(batches) for _ in range(count)) or None for count in tensors["micro_counts"].tolist()]


@dataclass(frozen=True)
class Schedule:
    """The order of a recorded run.

    Attributes:
        steps: T, one more than the number of the last recorded step.
        learning_rates: Rate of each parameter group at each step; nan where a step was not recorded or a group
            did not exist yet.
        batch_sizes: Samples of each step; -1 where not known.
        epochs: Epoch of each step; -1 where not recorded.
        skipped: Steps that left the weights as they were (a GradScaler found inf or nan).
        optimizer: Class name of the optimizer, at the end of the run.
        history: Settings of the parameter groups, each with the first step of the chunk they were seen in; more than
            one entry if they changed.
    """

    steps: int
    learning_rates: Float64[Tensor, "T groups"]
    batch_sizes: Int64[Tensor, " T"]
    epochs: Int64[Tensor, " T"]
    skipped: Bool[Tensor, " T"]
    optimizer: str
    history: tuple[tuple[int, tuple[Group, ...]], ...]
    _orders: tuple[_Order, ...] = field(repr=False)  # one of each process

    @property
    def groups(self) -> tuple[Group, ...]:
        """Settings of the parameter groups at the end of the run."""
        return self.history[-1][1]

    def micro_batches(self, step: int) -> tuple[Int64[Tensor, " _"], ...] | None:
        """Rows of each micro-batch accumulated into a step, in order; ``None`` if not recorded or not known."""
        parts = [order.of(step) for order in self._orders]
        known = [part for part in parts if part is not None]
        return tuple(batch for part in known for batch in part) if len(known) == len(parts) else None

    def rows(self, step: int) -> Int64[Tensor, " n"] | None:
        """Rows of a step, its micro-batches joined; ``None`` if not recorded or not known."""
        batches = self.micro_batches(step)
        return None if batches is None else torch.cat(batches)


def recorded_schedule(record: TrainingRecord) -> Schedule:
    """Read the order of a recorded run.

    Args:
        record: What training left behind.

    Returns:
        The schedule; rows are read when they are asked for.

    Raises:
        UnlearnError: If the record holds no schedule.
    """
    every = record.shards("schedule")
    ranks = [[shard for shard in every if shard.rank == rank] for rank in range(record.manifest.get("world", 1))]
    if not ranks[0]:
        raise UnlearnError(
            f"The record {record.folder} holds no schedule; train again with Plan(schedule=True), which is the default."
        )
    steps = ranks[0][-1].last + 1
    columns = [_columns(shards, steps) for shards in ranks]
    sizes = torch.stack([column["batch_sizes"] for column in columns])
    return Schedule(
        steps=steps,
        learning_rates=columns[0]["learning_rates"],
        batch_sizes=sizes.sum(0).where((sizes >= 0).all(0), -1),
        epochs=columns[0]["epochs"],
        skipped=columns[0]["skipped"],
        optimizer=ranks[0][-1].meta["optimizer"],
        history=tuple(_history(ranks[0])),
        _orders=tuple(_Order(shards) for shards in ranks),
    )


def _columns(shards: Sequence[Shard], steps: int) -> dict[str, Tensor]:
    """Put the chunks of one process into columns of `steps` entries, with a filler where nothing was recorded."""
    chunks = [(shard.first, shard.tensors()) for shard in shards]
    groups = max((chunk["learning_rates"].shape[1] for _, chunk in chunks), default=0)
    columns = {
        "learning_rates": torch.full((steps, groups), torch.nan, dtype=torch.float64),
        "batch_sizes": torch.full((steps,), -1),
        "epochs": torch.full((steps,), -1),
        "skipped": torch.zeros(steps, dtype=torch.bool),
    }
    for first, chunk in chunks:
        for name, column in columns.items():
            values = chunk[name][: max(steps - first, 0)]  # a process may have been a step ahead of the first
            place = (slice(first, first + len(values)), *(slice(n) for n in values.shape[1:]))
            column[place] = values
    return columns


def _history(shards: Sequence[Shard]) -> list[tuple[int, tuple[Group, ...]]]:
    history: list[tuple[int, tuple[Group, ...]]] = []
    for shard in shards:
        if "groups" not in shard.meta:
            continue
        groups = tuple(_group(values) for values in shard.meta["groups"])
        if not history or groups != history[-1][1]:  # a resumed run writes the same ones again
            history.append((shard.first, groups))
    return history


def _group(values: dict[str, Any]) -> Group:
    betas = None if values["betas"] is None else tuple(values["betas"])
    return Group(**{**values, "names": tuple(values["names"]), "betas": betas})
