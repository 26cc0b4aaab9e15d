"""A record writer that works in a background thread, so that training never waits for the disk."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from queue import Queue
from threading import Lock, Thread
from typing import Any

from torch import Tensor

from unlearn_hooks.training_record import RecordWriter, Shard

__all__ = ["BackgroundWriter"]

_MOST_WAITING = 2  # of one kind: a capture may hold all weights, so more would fill the memory


class BackgroundWriter(RecordWriter):
    """Does what `RecordWriter` does, in the same order, in a thread of its own.

    While two shards of a kind are on their way to the disk, a third one is skipped, and the journal says so. When the
    disk fails, nothing more is written and `failure` says why; no exception reaches the training.

    Args:
        folder: The record; made if it is missing.
        rank: Number of this process among those that train together.

    Attributes:
        failure: Why writing ended, or ``None``.

    Raises:
        UnlearnError: If the folder cannot be written, or holds a damaged journal or something that is no record.
    """

    def __init__(self, folder: str | Path, *, rank: int = 0) -> None:
        super().__init__(folder, rank=rank)
        self.failure: OSError | None = None
        self._jobs: Queue[Callable[[], None] | None] = Queue()
        self._waiting: Counter[str] = Counter()
        self._lock = Lock()
        self._patient = False
        self._thread = Thread(target=self._work, name="unlearn-record", daemon=True)
        self._thread.start()

    def append(
        self, kind: str, tensors: Mapping[str, Tensor], *, first: int, last: int, meta: Mapping[str, Any]
    ) -> Shard | None:
        """Hand over one shard; see the base class.

        Args:
            kind: Kind of evidence.
            tensors: What to write; they may not be changed afterwards.
            first: First step it is about.
            last: Last step it is about.
            meta: Plain values to keep with it.

        Returns:
            The shard, or ``None`` if it was skipped.
        """
        if self._waiting[kind] >= _MOST_WAITING:
            if not self._patient:
                self.note("skip", kind=kind, first=first, last=last)
                return None
            self.flush()
        with self._lock:
            self._waiting[kind] += 1
        return super().append(kind, tensors, first=first, last=last, meta=meta)

    def _named(self, kind: str, first: int, last: int, meta: Mapping[str, Any]) -> Shard:
        return replace(super()._named(kind, first, last, meta), wait=self.flush)

    def _save(self, shard: Shard, tensors: Mapping[str, Tensor]) -> None:
        try:
            super()._save(shard, tensors)
        finally:
            with self._lock:
                self._waiting[shard.kind] -= 1

    @contextmanager
    def patience(self) -> Iterator[None]:
        """Wait for the disk instead of skipping: for what is written at epoch ends, checkpoints and the end."""
        self._patient = True
        try:
            yield
        finally:
            self._patient = False

    def _do(self, job: Callable[[], None]) -> None:
        self._jobs.put(job)

    def _work(self) -> None:
        while job := self._jobs.get():
            try:
                if self.failure is None:
                    job()
            except OSError as error:
                self.failure = error
            self._jobs.task_done()
        self._jobs.task_done()

    def flush(self) -> None:
        """Wait until everything handed over is on disk."""
        self._jobs.join()

    def abandon(self) -> None:
        """Stop writing without finishing; see the base class."""
        self._jobs.put(None)
        self._thread.join()
        os.close(self._journal)
