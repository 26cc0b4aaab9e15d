import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.hooks.small_training import Net, Training
from unlearn_hooks import schedule as module
from unlearn_hooks.collector import Batch, Run, Step
from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.plan import Plan
from unlearn_hooks.schedule import Group, Schedule, ScheduleCollector, recorded_schedule
from unlearn_hooks.training_record import RecordWriter, TrainingRecord
from unlearn_hooks.updates import UpdatesCollector, recorded_updates


def train(folder: Path, steps: int = 10, **options: object) -> tuple[Training, Schedule]:
    training = Training(folder, [ScheduleCollector()], **options)
    return training, recorded_schedule(training.run(steps))


def rows_of(step: Step) -> list[list[int]]:
    return [batch.rows.tolist() for batch in step.batches]


@pytest.mark.parametrize("micro", [1, 3])
def test_every_step_is_read_back_as_it_was(tmp_path: Path, micro: int) -> None:
    training, schedule = train(tmp_path, micro=micro, skipped=(2, 7))
    assert schedule.steps == 10
    assert schedule.learning_rates.tolist() == [[0.1]] * 10
    assert schedule.batch_sizes.tolist() == [8] * 10
    assert schedule.epochs.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]
    assert schedule.skipped.nonzero().flatten().tolist() == [2, 7]
    for number, truth in enumerate(training.truth):
        assert [part.tolist() for part in schedule.micro_batches(number)] == rows_of(truth.step)
        assert schedule.rows(number).tolist() == sum(rows_of(truth.step), [])
    assert schedule.rows(10) is None
    assert schedule.rows(-1) is None


def test_steps_in_many_chunks_are_found_again_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 4)
    training, schedule = train(tmp_path, 11)
    assert len(list((tmp_path / "record" / "rank00000").glob("schedule-*"))) == 3
    for number in (10, 0, 7, 4, 3, 8, 1):
        assert schedule.rows(number).tolist() == training.truth[number].step.batches[0].rows.tolist()


def test_rows_are_left_out_when_the_plan_wants_only_those_of_recorded_updates(tmp_path: Path) -> None:
    _, schedule = train(tmp_path, plan=Plan(ids="recorded"))
    assert [schedule.rows(number) for number in range(10)] == [None] * 10
    assert schedule.batch_sizes.tolist() == [8] * 10


def test_unknown_rows_are_none_and_known_labels_still_count_the_batch(tmp_path: Path) -> None:
    _, schedule = train(tmp_path / "rows", rows_known=False)
    assert schedule.rows(0) is None
    assert schedule.batch_sizes.tolist() == [8] * 10
    _, schedule = train(tmp_path / "both", rows_known=False, labels_known=False)
    assert schedule.batch_sizes.tolist() == [-1] * 10


def feed(folder: Path, steps: list[Step]) -> Schedule:
    training = Training(folder, [ScheduleCollector()])
    training.start(steps[0].number)
    for step in steps:
        training.collectors[0].step(step, training.writer)
    training.flush()
    return recorded_schedule(training.record())


def test_a_step_with_one_unknown_micro_batch_is_unknown_as_a_whole(tmp_path: Path) -> None:
    rows = torch.arange(3)
    known, unknown = Batch(rows, rows), Batch(None, None)
    cases = [(known, unknown), (known, known), (), (unknown,), (known,)]
    schedule = feed(tmp_path, [Step(i, 0, batches, (0.1,), False) for i, batches in enumerate(cases)])
    assert [None if (r := schedule.rows(i)) is None else len(r) for i in range(5)] == [None, 6, None, None, 3]
    assert schedule.batch_sizes.tolist() == [-1, 6, -1, -1, 3]


def test_a_run_recorded_from_its_middle_or_with_a_gap_says_what_it_did_not_see(tmp_path: Path) -> None:
    batches = (Batch(torch.arange(4), None),)
    schedule = feed(tmp_path, [Step(number, 1, batches, (0.5,), False) for number in (3, 4, 7)])
    assert schedule.steps == 8
    assert schedule.learning_rates.isnan().flatten().tolist() == [True] * 3 + [False] * 2 + [True] * 2 + [False]
    assert schedule.batch_sizes.tolist() == schedule.epochs.where(schedule.epochs < 0, 4).tolist()
    assert [schedule.rows(number) is None for number in range(8)] == [True] * 3 + [False] * 2 + [True] * 2 + [False]


def test_a_group_added_during_training_has_no_rate_before_it(tmp_path: Path) -> None:
    rates = [(0.1,), (0.1,), (0.1, 0.2)]
    schedule = feed(tmp_path, [Step(i, 0, (), rate, False) for i, rate in enumerate(rates)])
    assert schedule.learning_rates[:, 0].tolist() == [0.1] * 3
    assert schedule.learning_rates[:, 1].isnan().tolist() == [True, True, False]


def two_groups(model: nn.Module) -> torch.optim.Optimizer:
    decayed, rest = list(model.head.parameters()), [*model.body.parameters(), *model.norm.parameters()]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": rest, "lr": 0.2}]
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)


def test_the_settings_of_sgd_are_read_back(tmp_path: Path) -> None:
    _, schedule = train(tmp_path, optimize=two_groups)
    head, rest = schedule.groups
    assert schedule.optimizer == "SGD"
    assert head == Group(names=("head.weight", "head.bias"), momentum=0.9, nesterov=True, weight_decay=0.01)
    assert rest.names == ("body.weight", "body.bias", "norm.weight", "norm.bias")
    assert rest.weight_decay == 0
    assert schedule.learning_rates[0].tolist() == [0.1, 0.2]


