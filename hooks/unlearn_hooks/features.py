"""Statistics of the features, the input of the classifier head: n, sum and second moment, overall and per class."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from unlearn_hooks.collector import Batch, Collector, Run, Seen, Step
from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.training_record import RecordWriter, Shard, TrainingRecord

__all__ = ["FeatureStatistics", "FeaturesCollector", "recorded_features"]

_MOST_CLASS_ENTRIES = 4_000_000  # C d^2 up to which the second moments of single classes are worth their bytes
_ENOUGH = 1024  # features that are added at once: one large product is cheaper than many small ones


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Multiply fp32 as fp32: timm turns TF32 on for the whole process, and autocast would go to bf16."""
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]  # torch makes it
    reduced = [(matmul, matmul.fp32_precision) for matmul in backends if matmul.fp32_precision in ("tf32", "bf16")]
    try:
        for matmul, _ in reduced:
            matmul.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for matmul, before in reduced:
            matmul.fp32_precision = before


@dataclass(frozen=True)
class _Moments:
    """Count, sum and second moment about a shift: sum_i (z_i - shift) and sum_i (z_i - shift)(z_i - shift)^T."""

    count: Float[Tensor, "*classes"]
    sum: Float[Tensor, "*classes d"]
    second: Float[Tensor, "*classes d d"] | None

    def moved(self, by: Float[Tensor, " d"]) -> "_Moments":
        """Change to another shift, exactly; `by` is the old shift minus the new one."""
        total = self.count[..., None] * by
        second = self.second
        if second is not None:
            mixed = self.sum[..., :, None] * by
            second = second + mixed + mixed.mT + total[..., :, None] * by
        return _Moments(self.count, self.sum + total, second)

    def plus(self, other: "_Moments") -> "_Moments":
        """Pool two sets of samples that have the same shift."""
        lacks = self.second is None or other.second is None
        second = None if lacks else self.second + other.second  # type: ignore[operator]  # mypy does not follow `lacks`
        return _Moments(self.count + other.count, self.sum + other.sum, second)


@dataclass(frozen=True)
class _Pool:
    """Moments of one or more windows: overall, and per class if labels and logits were seen."""

    shift: Float64[Tensor, " d"]
    overall: _Moments
    classes: _Moments | None

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "_Pool":
        wide = {name: tensor.double() for name, tensor in tensors.items()}
        classes = None
        if "class_counts" in wide:
            classes = _Moments(wide["class_counts"], wide["class_sums"], wide.get("class_second"))
        return cls(wide["shift"], _Moments(wide["n"], wide["sum"], wide["second"]), classes)

    def about(self, shift: Float64[Tensor, " d"]) -> "_Pool":
        by = self.shift - shift
        return _Pool(shift, self.overall.moved(by), self.classes and self.classes.moved(by))

    @staticmethod
    def joined(pools: Sequence["_Pool"]) -> "_Pool":
        """Pool windows about their common mean, so that nothing cancels however far the mean is from zero."""
        count = sum(float(pool.overall.count) for pool in pools)
        mean = torch.stack([pool.overall.sum + pool.overall.count * pool.shift for pool in pools]).sum(0) / count
        first, *others = [pool.about(mean) for pool in pools]
        overall, classes = first.overall, first.classes
        for other in others:
            overall = overall.plus(other.overall)
            classes = classes.plus(other.classes) if classes and other.classes else None
        return _Pool(mean, overall, classes)

    def tensors(self) -> dict[str, Tensor]:
        tensors = {"shift": self.shift, "n": self.overall.count, "sum": self.overall.sum}
        tensors |= {} if self.overall.second is None else {"second": self.overall.second}
        if self.classes:
            tensors |= {"class_counts": self.classes.count, "class_sums": self.classes.sum}
            tensors |= {} if self.classes.second is None else {"class_second": self.classes.second}
        return tensors


