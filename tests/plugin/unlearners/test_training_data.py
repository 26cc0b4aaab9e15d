import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from tests.conftest import fresh_net
from tests.plugin.unlearners.live_runs import FORGET, ROWS, LiveRun, Noisy, same
from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.randomness import RandomStates
from unlearn_hooks.snapshots import RecordedPass
from unlearn_plugin.unlearners._training_data import TrainingData, seed_everything
from unlearn_plugin.unlearners.replay import Replay

HERE = "given_in_a_test"


def begun(**changes: object) -> RecordedPass:
    values = {
        "number": 0, "step": 0, "epoch": 0, "carried": 0, "ahead": 0, "states": RandomStates.now(), "seed": None,
        "workers": 0, "own_init": False,
    }  # fmt: skip
    return RecordedPass(**{**values, **changes})


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(())


class Logged(TensorDataset):
    """Remembers what was read when."""

    def __init__(self) -> None:
        super().__init__(torch.arange(12.0).reshape(12, 1), torch.arange(12) % 3)
        self.log: list[object] = []

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        self.log.append(row)
        return super().__getitem__(row)


def data(dataset: Logged, **changes: object) -> TrainingData:
    position = {row: row - 100 for row in range(100, 112)}
    return TrainingData(**{"dataset": dataset, "position": position, "collate": None, **changes})


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], str]:
    """Makes a function of a module that gives something, and its name."""

    def give(thing: object) -> str:
        module = ModuleType(HERE)
        module.it = lambda: thing  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, HERE, module)
        return f"{HERE}:it"

    return give


def test_rows_of_the_record_are_read_in_their_order_and_empty_batches_are_none() -> None:
    batches = list(data(Logged()).batches(begun(), [[103, 100], [], [111]]))
    assert [images.flatten().tolist() for images, _ in batches] == [[3, 0], [11]]
    assert [labels.tolist() for _, labels in batches] == [[0, 0], [2]]


def test_batches_are_read_ahead_as_they_were() -> None:
    for ahead, expected in ((0, [0, "use", 1, "use", 2, "use"]), (1, [0, 1, "use", 2, "use", "use"])):
        dataset = Logged()
        for _ in data(dataset).batches(begun(ahead=ahead), [[100], [101], [102]]):
            dataset.log.append("use")
        assert dataset.log == expected


def test_the_random_states_are_set_before_the_first_sample_is_read() -> None:
    start = begun()
    drawn = torch.rand(())
    torch.manual_seed(1)
    seen = []

    def collate(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        seen.append(torch.rand(()))
        return samples[0][0], samples[0][1].reshape(1)

    next(data(Logged(), collate=collate).batches(start, [[100]]))
    assert torch.equal(seen[0], drawn)


def test_workers_are_used_only_where_reading_is_random() -> None:
    def collate(samples: object) -> tuple[Tensor, Tensor]:
        info = torch.utils.data.get_worker_info()
        return torch.tensor([[-1 if info is None else info.num_workers]]), torch.tensor([0])

    for random, expected in ((True, 1), (False, -1)):
        read = data(Logged(), collate=collate, random=random)
        assert int(next(read.batches(begun(workers=1), [[100]]))[0]) == expected


def test_a_batch_without_labels_is_refused() -> None:
    with pytest.raises(UnlearnError, match="without images and class labels"):
        list(data(Logged(), collate=lambda samples: torch.zeros(1)).batches(begun(), [[100]]))


def test_the_users_loader_is_taken_with_its_collate_function(tmp_path: Path, given: Callable[[object], str]) -> None:
    """The job's data are as in evaluation; the training data, with noise, and a collate function come by a name."""

    def halved(samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
        images, labels = torch.utils.data.default_collate(samples)
        return images / 2, labels

    class Halving(LiveRun):
        def loader(self, epoch: int, left_out: Tensor | None) -> DataLoader:
            loader = super().loader(epoch, left_out)
            loader.collate_fn = halved
            return loader

    run = Halving(tmp_path / "record", read=Noisy, epochs=2).recorded()
    noisy, evidence = run.loader(0, None), LiveRun(tmp_path / "record").evidence()
    model = fresh_net(1)
    facts = Replay(data=given(noisy)).unlearn(model, evidence)
    assert same(model, run.without(FORGET))
    assert facts["reproduces_the_run"] is True
    assert Replay().unlearn(fresh_net(1), evidence)["reproduces_the_run"] is False


@pytest.mark.parametrize(
    ("thing", "words"),
    [
        (3, "gave int"),
        (Stream(), "gave Stream"),
        (TensorDataset(torch.zeros(7)), "of 7 samples"),
    ],
)
def test_other_data_are_refused(tmp_path: Path, given: Callable[[object], str], thing: object, words: str) -> None:
    record = LiveRun(tmp_path / "record", epochs=1).recorded().record()
    with pytest.raises(UnlearnError, match=words):
        TrainingData.named(given(thing), record)


def test_rows_of_a_subset_are_those_of_the_whole(tmp_path: Path, given: Callable[[object], str]) -> None:
    run = LiveRun(tmp_path / "record", epochs=1).recorded()
    part = Subset(run.data.dataset, [5, 2, 9])
    assert TrainingData.named(given(part), run.record()).position == {5: 0, 2: 1, 9: 2}


def test_samples_are_found_by_the_names_in_the_record(tmp_path: Path) -> None:
    run = LiveRun(tmp_path / "record", epochs=1).recorded()
    evidence = run.evidence()
    found = TrainingData.of_samples(run.record(), evidence.retain, evidence.forget)
    assert found.position == {row: row for row in range(ROWS)}
    assert not found.random


def test_a_seed_fixes_all_generators() -> None:
    seed_everything(2**40 + 1)
    first = RandomStates.now()
    seed_everything(2**40 + 1)
    again = RandomStates.now()
    assert torch.equal(first.torch, again.torch)
    assert first.numpy is not None
    assert torch.equal(first.numpy, again.numpy)
