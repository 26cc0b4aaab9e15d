import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from tests.hooks.small_training import Net, Training, gradient
from unlearn_hooks import updates as module
from unlearn_hooks.collector import Step
from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.plan import Plan, stride
from unlearn_hooks.training_record import RecordWriter, TrainingRecord
from unlearn_hooks.updates import Update, UpdatesCollector, recorded_updates

EXACT = Plan(steps=None, weights_dtype="native", gradient_dtype="native")


def train(folder: Path, plan: Plan = EXACT, steps: int = 10, **options: object) -> tuple[Training, list[Update]]:
    training = Training(folder, [UpdatesCollector()], plan, **options)
    return training, recorded_updates(training.run(steps))


def numbers(record: TrainingRecord) -> list[int]:
    return [update.step for update in recorded_updates(record)]


def journal(folder: Path, event: str) -> list[dict[str, object]]:
    lines = (folder / "record" / "rank00000" / "journal.jsonl").read_text().splitlines()
    return [entry for line in lines if (entry := json.loads(line.split(" ", 1)[1]))["event"] == event]


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)


@pytest.mark.parametrize("micro", [1, 3])
def test_a_pair_is_the_weights_before_the_step_and_the_gradient_that_was_applied(tmp_path: Path, micro: int) -> None:
    training, updates = train(tmp_path, micro=micro)
    assert [update.step for update in updates] == list(range(10))
    for update, truth in zip(updates, training.truth, strict=True):
        assert same(update.weights(), truth.weights)
        assert same(update.gradient(), truth.gradient)
        assert (update.epoch, update.learning_rates) == (truth.step.epoch, (0.1,))
        assert [part.tolist() for part in update.micro_batches()] == [b.rows.tolist() for b in truth.step.batches]
        assert update.rows.tolist() == sum((b.rows.tolist() for b in truth.step.batches), [])
        assert update.preconditioner() is None


def test_the_gradient_can_be_computed_again_from_the_recorded_weights_and_rows(tmp_path: Path) -> None:
    _, updates = train(tmp_path, Plan(steps=3, gradient_dtype="fp32"))
    for update in updates:
        model = Net().train()
        model.load_state_dict(update.weights())
        again = gradient(model, update.rows)
        assert all(torch.allclose(update.gradient()[name], again[name], atol=1e-6) for name in again)


def test_weights_include_the_state_that_is_no_parameter_but_no_constants(tmp_path: Path) -> None:
    _, updates = train(tmp_path)
    assert int(updates[4].weights()["norm.num_batches_tracked"]) == 4
    assert updates[4].weights().keys() == Net().state_dict().keys()


def test_a_buffer_that_the_model_replaces_is_found_again(tmp_path: Path) -> None:
    class Centred(Net):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(1))

        def features(self, images: Tensor) -> Tensor:
            self.seen = self.seen + 1
            return super().features(images)

    _, updates = train(tmp_path, model=Centred())
    assert [float(update.weights()["seen"]) for update in updates] == list(range(10))


def test_sgd_with_momentum_can_be_replayed_from_the_record(tmp_path: Path) -> None:
    training, updates = train(tmp_path)
    velocity = {name: torch.zeros_like(p) for name, p in training.model.named_parameters()}
    for now, then in zip(updates, updates[1:], strict=False):
        for name, g in now.gradient().items():
            velocity[name] = 0.9 * velocity[name] + g + 1e-2 * now.weights()[name]
            expected = now.weights()[name] - now.learning_rates[0] * velocity[name]
            assert torch.allclose(then.weights()[name], expected, atol=1e-6)


@pytest.mark.parametrize("amsgrad", [False, True])
def test_adamw_can_be_replayed_from_the_gradients_and_the_preconditioner(tmp_path: Path, amsgrad: bool) -> None:
    def optimize(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1, amsgrad=amsgrad)

    training, updates = train(tmp_path, optimize=optimize)
    mean = {name: torch.zeros_like(p) for name, p in training.model.named_parameters()}
    for now, then in zip(updates, updates[1:], strict=False):
        for name, g in now.gradient().items():
            mean[name] = 0.9 * mean[name] + 0.1 * g
            direction = mean[name] / (1 - 0.9 ** (now.step + 1)) / now.preconditioner()[name]
            expected = now.weights()[name] * (1 - 0.01 * 0.1) - 0.01 * direction
            assert torch.allclose(then.weights()[name], expected, atol=1e-6)


def test_the_preconditioner_is_fp32_and_fp64_only_for_fp64_weights(tmp_path: Path) -> None:
    for dtype in (torch.float32, torch.float64):
        _, updates = train(tmp_path / str(dtype), Plan(), 3, optimize=adamw, model=Net(dtype))
        assert {root.dtype for root in updates[-1].preconditioner().values()} == {dtype}


