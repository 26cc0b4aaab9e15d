"""Accelerate needs no drop-in: `record` takes what was prepared, in one process and in two that really talk."""

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from tests.hooks.frameworks.pixel_truth import BATCH, CLASSES, N, Pairs, grouped, image, recorded, rows_in
from tests.hooks.frameworks.two_processes import run_in_two, tell, together
from unlearn_hooks import TrainingRecord, record
from unlearn_hooks.features import recorded_features
from unlearn_hooks.loader_tags import inner_loaders
from unlearn_hooks.samples import recorded_samples
from unlearn_hooks.schedule import recorded_schedule
from unlearn_hooks.training_record import weights_digest
from unlearn_hooks.updates import recorded_updates

accelerate = pytest.importorskip("accelerate")


@pytest.fixture(autouse=True)
def _an_accelerate_of_its_own() -> None:
    """What another test, or the Trainer of transformers, left in accelerate's process-wide states is not ours."""
    states = accelerate.state
    for state in (states.AcceleratorState, states.GradientState, states.PartialState):
        state._reset_state()


PROBLEM = "one process reads for all; with DataLoaderConfiguration(dispatch_batches=False) each reads its own"


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return ((image(row), row % CLASSES) for row in range(N - 4))


class Loop:
    """An ordinary Accelerate loop; `trained` is the truth, one entry per micro-batch of this process."""

    def __init__(
        self, folder: Path, *, accumulate: int = 1, workers: int = 0, data: Any = None, **loading: Any
    ) -> None:
        torch.manual_seed(0)
        self.folder = folder
        self.accelerator = accelerate.Accelerator(
            cpu=True,
            gradient_accumulation_steps=accumulate,
            dataloader_config=accelerate.DataLoaderConfiguration(**loading),
        )
        net = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, CLASSES))
        shuffle = None if isinstance(data, IterableDataset) else True
        self.model, self.optimizer, self.loader = self.accelerator.prepare(
            net,
            torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9),
            DataLoader(data or Pairs(), BATCH, shuffle=shuffle, num_workers=workers),
        )
        self.trained: list[list[int]] = []

    def recorder(self) -> Any:
        rec = record(self.folder, self.model, self.optimizer)
        self.accelerator.register_for_checkpointing(rec)
        return rec

    def epoch(self, batches: Any, save: tuple[int, Path] | None = None) -> None:
        for number, (images, labels) in enumerate(batches):
            if save is not None and number == save[0]:
                self.accelerator.save_state(str(save[1]))
            if save is not None and number > save[0]:
                raise KeyError("the user's own bug")
            with self.accelerator.accumulate(self.model):
                self.accelerator.backward(nn.functional.cross_entropy(self.model(images), labels))
                self.accelerator.clip_grad_norm_(self.model.parameters(), 0.5)
                self.optimizer.step()
                self.optimizer.zero_grad()
            self.trained.append(rows_in(images))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_prepared_loop_with_accumulation_is_recorded_exactly(tmp_path: Path, workers: int) -> None:
    loop = Loop(tmp_path, accumulate=4, workers=workers)
    assert inner_loaders(loop.loader) == [loop.loader.base_dataloader]
    with loop.recorder() as rec:
        for _ in range(2):
            loop.epoch(rec.batches(loop.loader))
    found = TrainingRecord.open(tmp_path)
    assert recorded(tmp_path) == grouped(loop.trained, 4, 6)
    assert found.complete
    assert recorded_features(found).n == 2 * N
    assert rec.status().unknown == {}


def test_weights_and_random_numbers_are_the_same_with_and_without_the_recorder(tmp_path: Path) -> None:
    ends = []
    for on in (True, False):
        loop = Loop(tmp_path)
        if on:
            with loop.recorder() as rec:
                loop.epoch(rec.batches(loop.loader))
        else:
            loop.epoch(loop.loader)
        ends.append((weights_digest(loop.model.state_dict()), loop.trained, torch.get_rng_state().tolist()))
    assert ends[0] == ends[1]


def test_a_loop_that_died_in_an_epoch_goes_on_with_skipped_batches(tmp_path: Path) -> None:
    first = Loop(tmp_path / "rec", use_seedable_sampler=True)
    with pytest.raises(KeyError), first.recorder() as rec:
        first.epoch(rec.batches(first.loader), save=(4, tmp_path / "state"))
    second = Loop(tmp_path / "rec", use_seedable_sampler=True)
    with second.recorder() as rec:
        second.accelerator.load_state(str(tmp_path / "state"))
        second.epoch(rec.batches(accelerate.skip_first_batches(second.loader, 4)))
        second.epoch(rec.batches(second.loader))
    truth = first.trained[:4] + second.trained
    assert recorded(tmp_path / "rec") == grouped(truth, 1, 100)
    assert sorted(sum(truth[:6], [])) == list(range(N))
    assert recorded_schedule(TrainingRecord.open(tmp_path / "rec")).epochs.tolist() == [0] * 6 + [1] * 6
    assert recorded_features(TrainingRecord.open(tmp_path / "rec")).n == 2 * N


