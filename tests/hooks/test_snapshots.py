import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset

from tests.hooks.small_training import Net
from unlearn_hooks.collector import Pass, Run
from unlearn_hooks.feed import Beginning
from unlearn_hooks.plan import Plan
from unlearn_hooks.randomness import RandomStates
from unlearn_hooks.recorder import record
from unlearn_hooks.snapshots import SnapshotsCollector, recorded_passes, recorded_snapshots
from unlearn_hooks.training_record import RecordWriter, TrainingRecord

ROWS, BATCH = 24, 8
ONLY = {"updates": False, "features": False, "samples": False}
Truth = list[tuple[dict[str, Tensor], dict[str, dict[str, Tensor]], RandomStates]]


def sgd(model: nn.Module) -> Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)


def adam(model: nn.Module) -> Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.01, amsgrad=True)


def copied(values: dict[str, object]) -> dict[str, object]:
    return {key: value.clone() if isinstance(value, Tensor) else value for key, value in values.items()}


def trained(
    folder: Path,
    epochs: int = 7,
    *,
    plan: Plan = Plan(**ONLY),  # noqa: B008  # frozen
    optimize: Callable[[nn.Module], Optimizer] = sgd,
    workers: int = 0,
    accumulate: int = 1,
) -> Truth:
    """Train, and remember weights, optimizer state and random states at the beginning of every epoch."""
    torch.manual_seed(0)
    model = Net().train()
    model.norm.eval()
    optimizer = optimize(model)
    data = TensorDataset(torch.randn(ROWS, 6), torch.arange(ROWS) % 3)
    loader = DataLoader(data, BATCH, shuffle=True, num_workers=workers)
    truth: Truth = []
    with record(folder, model, optimizer, plan=plan) as recorder:
        for _ in range(epochs):
            names = {parameter: name for name, parameter in model.named_parameters()}
            state = {names[parameter]: copied(one) for parameter, one in optimizer.state.items()}
            truth.append((copied(model.state_dict()), state, RandomStates.now()))
            for number, (images, labels) in enumerate(recorder.batches(loader)):
                nn.functional.cross_entropy(model(images), labels).backward()
                if (number + 1) % accumulate == 0:
                    optimizer.step()
                    optimizer.zero_grad()
    return truth


def same(one: dict[str, object], other: dict[str, object]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(value, other[key]) if isinstance(value, Tensor) else value == other[key]
        for key, value in one.items()
    )


@pytest.mark.parametrize("optimize", [sgd, adam])
def test_a_snapshot_is_the_state_with_which_its_epoch_began(
    tmp_path: Path, optimize: Callable[[nn.Module], Optimizer]
) -> None:
    truth = trained(tmp_path / "record", optimize=optimize)
    snapshots = recorded_snapshots(TrainingRecord.open(tmp_path / "record"))
    assert [snapshot.pass_number for snapshot in snapshots] == [0, 2, 4]
    for snapshot in snapshots:
        weights, state, _ = truth[snapshot.pass_number]
        assert (snapshot.epoch, snapshot.step) == (snapshot.pass_number, 3 * snapshot.pass_number)
        assert same(snapshot.weights(), weights)
        assert snapshot.optimizer_state().keys() == state.keys()
        assert all(same(snapshot.optimizer_state()[name], one) for name, one in state.items())
        assert (snapshot.evaluating, snapshot.lost) == (["norm"], [])
    assert snapshots[-1].optimizer_state()


def test_the_optimizer_and_its_settings_are_kept(tmp_path: Path) -> None:
    trained(tmp_path / "record", 1, optimize=adam)
    (snapshot,) = recorded_snapshots(TrainingRecord.open(tmp_path / "record"))
    assert snapshot.optimizer == "torch.optim.adam.Adam"
    assert (snapshot.groups[0]["lr"], snapshot.groups[0]["amsgrad"]) == (0.01, True)
    assert len(snapshot.groups[0]["names"]) == 6


@pytest.mark.parametrize("workers", [0, 1])
def test_with_the_recorded_states_the_loop_goes_on_as_it_did(tmp_path: Path, workers: int) -> None:
    """The loader's own first draws come before them: the workers' seed, and the sampler's."""
    truth = trained(tmp_path / "record", 3, workers=workers)
    passes = recorded_passes(TrainingRecord.open(tmp_path / "record"))
    assert [(begun.number, begun.step, begun.carried, begun.workers) for begun in passes] == [
        (number, 3 * number, 0, workers) for number in range(3)
    ]
    data = DataLoader(TensorDataset(torch.zeros(ROWS)), BATCH, shuffle=True, num_workers=workers)
    for begun, (_, _, states) in zip(passes, truth, strict=True):
        states.set()
        assert (begun.seed is None) == (workers == 0)
        assert begun.seed is None or torch.equal(begun.seed, torch.get_rng_state())
        for _ in data:
            break
        expected = torch.get_rng_state()
        assert begun.states is not None
        assert torch.equal(begun.states.torch, expected)