@pytest.mark.parametrize(("optimizer", "decoupled"), [(torch.optim.Adam, False), (torch.optim.AdamW, True)])
def test_the_settings_of_adam_say_whether_weight_decay_is_decoupled(
    tmp_path: Path, optimizer: type[torch.optim.Adam], decoupled: bool
) -> None:
    settings = {"lr": torch.tensor(0.1), "betas": (0.8, 0.9), "eps": 1e-6, "amsgrad": decoupled}
    _, schedule = train(tmp_path, optimize=lambda model: optimizer(model.parameters(), **settings))
    (group,) = schedule.groups
    assert (group.betas, group.eps, group.decoupled, group.amsgrad) == ((0.8, 0.9), 1e-6, decoupled, decoupled)
    assert schedule.optimizer == optimizer.__name__


def test_the_settings_are_written_once_and_again_when_they_change(tmp_path: Path) -> None:
    training = Training(tmp_path, [ScheduleCollector()])
    training.start()
    training.steps(0, 3).flush()
    training.steps(3, 6).flush()
    assert ["groups" in shard.meta for shard in training.record().shards("schedule")] == [True, False]
    training.optimizer.param_groups[0]["momentum"] = 0.5
    training.steps(6, 8).flush()
    history = recorded_schedule(training.record()).history
    assert [(first, groups[0].momentum) for first, groups in history] == [(0, 0.9), (6, 0.5)]
    assert recorded_schedule(training.record()).groups == history[-1][1]


def test_changed_learning_rates_are_those_of_their_step(tmp_path: Path) -> None:
    training = Training(tmp_path, [ScheduleCollector()])
    training.start()
    for number in range(5):
        training.optimizer.param_groups[0]["lr"] = 0.1 / (number + 1)
        training.steps(number, number + 1)
    training.flush()
    assert recorded_schedule(training.record()).learning_rates[:, 0].tolist() == [0.1 / n for n in range(1, 6)]


@pytest.mark.parametrize(("crash", "back"), [(9, 6), (7, 7), (5, 0)])
def test_a_resumed_run_has_every_step_once(tmp_path: Path, crash: int, back: int) -> None:
    training = Training(tmp_path, [ScheduleCollector()])
    training.start()
    training.steps(0, back).flush()
    training.steps(back, crash).flush()
    training.writer.rewind(back)
    training.start(back)
    training.steps(back, 12).flush()
    schedule = recorded_schedule(training.record())
    assert schedule.steps == 12
    assert schedule.epochs.tolist() == [number // 3 for number in range(12)]
    for epoch in range(4):
        assert sorted(torch.cat([schedule.rows(3 * epoch + i) for i in range(3)]).tolist()) == list(range(24))
    assert len(schedule.history) == 1


def test_what_was_not_written_is_kept_until_the_disk_is_ready(tmp_path: Path) -> None:
    class Busy(RecordWriter):
        busy = True

        def append(self, *args: object, **options: object) -> object:
            return None if self.busy else super().append(*args, **options)

    training = Training(tmp_path, [ScheduleCollector()])
    training.writer = Busy(tmp_path / "record")
    training.start()
    training.steps(0, 4).flush()
    training.writer.busy = False
    training.steps(4, 6).flush()
    assert recorded_schedule(training.record()).epochs.tolist() == [0, 0, 0, 1, 1, 1]


def test_the_order_agrees_with_the_recorded_updates(tmp_path: Path) -> None:
    training = Training(tmp_path, [UpdatesCollector(), ScheduleCollector()])
    record = training.run(30)
    schedule = recorded_schedule(record)
    for update in recorded_updates(record):
        assert torch.equal(update.rows, schedule.rows(update.step))
        assert update.learning_rates == tuple(schedule.learning_rates[update.step].tolist())


def test_a_record_without_schedule_is_an_error_that_says_how_to_get_one(tmp_path: Path) -> None:
    record = Training(tmp_path, []).run(1)
    with pytest.raises(UnlearnError, match=r"Plan\(schedule=True\)"):
        recorded_schedule(record)


def test_only_parameters_of_the_run_are_named(tmp_path: Path) -> None:
    model = Net()
    named: dict[str, Tensor] = {"head.weight": model.head.weight}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    collector = ScheduleCollector()
    collector.start(Run(model, optimizer, Plan(), named), 0)
    training = Training(tmp_path, [])
    collector.step(Step(0, 0, (), (0.1,), False), training.writer)
    collector.flush(training.writer)
    assert recorded_schedule(training.record()).groups[0].names == ("head.weight",)


def test_the_batches_of_all_processes_make_the_step(tmp_path: Path) -> None:
    rows = {0: torch.arange(4), 1: torch.arange(4, 10)}
    for rank, count in ((0, 3), (1, 4)):  # the second one is a step ahead when the run is killed
        training = Training(tmp_path, [ScheduleCollector()])
        training.writer = RecordWriter(tmp_path / "record", rank=rank)
        training.start()
        for number in range(count):
            known = rows[rank] if (rank, number) != (1, 2) else None
            training.collectors[0].step(Step(number, 0, (Batch(known, None),), (0.1,), False), training.writer)
        training.flush()
    (tmp_path / "record" / "manifest.json").write_text(json.dumps({"schema": 1, "world": 2}))
    schedule = recorded_schedule(TrainingRecord.open(tmp_path / "record"))
    assert (schedule.steps, schedule.batch_sizes.tolist()) == (3, [10, 10, -1])
    assert [part.tolist() for part in schedule.micro_batches(1)] == [rows[0].tolist(), rows[1].tolist()]
    assert schedule.rows(2) is None