def test_dtypes_follow_the_plan(tmp_path: Path) -> None:
    cases = {"bf16": torch.bfloat16, "fp32": torch.float32, "native": torch.float64}
    for name, dtype in cases.items():
        plan = Plan(weights_dtype=name, gradient_dtype=name)
        _, (update, *_) = train(tmp_path / name, plan, 2, model=Net(torch.float64))
        assert {g.dtype for g in update.gradient().values()} == {dtype}
        assert update.weights()["body.weight"].dtype == dtype
        assert update.weights()["norm.running_var"].dtype == torch.float64


@pytest.mark.parametrize("scale", [1.0, 1e-8, 1e6])
def test_bf16_gradients_are_off_by_1_6e_3_at_every_scale(tmp_path: Path, scale: float) -> None:
    def optimize(model: nn.Module) -> torch.optim.Optimizer:
        for parameter in model.parameters():
            parameter.register_hook(lambda g: g * scale)
        return torch.optim.SGD(model.parameters(), lr=1e-3 / scale)

    training, updates = train(tmp_path, Plan(steps=None), 12, optimize=optimize)
    truth = torch.cat([t.gradient[name].flatten() for t in training.truth for name in sorted(t.gradient)])
    read = torch.cat([u.gradient()[name].flatten().float() for u in updates for name in sorted(u.gradient())])
    assert 1.2e-3 < float((read - truth).norm() / truth.norm()) < 2.1e-3


INT8 = Plan(steps=None, weights_dtype="int8", gradient_dtype="int8")


def test_int8_is_off_by_half_the_scale_of_a_block_at_most_and_buffers_stay_as_they_are(tmp_path: Path) -> None:
    training, updates = train(tmp_path, INT8)
    for update, truth in zip(updates, training.truth, strict=True):
        for read, real in ((update.weights(), truth.weights), (update.gradient(), truth.gradient)):
            assert read.keys() == real.keys()
            for name, value in real.items():
                exact = name.startswith("norm.running") or name.endswith("tracked")
                bound = 0.0 if exact else 0.5001 / 127 * float(value.abs().max())
                assert float((read[name] - value).abs().max()) <= bound


def test_int8_takes_a_quarter_of_the_bytes_and_the_budget_counts_them_so(tmp_path: Path) -> None:
    sizes = {}
    for dtype in ("fp32", "int8"):
        model = Net()
        model.body, model.norm, model.head = nn.Linear(6, 5000), nn.Identity(), nn.Linear(5000, 3)
        plan = Plan(steps=1, weights_dtype=dtype, gradient_dtype=dtype)
        training = Training(tmp_path / dtype, [UpdatesCollector()], plan, model=model)
        training.run(1)
        (file,) = (tmp_path / dtype).rglob("update*.safetensors")
        sizes[dtype] = file.stat().st_size
        assert sum(map(training.collectors[0]._bytes, model.parameters())) == pytest.approx(sizes[dtype], rel=0.05)
    assert 0.25 < sizes["int8"] / sizes["fp32"] < 0.29


def test_thinning_and_going_on_from_a_checkpoint_change_nothing_in_int8_steps(tmp_path: Path) -> None:
    """A step that is kept reads as in a run that kept all: nothing of it lies in a step that was dropped."""
    _, everything = train(tmp_path / "all", INT8, 24)
    plan = Plan(steps=3, weights_dtype="int8", gradient_dtype="int8")
    training = Training(tmp_path / "few", [UpdatesCollector()], plan)
    training.start()
    training.steps(0, 10).flush()
    training.collectors = [UpdatesCollector()]
    training.start(10)
    training.steps(10, 24).flush()
    few = recorded_updates(training.record())
    assert [update.step for update in few] == [0, 8, 16]
    for update in few:
        assert same(update.weights(), everything[update.step].weights())
        assert same(update.gradient(), everything[update.step].gradient())


def test_a_parameter_without_gradient_is_absent_and_not_zero(tmp_path: Path) -> None:
    class Unused(Net):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Linear(2, 2)
            self.body.bias.requires_grad_(False)

    _, (update, *_) = train(tmp_path, model=Unused(), optimize=adamw)
    missing = {"unused.weight", "unused.bias", "body.bias"}
    assert update.weights().keys() >= missing
    assert not missing & update.gradient().keys()
    assert update.gradient().keys() == update.preconditioner().keys()


