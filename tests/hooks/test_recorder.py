import copy
import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

import unlearn_hooks
from unlearn_hooks import Plan, Recorder, TrainingRecord, UnlearnError, record
from unlearn_hooks.features import recorded_features
from unlearn_hooks.ids import data_fingerprint
from unlearn_hooks.journal import read_journal
from unlearn_hooks.recording_thread import BackgroundWriter
from unlearn_hooks.samples import recorded_samples
from unlearn_hooks.schedule import recorded_schedule
from unlearn_hooks.training_record import Shard, weights_digest
from unlearn_hooks.updates import recorded_updates

HOOKS = Path(__file__).parents[2] / "hooks"
N, BATCH, CLASSES = 44, 8, 3


class Pixels(Dataset[tuple[Tensor, int]]):
    """Every pixel is the number of the row, so the batch that enters the model tells the truth."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return torch.full((1, 2, 3), row / N), row % CLASSES


class Net(nn.Module):
    """Remembers which rows it was trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.drop, self.head = nn.Linear(6, 5), nn.Dropout(0.2), nn.Linear(5, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.drop(self.body(images.flatten(1)).relu()))
        return logits


class Training:
    """An ordinary loop; `trained` is the truth, one list of micro-batches per optimizer step."""

    def __init__(self, folder: Path, *, workers: int = 0, **settings: Any) -> None:
        torch.manual_seed(0)
        self.folder, self.settings = folder, settings
        self.model = Net()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.loader = DataLoader(Pixels(), BATCH, shuffle=True, num_workers=workers)
        self.trained: list[list[list[int]]] = []

    def recorder(self) -> Recorder:
        return record(self.folder, self.model, self.optimizer, **self.settings)

    def step(self, images: Tensor, labels: Tensor) -> None:
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(images), labels).backward()
        self.optimizer.step()
        self.trained.append([rows_in(images)])

    def epochs(self, rec: Recorder | None, number: int) -> None:
        for _ in range(number):
            for images, labels in self.loader if rec is None else rec.batches(self.loader):
                self.step(images, labels)


def rows_in(images: Tensor) -> list[int]:
    return [round(value * N) for value in images.flatten(1)[:, 0].tolist()]


def recorded(folder: Path) -> list[list[list[int]] | None]:
    schedule = recorded_schedule(TrainingRecord.open(folder))
    steps = [schedule.micro_batches(step) for step in range(schedule.steps)]
    return [None if batches is None else [rows.tolist() for rows in batches] for batches in steps]


def hooks_left(training: Training) -> int:
    optimizer = training.optimizer
    inside = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in training.model.modules())
    return inside + len(optimizer._optimizer_step_pre_hooks) + len(optimizer._optimizer_step_post_hooks)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_plain_loop_is_recorded_exactly(tmp_path: Path, workers: int) -> None:
    training = Training(tmp_path, workers=workers, recipe={"augmentation": "none"})
    with training.recorder() as rec:
        training.epochs(rec, 3)
        assert len(rec.batches(training.loader)) == 6  # type: ignore[arg-type]
    found = TrainingRecord.open(tmp_path)
    schedule = recorded_schedule(found)
    assert found.complete
    assert recorded(tmp_path) == training.trained
    assert schedule.epochs.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert found.ids == tuple(map(str, range(N)))
    assert found.data["n"] == N
    assert found.data["fingerprint"] == data_fingerprint(torch.arange(N) % CLASSES)
    assert found.manifest["final_weights"] == weights_digest(training.model.state_dict())
    assert found.manifest["head"] == "head"
    recipe = {name: found.recipe[name] for name in ("optimizer", "batch_size", "steps", "epochs", "user")}
    assert recipe == {
        "optimizer": "SGD",
        "batch_size": BATCH,
        "steps": 18,
        "epochs": 3,
        "user": {"augmentation": "none"},
    }
    assert recorded_features(found).n == 3 * N
    assert [sorted(epoch.rows.tolist()) for epoch in recorded_samples(found)] == [list(range(N))] * 3
    assert all(update.rows is not None for update in recorded_updates(found))
    assert rec.status().unknown == {}


