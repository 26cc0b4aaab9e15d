"""Ids through the loader: tagged where a batch is fetched, in the worker, and taken off where it arrives.

torch's loader does not tell which rows a batch holds, so its fetcher is wrapped, for the one iterator that is being
recorded. The names used for that are private to torch: a self-test finds out whether they still mean what they did,
and if not, the data set and the collate function are wrapped instead, in a copy of the loader.
"""

import copy
import functools
import multiprocessing
import operator
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, dataloader

from unlearn_hooks.feed import Beginning, Feed, Listener, Origin, Tag
from unlearn_hooks.ids import batch_labels, label_checksum
from unlearn_hooks.randomness import RandomStates

__all__ = ["LoaderTap", "Passes", "dispatch_problem", "inner_loaders", "listening", "tagging_works", "training_data"]


class _Tagged:
    """A batch with its tag, on the way from the fetcher to the main process."""

    def __init__(self, tag: Tag, batch: Any) -> None:  # noqa: ANN401  # whatever the user's collate function gives
        self.tag = tag
        self.batch = batch

    def pin_memory(self, device: str | None = None) -> "_Tagged":
        """Pin the batch; the loader calls this where pinned memory was asked for."""
        pin: Any = torch.utils.data._utils.pin_memory.pin_memory
        return _Tagged(self.tag, pin(self.batch, device))


def _tagged(index: Any, batch: Any) -> _Tagged:  # noqa: ANN401  # whatever the user's sampler and collate give
    return _Tagged(Tag(_rows(index), label_checksum(batch_labels(batch))), batch)


def _rows(index: Any) -> tuple[int, ...] | None:  # noqa: ANN401  # whatever the user's sampler gives
    """Read the rows from what the sampler gave: indices, or tuples that start with one; a stream gives None."""
    try:
        parts = [part[0] if isinstance(part, tuple) else part for part in index]
        return tuple(operator.index(part) for part in parts)
    except TypeError:
        return (index,) if isinstance(index, int) else None


class _TaggingFetcher:
    """Stands in for torch's fetcher; `states` are those before it first fetched, when the sampler had drawn."""

    def __init__(self, fetcher: Any) -> None:  # noqa: ANN401  # private to torch
        self._fetcher = fetcher
        self.states: RandomStates | None = None

    def fetch(self, index: Any) -> _Tagged:  # noqa: ANN401  # whatever the user's sampler gives
        self.states = self.states or RandomStates.now()
        return _tagged(index, self._fetcher.fetch(index))


class _TagInWorker:
    """Worker initialisation that makes the worker's fetchers tag; it can be pickled if the user's own can be."""

    def __init__(self, own: Callable[[int], None] | None) -> None:
        self._own = own

    def __call__(self, worker: int) -> None:
        if self._own is not None:
            self._own(worker)
        if multiprocessing.parent_process() is None:
            return  # a worker thread shares the loader classes with the training
        create: Any = dataloader._DatasetKind.create_fetcher

        def create_tagging(*args: Any) -> _TaggingFetcher:  # noqa: ANN401  # private to torch
            return _TaggingFetcher(create(*args))

        dataloader._DatasetKind.create_fetcher = staticmethod(create_tagging)  # type: ignore[method-assign]


_listener: Listener | None = None


@contextmanager
def _hearing(listener: Listener) -> Iterator[None]:
    """Give the tags of arriving batches to the listener."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tag every loader iteration that begins meanwhile, and give the tags of arriving batches to the listener.

    Iterators that were tagged before join in when they are used meanwhile; afterwards they go on as usual.

    Args:
        listener: Takes the tags.

    Yields:
        Nothing.
    """
    original = DataLoader._get_iterator
    if _listener is None:  # else an outer listener has the loaders tagged already
        DataLoader._get_iterator = lambda loader: _tagging_iterator(loader, original)  # type: ignore
    try:
        with _hearing(listener):
            yield
    finally:
        DataLoader._get_iterator = original  # type: ignore[method-assign]


