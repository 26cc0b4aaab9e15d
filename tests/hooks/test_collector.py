"""What holds for every collector; what each one records is in the test of its own file."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.hooks.small_training import Net, Training
from unlearn_hooks.collector import Collector, without_autocast
from unlearn_hooks.features import FeaturesCollector, recorded_features
from unlearn_hooks.plan import Plan
from unlearn_hooks.recorder import record
from unlearn_hooks.samples import SamplesCollector, recorded_samples
from unlearn_hooks.schedule import ScheduleCollector, recorded_schedule
from unlearn_hooks.training_record import TrainingRecord
from unlearn_hooks.updates import UpdatesCollector, recorded_updates

COLLECTORS = [UpdatesCollector, FeaturesCollector, SamplesCollector, ScheduleCollector]
PLAN = Plan(steps=4, tail=2, window=2, windows=3)


def content(record: TrainingRecord) -> dict[str, list[object]]:
    """Everything a reader can get out of a record, as plain values."""
    schedule, features = recorded_schedule(record), recorded_features(record)
    return {
        "updates": [
            (u.step, u.epoch, u.rows.tolist(), *[(k, v.tolist()) for k, v in sorted(u.weights().items())],
             *[(k, v.tolist()) for k, v in sorted(u.gradient().items())])
            for u in recorded_updates(record)
        ],
        "samples": [(s.epoch, s.rows.tolist(), s.loss.tolist(), s.margin.tolist()) for s in recorded_samples(record)],
        "schedule": [(schedule.rows(t).tolist(), schedule.learning_rates[t].tolist()) for t in range(schedule.steps)],
        "features": [features.n, features.class_counts.tolist(), features.second_moment.mul(1e4).round().tolist()],
    }  # fmt: skip


def everything(folder: Path) -> Training:
    return Training(folder, [collector() for collector in COLLECTORS], PLAN)


def test_the_kinds_are_different_words() -> None:
    assert sorted(collector.kind for collector in COLLECTORS) == ["features", "samples", "schedule", "update"]


@pytest.mark.parametrize("collector", COLLECTORS)
def test_a_flush_without_a_step_writes_nothing(tmp_path: Path, collector: type[Collector]) -> None:
    training = Training(tmp_path, [collector()], PLAN)
    training.start()
    training.flush()
    assert training.record().shards(collector.kind) == []


@pytest.mark.parametrize("collector", COLLECTORS)
def test_a_second_flush_writes_nothing_more(tmp_path: Path, collector: type[Collector]) -> None:
    training = Training(tmp_path, [collector()], PLAN)
    training.run(7)
    before = training.record().shards(collector.kind)
    training.flush()
    assert training.record().shards(collector.kind) == before


@pytest.mark.parametrize("collector", COLLECTORS)
def test_after_a_flush_nothing_of_an_earlier_step_is_written(tmp_path: Path, collector: type[Collector]) -> None:
    training = Training(tmp_path, [collector()], Plan(steps=4, window=3))
    training.start()
    training.steps(0, 5).flush()
    before = [shard.path for shard in training.record().shards(collector.kind)]
    training.steps(5, 12).flush()
    new = [shard for shard in training.record().shards(collector.kind) if shard.path not in before]
    assert new
    assert all(shard.first >= 5 for shard in new)


@pytest.mark.parametrize(("crash", "back"), [(11, 9), (10, 4), (5, 5), (7, 0)])
def test_a_run_that_is_resumed_leaves_the_record_of_a_straight_one(tmp_path: Path, crash: int, back: int) -> None:
    straight = everything(tmp_path / "straight")
    straight.start()
    straight.steps(0, back).flush()
    straight.steps(back, 16).flush()

    broken = everything(tmp_path / "broken")
    broken.start()
    broken.steps(0, back).flush()
    checkpoint = copy.deepcopy((broken.model.state_dict(), broken.optimizer.state_dict()))
    broken.steps(back, crash).flush()
    resumed = everything(tmp_path / "broken")  # a new process: new model, new collectors, the same folder
    resumed.model.load_state_dict(checkpoint[0])
    resumed.optimizer.load_state_dict(checkpoint[1])
    resumed.writer.rewind(back)
    resumed.start(back)
    resumed.steps(back, 16).flush()
    assert content(resumed.record()) == content(straight.record())


def test_collectors_leave_the_training_as_it_is(tmp_path: Path) -> None:
    torch.manual_seed(5)
    alone = Training(tmp_path / "alone", [])
    alone.run(12)
    state = torch.get_rng_state()
    torch.manual_seed(5)
    watched = everything(tmp_path / "watched")
    watched.run(12)
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in alone.model.state_dict().items():
        assert torch.equal(tensor, watched.model.state_dict()[name])
    assert watched.model.training
    assert all(p.requires_grad for p in watched.model.parameters())
    assert vars(watched.model).keys() == vars(Net()).keys()
    assert not any(isinstance(m, nn.Module) and m._forward_hooks for m in watched.model.modules())


@pytest.mark.parametrize("collector", COLLECTORS)
def test_what_is_kept_for_later_holds_no_graph(tmp_path: Path, collector: type[Collector]) -> None:
    training = Training(tmp_path, [collector()], PLAN)
    training.start()
    training.steps(0, 3)
    for shard in training.writer.shards(collector.kind):
        assert not any(tensor.requires_grad for tensor in shard.tensors().values())
    held = [value for value in vars(training.collectors[0]).values() if isinstance(value, torch.Tensor)]
    assert not any(tensor.requires_grad for tensor in held)


def test_inside_the_autocast_of_a_loop_collectors_compute_as_they_are_written() -> None:
    wide = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert (wide @ wide).dtype == torch.bfloat16
        with without_autocast():
            assert (wide @ wide).dtype == torch.float32
        assert (wide @ wide).dtype == torch.bfloat16


def test_a_loop_that_ends_its_epochs_inside_autocast_is_recorded(tmp_path: Path) -> None:
    """timm's train.py does: its next epoch is seen to begin when the first batch enters the model."""
    data = TensorDataset(torch.randn(24, 6), torch.arange(24) % 3)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with record(tmp_path / "rec", model, optimizer) as recorder, torch.autocast("cpu", torch.bfloat16):
        for epoch in range(3):
            recorder.epoch(epoch)
            for images, labels in recorder.batches(DataLoader(data, 8)):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(images), labels).backward()
                optimizer.step()
    found = recorded_samples(TrainingRecord.open(tmp_path / "rec"))
    assert [len(one.rows) for one in found] == [24, 24, 24]
    assert recorded_features(TrainingRecord.open(tmp_path / "rec")).n == 72
