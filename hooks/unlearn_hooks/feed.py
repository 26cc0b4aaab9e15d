"""Tags of batches that are on their way to the training loop, and the check that each meets its own batch."""

import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Subset

from unlearn_hooks.ids import batch_labels, first_tensor, label_checksum, root_rows
from unlearn_hooks.randomness import RandomStates

__all__ = ["Arrival", "Beginning", "Feed", "Listener", "Origin", "Tag"]


class Tag(NamedTuple):
    """What the worker knew about a batch.

    Attributes:
        rows: Rows of the loader's data set, in batch order; ``None`` for a stream.
        checksum: CRC-32 of the labels, or ``None`` for labels that are not one integer per sample.
    """

    rows: tuple[int, ...] | None
    checksum: int | None


@dataclass(frozen=True, eq=False)
class Beginning:
    """How the randomness of one pass of a torch loader began: enough to draw the same numbers again.

    Attributes:
        states: When the loader and its sampler had drawn what they draw first. Without workers that is just before the
            first sample is read, with workers when the first batch is there.
        seed: State of the generator that the workers' seed was drawn from, just before; ``None`` without workers, or
            if they were there before.
        workers: Number of worker processes.
        own_init: The loader has a ``worker_init_fn`` of the user's.
    """

    states: RandomStates
    seed: Tensor | None
    workers: int
    own_init: bool


@dataclass(frozen=True, eq=False)
class Origin:
    """One pass of one torch loader; every pass is an object of its own."""

    loader: "weakref.ref[DataLoader[Any]]"
    dataset: Any
    beginning: Beginning | None = None


Listener = Callable[[Origin, Tag, Any], None]
"""Called with the origin and the tag of every batch that a torch loader gives out, and the batch."""


class Arrival(NamedTuple):
    """A batch that reached the training loop.

    Attributes:
        rows: Root row of each sample, or ``None`` if that could not be made sure of.
        labels: Class of each sample, or ``None``.
        problem: Why there are no rows, or ``None``.
        beginning: How the randomness of its pass began, or ``None`` if that was not seen.
        ahead: How many further batches had been read by then.
    """

    rows: Int64[Tensor, " n"] | None
    labels: Int64[Tensor, " n"] | None
    problem: str | None
    beginning: Beginning | None = None
    ahead: int = 0


class Feed:
    """Tags of one pass that wait for their batch, oldest first: wrappers may read ahead.

    It fails closed: after a batch whose length or labels are not those of its tag, no rows of the pass are given.

    Args:
        problem: Why no rows can be given from the start, if that is known.
    """

    def __init__(self, problem: str | None = None) -> None:
        self._tags: deque[Tag] = deque()
        self._origin: Origin | None = None
        self._root_rows: Tensor | None = None
        self._problem = problem
        self._closed = False

    def push(self, origin: Origin, tag: Tag, batch: Any) -> None:  # noqa: ANN401  # whatever the user's loader gives
        """Take the tag of a batch that a torch loader just gave out."""
        if self._closed:
            return
        if self._origin is None:
            self._origin = origin
            if isinstance(origin.dataset, (Subset, ConcatDataset)):
                self._root_rows = root_rows(origin.dataset, range(len(origin.dataset)))
        elif self._origin is not origin:
            self._problem = "the batches of several loaders are mixed"
        self._tags.append(tag)

    def arrive(self, batch: Any) -> Arrival:  # noqa: ANN401  # whatever the user's loader gives
        """Match the batch that reached the training loop with the oldest tag.

        Args:
            batch: What the outermost loader gave.

        Returns:
            Its rows and labels, as far as they are sure.
        """
        images = first_tensor(batch)
        return self.match(None if images is None else len(images), batch_labels(batch))

    def match(self, length: int | None, labels: Tensor | None) -> Arrival:
        """Match a batch of which length and labels are known with the oldest tag; see `arrive`."""
        rows = self._match(length, label_checksum(labels))
        return Arrival(
            rows=rows,
            labels=None if labels is None else labels.detach().to("cpu", torch.int64, copy=True),
            problem=(self._problem or "the data set is a stream") if rows is None else None,
            beginning=None if self._origin is None else self._origin.beginning,
            ahead=len(self._tags),
        )

    def close(self) -> None:
        """Take no more tags: the pass is over, and what the loader gives from now on belongs to something else."""
        self._closed = True
        self._tags.clear()

    def _match(self, length: int | None, checksum: int | None) -> Tensor | None:
        if not self._tags:
            self._problem = self._problem or "no torch DataLoader told its rows"
            return None
        tag = self._tags.popleft()
        self._problem = self._problem or _mismatch(tag, length, checksum)
        if self._problem is not None or tag.rows is None:
            return None
        rows = torch.tensor(tag.rows, dtype=torch.int64)
        return rows if self._root_rows is None else self._root_rows[rows]


def _mismatch(tag: Tag, length: int | None, checksum: int | None) -> str | None:
    if tag.rows is not None and length is not None and len(tag.rows) != length:
        return "the number of samples changed on the way"
    if None not in (checksum, tag.checksum) and checksum != tag.checksum:
        return "the labels changed on the way"
    return None