def _tagging_iterator(loader: "DataLoader[Any]", original: Callable[..., Any]) -> Any:  # noqa: ANN401  # torch's
    """Make a loader's iterator so that its workers tag and it takes the tags off."""
    own = loader.worker_init_fn
    seed = (loader.generator or torch.default_generator).get_state() if loader.num_workers else None
    loader.worker_init_fn = _TagInWorker(own)
    try:
        iterator = original(loader)
    finally:
        loader.worker_init_fn = own
    if hasattr(iterator, "_dataset_fetcher"):
        iterator._dataset_fetcher = _TaggingFetcher(iterator._dataset_fetcher)
    iterator._next_data = _untagging(iterator, loader, seed)
    return iterator


def _untagging(iterator: Any, loader: "DataLoader[Any]", seed: Tensor | None) -> Callable[[], Any]:  # noqa: ANN401  # private to torch
    """Make the function that takes tags off; it holds the iterator weakly, since dropping that ends the workers."""
    weak, loader_reference = weakref.ref(iterator), weakref.ref(loader)
    listener, origin = _listener, Origin(loader_reference, iterator._dataset)

    def next_data() -> Any:  # noqa: ANN401  # whatever the user's collate function gives
        nonlocal listener, origin, seed
        own: Any = weak()
        data: Any = type(own)._next_data(own)
        if own._num_yielded == 0:  # persistent workers keep the iterator from pass to pass
            origin = Origin(loader_reference, own._dataset, _beginning(own, loader_reference(), seed))
            seed = None
        listener = _listener or listener
        if not isinstance(data, _Tagged):
            return data
        if listener is not None:
            listener(origin, data.tag, data.batch)
        return data.batch

    return next_data


def _beginning(iterator: Any, loader: Any, seed: Tensor | None) -> Beginning:  # noqa: ANN401  # private to torch
    """Say how the randomness of a pass began, when its first batch is there."""
    fetcher = getattr(iterator, "_dataset_fetcher", None)
    states = fetcher.states if isinstance(fetcher, _TaggingFetcher) else None
    own_init = getattr(loader, "worker_init_fn", None) is not None
    return Beginning(states or RandomStates.now(), seed, iterator._num_workers, own_init)


class _Rows(torch.utils.data.Dataset[int]):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, row: int) -> int:
        return 10 * row


@functools.cache
def tagging_works() -> bool:
    """Try on a tiny loader whether torch's private names still mean what this file takes them to mean.

    Returns:
        Whether batches can be tagged in the fetcher.
    """
    rows: list[tuple[int, ...] | None] = []
    generator = torch.Generator()  # the loader draws a seed: never from the global generator
    loader = DataLoader(_Rows(), batch_size=2, generator=generator)
    try:
        with listening(lambda origin, tag, batch: rows.append(tag.rows)):
            batches = [batch.tolist() for batch in loader]
        elsewhere = (
            dataloader._DatasetKind.create_fetcher,
            dataloader._MultiProcessingDataLoaderIter._next_data,
            torch.utils.data._utils.pin_memory.pin_memory,
        )
    except (AttributeError, TypeError):
        return False
    return all(map(callable, elsewhere)) and batches == [[0, 10], [20]] and rows == [(0, 1), (2,)]


def inner_loaders(loader: Any, depth: int = 3) -> list["DataLoader[Any]"]:  # noqa: ANN401  # the user's wrapper
    """Find the torch loaders inside a wrapper, such as timm's ``PrefetchLoader``, by its attributes.

    Args:
        loader: The outermost loader.
        depth: How many wrappers to look through.

    Returns:
        The torch loaders, innermost first.
    """
    if depth == 0 or not hasattr(loader, "__dict__"):
        return []
    parts = [value for value in vars(loader).values() if isinstance(value, Iterable)]
    found = [inner for part in parts for inner in inner_loaders(part, depth - 1)]
    # not isinstance: Accelerate's loaders say that they are torch loaders, and only hold one
    return [*found, loader] if issubclass(type(loader), DataLoader) else found


def training_data(loader: Any) -> Any:  # noqa: ANN401  # the user's loader and data set
    """Find the data set behind the outermost loader; ``None`` if there is no torch loader in it."""
    inner = inner_loaders(loader)
    return inner[0].dataset if inner else None


