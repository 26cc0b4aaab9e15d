import copy
import gc
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from timm.data.loader import MultiEpochsDataLoader, PrefetchLoader
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
    random_split,
)

from unlearn_hooks import loader_tags
from unlearn_hooks.feed import Arrival, Feed, Tag
from unlearn_hooks.loader_tags import LoaderTap, inner_loaders, listening, tagging_works, training_data

N = 53


class Pixels(Dataset[tuple[Tensor, int]]):
    """Every pixel of an image is the number of its row: the truth travels with the batch."""

    def __init__(self, n: int = N, offset: int = 0) -> None:
        self.n, self.offset = n, offset

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return torch.full((3, 2, 2), float(row + self.offset)), (row + self.offset) * 7 % 10


class Stream(IterableDataset[tuple[Tensor, int]]):
    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        return (Pixels()[row] for row in range(N))


class LookAhead:
    """Asks for batches before it gives out the earlier ones, as prefetchers do."""

    def __init__(self, loader: Iterable[Any], ahead: int = 2) -> None:
        self.batches, self.ahead = loader, ahead

    def __iter__(self) -> Iterator[Any]:
        waiting = []
        for batch in self.batches:
            waiting.append(batch)
            if len(waiting) > self.ahead:
                yield waiting.pop(0)
        yield from waiting


class SkipFirst:
    """Reads and throws away the first batches, as when a run is resumed in the midst of an epoch."""

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.loader)
        next(batches)
        return batches


def truth(batch: Any) -> list[int]:
    return batch[0].flatten(1)[:, 0].round().long().tolist()


def passes(loader: Any, epochs: int = 2, stop: int | None = None) -> list[tuple[list[int], Arrival]]:
    """Iterate as a recorder does; pairs of what the pixels say and what was found out."""
    tap, found = LoaderTap(loader), []
    for _ in range(epochs):
        feed = Feed()
        for number, batch in enumerate(tap.batches(feed)):
            found.append((truth(batch), feed.arrive(batch)))
            if number == stop:
                break
    return found


def exact(found: list[tuple[list[int], Arrival]]) -> bool:
    return all(arrival.rows is not None and arrival.rows.tolist() == rows for rows, arrival in found)


LOADERS: dict[str, Callable[[int], Any]] = {
    "in order": lambda workers: DataLoader(Pixels(), 8, num_workers=workers),
    "shuffled": lambda workers: DataLoader(Pixels(), 8, shuffle=True, num_workers=workers),
    "last dropped": lambda workers: DataLoader(Pixels(), 8, shuffle=True, num_workers=workers, drop_last=True),
    "persistent workers": lambda workers: DataLoader(
        Pixels(), 8, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    ),
    "out of order": lambda workers: DataLoader(Pixels(), 8, shuffle=True, num_workers=workers, in_order=False),
    "weighted, with repeats": lambda workers: DataLoader(
        Pixels(), 8, sampler=WeightedRandomSampler(torch.ones(N), 60), num_workers=workers
    ),
    "distributed": lambda workers: DataLoader(
        Pixels(), 8, sampler=DistributedSampler(Pixels(), 2, 1), num_workers=workers
    ),
    "sampler of lists": lambda workers: DataLoader(
        _Collated(), None, sampler=BatchSampler(range(N), 8, drop_last=False), num_workers=workers
    ),
    "rows with sizes": lambda workers: DataLoader(
        _Sized(),
        batch_sampler=[[(row, 32 + row) for row in range(first, min(first + 8, N))] for first in range(0, N, 8)],
        num_workers=workers,
    ),
    "subset": lambda workers: DataLoader(Subset(Pixels(), range(50, 5, -2)), 8, shuffle=True, num_workers=workers),
    "half of a split": lambda workers: DataLoader(random_split(Pixels(), [20, 33])[1], 8, num_workers=workers),
    "two roots": lambda workers: DataLoader(
        ConcatDataset([Pixels(20), Pixels(33, offset=20)]), 8, shuffle=True, num_workers=workers
    ),
    "timm prefetcher": lambda workers: PrefetchLoader(
        DataLoader(Pixels(), 8, shuffle=True, num_workers=workers),
        mean=(0.0,) * 3,
        std=(1 / 255,) * 3,
        device=torch.device("cpu"),
    ),
    "timm's loader of many epochs": lambda workers: MultiEpochsDataLoader(
        Pixels(), batch_size=8, shuffle=True, num_workers=workers
    ),
    "read ahead": lambda workers: LookAhead(DataLoader(Pixels(), 8, shuffle=True, num_workers=workers)),
    "read ahead twice": lambda workers: LookAhead(LookAhead(DataLoader(Pixels(), 8, num_workers=workers), 1), 3),
}


