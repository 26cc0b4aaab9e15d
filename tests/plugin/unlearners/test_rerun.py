import pytest
import torch
from torch import nn

from tests.conftest import fresh_net
from tests.plugin.unlearners.live_runs import FORGET, ROWS, LiveRun, same
from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.unlearners._rerun import Recipe, RecordedRun, Rerun, find_optimizer, plain_loss
from unlearn_plugin.unlearners._training_data import TrainingData

NOTHING = torch.empty(0, dtype=torch.int64)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> LiveRun:
    return LiveRun(tmp_path_factory.mktemp("run") / "record", epochs=3, accumulate=2).recorded()


def rerun(run: LiveRun, model: nn.Module, **changes: object) -> Rerun:
    evidence = run.evidence()
    recipe = Recipe(**{"optimizer": torch.optim.SGD, "loss": plain_loss(), "divisor": 2, **changes})
    return Rerun(
        model, RecordedRun.read(run.record()), TrainingData.of_samples(run.record(), evidence.forget, evidence.retain),
        recipe, accelerator=evidence.accelerator, progress=evidence.progress,
    )  # fmt: skip


def test_with_nothing_left_out_it_is_the_recorded_run(run: LiveRun) -> None:
    model = fresh_net(1).eval()
    recorded = RecordedRun.read(run.record())
    counts = rerun(run, model).go(recorded.snapshots[0], recorded.schedule.steps, NOTHING)
    assert same(model, run.model)
    assert (counts.steps, counts.emptied) == (recorded.schedule.steps, 0)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_another_divisor_is_another_run(run: LiveRun) -> None:
    model, recorded = fresh_net(1), RecordedRun.read(run.record())
    rerun(run, model, divisor=1).go(recorded.snapshots[0], 2, NOTHING)
    other = fresh_net(1)
    rerun(run, other).go(recorded.snapshots[0], 2, NOTHING)
    assert not same(model, other)


def test_it_goes_as_far_as_asked_and_begins_anew_each_time(run: LiveRun) -> None:
    recorded = RecordedRun.read(run.record())
    model = fresh_net(1)
    again = rerun(run, model)
    again.go(recorded.snapshots[0], 3, FORGET)
    first = {name: value.clone() for name, value in model.state_dict().items()}
    again.go(recorded.snapshots[0], 5, FORGET)
    again.go(recorded.snapshots[0], 3, FORGET)
    assert all(torch.equal(value, first[name]) for name, value in model.state_dict().items())


def test_the_order_says_who_was_seen_when(run: LiveRun) -> None:
    recorded = RecordedRun.read(run.record())
    assert recorded.rows() == set(range(ROWS))
    rows = recorded.micro_batches(1)[0][:1]
    assert recorded.first_seen(rows) == 1
    assert recorded.first_seen(torch.tensor([ROWS + 5])) is None
    steps = recorded.schedule.steps
    assert recorded.samples(0, steps, NOTHING) - recorded.samples(0, steps, FORGET) == 3 * len(FORGET)


def test_micro_batches_are_those_of_the_passes(run: LiveRun) -> None:
    """Five batches an epoch, two a step; the fifth one is a step of its own that was thrown away."""
    recorded = RecordedRun.read(run.record())
    passes = list(recorded.passes_from(0, NOTHING))
    assert [len(batches) for _, batches in passes] == [5, 5, 5]
    assert [batch.last for batch in passes[0][1]] == [False, True, False, True, True]
    later = list(recorded.passes_from(passes[1][0].step, FORGET))
    assert [begun.number for begun, _ in later] == [1, 2]
    assert not any(bool(torch.isin(batch.rows, FORGET).any()) for _, batches in later for batch in batches)


def test_the_optimizer_is_torchs_own_or_what_was_named() -> None:
    assert find_optimizer("torch.optim.adamw.AdamW", None) is torch.optim.AdamW
    assert find_optimizer("elsewhere.Ours", "torch.optim:SGD") is torch.optim.SGD
    for recorded, given, words in (
        ("elsewhere.Ours", None, "-o optimizer=elsewhere:Ours"),
        ("torch.optim.sgd.Nothing", None, "none of torch's own"),
        ("x", "torch.nn:Linear", "none of torch's own"),
        ("torch.optim.lbfgs.LBFGS", None, "take retrain"),
    ):
        with pytest.raises(UnlearnError, match=words):
            find_optimizer(recorded, given)


def test_a_model_of_other_shape_is_refused(run: LiveRun) -> None:
    other = fresh_net(1)
    other[-1] = nn.Linear(256, 7)
    with pytest.raises(UnlearnError, match=r"2 of the recorded tensors do not fit the model, such as '8.bias'"):
        rerun(run, other).go(RecordedRun.read(run.record()).snapshots[0], 1, NOTHING)


def test_smoothing_is_that_of_torch() -> None:
    model, labels = nn.Linear(2, 3), torch.tensor([0, 2])
    images = torch.randn(2, 2)
    expected = nn.functional.cross_entropy(model(images), labels, label_smoothing=0.3)
    assert torch.equal(plain_loss(0.3)(model, images, labels), expected)