def test_a_skipped_step_is_never_recorded(tmp_path: Path) -> None:
    _, updates = train(tmp_path, Plan(steps=None, tail=3), skipped=(0, 4, 9))
    assert [update.step for update in updates] == [1, 2, 3, 5, 6, 7, 8]


def test_unknown_rows_are_read_as_none(tmp_path: Path) -> None:
    _, updates = train(tmp_path, rows_known=False)
    assert [update.rows for update in updates] == [None] * 10
    assert updates[0].micro_batches() is None


def test_rows_of_a_step_are_unknown_if_those_of_one_micro_batch_are(tmp_path: Path) -> None:
    training = Training(tmp_path, [UpdatesCollector()], EXACT, micro=2)
    training.start()
    training.rows_known = False
    training.steps(0, 1)
    half = training.truth[0].step
    training.rows_known = True
    training.steps(1, 2)
    known = training.truth[1].step
    mixed = type(known)(2, 0, (half.batches[0], known.batches[0]), (0.1,), False)
    training.collectors[0].step(mixed, training.writer)
    training.flush()
    assert [update.rows is None for update in recorded_updates(training.record())] == [True, False, True]


@given(steps=st.integers(0, 10**6), keep=st.integers(1, 500))
def test_between_k_and_2k_evenly_spread_steps_are_held_whatever_the_length(steps: int, keep: int) -> None:
    k = stride(steps, keep)
    held = len(range(0, steps, k))
    assert min(steps, keep) <= held < 2 * keep
    assert k == 1 or len(range(0, steps, k // 2)) >= 2 * keep  # no coarser than it must be
    assert stride(steps + 1, keep) in (k, 2 * k)


@pytest.mark.parametrize("steps", [1, 5, 6, 7, 11, 12, 13, 50, 96, 100])
@pytest.mark.parametrize("keep", [1, 3, 6])
def test_the_steps_on_disk_are_evenly_spread_for_every_length(tmp_path: Path, steps: int, keep: int) -> None:
    training, updates = train(tmp_path, Plan(steps=keep), steps)
    assert [update.step for update in updates] == list(range(0, steps, stride(steps, keep)))
    assert len(list((tmp_path / "record" / "rank00000").glob("update-*"))) == len(updates)
    thinned = [entry["every"] for entry in journal(tmp_path, "updates_thinned")]
    assert thinned == [2**i for i in range(1, len(thinned) + 1)]
    for update in updates:
        truth = training.truth[update.step]
        assert same(update.weights(), truth.weights)
        assert same(update.gradient(), {name: g.bfloat16() for name, g in truth.gradient.items()})


def test_the_last_steps_are_kept_besides_and_only_those_of_the_last_flush(tmp_path: Path) -> None:
    training = Training(tmp_path, [UpdatesCollector()], Plan(steps=2, tail=3, gradient_dtype="native"))
    training.start()
    training.steps(0, 22).flush()
    assert numbers(training.record()) == [0, 8, 16, 19, 20, 21]
    training.steps(22, 24).flush()
    assert numbers(training.record()) == [0, 8, 16, 21, 22, 23]
    training.steps(24, 27).flush()
    training.flush()
    updates = recorded_updates(training.record())
    assert [update.step for update in updates] == [0, 16, 24, 25, 26]
    assert all(same(u.weights(), training.truth[u.step].weights) for u in updates)
    assert all(same(u.gradient(), training.truth[u.step].gradient) for u in updates)


@pytest.mark.parametrize("plan", [Plan(steps=12), Plan(steps=None), Plan(steps=12, tail=3)])
def test_the_bytes_stay_within_the_budget_and_the_journal_says_what_had_to_shrink(tmp_path: Path, plan: Plan) -> None:
    size = sum(p.numel() for p in Net().parameters()) * 6 + 48  # fp32 weights, bf16 gradients, 5 + 5 + 1 buffer values
    plan = Plan(steps=plan.steps, tail=plan.tail, budget=11 * size)
    training = Training(tmp_path, [UpdatesCollector()], plan)
    record = training.run(40)
    keep = (11 - plan.tail) // 2
    held = set(range(0, 40, stride(40, keep))) | set(range(40 - plan.tail, 40))
    assert numbers(record) == sorted(held)
    written = sum(t.nbytes for u in recorded_updates(record) for t in [*u.weights().values(), *u.gradient().values()])
    assert written <= 11 * size
    notes = journal(tmp_path, "updates_limited")
    assert [(note["budget"], note["steps"]) for note in notes] == ([] if plan.steps is None else [(11 * size, keep)])


def test_parameters_narrow_to_the_last_ones_when_not_even_one_step_fits(tmp_path: Path) -> None:
    training = Training(tmp_path, [UpdatesCollector()], Plan(budget=2 * 6 * (15 + 3 + 5) + 20))
    record = training.run(5)
    (update,) = recorded_updates(record)
    assert update.weights().keys() == update.gradient().keys() == {"head.bias", "head.weight", "norm.bias"}
    (note,) = journal(tmp_path, "updates_limited")
    assert (note["steps"], note["parameters"]) == (1, ["norm.bias", "head.weight", "head.bias"])


def test_a_budget_for_nothing_records_nothing_and_says_so(tmp_path: Path) -> None:
    training = Training(tmp_path, [UpdatesCollector()], Plan(budget=1))
    assert recorded_updates(training.run(5)) == []
    assert [note["parameters"] for note in journal(tmp_path, "updates_limited")] == [[]]


def test_the_preconditioner_counts_towards_the_budget(tmp_path: Path) -> None:
    pair = sum(p.numel() for p in Net().parameters()) * 6 + 48
    for name, optimize, held in (("sgd", None, 9), ("adam", adamw, 5)):
        options = {} if optimize is None else {"optimize": optimize}
        _, updates = train(tmp_path / name, Plan(steps=None, budget=10 * pair), 9, **options)
        assert len(updates) == held


def test_patterns_choose_the_parameters_and_must_fit_one(tmp_path: Path) -> None:
    _, (update, *_) = train(tmp_path, Plan(parameters=("head.*", "body.bias")))
    assert update.gradient().keys() == {"body.bias", "head.weight", "head.bias"}
    with pytest.raises(UnlearnError, match=r"\('tail\.\*',\).*head\.bias"):
        Training(tmp_path / "wrong", [UpdatesCollector()], Plan(parameters=("tail.*",))).start()


def test_weights_changed_after_the_last_step_are_copied_again(tmp_path: Path) -> None:
    training = Training(tmp_path, [UpdatesCollector()], EXACT)
    training.start()
    other = Net().state_dict()
    training.model.load_state_dict({name: tensor + 1 for name, tensor in other.items()})  # a checkpoint, after start
    training.steps(0, 2)
    with torch.no_grad():
        training.model.head.weight.clamp_(-0.1, 0.1)  # a projection, between two steps
    training.steps(2, 3).flush()
    names = dict(training.model.named_parameters())
    for update, truth in zip(recorded_updates(training.record()), training.truth, strict=True):
        assert all(torch.equal(update.weights()[name], truth.weights[name]) for name in names)


@pytest.mark.parametrize(("crash", "back"), [(9, 6), (30, 12), (30, 29), (24, 24), (13, 0)])
def test_a_resumed_run_holds_the_steps_of_a_straight_one(tmp_path: Path, crash: int, back: int) -> None:
    plan = Plan(steps=4, tail=2, gradient_dtype="native")
    training = Training(tmp_path, [UpdatesCollector()], plan)
    training.start()
    training.steps(0, back).flush()
    training.steps(back, crash)
    training.writer.rewind(back)
    training.start(back)
    training.steps(back, 60).flush()
    updates = recorded_updates(training.record())
    assert [update.step for update in updates] == sorted({*range(0, 60, stride(60, 4)), 58, 59})
    second = {truth.step.number: truth for truth in training.truth}  # the later attempt overwrites the first
    assert all(same(update.gradient(), second[update.step].gradient) for update in updates)


def test_a_shard_is_read_when_it_is_asked_for_and_once(tmp_path: Path) -> None:
    _, (first, second, *_) = train(tmp_path)
    weights = first.weights()
    for file in (tmp_path / "record" / "rank00000").glob("update-*"):
        file.unlink()
    assert same(first.weights(), weights)
    assert len(first.rows) == 8
    with pytest.raises(UnlearnError, match="cannot be read"):
        second.gradient()


class Busy(RecordWriter):
    busy = True

    def append(self, *args: object, **options: object) -> object:
        return None if self.busy else super().append(*args, **options)


def on_disk(training: Training) -> list[int]:
    return [shard.first for shard in training.writer.shards("update")]


def test_steps_wait_in_memory_and_are_written_when_a_checkpoint_is_made(tmp_path: Path) -> None:
    training = Training(tmp_path, [UpdatesCollector()], Plan(steps=3))
    training.start()
    training.steps(0, 9)
    assert on_disk(training) == []
    training.flush()
    assert on_disk(training) == [0, 2, 4, 6, 8]
    training.steps(9, 15)
    assert on_disk(training) == [0, 4, 8]  # what is dropped later on is dropped from the disk, too
    training.flush()
    assert on_disk(training) == [0, 4, 8, 12]


def test_at_epoch_ends_they_are_written_once_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    training = Training(tmp_path, [UpdatesCollector()], Plan(steps=3))
    training.start()
    (collector,) = training.collectors
    training.steps(0, 3)
    collector.epoch_end(training.writer)
    assert on_disk(training) == []
    now[0] += 61
    collector.epoch_end(training.writer)
    assert on_disk(training) == [0, 1, 2]
    training.steps(3, 5)
    collector.epoch_end(training.writer)
    assert on_disk(training) == [0, 1, 2]


def test_when_memory_is_short_the_steps_that_are_kept_longest_are_written_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(tmp_path, [UpdatesCollector()], Plan(steps=4))
    training.start()
    training.steps(0, 1)
    (collector,) = training.collectors
    monkeypatch.setattr(module, "_MOST_IN_MEMORY", 3 * collector._waiting[0].bytes)
    training.steps(1, 7)
    assert on_disk(training) == [0, 2, 4, 6]
    training.flush()
    updates = recorded_updates(training.record())
    assert [update.step for update in updates] == [0, 1, 2, 3, 4, 5, 6]
    assert all(same(update.weights(), training.truth[update.step].weights) for update in updates)


def test_memory_is_used_again_and_never_while_something_waits_in_it(tmp_path: Path) -> None:
    training = Training(tmp_path, [UpdatesCollector()], Plan(steps=3, gradient_dtype="native", tail=2))
    training.start()
    (collector,) = training.collectors
    seen = set()
    for step in range(60):
        training.steps(step, step + 1)
        seen |= {copies.block.data_ptr() for pair in collector._waiting.values() for copies in pair.copies}
        assert all(
            torch.equal(copies.tensors[name], truth[name.split("/")[1]])
            for number, pair in collector._waiting.items()
            for copies, truth in zip(
                pair.copies, (training.truth[number].weights, training.truth[number].gradient), strict=True
            )
            for name in copies.tensors
        )
    assert len(seen) <= 2 * (2 * 3 + 2 + 1)


@pytest.mark.parametrize(("room", "held"), [(100, [0, 4, 8, 12]), (2, [0, 8])])
def test_while_the_disk_is_too_slow_the_steps_that_are_kept_longest_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, held: list[int]
) -> None:
    training = Training(tmp_path, [UpdatesCollector()], Plan(steps=3))
    training.writer = Busy(tmp_path / "record")
    training.start()
    training.steps(0, 1)
    monkeypatch.setattr(module, "_MOST_IN_MEMORY", room * training.collectors[0]._waiting[0].bytes)
    training.steps(1, 13)
    training.writer.busy = False
    training.flush()
    training.flush()
    updates = recorded_updates(training.record())
    assert [update.step for update in updates] == held
    assert all(same(update.weights(), training.truth[update.step].weights) for update in updates)


def test_processes_write_the_weights_once_and_all_their_rows(tmp_path: Path) -> None:
    rows, truth = {}, {}
    for rank in (1, 0):
        training = Training(tmp_path, [UpdatesCollector()], EXACT, micro=2)
        training.writer = RecordWriter(tmp_path / "record", rank=rank)
        training.start()
        training.steps(0, 4 + rank).flush()  # the second one is a step ahead when the run is killed
        rows[rank] = [batch.rows.tolist() for batch in training.truth[3].step.batches]
        truth = training.truth
    (tmp_path / "record" / "manifest.json").write_text(json.dumps({"schema": 1, "world": 2}))
    updates = recorded_updates(TrainingRecord.open(tmp_path / "record"))
    assert [update.step for update in updates] == [0, 1, 2, 3]
    assert [part.tolist() for part in updates[3].micro_batches()] == rows[0] + rows[1]
    assert same(updates[3].weights(), truth[3].weights)
    sizes = [sum(f.stat().st_size for f in (tmp_path / "record").glob(f"rank0000{rank}/update-*")) for rank in (0, 1)]
    assert sizes[1] < sizes[0] / 2


def test_sharded_parameters_are_not_recorded_and_the_journal_says_so(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        training = Training(tmp_path, [UpdatesCollector()])
        torch.distributed.fsdp.fully_shard(training.model, mesh=init_device_mesh("cpu", (1,)))
        training.optimizer = torch.optim.SGD(training.model.parameters(), lr=0.1)
        training.start()
        training.collectors[0].step(Step(0, 0, (), (0.1,), False), training.writer)
        training.flush()
    finally:
        torch.distributed.destroy_process_group()
    assert recorded_updates(training.record()) == []
    assert [note["reason"] for note in journal(tmp_path, "updates_limited")] == [
        "parameters are sharded over processes"
    ]