class _Window:
    """Sums in fp32 (fp64 for fp64 features) on the model's device, about the mean of the first micro-batch."""

    def __init__(self, features: Float[Tensor, "n d"], classes: int | None) -> None:
        d = features.shape[1]
        self.tensors = {
            "shift": features.mean(0),
            "n": torch.zeros((), dtype=torch.float64),
            "sum": features.new_zeros(d),
            "second": features.new_zeros(d, d),
        }
        if classes is not None:
            self.tensors |= {"class_counts": features.new_zeros(classes), "class_sums": features.new_zeros(classes, d)}
            if classes * d * d <= _MOST_CLASS_ENTRIES:
                self.tensors["class_second"] = features.new_zeros(classes, d, d)

    def add(self, features: Float[Tensor, "n d"], labels: Int64[Tensor, " n"] | None) -> None:
        z = features - self.tensors["shift"]
        self.tensors["n"] += len(z)
        self.tensors["sum"] += z.sum(0)
        self.tensors["second"].addmm_(z.mT, z)
        if labels is None or "class_counts" not in self.tensors:
            return
        # A comparison, since indexing by labels would make the GPU wait, and end the training at a wrong label.
        numbers = torch.arange(len(self.tensors["class_counts"]), device=z.device)
        members = (labels[:, None] == numbers).to(z.dtype)
        self.tensors["class_counts"] += members.sum(0)
        self.tensors["class_sums"].addmm_(members.mT, z)
        if "class_second" in self.tensors:
            self._add_class_second(z, labels, members)

    def _add_class_second(
        self, z: Float[Tensor, "n d"], labels: Int64[Tensor, " n"], members: Float[Tensor, "n C"]
    ) -> None:
        second = self.tensors["class_second"]
        if z.device.type != "cpu":  # C times as many products, and nothing has to wait
            for part, own in zip(torch.split(z, 256), torch.split(members, 256), strict=True):
                second += torch.einsum("nc,nd,ne->cde", own, part, part)
            return
        order = labels.argsort()
        present, counts = torch.unique_consecutive(labels[order], return_counts=True)
        for label, part in zip(present.tolist(), torch.split(z[order], counts.tolist()), strict=True):
            if 0 <= label < len(second):
                second[label].addmm_(part.mT, part)


class _Features(NamedTuple):
    """What one micro-batch showed; `classes` is None where logits were not seen."""

    features: Float[Tensor, "n d"]
    labels: Int64[Tensor, " n"] | None
    classes: int | None


class FeaturesCollector(Collector):
    """Moments of the head's input in windows of steps; the latest windows are kept apart, older ones folded together.

    The features are those of training: augmented, in train mode, at weights that move within a window. What a skipped
    step saw is left out.
    """

    kind = "features"

    def start(self, run: Run, first_step: int) -> None:
        """Begin with an empty window; see the base class."""
        super().start(run, first_step)
        self._pending: list[_Features] = []
        self._waiting: list[_Features] = []
        self._window: _Window | None = None
        self._first, self._last, self._flushed = first_step, first_step - 1, first_step

    @torch.no_grad()
    def batch(self, batch: Batch, seen: Seen) -> None:
        """Take in the features of one micro-batch; they wait for the step it belongs to."""
        if seen.features is None:
            return
        features = seen.features.to(torch.promote_types(seen.features.dtype, torch.float32))
        labels = None
        if batch.labels is not None and len(batch.labels) == len(features):
            labels = batch.labels.to(features.device, non_blocking=True)
        self._pending.append(_Features(features, labels, None if seen.logits is None else seen.logits.shape[1]))

    @torch.no_grad()
    def step(self, step: Step, out: RecordWriter) -> None:
        """Take over the features of the step's micro-batches; every `window` steps, counted from 0, write them."""
        pending, self._pending = self._pending, []
        if pending and not step.skipped:
            if self._window is None:
                with _full_precision(pending[0].features.device):
                    self._window, self._first = _Window(pending[0].features, pending[0].classes), step.number
            self._waiting += pending
        self._last = step.number
        if sum(len(seen.features) for seen in self._waiting) >= _ENOUGH:
            self._add_waiting()
        if (step.number + 1) % self.run.plan.window == 0:
            self._write(out)

    def _add_waiting(self) -> None:
        """Add to the window what waits: first what has labels, then what has none."""
        waiting, self._waiting = self._waiting, []
        for labelled in (True, False):
            group = [seen for seen in waiting if (seen.labels is not None) == labelled]
            if group and self._window is not None:
                labels = torch.cat([seen.labels for seen in group if seen.labels is not None]) if labelled else None
                features = torch.cat([seen.features for seen in group])
                with _full_precision(features.device):
                    self._window.add(features, labels)

    @torch.no_grad()
    def flush(self, out: RecordWriter) -> None:
        """Write the open window; see the base class."""
        self._write(out)
        self._flushed = self._last + 1

    def _write(self, out: RecordWriter) -> None:
        if self._window is None:
            return
        self._add_waiting()
        written = out.append(self.kind, self._window.tensors, first=self._first, last=self._last, meta={})
        if written is not None:  # else the disk is too slow, and the window stays open
            self._window = None
            self._fold(out)

    def _fold(self, out: RecordWriter) -> None:
        """Fold what is older than the latest windows into one shard, and never across the last flush.

        A checkpoint may have been made there: going back to it must not lose what was seen before it.
        """
        shards = out.shards(self.kind)
        separate = _separate(shards)
        for shard in shards:
            if shard not in separate:  # a crash came between folding and dropping
                out.drop(shard)
        older = separate[: -self.run.plan.windows]
        before = [shard for shard in older if shard.last < self._flushed]
        for group in (before, older[len(before) :]):
            if len(group) < 2 or not all(shard.path.exists() for shard in group):  # still on its way: next time
                continue
            pool = _Pool.joined([_Pool.of(shard.tensors()) for shard in group])
            if out.append(self.kind, pool.tensors(), first=group[0].first, last=group[-1].last, meta={}) is not None:
                for shard in group:
                    out.drop(shard)  # the journal takes this up after the folded shard is on disk