@pytest.mark.parametrize("workers", [0, 2])
def test_weights_and_random_numbers_are_the_same_with_the_recorder_on_and_off(tmp_path: Path, workers: int) -> None:
    ends = []
    for on in (True, False):
        training = Training(tmp_path / "record", workers=workers)
        if on:
            with training.recorder() as rec:
                training.epochs(rec, 2)
                rec.state_dict()
        else:
            training.epochs(None, 2)
        ends.append((training.model.state_dict(), torch.get_rng_state(), training.trained))
    assert all(torch.equal(ends[0][0][name], ends[1][0][name]) for name in ends[0][0])
    assert torch.equal(ends[0][1], ends[1][1])
    assert ends[0][2] == ends[1][2]


def test_python_and_numpy_random_numbers_are_left_alone(tmp_path: Path) -> None:
    code = f"""
import random, sys, numpy, torch
sys.path.insert(0, {str(HOOKS)!r})
from unlearn_hooks import record
def state(): return random.getstate(), str(numpy.random.get_state()), torch.get_rng_state().tolist()
model = torch.nn.Linear(2, 2); optimizer = torch.optim.Adam(model.parameters())
data = torch.utils.data.TensorDataset(torch.randn(8, 2), torch.arange(8) % 2)
loader = torch.utils.data.DataLoader(data, 4)
before = state()
list(loader)
plain = state()
torch.set_rng_state(torch.tensor(before[2], dtype=torch.uint8))
with record({str(tmp_path)!r}, model, optimizer) as rec:
    for x, y in rec.batches(loader):
        model(x).sum().backward(); optimizer.step()
sys.exit(0 if state() == plain else "random numbers were drawn")
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_accumulation_with_a_short_last_group_keeps_micro_batches_apart(tmp_path: Path) -> None:
    training = Training(tmp_path)
    with training.recorder() as rec:
        for _ in range(2):
            group: list[list[int]] = []
            for number, (images, labels) in enumerate(rec.batches(training.loader), start=1):
                nn.functional.cross_entropy(training.model(images), labels).backward()
                group.append(rows_in(images))
                if len(group) == 4 or number == 6:
                    training.optimizer.step()
                    training.optimizer.zero_grad()
                    training.trained.append(group)
                    group = []
    assert [len(group) for group in training.trained] == [4, 2, 4, 2]
    assert recorded(tmp_path) == training.trained


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("clear", ["before the forward pass", "before the backward pass", "at the end"])
def test_a_step_that_a_scaler_skipped_is_marked_and_its_batch_is_in_no_other(
    tmp_path: Path, fused: bool, clear: str
) -> None:
    training = Training(tmp_path)
    training.optimizer = torch.optim.SGD(training.model.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with training.recorder() as rec:
        for number, (images, labels) in enumerate(rec.batches(training.loader)):
            if clear == "before the forward pass":
                training.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(training.model(images), labels)
            if clear == "before the backward pass":
                training.optimizer.zero_grad()
            scaler.scale(loss * (float("inf") if number in (1, 4) else 1.0)).backward()
            scaler.step(training.optimizer)
            scaler.update()
            if clear == "at the end":
                training.optimizer.zero_grad(set_to_none=number % 2 == 0)
            training.trained.append([rows_in(images)])
    found = TrainingRecord.open(tmp_path)
    assert recorded(tmp_path) == training.trained
    assert recorded_schedule(found).skipped.tolist() == [False, True, False, False, True, False]
    assert [update.step for update in recorded_updates(found)] == [0, 2, 3, 5]
    assert recorded_features(found).n == N - sum(len(training.trained[step][0]) for step in (1, 4))


def test_evaluation_and_averaged_copies_are_not_counted(tmp_path: Path) -> None:
    training = Training(tmp_path)
    with training.recorder() as rec:
        average = copy.deepcopy(training.model)
        for images, labels in rec.batches(training.loader):
            training.step(images, labels)
            average(images)
            training.model.eval()
            for others, _ in training.loader:
                training.model(others)
            training.model.train()
            with torch.no_grad():
                training.model(images)
    assert recorded_features(TrainingRecord.open(tmp_path)).n == N
    assert recorded(tmp_path) == training.trained


def test_two_forward_passes_for_a_step_count_once(tmp_path: Path) -> None:
    training = Training(tmp_path)
    with training.recorder() as rec:
        for images, labels in rec.batches(training.loader):
            training.model(images).sum().backward()
            training.step(images, labels)
    assert recorded(tmp_path) == training.trained
    assert recorded_features(TrainingRecord.open(tmp_path)).n == N


def test_gradient_and_weights_of_a_closure_are_those_applied(tmp_path: Path) -> None:
    training = Training(tmp_path, plan=Plan(steps=None, gradient_dtype="fp32"))
    truth = []
    with training.recorder() as rec:
        for images, labels in rec.batches(training.loader):
            before = copy.deepcopy(training.model.state_dict())

            def closure(images: Tensor = images, labels: Tensor = labels) -> Tensor:
                training.optimizer.zero_grad()
                loss = nn.functional.cross_entropy(training.model(images), labels)
                loss.backward()
                return loss.detach()

            training.optimizer.step(closure)  # type: ignore[arg-type]
            truth.append((before, {name: p.grad.clone() for name, p in training.model.named_parameters()}))  # type: ignore[union-attr]
    for update, (weights, gradient) in zip(recorded_updates(TrainingRecord.open(tmp_path)), truth, strict=True):
        assert all(torch.equal(update.weights()[name], weights[name]) for name in weights)
        assert all(torch.equal(update.gradient()[name], gradient[name]) for name in gradient)


def test_rows_can_be_told_and_replace_those_found(tmp_path: Path) -> None:
    training = Training(tmp_path)
    with training.recorder() as rec:
        for images, labels in rec.batches(training.loader):
            rec.ids([row + 100 for row in rows_in(images)])
            training.step(images, labels)
    assert recorded(tmp_path) == [[[row + 100 for row in batch]] for [batch] in training.trained]


def test_rows_told_after_the_forward_pass_are_refused(tmp_path: Path) -> None:
    training = Training(tmp_path)
    with training.recorder() as rec:
        batches = iter(rec.batches(training.loader))
        training.model(next(batches)[0])
        with pytest.raises(UnlearnError, match="call it first"):
            rec.ids([1])


def test_rows_can_be_told_without_a_torch_loader(tmp_path: Path) -> None:
    training = Training(tmp_path)
    with training.recorder() as rec:
        for images, labels in training.loader:
            rec.ids(torch.tensor(rows_in(images)), labels)
            training.step(images, labels)
        rec.epoch(1)
        for images, labels in training.loader:
            rec.ids(rows_in(images), labels)
            training.step(images, labels)
    found = TrainingRecord.open(tmp_path)
    assert recorded(tmp_path) == training.trained
    assert recorded_schedule(found).epochs.tolist() == [0] * 6 + [1] * 6
    assert [len(epoch.rows) for epoch in recorded_samples(found)] == [N, N]
    assert (found.data["n"], found.ids, found.recipe["epochs"]) == (None, None, 2)


def test_a_loop_that_nobody_listens_to_has_steps_and_features_and_no_rows(tmp_path: Path) -> None:
    training = Training(tmp_path)
    with training.recorder() as rec:
        training.epochs(None, 1)
        assert rec.status().step == 6
    assert recorded(tmp_path) == [None] * 6
    assert recorded_features(TrainingRecord.open(tmp_path)).n == N


def test_a_loop_that_leaves_batches_out_says_so(tmp_path: Path) -> None:
    training = Training(tmp_path)
    with training.recorder() as rec:
        for number, (images, labels) in enumerate(rec.batches(training.loader)):
            if number != 1:
                training.step(images, labels)
        training.epochs(rec, 1)
    assert recorded(tmp_path) == [training.trained[0], None, None, None, None, *training.trained[5:]]
    assert rec.status().unknown == {"the loop left a batch out, or reads ahead": 4}


def test_a_batch_left_over_when_an_epoch_is_told_is_not_waited_for(tmp_path: Path) -> None:
    training = Training(tmp_path)
    with training.recorder() as rec:
        for epoch in range(2):
            rec.epoch(epoch)
            for number, (images, labels) in enumerate(training.loader):
                rec.ids(rows_in(images), labels)
                if number == 3:
                    break
                training.step(images, labels)
    assert recorded(tmp_path) == training.trained
    assert rec.status().unknown == {}


def test_rows_are_those_of_the_root_and_names_come_from_the_key(tmp_path: Path) -> None:
    training = Training(tmp_path, key=lambda row: f"person-{row}")
    training.loader = DataLoader(Subset(Pixels(), range(40, 20, -1)), BATCH, shuffle=True)
    with training.recorder() as rec:
        training.epochs(rec, 2)
    assert recorded(tmp_path) == training.trained
    assert TrainingRecord.open(tmp_path).ids == tuple(f"person-{row}" for row in range(N))


def test_the_data_can_be_told_by_the_loader_given_at_the_start(tmp_path: Path) -> None:
    training = Training(tmp_path)
    training.settings["loader"] = training.loader
    with training.recorder():
        training.epochs(None, 1)
    assert TrainingRecord.open(tmp_path).data["n"] == N


def test_after_an_exception_hooks_are_gone_and_the_record_is_readable_and_not_complete(tmp_path: Path) -> None:
    training = Training(tmp_path)

    def fail() -> None:
        with training.recorder() as rec:
            training.epochs(rec, 1)
            assert hooks_left(training) == 4
            raise KeyError("the user's own bug")

    with pytest.raises(KeyError):
        fail()
    assert hooks_left(training) == 0
    assert not TrainingRecord.open(tmp_path).complete
    assert recorded(tmp_path) == training.trained


def test_an_early_break_ends_the_epoch(tmp_path: Path) -> None:
    training = Training(tmp_path, workers=1)
    with training.recorder() as rec:
        for stop in (2, 4):
            for number, (images, labels) in enumerate(rec.batches(training.loader), start=1):
                training.step(images, labels)
                if number == stop:
                    break
    assert recorded(tmp_path) == training.trained
    assert recorded_schedule(TrainingRecord.open(tmp_path)).epochs.tolist() == [0, 0, 1, 1, 1, 1]


class Resumed(Training):
    """Trains a stretch of a run of 80 steps; checkpoints every 10; dies where the stretch ends."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "record", plan=Plan(window=7, steps=4))
        self.checkpoints = folder
        self.order = [torch.randperm(N, generator=torch.Generator().manual_seed(step))[:BATCH] for step in range(80)]

    def stretch(self, start: int, stop: int, *, resume: bool) -> None:
        rec = self.recorder()
        if resume:
            state = torch.load(self.checkpoints / f"{start}.pt")
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            rec.load_state_dict(state["recorder"])
        for step in range(start, stop):
            if step % 10 == 0:
                state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
                torch.save(state | {"recorder": rec.state_dict()}, self.checkpoints / f"{step}.pt")
            batch = [Pixels()[row] for row in self.order[step].tolist()]
            rec.ids(self.order[step], torch.tensor([label for _, label in batch]))
            self.step(torch.stack([image for image, _ in batch]), torch.tensor([label for _, label in batch]))
        if stop == 80:
            rec.close()
        else:
            rec._writer.flush()  # a crash: nothing more is written, nothing is closed
            rec._hooks.close()


