"""Loss and margin of every training sample over the epochs: which samples were hard to learn."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float16, Float32, Int64
from torch import Tensor

from unlearn_hooks.collector import Batch, Collector, Run, Seen, Step
from unlearn_hooks.training_record import RecordWriter, TrainingRecord

__all__ = ["EpochSamples", "SamplesCollector", "loss_and_margin", "recorded_samples"]

_LARGEST = 6e4  # fp16 ends at 65504
_ENOUGH = 1024  # samples that are scored at once: a few large operations are cheaper than many small ones


def loss_and_margin(
    logits: Float[Tensor, "n C"], labels: Int64[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Compute cross-entropy and margin of each sample, in at least fp32.

    With the logits f and the label y: loss = log sum_j exp(f_j) - f_y, in nats; margin = f_y - max_{j != y} f_j.

    Args:
        logits: What the model said.
        labels: Class of each sample. One outside 0 … C-1 gives nan: an index that does not exist would end the
            training on a GPU.

    Returns:
        Loss and margin of each sample.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    exists = (labels >= 0) & (labels < logits.shape[1])
    column = labels.clamp(0, logits.shape[1] - 1)[:, None]
    own = logits.gather(1, column)[:, 0]
    loss = logits.logsumexp(1) - own
    margin = own - logits.scatter(1, column, -torch.inf).amax(1)
    return loss.where(exists, torch.nan), margin.where(exists, torch.nan)


class _Shown(NamedTuple):
    rows: Int64[Tensor, " n"]
    labels: Int64[Tensor, " n"]
    logits: Float[Tensor, "n C"]


@dataclass(frozen=True)
class _Scores:
    rows: Int64[Tensor, " n"]
    loss: Float16[Tensor, " n"]
    margin: Float16[Tensor, " n"]


def _half(values: Float[Tensor, " n"]) -> Float16[Tensor, " n"]:
    return values.clamp(-_LARGEST, _LARGEST).half()


class SamplesCollector(Collector):
    """Loss and margin per sample, once per epoch and row, as the model saw the sample: augmented, in train mode.

    Micro-batches with unknown rows or soft labels are left out, and their number is in the journal.
    """

    kind = "samples"

    def start(self, run: Run, first_step: int) -> None:
        """Begin with an empty epoch; see the base class."""
        super().start(run, first_step)
        self._pending: list[_Shown | None] = []
        self._waiting: list[_Shown] = []
        self._scores: list[_Scores] = []
        self._left_out = 0
        self._first = self._last = first_step
        self._epoch: int | None = None

    def batch(self, batch: Batch, seen: Seen) -> None:
        """Take in the logits of one micro-batch; they wait for the step it belongs to."""
        rows, labels, logits = batch.rows, batch.labels, seen.logits
        if rows is None or labels is None or logits is None or not len(rows) == len(labels) == len(logits):
            self._pending.append(None)
        else:
            self._pending.append(_Shown(rows, labels, logits))

    def step(self, step: Step, out: RecordWriter) -> None:
        """Take over the scores of the step's micro-batches; a new epoch writes the one before."""
        if step.epoch != self._epoch:
            self.flush(out)
            self._scores = []  # of the old epoch, if the disk was too slow for them
            self._epoch = step.epoch
        if not self._scores and not self._waiting:
            self._first = step.number
        self._last = step.number
        pending, self._pending = self._pending, []
        if not step.skipped:
            self._waiting += [shown for shown in pending if shown is not None]
            self._left_out += pending.count(None)
        if sum(len(shown.rows) for shown in self._waiting) >= _ENOUGH:
            self._score()

    @torch.no_grad()
    def _score(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        rows, labels, logits = (torch.cat(parts) for parts in zip(*waiting, strict=True))
        loss, margin = loss_and_margin(logits, labels.to(logits.device, non_blocking=True))
        self._scores.append(_Scores(rows, _half(loss), _half(margin)))

    def flush(self, out: RecordWriter) -> None:
        """Write the open part of the epoch; see the base class."""
        if self._left_out:
            out.note("samples_left_out", epoch=self._epoch, batches=self._left_out)
            self._left_out = 0
        self._score()
        if not self._scores:
            return
        scores = _once(self._scores)
        tensors = {"rows": scores.rows.to(torch.int32), "loss": scores.loss, "margin": scores.margin}
        meta = {"epoch": self._epoch}
        if out.append(self.kind, tensors, first=self._first, last=self._last, meta=meta) is not None:
            self._scores = []


def _once(parts: list[_Scores]) -> _Scores:
    """Join parts, sort by row, and keep the first of those that an epoch showed more than once."""
    rows = torch.cat([part.rows.cpu() for part in parts])
    loss = torch.cat([part.loss for part in parts]).cpu()
    margin = torch.cat([part.margin for part in parts]).cpu()
    exists = ~loss.isnan()
    rows, loss, margin = rows[exists], loss[exists], margin[exists]
    first = torch.from_numpy(np.unique(rows.numpy(), return_index=True)[1])
    return _Scores(rows[first], loss[first], margin[first])


class EpochSamples(NamedTuple):
    """Scores of one epoch, sorted by row.

    Attributes:
        epoch: Counted from 0.
        rows: Row of each sample in the root data set, each at most once.
        loss: Cross-entropy in nats, when the sample was first seen in the epoch; at most 6e4.
        margin: Logit of the label minus the largest other one; within ±6e4.
    """

    epoch: int
    rows: Int64[Tensor, " n"]
    loss: Float32[Tensor, " n"]
    margin: Float32[Tensor, " n"]


def recorded_samples(record: TrainingRecord) -> list[EpochSamples]:
    """Read loss and margin of the samples.

    Args:
        record: What training left behind.

    Returns:
        One entry per recorded epoch, in order; empty if none was recorded.
    """
    epochs: dict[int, list[_Scores]] = {}
    for shard in record.shards("samples"):
        tensors = shard.tensors()
        scores = _Scores(tensors["rows"].long(), tensors["loss"], tensors["margin"])
        epochs.setdefault(shard.meta["epoch"], []).append(scores)
    joined = {epoch: _once(parts) for epoch, parts in sorted(epochs.items())}
    return [EpochSamples(epoch, part.rows, part.loss.float(), part.margin.float()) for epoch, part in joined.items()]
