"""replay against trainings that really never had F: equal in every bit of every parameter and buffer."""

import copy
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from tests.conftest import fresh_net
from tests.plugin.unlearners.live_runs import CHEAP, FORGET, ROWS, LiveRun, Noisy, adamw, same
from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.plan import Plan
from unlearn_hooks.recorder import record
from unlearn_hooks.training_record import TrainingRecord
from unlearn_plugin.unlearners._rerun import RecordedRun
from unlearn_plugin.unlearners.replay import Replay

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden" / "record-1"
HERE = "tests.plugin.unlearners.test_replay"


class OurSGD(SGD):
    """An optimizer that is none of torch's."""


def our_sgd(model: nn.Module) -> Optimizer:
    return OurSGD(model.parameters(), lr=0.05, momentum=0.9)


def smoothed(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(images), labels, label_smoothing=0.2)


def late(epoch: int) -> list[list[int]]:
    """Batches in which F is seen from the third epoch on."""
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(epoch))
    order = order if epoch >= 2 else order[~torch.isin(order, FORGET)]
    return [batch.tolist() for batch in order.split(8)]


def all_in_one(epoch: int) -> list[list[int]]:
    """Batches of which the first one is F and nothing else."""
    rest = [row for row in range(ROWS) if row not in FORGET.tolist()]
    return [FORGET.tolist(), rest[:12], rest[12:24], rest[24:]]


def ran(run: LiveRun, **options: object) -> tuple[nn.Module, dict[str, object]]:
    model = fresh_net(1)
    return model, dict(Replay(**options).unlearn(model, run.evidence()))


RUNS = {
    "sgd with momentum and a cosine schedule": ({}, {}),
    "adamw": ({"optimize": adamw}, {}),
    "random changes": ({"read": Noisy}, {}),
    "random changes in workers": ({"read": Noisy, "workers": 2, "epochs": 2}, {}),
    "accumulation over the ends of epochs": ({"accumulate": 2, "read": Noisy}, {}),
    "clipping and smoothing": (
        {"clip_norm": 0.5, "label_smoothing": 0.2},
        {"clip_norm": 0.5, "loss": f"{HERE}:smoothed"},
    ),
    "an optimizer that is none of torch's": ({"optimize": our_sgd}, {"optimizer": f"{HERE}:OurSGD"}),
}


@pytest.mark.parametrize("name", RUNS)
def test_the_result_is_the_run_that_never_had_the_samples(tmp_path: Path, name: str) -> None:
    settings, options = RUNS[name]
    run = LiveRun(tmp_path / "record", **settings).recorded()
    model, facts = ran(run, **options)
    assert same(model, run.without(FORGET))
    assert not same(model, run.model)
    assert (facts["reproduces_the_run"], facts["deviation"]) == (True, 0.0)
    assert facts["not_reproduced"] == []


@pytest.mark.slow
def test_random_changes_from_pythons_own_generator_are_the_same_too() -> None:
    """In a process of its own: what checks signatures in tests draws from that generator."""
    code = """
import tempfile, torch
from pathlib import Path
from tests.plugin.unlearners.live_runs import *
from unlearn_plugin.unlearners.replay import Replay
torch.set_num_threads(1)
with tempfile.TemporaryDirectory() as folder:
    for workers in (0, 2):
        run = LiveRun(Path(folder) / str(workers), read=Flipped, workers=workers, epochs=2).recorded()
        model = fresh_net(1)
        assert Replay().unlearn(model, run.evidence())["reproduces_the_run"]
        assert same(model, run.without(FORGET))
"""
    path = os.pathsep.join([str(ROOT), str(ROOT / "hooks")])
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": path})  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("optimize", [adamw, our_sgd])
def test_samples_that_were_seen_late_cost_the_late_part_alone(tmp_path: Path, optimize: object) -> None:
    plan = Plan(steps=12, features=False, samples=False)  # so that a state after the snapshot can be compared with
    run = LiveRun(tmp_path / "record", optimize=optimize, rows_of_epoch=late, plan=plan).recorded()
    model, facts = ran(run, optimizer=f"{HERE}:OurSGD" if optimize is our_sgd else None)
    before = 2 * len(late(0))
    assert (facts["from_step"], facts["steps_replayed"]) == (before, 2 * len(late(2)))
    assert facts["first_forget_step"] >= before
    assert 0.4 < facts["share_of_the_run"] < 0.5
    assert facts["reproduces_the_run"] is True
    assert same(model, run.without(FORGET))


