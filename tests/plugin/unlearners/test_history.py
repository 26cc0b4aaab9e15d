from pathlib import Path

import pytest
import torch

from tests.plugin.unlearners.trained_runs import BATCH, FORGET, ROWS, RecordedRun, others
from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.plan import Plan
from unlearn_hooks.schedule import Group
from unlearn_plugin.data import Samples
from unlearn_plugin.unlearners._history import History, rule_of

STEPS_PER_EPOCH = ROWS // BATCH


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RecordedRun:
    return RecordedRun(tmp_path_factory.mktemp("run") / "record", epochs=4)


def read(run: RecordedRun, window: int | None = None, parameters: str = "*") -> History:
    return History.read(run.record, window=window, parameters=parameters)


def test_sgd_and_adam_have_one_form() -> None:
    sgd = rule_of(Group(names=(), momentum=0.9, dampening=0.5, weight_decay=0.1), "SGD")
    assert (sgd.momentum, sgd.dampening, sgd.weight_decay, sgd.bias_corrected) == (0.9, 0.5, 0.1, False)
    assert sgd.gain == pytest.approx(5.0)
    adam = rule_of(Group(names=(), betas=(0.8, 0.99), weight_decay=0.1, decoupled=True), "AdamW")
    assert (adam.momentum, adam.dampening, adam.decoupled, adam.bias_corrected) == (0.8, 0.8, True, True)
    assert adam.second == 0.99
    held = rule_of(Group(names=(), betas=(0.8, 0.99), amsgrad=True), "Adam")
    assert held.second is None
    assert adam.gain == pytest.approx(1.0)


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(UnlearnError, match="Lion, whose steps mini does not know; it knows SGD, Adam, AdamW"):
        rule_of(Group(names=()), "Lion")


def test_a_run_recorded_step_by_step_is_consecutive_and_so_is_its_end(run: RecordedRun) -> None:
    whole, end = read(run), read(run, window=3)
    total = 4 * STEPS_PER_EPOCH
    assert whole.consecutive
    assert [update.step for update in end.updates] == [total - 3, total - 2, total - 1]
    assert end.consecutive
    assert end.stops == (total - 2, total - 1, total)
    on_disk = sum(file.stat().st_size for file in run.folder.rglob("update*.safetensors"))
    assert 0 < end.bytes_read < whole.bytes_read == on_disk


def test_each_sparse_step_stands_for_all_up_to_the_next(run: RecordedRun) -> None:
    sparse = read(run).thinned(4)
    assert [update.step for update in sparse.updates] == [0, 5, 10, 15]
    assert sparse.stops == (5, 10, 15, 20)
    assert not sparse.consecutive
    assert read(run).thinned(99).stops == read(run).stops


def test_times_add_up_rates_and_gain_and_leave_skipped_steps_out(run: RecordedRun) -> None:
    history = read(run)
    times = history.times(5, 15)
    assert times == pytest.approx({"1.weight": 10 * 0.01 / (1 - 0.9), "1.bias": 10 * 0.01 / (1 - 0.9)})
    assert history.rates(3) == pytest.approx({"1.weight": 0.01, "1.bias": 0.01})
    history.schedule.skipped[3] = True
    assert history.rates(3) == {"1.weight": 0.0, "1.bias": 0.0}
    history.schedule.skipped[3] = False


def test_batches_are_split_into_f_and_the_rest_in_recorded_order(run: RecordedRun) -> None:
    batches = read(run).batches(Samples(run.data, FORGET), Samples(run.data, others(FORGET)))
    assert batches is not None
    for (forget, retain), rows in zip(batches, run.batches, strict=True):
        inside = torch.isin(rows, FORGET)
        assert torch.equal(forget.rows, rows[inside])
        assert torch.equal(retain.rows, rows[~inside])


def test_a_batch_with_samples_that_are_not_at_hand_makes_all_unknown(run: RecordedRun) -> None:
    assert read(run).batches(Samples(run.data, FORGET), Samples(run.data, others(FORGET)[:-1])) is None


def test_parameters_are_chosen_by_pattern(run: RecordedRun) -> None:
    assert set(read(run).rules) == {"1.weight", "1.bias"}
    assert set(read(run, parameters="*.bias").rules) == {"1.bias"}
    assert set(read(run, parameters="nothing, 1.w*").rules) == {"1.weight"}
    with pytest.raises(UnlearnError, match="fits none of the 2 recorded parameters.*1.bias, 1.weight"):
        read(run, parameters="nothing")


def test_adams_first_steps_can_be_left_out(tmp_path: Path) -> None:
    run = RecordedRun(tmp_path / "record", kind=torch.optim.Adam, settings={"lr": 0.01, "betas": (0.8, 0.99)}, epochs=4)
    assert [history.updates[0].step for history in (read(run), read(run).settled())] == [0, 5]
    short = RecordedRun(tmp_path / "short", kind=torch.optim.Adam, settings={"lr": 0.01}, epochs=1)
    assert read(short).settled().updates[0].step == 0  # nothing would be left


def test_a_record_of_nothing_is_refused(tmp_path: Path) -> None:
    run = RecordedRun(tmp_path / "record", plan=Plan(updates=False), epochs=1)
    with pytest.raises(UnlearnError, match="holds no recorded steps"):
        read(run)
