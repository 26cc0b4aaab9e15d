"""The data of a recorded training, read again batch by batch, with the random numbers that it was read with."""

import multiprocessing
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.ids import batch_labels, data_fingerprint, dataset_labels, first_tensor, root_count, root_rows
from unlearn_hooks.loader_tags import inner_loaders
from unlearn_hooks.snapshots import RecordedPass
from unlearn_hooks.training_record import TrainingRecord
from unlearn_plugin.data import Samples
from unlearn_plugin.reading import MapDataset
from unlearn_plugin.user_code import load_function

__all__ = ["TrainingData", "seed_everything"]


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What training was fed with.

    Attributes:
        dataset: Gives samples by position.
        position: Position of each row of the record.
        collate: Makes a batch of samples.
        init: What a loader calls in each of its workers.
        random: Reading may draw random numbers, so that it matters in which process and in which order.
    """

    dataset: MapDataset
    position: Mapping[int, int]
    collate: Callable[[Any], Any] | None
    init: Callable[[int], None] | None = None
    random: bool = True

    @classmethod
    def of_samples(cls, record: TrainingRecord, *parts: Samples) -> "TrainingData":
        """The data that the job is about, as the judge sees them.

        Args:
            record: Its names of samples say which sample a row is; without any, rows are places in the data.
            parts: Samples of one data set.

        Returns:
            The data.
        """
        data = parts[0].data
        rows = torch.cat([part.rows for part in parts])
        position: dict[int, int] = {row: row for row in rows.tolist()}
        if record.ids is not None:
            row_of = {name: row for row, name in enumerate(record.ids)}
            position = {row_of[data.ids[row]]: row for row in position if data.ids[row] in row_of}
        everything = Samples(data, torch.arange(len(data)))
        return cls(dataset=everything, position=position, collate=_whole, random=not data.deterministic)

    @classmethod
    def named(cls, name: str, record: TrainingRecord) -> "TrainingData":
        """The data that a function of the user's gives: what training read, random changes included.

        Args:
            name: ``package.module:function``; it gives the training loader or its data set.
            record: The data have to be those it is about.

        Returns:
            The data.

        Raises:
            UnlearnError: If there is no such function, or it gives other data.
        """
        given = load_function(name, "-o data")()
        loaders = inner_loaders(given)
        loader = loaders[0] if loaders else None
        dataset = given if loader is None else loader.dataset
        if (
            isinstance(dataset, IterableDataset)
            or not hasattr(dataset, "__getitem__")
            or not hasattr(dataset, "__len__")
        ):
            raise UnlearnError(
                f"-o data={name} gave {type(given).__name__}; it has to give the training loader, or its data set with "
                f"__len__ and __getitem__."
            )
        labels, n = dataset_labels(dataset), root_count(dataset)
        told = record.data.get("fingerprint")
        if n != record.data.get("n") or (labels is not None and told not in (None, data_fingerprint(labels))):
            raise UnlearnError(
                f"-o data={name} gave a data set of {n} samples that is not the one the record is about "
                f"({record.data.get('n')} samples); give the data set that the recorded training read."
            )
        rows = root_rows(dataset, range(len(dataset))).tolist()
        return cls(
            dataset=dataset,
            position={row: place for place, row in enumerate(rows)},
            collate=None if loader is None else loader.collate_fn,
            init=None if loader is None else loader.worker_init_fn,
        )

    def batches(self, begun: RecordedPass, batches: Sequence[Sequence[int]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Read the batches of a pass as a loop over them would have, from the recorded random states on.

        Args:
            begun: How the pass began.
            batches: Rows of each batch; empty ones are left out.

        Yields:
            Images and labels of each batch.
        """
        positions = [[self.position[row] for row in rows] for rows in batches if len(rows)]
        workers = begun.workers if self.random else 0
        generator = torch.Generator().manual_seed(0)
        if begun.seed is not None:
            generator.set_state(begun.seed)
        loader: DataLoader[Any] = DataLoader(
            self.dataset,  # type: ignore[arg-type]  # torch needs no more of a data set than this one has
            batch_sampler=positions,
            num_workers=workers,
            collate_fn=self.collate,
            worker_init_fn=self.init,
            generator=generator,
            multiprocessing_context=_context() if workers else None,
        )
        iterator = iter(loader)
        if begun.states is not None:
            begun.states.set()
        for batch in _read_ahead(iterator, begun.ahead):
            images, labels = first_tensor(batch), batch_labels(batch)
            if images is None or labels is None:
                raise UnlearnError(
                    f"A batch of the training data is {type(batch).__name__} without images and class labels; give "
                    f"-o data=package.module:function with a loader of (images, labels)."
                )
            yield images, labels


def _context() -> str | None:
    """Workers are forked where that is possible: the data of a job hold functions that cannot be sent to others."""
    return "fork" if "fork" in multiprocessing.get_all_start_methods() else None


def _whole(batch: Any) -> Any:  # noqa: ANN401  # `Samples` give whole batches
    return batch


def _read_ahead(batches: Iterable[Any], ahead: int) -> Iterator[Any]:
    """Read some batches before they are asked for, as Lightning and Accelerate do: reading may draw random numbers.

    Args:
        batches: What is read.
        ahead: How many more have been read whenever one is given.

    Yields:
        The batches in their order.
    """
    waiting: deque[Any] = deque()
    for batch in batches:
        waiting.append(batch)
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting


def seed_everything(seed: int) -> None:
    """Seed torch, `random` and numpy, for what is drawn where no state was recorded.

    Args:
        seed: Any.
    """
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