class _Collated(Pixels):
    def __getitem__(self, rows: list[int]) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        images, labels = zip(*[Pixels()[row] for row in rows], strict=True)
        return torch.stack(images), torch.tensor(labels)


class _Sized(Pixels):
    """As timm's scheduled image sizes ask for samples."""

    def __getitem__(self, index: tuple[int, int]) -> tuple[Tensor, int]:  # type: ignore[override]
        return Pixels()[index[0]]


@pytest.fixture(params=["fetcher", "wrapped copy"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "wrapped copy":
        monkeypatch.setattr(loader_tags, "tagging_works", lambda: False)
    return str(request.param)


@pytest.mark.parametrize("name", LOADERS)
def test_rows_are_exact_without_workers(name: str, way: str) -> None:
    loader = LOADERS[name](0)
    assert exact(passes(loader))
    assert exact(passes(loader, stop=2) + passes(loader))


@pytest.mark.parametrize("name", ["shuffled", "persistent workers", "out of order", "timm prefetcher", "two roots"])
def test_rows_are_exact_with_workers(name: str, way: str) -> None:
    assert exact(passes(LOADERS[name](2)))


def test_rows_are_exact_after_an_early_break_with_persistent_workers_that_read_ahead(way: str) -> None:
    loader = LookAhead(LOADERS["persistent workers"](2))
    tap, found = LoaderTap(loader), []
    for stop in (1, 3, 99):
        feed = Feed()
        for number, batch in enumerate(tap.batches(feed)):
            found.append((truth(batch), feed.arrive(batch)))
            if number == stop:
                break
    assert len(found) == 2 + 4 + 7
    assert exact(found)


def test_spawned_workers_tag_too() -> None:
    images = torch.arange(9.0)[:, None]
    loader = DataLoader(TensorDataset(images, torch.arange(9)), 4, num_workers=1, multiprocessing_context="spawn")
    found = passes(loader, 1)
    assert [rows for rows, _ in found] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert exact(found)


def test_the_users_own_worker_initialisation_runs() -> None:
    loader = DataLoader(Pixels(9), 4, num_workers=1, worker_init_fn=_own_init)
    with pytest.raises(RuntimeError, match="the user's own"):
        passes(loader, 1)
    assert loader.worker_init_fn is _own_init


def _own_init(worker: int) -> None:
    raise RuntimeError("the user's own")


def test_a_wrapper_that_skips_batches_is_caught_by_the_labels_and_gives_no_rows(way: str) -> None:
    found = passes(SkipFirst(DataLoader(Pixels(), 8, shuffle=True)))
    assert len(found) == 12
    assert all(arrival.rows is None for _, arrival in found)
    assert {arrival.problem for _, arrival in found[:1]} == {"the labels changed on the way"}


def test_a_stream_gives_batches_and_no_rows(way: str) -> None:
    found = passes(DataLoader(Stream(), 8), 1)
    assert [row for rows, _ in found for row in rows] == list(range(N))
    assert all(arrival.rows is None for _, arrival in found)


def test_other_iterables_give_batches_and_no_rows() -> None:
    batches = [[torch.zeros(2, 1), torch.zeros(2)]]
    tap, feed = LoaderTap(batches), Feed()
    assert list(tap.batches(feed)) == batches
    assert feed.arrive(batches[0]).rows is None


def test_a_loader_whose_workers_started_before_gives_batches_and_no_rows() -> None:
    loader = DataLoader(Pixels(), 8, num_workers=1, persistent_workers=True)
    assert len(list(loader)) == 7
    found = passes(loader, 1)
    assert [row for rows, _ in found for row in rows] == list(range(N))
    assert all(arrival.rows is None for _, arrival in found)


def test_a_loader_used_elsewhere_in_the_loop_is_not_heard() -> None:
    loader = DataLoader(Pixels(), 8, shuffle=True)
    tap, feed, found = LoaderTap(loader), Feed(), []
    for batch in tap.batches(feed):
        evaluated = [truth(other) for other in loader]
        assert sorted(sum(evaluated, [])) == list(range(N))
        found.append((truth(batch), feed.arrive(batch)))
    assert exact(found)


def test_tagged_iterators_go_on_as_usual_afterwards() -> None:
    loader = DataLoader(Pixels(), 8, num_workers=1, persistent_workers=True)
    passes(loader, 1)
    batches = list(loader)
    assert [type(batch) for batch in batches] == [list] * 7
    assert sum(map(truth, batches), []) == list(range(N))


def test_the_same_batches_and_random_numbers_come_out(way: str) -> None:
    def draw(listen: bool) -> tuple[list[list[int]], Tensor]:
        torch.manual_seed(3)
        loader = DataLoader(Pixels(), 8, shuffle=True, num_workers=0)
        rows = [rows for rows, _ in passes(loader)] if listen else [truth(b) for _ in range(2) for b in loader]
        return rows, torch.get_rng_state()

    on, off = draw(listen=True), draw(listen=False)
    assert on[0] == off[0]
    assert torch.equal(on[1], off[1])


def test_the_users_loader_is_as_it_was(way: str) -> None:
    loader = PrefetchLoader(DataLoader(Pixels(), 8, num_workers=1), device=torch.device("cpu"))
    before = [dict(vars(loader)), dict(vars(loader.loader)), DataLoader._get_iterator]
    passes(loader, 1)
    assert [vars(loader), vars(loader.loader), DataLoader._get_iterator] == before


def test_dropping_an_iterator_ends_its_workers_at_once() -> None:
    gc.collect()
    gc.disable()
    try:
        tap = LoaderTap(DataLoader(Pixels(), 8, num_workers=1))
        batches = tap.batches(Feed())
        next(batches)
        children = torch.multiprocessing.active_children()
        del batches
        assert len(children) >= 1
        assert not any(child.is_alive() for child in children if child.name == children[-1].name)
    finally:
        gc.enable()


def test_an_exception_in_the_data_set_reaches_the_loop_and_listening_ends(way: str) -> None:
    class Broken(Pixels):
        def __getitem__(self, row: int) -> tuple[Tensor, int]:
            raise ValueError("no such file")

    with pytest.raises(ValueError, match="no such file"):
        passes(DataLoader(Broken(), 8))
    assert loader_tags._listener is None


def test_nested_listening_tags_once() -> None:
    outer: list[Tag] = []
    with listening(lambda origin, tag, batch: outer.append(tag)):
        assert exact(passes(DataLoader(Pixels(), 8), 1))
        assert len(list(DataLoader(Pixels(), 8))) == 7
    assert [tag.rows for tag in outer][0] == tuple(range(8))
    assert len(outer) == 7


def test_the_self_test_passes_on_this_torch_and_draws_no_random_number() -> None:
    tagging_works.cache_clear()
    before = torch.get_rng_state()
    assert tagging_works()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["_get_iterator", "_MultiProcessingDataLoaderIter"])
def test_the_self_test_notices_renamed_private_names(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = DataLoader if name == "_get_iterator" else loader_tags.dataloader
    tagging_works.cache_clear()
    with monkeypatch.context() as patch:
        patch.delattr(place, name)
        assert not tagging_works()
    tagging_works.cache_clear()
    assert tagging_works()


def test_a_loader_class_with_iterators_of_its_own_is_wrapped() -> None:
    class Own(DataLoader[Any]):
        def _get_iterator(self) -> Any:
            return super()._get_iterator()

    assert exact(passes(Own(Pixels(), 8, shuffle=True)))


def test_loaders_are_found_inside_wrappers() -> None:
    loader = DataLoader(Pixels(), 8)
    assert inner_loaders(LookAhead(LookAhead(loader))) == [loader]
    assert inner_loaders([1]) == []
    assert training_data(LookAhead(loader)) is loader.dataset
    assert training_data([1]) is None


def test_a_tagged_batch_can_be_pinned() -> None:
    tagged = loader_tags._Tagged(Tag((1,), None), [torch.zeros(1), "name"])
    if not torch.cuda.is_available():
        pytest.skip("pinning needs an accelerator")
    pinned = copy.copy(tagged).pin_memory()
    assert pinned.tag == tagged.tag
    assert pinned.batch[0].is_pinned()