@pytest.mark.parametrize(
    "plan",
    [
        [(0, 80, False)],
        [(0, 63, False), (50, 80, True)],
        [(0, 33, False), (30, 63, True), (50, 80, True)],
        [(0, 60, False), (50, 55, True), (30, 80, True)],
        [(0, 63, False), (0, 80, False)],
        [(0, 70, False), (60, 80, True)],
    ],
    ids=["straight", "crash at 63", "two crashes", "rollback", "from scratch", "crash on a boundary"],
)
def test_a_resumed_run_counts_nothing_twice_and_loses_nothing(
    tmp_path: Path, plan: list[tuple[int, int, bool]]
) -> None:
    for start, stop, resume in plan:
        training = Resumed(tmp_path)
        training.stretch(start, stop, resume=resume)
    found = TrainingRecord.open(tmp_path / "record")
    assert found.complete
    assert recorded(tmp_path / "record") == [[rows.tolist()] for rows in training.order]
    assert recorded_features(found).n == 80 * BATCH
    steps = [update.step for update in recorded_updates(found)]
    assert steps == sorted(set(steps))
    assert max(steps) < 80
    assert found.recipe["steps"] == 80


def test_epochs_go_on_after_a_checkpoint_in_or_after_one(tmp_path: Path) -> None:
    states = []
    training = Training(tmp_path)
    rec = training.recorder()
    assert rec.state_dict()["epoch"] == 0
    for _ in range(2):
        for images, labels in rec.batches(training.loader):
            training.step(images, labels)
            states.append(rec.state_dict())
        states.append(rec.state_dict())
    rec.abandon()
    assert [state["epoch"] for state in states] == [0] * 6 + [1] + [1] * 6 + [2]
    assert [state["step"] for state in states] == [1, 2, 3, 4, 5, 6, 6, 7, 8, 9, 10, 11, 12, 12]
    for state in (states[2], states[6]):
        again = Training(tmp_path)
        rec = again.recorder()
        rec.load_state_dict(json.loads(json.dumps(state)))
        again.epochs(rec, 1)
        rec.abandon()
        expected = [0] * 9 if state is states[2] else [0] * 6 + [1] * 6
        if state is states[2]:
            assert recorded_schedule(TrainingRecord.open(tmp_path)).epochs.tolist() == expected