def dispatch_problem(loader: Any) -> str | None:  # noqa: ANN401  # the user's loader
    """Say why no rows can be told if one process reads for all of them, as Accelerate does with streams.

    That process concatenates the batches of several and cuts them up again; the others never see an index.

    Args:
        loader: The outermost loader.

    Returns:
        The problem, or ``None`` if each process reads for itself.
    """
    names = {base.__name__ for base in type(loader).__mro__}  # Accelerate is not imported here, it may be missing
    if "DataLoaderDispatcher" in names and loader.state.num_processes > 1:
        return "one process reads for all; with DataLoaderConfiguration(dispatch_batches=False) each reads its own"
    return None


class Passes(Iterable[Any]):
    """What a loop iterates over instead of its loader; every iteration is a new pass.

    Args:
        loader: The user's loader.
        begin: Begins a pass over it.
    """

    def __init__(self, loader: Iterable[Any], begin: Callable[[Iterable[Any]], Iterator[Any]]) -> None:
        self._loader = loader
        self._begin = begin

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]  # as the loader itself would answer

    def __iter__(self) -> Iterator[Any]:
        return self._begin(self._loader)


class LoaderTap:
    """Iterates over the user's outermost loader as it is, and gives the tags of its torch loader to a feed.

    Args:
        loader: The outermost loader.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader = loader
        inner = inner_loaders(loader)
        private = tagging_works() and all(type(one)._get_iterator is DataLoader._get_iterator for one in inner)
        self._copy = _TellingLoader.inside(loader, inner[0]) if inner and not private else None

    def batches(self, feed: Feed) -> Iterator[Any]:
        """Iterate once.

        Args:
            feed: Takes the tags.

        Yields:
            The batches, unchanged.
        """
        iterator: Iterator[Any] | None = None
        try:
            while True:
                # only while the loader itself works: other loaders of the training loop are not heard
                with listening(feed.push) if self._copy is None else _hearing(feed.push):
                    try:
                        if iterator is None:
                            iterator = iter(self.loader if self._copy is None else self._copy)
                        batch = next(iterator)
                    except StopIteration:
                        return
                yield batch
        finally:
            feed.close()


class _Item(NamedTuple):
    row: Any
    sample: Any


class _NumberedDataset(torch.utils.data.Dataset[_Item]):
    """The user's data set, with each sample's row."""

    def __init__(self, dataset: Any) -> None:  # noqa: ANN401  # the user's
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, row: Any) -> _Item:  # noqa: ANN401  # whatever the user's sampler gives
        return _Item(row, self._dataset[row])

    def __getitems__(self, rows: list[Any]) -> list[_Item]:
        fetch = getattr(self._dataset, "__getitems__", None)
        samples = fetch(rows) if fetch else [self._dataset[row] for row in rows]
        return [_Item(row, sample) for row, sample in zip(rows, samples, strict=True)]


class _TaggingCollate:
    """The user's collate function; what it gives is tagged."""

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self._collate = collate

    def __call__(self, items: Any) -> _Tagged:  # noqa: ANN401  # one item without automatic batching, else a list
        if isinstance(items, _Item):
            return _tagged(items.row, self._collate(items.sample))
        return _tagged([item.row for item in items], self._collate([item.sample for item in items]))


class _TellingLoader:
    """A copy of a torch loader with data set and collate function wrapped, which tells rows to whoever listens."""

    def __init__(self, loader: "DataLoader[Any]") -> None:
        self._loader = loader
        self._copy = copy.copy(loader)
        if not isinstance(loader.dataset, IterableDataset):
            vars(self._copy).update(
                dataset=_NumberedDataset(loader.dataset), collate_fn=_TaggingCollate(loader.collate_fn)
            )

    @classmethod
    def inside(cls, outer: Any, inner: Any) -> Any:  # noqa: ANN401  # the user's
        """Copy a loader or wrapper with its torch loader replaced."""
        if outer is inner:
            return cls(inner)
        copied = copy.copy(outer)
        for name, value in vars(outer).items():
            if value is inner or (isinstance(value, Iterable) and inner in inner_loaders(value)):
                vars(copied)[name] = cls.inside(value, inner)
        return copied

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # whatever the wrapper asks the loader for
        return getattr(self._loader, name)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        origin = Origin(weakref.ref(self._loader), self._loader.dataset)
        listener = _listener
        for data in self._copy:
            if isinstance(data, _Tagged):
                if listener is not None:
                    listener(origin, data.tag, data.batch)
                data = data.batch
            yield data