def _separate(shards: Sequence[Shard]) -> list[Shard]:
    """Leave out shards that lie within a longer one of the same process, so that no step counts twice."""
    kept: list[Shard] = []
    for shard in sorted(shards, key=lambda shard: (shard.rank, shard.first, -shard.last)):
        if not kept or shard.rank != kept[-1].rank or shard.last > kept[-1].last:
            kept.append(shard)
    return kept


@dataclass(frozen=True)
class FeatureStatistics:
    """Moments of the features over some steps of training, in fp64; a sample counts each time it was seen.

    Attributes:
        n: Features seen, with multiplicity; a fraction after `without` with broken `passes`.
        mean: E[z].
        second_moment: E[z zᵀ], uncentred.
        class_counts: Features of each class; ``None`` if labels or logits were not seen. Samples with soft labels
            count in `n` only.
        class_sums: Sum of the features of each class; ``None`` like `class_counts`.
        class_second_sums: Sum of z zᵀ of each class; ``None`` also if C d² is more than 4 million.
        first: First step.
        last: Last step.
    """

    n: float
    mean: Float64[Tensor, " d"]
    second_moment: Float64[Tensor, "d d"]
    class_counts: Float64[Tensor, " C"] | None
    class_sums: Float64[Tensor, "C d"] | None
    class_second_sums: Float64[Tensor, "C d d"] | None
    first: int
    last: int

    def without(
        self, features: Float[Tensor, "m d"], labels: Int64[Tensor, " m"] | None = None, *, passes: float = 1.0
    ) -> "FeatureStatistics":
        """Take given samples' own count, sum and z zᵀ out.

        Exact if the features are those that were seen; for features of the finished model it is an approximation,
        and a second moment with slightly negative eigenvalues can come of it.

        Args:
            features: Features of the samples to take out.
            labels: Their classes; without them the result has no class statistics.
            passes: How often each of them was seen during these steps, such as `n` over the size of the training set.

        Returns:
            Statistics of the rest.

        Raises:
            UnlearnError: If nothing would be left.
        """
        z = features.double().cpu()
        rest = self.n - passes * len(z)
        if rest < 1:
            raise UnlearnError(
                f"{len(z)} samples seen {passes:g} times each cannot be taken out of statistics over {self.n:g} "
                f"features; take out fewer, or read more windows of the record."
            )
        counts = sums = seconds = None
        if labels is not None and self.class_counts is not None and self.class_sums is not None:
            members = (labels.cpu()[:, None] == torch.arange(len(self.class_counts))).double() * passes
            counts = self.class_counts - members.sum(0)
            sums = self.class_sums - members.mT @ z
            if self.class_second_sums is not None:
                seconds = self.class_second_sums - torch.einsum("nc,nd,ne->cde", members, z, z)
        mean = (self.n * self.mean - passes * z.sum(0)) / rest
        second = (self.n * self.second_moment - passes * z.mT @ z) / rest
        return FeatureStatistics(rest, mean, second, counts, sums, seconds, self.first, self.last)


def recorded_features(record: TrainingRecord, last: int | None = None) -> FeatureStatistics:
    """Read the statistics of the features; windows with different shifts are merged exactly.

    Args:
        record: What training left behind.
        last: How many of the latest windows (of each process); ``None`` for everything that was recorded.

    Returns:
        The pooled statistics.

    Raises:
        UnlearnError: If the record holds no features, or `last` is less than 1.
    """
    if last is not None and last < 1:
        raise UnlearnError(f"last={last} asks for no window of features; ask for 1 or more, or None for all of them.")
    shards = _separate(record.shards("features"))
    if not shards:
        raise UnlearnError(
            f"The record {record.folder} holds no features; train again with Plan(features=True), which is the "
            f"default, and a model whose classifier head is found (Plan(head='name') names it)."
        )
    ranks = {shard.rank for shard in shards}
    chosen = [shard for rank in ranks for shard in [s for s in shards if s.rank == rank][-(last or 0) :]]
    pool = _Pool.joined([_Pool.of(shard.tensors()) for shard in chosen])
    sums = pool.about(torch.zeros_like(pool.shift)).tensors()
    n = float(sums["n"])
    return FeatureStatistics(
        n=n,
        mean=sums["sum"] / n,
        second_moment=sums["second"] / n,
        class_counts=sums.get("class_counts"),
        class_sums=sums.get("class_sums"),
        class_second_sums=sums.get("class_second"),
        first=min(shard.first for shard in chosen),
        last=max(shard.last for shard in chosen),
    )