def test_a_finished_record_is_neither_overwritten_nor_harmed(tmp_path: Path) -> None:
    training = Training(tmp_path)
    with training.recorder() as rec:
        training.epochs(rec, 1)
        state = rec.state_dict()
    digest = TrainingRecord.open(tmp_path).digest()
    again = Training(tmp_path)
    rec = again.recorder()
    with pytest.raises(UnlearnError, match=r"record of a finished training; record to another folder, or continue"):
        again.epochs(rec, 1)
    rec.close()
    assert again.trained == []
    assert TrainingRecord.open(tmp_path).digest() == digest
    with again.recorder() as rec:
        rec.load_state_dict(state)
        again.epochs(rec, 1)
    assert TrainingRecord.open(tmp_path).complete
    assert recorded(tmp_path) == training.trained + again.trained


def test_a_training_that_goes_on_without_telling_the_record_loses_nothing(tmp_path: Path) -> None:
    training = Training(tmp_path)
    rec = training.recorder()
    training.epochs(rec, 1)
    rec.abandon()
    again = Training(tmp_path)
    again.optimizer.load_state_dict(training.optimizer.state_dict())
    rec = again.recorder()
    with pytest.raises(UnlearnError, match=r"holds the record of this training; record to another folder, or continue"):
        again.epochs(rec, 1)
    rec.abandon()
    assert recorded(tmp_path) == training.trained