def test_a_batch_that_is_all_forget_is_no_step(tmp_path: Path) -> None:
    run = LiveRun(tmp_path / "record", optimize=adamw, rows_of_epoch=all_in_one).recorded()
    model, facts = ran(run)
    assert (facts["from_step"], facts["first_forget_step"]) == (0, 0)
    assert (facts["steps_replayed"], facts["steps_that_were_all_forget"]) == (12, 4)
    assert same(model, run.without(FORGET))


def test_a_run_that_was_killed_and_went_on_is_replayed_as_it_went(tmp_path: Path) -> None:
    run = LiveRun(tmp_path / "record", read=Noisy, optimize=adamw, epochs=2)
    optimizer = adamw(run.model)
    recorder = record(run.folder, run.model, optimizer, plan=CHEAP)
    run.train(run.model, optimizer, recorder=recorder)
    checkpoint = copy.deepcopy([run.model.state_dict(), optimizer.state_dict(), recorder.state_dict()])
    run.an_epoch(run.model, optimizer, recorder.batches(run.loader(2, None)))  # what is lost
    recorder.abandon()
    run.epochs, run.model = 4, fresh_net(9)
    optimizer = adamw(run.model)
    run.model.load_state_dict(checkpoint[0])
    optimizer.load_state_dict(checkpoint[1])
    with record(run.folder, run.model, optimizer, plan=CHEAP) as recorder:
        recorder.load_state_dict(checkpoint[2])
        run.train(run.model, optimizer, recorder=recorder, first=2)
    model, facts = ran(run)
    assert facts["steps_of_the_run"] == 20
    assert facts["reproduces_the_run"] is True
    assert same(model, run.without(FORGET))


def test_what_earlier_requests_named_stays_out(tmp_path: Path) -> None:
    run = LiveRun(tmp_path / "record", epochs=2).recorded()
    second = dataclasses.replace(run.evidence(FORGET[:2]), retain=run.evidence().retain)
    second = dataclasses.replace(second, earlier=run.evidence(FORGET[2:]).forget)
    model = fresh_net(1)
    assert Replay().unlearn(model, second)["reproduces_the_run"] is True
    assert same(model, run.without(FORGET))


def test_a_loss_that_was_another_one_is_noticed(tmp_path: Path) -> None:
    run = LiveRun(tmp_path / "record", label_smoothing=0.2, epochs=2).recorded()
    model, facts = ran(run)
    assert facts["reproduces_the_run"] is False
    assert 0.01 < facts["deviation"] < 10
    assert ran(run, label_smoothing=0.2)[1]["reproduces_the_run"] is True
    assert ran(run, check=False)[1]["reproduces_the_run"] is None
    assert not same(model, run.without(FORGET))


def test_a_training_that_never_saw_the_samples_is_not_run_again(tmp_path: Path) -> None:
    run = LiveRun(tmp_path / "record", rows_of_epoch=late, epochs=1).recorded()
    with pytest.raises(UnlearnError, match="found no step"):
        ran(run)


@pytest.mark.parametrize(
    ("plan", "words"),
    [(Plan(snapshots=0, features=False), r"Plan\(snapshots=2\)"),
     (Plan(budget=1000, features=False), "byte budget was too small"),
     (Plan(ids="recorded", features=False), r"Plan\(ids='all'\)")],
)  # fmt: skip
def test_what_the_record_lacks_is_told(tmp_path: Path, plan: Plan, words: str) -> None:
    run = LiveRun(tmp_path / "record", plan=plan, epochs=1).recorded()
    with pytest.raises(UnlearnError, match=words):
        ran(run)


def test_an_older_record_says_what_it_lacks() -> None:
    with pytest.raises(UnlearnError, match=r"no state of the training .* Plan\(snapshots=2\)"):
        RecordedRun.read(TrainingRecord.open(GOLDEN))


def test_an_unknown_optimizer_is_not_imported_unasked(tmp_path: Path) -> None:
    run = LiveRun(tmp_path / "record", optimize=our_sgd, epochs=1).recorded()
    with pytest.raises(UnlearnError, match=f"-o optimizer={HERE}:OurSGD"):
        ran(run)


def test_a_part_of_the_retained_data_is_not_enough(tmp_path: Path) -> None:
    run = LiveRun(tmp_path / "record", epochs=1).recorded()
    evidence = run.evidence()
    evidence = type(evidence)(**{**vars(evidence), "retain": evidence.retain.select(range(20))})
    with pytest.raises(UnlearnError, match="lacks 15 of the samples"):
        Replay().unlearn(fresh_net(1), evidence)


def test_options_out_of_range_are_all_told_at_once() -> None:
    with pytest.raises(UnlearnError) as caught:
        Replay(label_smoothing=1.0, clip_norm=0.0, divisor=0, loss="a:b")
    assert len(caught.value.findings) == 4