def test_states_that_did_not_change_are_written_once_and_read_everywhere(tmp_path: Path) -> None:
    trained(tmp_path / "record", 3)
    record = TrainingRecord.open(tmp_path / "record")
    assert ["numpy" in shard.tensors() for shard in record.shards("pass")] == [True, False, False]
    first, *_, last = recorded_passes(record)
    assert first.states is not None
    assert last.states is not None
    assert torch.equal(first.states.numpy, last.states.numpy)
    assert sum(shard.path.stat().st_size for shard in record.shards("pass")[1:]) / 2 < 12_000


def test_what_does_not_fit_the_budget_is_told(tmp_path: Path) -> None:
    state = sum(tensor.nbytes for tensor in Net().state_dict().values())
    trained(tmp_path / "few", plan=Plan(**ONLY, budget=3 * state), optimize=adam)
    few = TrainingRecord.open(tmp_path / "few")
    assert [snapshot.step for snapshot in recorded_snapshots(few)] == [0]
    assert [note["snapshots"] for note in few.noted("snapshots_limited")] == [1]
    trained(tmp_path / "none", 2, plan=Plan(**ONLY, budget=10))
    none = TrainingRecord.open(tmp_path / "none")
    assert recorded_snapshots(none) == []
    assert none.noted("snapshots_limited")[0]["budget"] == 10
    assert len(recorded_passes(none)) == 2


def test_more_can_be_asked_for_and_none(tmp_path: Path) -> None:
    trained(tmp_path / "many", 7, plan=Plan(**ONLY, snapshots=4))
    assert [one.pass_number for one in recorded_snapshots(TrainingRecord.open(tmp_path / "many"))] == list(range(7))
    trained(tmp_path / "none", 2, plan=Plan(**ONLY, snapshots=0))
    none = TrainingRecord.open(tmp_path / "none")
    assert none.shards("pass") == none.shards("snapshot") == []


def test_an_epoch_that_begins_within_a_step_is_marked_and_never_kept_whole(tmp_path: Path) -> None:
    trained(tmp_path / "record", 4, accumulate=2, plan=Plan(**ONLY, snapshots=4))
    record = TrainingRecord.open(tmp_path / "record")
    assert [(begun.step, begun.carried) for begun in recorded_passes(record)] == [(0, 0), (1, 1), (2, 1), (3, 1)]
    assert [snapshot.pass_number for snapshot in recorded_snapshots(record)] == [0]


def test_other_processes_write_their_random_states_alone(tmp_path: Path) -> None:
    model = Net()
    optimizer = sgd(model)
    collector, out = SnapshotsCollector(), RecordWriter(tmp_path / "record", rank=1)
    collector.start(Run(model, optimizer, Plan(), dict(model.named_parameters())), 0)
    beginning = Beginning(RandomStates.now(), None, 0, own_init=False)
    collector.pass_begin(Pass(0, 0, 0, 2, beginning), out)
    collector.flush(out)
    assert [shard.meta["ahead"] for shard in out.shards("pass")] == [2]
    assert out.shards("snapshot") == []


def test_tensors_that_cannot_be_written_are_told_and_training_goes_on(tmp_path: Path) -> None:
    model = Net()
    model.register_buffer("wave", torch.zeros(2, dtype=torch.complex64))
    collector, out = SnapshotsCollector(), RecordWriter(tmp_path / "record")
    collector.start(Run(model, sgd(model), Plan(), dict(model.named_parameters())), 0)
    for step in (0, 3):
        collector.pass_begin(Pass(step, 0, 0, 0, None), out)
    collector.flush(out)
    assert out.shards("snapshot") == []
    (tmp_path / "record" / "manifest.json").write_text(json.dumps({"schema": 1}))
    record = TrainingRecord.open(tmp_path / "record")
    assert [note["reason"] for note in record.noted("snapshots_limited")] == [
        "tensors of type torch.complex64 cannot be written"
    ]
    assert [begun.states for begun in recorded_passes(record)] == [None, None]