def test_a_shorter_run_from_scratch_leaves_nothing_of_the_one_before(tmp_path: Path) -> None:
    for epochs in (2, 1):
        training = Training(tmp_path)
        rec = training.recorder()
        training.epochs(rec, epochs)
        rec.abandon()
    assert recorded(tmp_path) == training.trained
    assert [update.step for update in recorded_updates(TrainingRecord.open(tmp_path))] == list(range(6))


def test_a_record_that_began_late_says_so(tmp_path: Path) -> None:
    for name, epochs in (("late", 1), ("from the start", 0)):
        training = Training(tmp_path / name)
        training.epochs(None, epochs)
        with training.recorder() as rec:
            training.epochs(rec, 1)
        events, _ = read_journal(tmp_path / name / "rank00000" / "journal.jsonl")
        assert ("began_late" in [event["event"] for event in events]) == (name == "late")


def test_an_optimizer_that_is_made_anew_is_reported_lost(tmp_path: Path) -> None:
    training = Training(tmp_path)
    with training.recorder() as rec:
        training.epochs(rec, 1)
        training.optimizer = torch.optim.SGD(training.model.parameters(), lr=0.1)
        training.epochs(rec, 1)
    assert rec.status().unknown == {"no step of the optimizer was seen, was it made anew?": 6}
    *steps, leftover = recorded(tmp_path)
    assert steps == training.trained[:6]
    assert leftover == [batch for step in training.trained[6:] for batch in step]  # as one step that never came