class Compiled(Loop):
    """Convolutions over channels-last pictures in bf16, compiled, with an average beside them."""

    def __init__(self, folder: Path, backend: str | None) -> None:
        torch._dynamo.reset()
        torch.manual_seed(0)
        self.folder, self.trained = folder, []
        self.accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16", dynamo_backend=backend)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, CLASSES))
        net = net.to(memory_format=torch.channels_last)
        self.average = torch.optim.swa_utils.AveragedModel(net)
        self.model, self.optimizer, self.loader = self.accelerator.prepare(
            net, torch.optim.AdamW(net.parameters(), lr=0.01), DataLoader(Pairs(), BATCH, shuffle=True)
        )

    def epoch(self, batches: Any, save: tuple[int, Path] | None = None) -> None:
        super().epoch(
            ((images.to(memory_format=torch.channels_last), labels) for images, labels in batches),
            save,
        )
        with torch.no_grad():
            self.average.train()(torch.zeros(2, 3, 8, 8))
        self.average.update_parameters(self.accelerator.unwrap_model(self.model, keep_torch_compile=False))


@pytest.mark.parametrize("backend", [None, "eager"])
def test_averages_channels_last_bf16_and_compiled_nets_change_nothing(tmp_path: Path, backend: str | None) -> None:
    ends = []
    for on in (True, False):
        loop = Compiled(tmp_path, backend)
        if on:
            with loop.recorder() as rec:
                for _ in range(2):
                    loop.epoch(rec.batches(loop.loader))
        else:
            for _ in range(2):
                loop.epoch(loop.loader)
        ends.append((weights_digest(loop.average.state_dict()), weights_digest(loop.model.state_dict()), loop.trained))
    found = TrainingRecord.open(tmp_path)
    assert ends[0] == ends[1]
    assert recorded(tmp_path) == grouped(loop.trained, 1, 6)
    assert recorded_features(found).n == 2 * N
    assert rec.status().unknown == {}


def test_dispatched_batches_of_a_single_process_are_its_own(tmp_path: Path) -> None:
    loop = Loop(tmp_path, dispatch_batches=True)
    with loop.recorder() as rec:
        loop.epoch(rec.batches(loop.loader))
    assert recorded(tmp_path) == grouped(loop.trained, 1, 6)


def two_ranks(folder: Path) -> None:
    """What each of the two processes runs."""
    told = {}
    runs: dict[str, dict[str, Any]] = {
        "sharded": {"accumulate": 2},
        "dispatched": {"dispatch_batches": True},
        "stream": {"data": Stream()},
    }
    for name, settings in runs.items():
        loop = Loop(folder / name, **settings)
        with loop.recorder() as rec:
            for _ in range(2):
                loop.epoch(rec.batches(loop.loader))
            loop.accelerator.save_state(str(folder / f"{name}-state"))
        told[name] = {"trained": loop.trained, "unknown": dict(rec.status().unknown), "steps": rec.status().step}
    tell(folder, told)
    loop.accelerator.end_training()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("ranks")
    return folder, run_in_two(__file__, folder)


def test_two_processes_record_their_own_rows_and_keep_padded_duplicates(
    ranks: tuple[Path, list[dict[str, Any]]],
) -> None:
    folder, told = ranks
    found = TrainingRecord.open(folder / "sharded")
    both = together([one["sharded"]["trained"] for one in told], 2)
    assert recorded(folder / "sharded") == both
    assert found.manifest["world"] == 2
    times = Counter(row for step in both[:2] for rows in step for row in rows)
    assert sorted(times) == list(range(N))
    assert sum(times.values()) == 48  # 44 rows, padded to 2 ranks of 3 batches of 8
    assert recorded_features(found).n == 2 * 48
    assert [sorted(set(epoch.rows.tolist())) for epoch in recorded_samples(found)] == [list(range(N))] * 2
    assert [one["sharded"]["unknown"] for one in told] == [{}, {}]
    assert len(recorded_updates(found)) > 0


@pytest.mark.parametrize(("name", "batches"), [("dispatched", 6), ("stream", 6)])
def test_where_one_process_reads_for_all_everything_but_the_rows_is_recorded_and_it_says_so(
    ranks: tuple[Path, list[dict[str, Any]]], name: str, batches: int
) -> None:
    folder, told = ranks
    found = TrainingRecord.open(folder / name)
    assert recorded(folder / name) == [None] * batches
    assert [one[name]["unknown"] for one in told] == [{PROBLEM: batches}] * 2
    assert recorded_features(found).n == sum(len(rows) for one in told for rows in one[name]["trained"])
    assert recorded_schedule(found).learning_rates.tolist() == [[0.1]] * batches


if __name__ == "__main__":
    two_ranks(Path(sys.argv[1]))