def test_a_state_of_another_run_or_too_late_is_refused(tmp_path: Path) -> None:
    training = Training(tmp_path / "a")
    with training.recorder() as rec:
        state = rec.state_dict()
        with pytest.raises(UnlearnError, match="belongs to run other, and"):
            rec.load_state_dict({**state, "run_id": "other"})
        training.epochs(rec, 1)
        with pytest.raises(UnlearnError, match="comes too late"):
            rec.load_state_dict(state)


def test_an_optimizer_of_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnlearnError, match="The SGD trains no parameter of the Net"):
        record(tmp_path, Net(), Training(tmp_path).optimizer)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnlearnError, match=r"cannot be written to .*file.record"):
        Training(tmp_path / "file" / "record").recorder()


def test_a_full_disk_ends_the_recording_with_one_warning_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = BackgroundWriter._save

    def full(self: BackgroundWriter, shard: Shard, tensors: Mapping[str, Tensor]) -> None:
        if shard.first >= 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(self, shard, tensors)

    monkeypatch.setattr(BackgroundWriter, "_save", full)
    training = Training(tmp_path)
    with warnings.catch_warnings(record=True) as caught, training.recorder() as rec:
        training.epochs(rec, 3)
    assert [warning.category for warning in caught] == [RuntimeWarning]
    assert "No space left on device" in str(caught[0].message)
    assert str(caught[0].message) == f"{rec.status().failure} Training goes on."
    plain = Training(tmp_path)
    plain.epochs(None, 3)
    assert hooks_left(training) == 0
    assert training.trained == plain.trained
    assert all(map(torch.equal, training.model.parameters(), plain.model.parameters()))
    assert not TrainingRecord.open(tmp_path).complete
    assert recorded(tmp_path) == training.trained[:6]


def train_forever(folder: Path) -> None:
    training = Training(folder, plan=Plan(window=2, steps=2))
    rec = training.recorder()
    while True:
        training.epochs(rec, 1)


@pytest.mark.parametrize("seconds", [0.0, 0.03, 0.11, 0.17, 0.31, 0.47])
def test_a_training_killed_at_any_moment_leaves_a_readable_record(tmp_path: Path, seconds: float) -> None:
    child = multiprocessing.get_context("fork").Process(target=train_forever, args=(tmp_path,))
    child.start()
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob("rank00000/schedule-*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(seconds)
    child.kill()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    found = TrainingRecord.open(tmp_path)
    assert not found.complete
    for kind in ("update", "features", "samples", "schedule"):
        for shard in found.shards(kind):
            assert shard.tensors()
    truth = recorded(tmp_path) if found.shards("schedule") else []
    assert truth or seconds == 0.0
    for first in range(0, len(truth) - 5, 6):
        assert sorted(row for step in truth[first : first + 6] for row in sum(step or [], [])) == list(range(N))


def test_a_plan_without_a_kind_does_not_record_it(tmp_path: Path) -> None:
    kinds: dict[str, Callable[[TrainingRecord], object]] = {
        "updates": lambda found: found.shards("update"),
        "features": lambda found: found.shards("features"),
        "samples": lambda found: found.shards("samples"),
        "schedule": lambda found: found.shards("schedule"),
    }
    for off in kinds:
        training = Training(tmp_path / off, plan=Plan(**{off: False}))
        with training.recorder() as rec:
            training.epochs(rec, 1)
        found = TrainingRecord.open(tmp_path / off)
        assert {name for name, shards in kinds.items() if shards(found)} == kinds.keys() - {off}


def test_the_packages_public_names_exist_and_others_do_not() -> None:
    assert {name: getattr(unlearn_hooks, name).__name__ for name in unlearn_hooks.__all__} == {
        name: name for name in unlearn_hooks.__all__
    }
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        unlearn_hooks.nothing  # noqa: B018  # asking is the test


def test_importing_the_package_does_not_import_torch() -> None:
    code = f"import sys; sys.path.insert(0, {str(HOOKS)!r}); import unlearn_hooks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
