import copy
import math

import pytest
import torch

from tests.conftest import World
from tests.plugin.unlearners.trained_runs import FORGET, ROWS, RecordedRun, others
from unlearn_plugin.data import Samples
from unlearn_plugin.unlearners._correction import Settings, _Fading, _Remembered, _Walk, correct
from unlearn_plugin.unlearners._history import History
from unlearn_plugin.unlearners._recursion import Rule, norm

PLAIN = Settings(
    curvature="none", contraction=None, steps=24, iterations=5, curvature_samples=32, batch_size=64, batches=1
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RecordedRun:
    return RecordedRun(tmp_path_factory.mktemp("run") / "record", epochs=4)


def walk(run: RecordedRun, settings: Settings = PLAIN, window: int | None = None, **changes: object) -> _Walk:
    history = History.read(run.record, window=window, parameters="*")
    return _Walk(run.model, run.evidence(**changes), history, settings)


def test_the_model_is_not_changed(run: RecordedRun) -> None:
    before = copy.deepcopy(run.model.state_dict())
    found = correct(run.model, run.evidence(), History.read(run.record, window=None, parameters="*"), PLAIN)
    assert found.facts["correction_norm"] == pytest.approx(norm(found.delta))
    assert norm(found.delta) > 0
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())


def test_with_and_without_retained_data_the_expected_impulse_is_the_same_on_average(run: RecordedRun) -> None:
    """r (g_R - g_F) = r / (1 - r) (g_D - g_F): here from all of R, and from the gradient of all of D."""
    wide = Settings(**{**PLAIN.__dict__, "batch_size": 10_000, "batches": 1})
    inside = walk(run, wide)
    update = inside.history.updates[0]
    inside.derivatives.place(update.weights())
    found = inside._expected_impulse(update)
    everything = inside.derivatives.gradient(Samples(run.data, torch.arange(ROWS)), 64)
    own = inside.derivatives.gradient(Samples(run.data, FORGET), 64)
    r = len(FORGET) / ROWS
    for name in found:
        torch.testing.assert_close(found[name], r / (1 - r) * (everything[name] - own[name]))
    recorded = walk(run, wide, retain=None)
    recorded.derivatives.place(update.weights())
    without = recorded._expected_impulse(update)
    batch = update.gradient()
    for name in without:
        torch.testing.assert_close(without[name], r / (1 - r) * (batch[name] - own[name]))


def test_a_step_whose_batch_held_nothing_of_f_has_no_impulse(run: RecordedRun) -> None:
    inside = walk(run, window=1)
    everything = Samples(run.data, others(torch.tensor([], dtype=torch.int64)))
    inside._step(inside.history.updates[0], everything.select([]), everything)
    assert norm(inside.delta) == 0


def test_a_step_whose_batch_was_all_of_f_loses_its_gradient(run: RecordedRun) -> None:
    inside = walk(run, window=1)
    update = inside.history.updates[0]
    inside.derivatives.place(update.weights())
    inside._step(update, Samples(run.data, update.rows), Samples(run.data, update.rows).select([]))
    for name, gradient in update.gradient().items():
        torch.testing.assert_close(inside.delta[name], 0.01 * gradient)


def test_the_tail_bound_is_that_of_the_formula_and_absent_where_nothing_contracts(run: RecordedRun) -> None:
    history = History.read(run.record, window=5, parameters="*")
    facts = correct(run.model, run.evidence(), history, PLAIN).facts
    rho = facts["contraction"]
    assert 0 < rho < 1  # weight decay alone contracts
    assert facts["contracts"]
    inside = walk(run, window=5)
    inside.run()
    assert facts["tail_bound"] == pytest.approx(rho**5 * inside.fading.largest / (1 - rho))
    whole = correct(run.model, run.evidence(), History.read(run.record, window=None, parameters="*"), PLAIN).facts
    assert whole["tail_bound"] == 0.0


def test_without_contraction_there_is_no_bound_and_that_is_said(tmp_path: object) -> None:
    run = RecordedRun(tmp_path / "record", settings={"lr": 0.01, "momentum": 0.9}, epochs=2)
    history = History.read(run.record, window=3, parameters="*")
    facts = correct(run.model, run.evidence(), history, PLAIN).facts
    assert facts["contraction"] == pytest.approx(1.0)
    assert facts["tail_bound"] is None or facts["tail_bound"] > 1e6
    assert (facts["tail_bound"] is None) == (facts["tail_bound_missing"] is not None)
    assert facts["contracts"] == (facts["contraction"] < 1)


@pytest.mark.parametrize("form", ["exact", "strided"])
@pytest.mark.parametrize("curvature", ["hvp", "lbfgs", "diagonal", "scalar", "none"])
def test_every_form_and_curvature_says_how_it_contracts_and_what_may_be_missing(
    run: RecordedRun, form: str, curvature: str
) -> None:
    settings = Settings(**{**PLAIN.__dict__, "curvature": curvature, "steps": 5})
    part = {} if form == "exact" else {"retain": Samples(run.data, others(FORGET)[:30])}
    history = History.read(run.record, window=12, parameters="*")
    facts = correct(run.model, run.evidence(**part), history, settings).facts
    assert facts["form"] == form
    assert 0.5 < facts["contraction"] < 1
    assert facts["tail_bound"] > 0
    assert facts["tail_bound_missing"] is None
    assert (facts["curvature"] > 0) == (curvature != "none")
    assert facts["contraction"] < 0.983 or curvature == "none"  # 0.1 x 0.2, by weight decay alone


def test_where_the_deviation_grows_there_is_no_bound_and_the_reason_is_given(run: RecordedRun) -> None:
    fading = _Fading({"w": Rule()})
    fading.push({"w": 0.1}, {"w": torch.tensor([3.0, 4.0])}, None)
    fading.meet(-0.5, {"w": 0.1}, 10)
    assert fading.facts(0, 10)["tail_bound"] == 0.0  # nothing was cut off
    facts = fading.facts(7, 10)
    assert (facts["contraction"], facts["tail_bound"]) == (pytest.approx(1.05), None)
    assert "does not contract" in facts["tail_bound_missing"]
    fading.meet(2.0, {"w": 0.1}, 10)  # the mean of 1.05 and 0.8 contracts
    mean = (1.05 * 0.8) ** 0.5
    assert fading.facts(7, 20)["tail_bound"] == pytest.approx(mean**20 * 0.5 / (1 - mean))


def test_the_worst_parameter_group_decides_how_a_deviation_fades() -> None:
    fading = _Fading({"a": Rule(weight_decay=0.1), "b": Rule()})
    fading.meet(1.0, {"a": 0.1, "b": 0.1}, 1)
    assert fading.facts(1, 1)["contraction"] == pytest.approx(0.9)


def test_a_product_is_computed_once_for_the_same_vector() -> None:
    asked = []
    product = _Remembered(lambda vector: asked.append(vector) or vector)
    one, two = {"w": torch.ones(1)}, {"w": torch.ones(1)}
    assert product(one) is product(one) is one
    assert product(two) is two
    assert len(asked) == 2


def test_a_contraction_that_is_asked_for_is_met_per_step(run: RecordedRun) -> None:
    asked = Settings(**{**PLAIN.__dict__, "curvature": "scalar", "contraction": 0.9})
    inside = walk(run, asked, retain=None)
    rate, gain, decay = 0.01, 10.0, 0.2
    inside._curvature_of_the_way()
    assert math.exp(-(inside.bend + decay) * rate * gain) == pytest.approx(0.9)


def test_a_class_without_company_is_normalised_by_running_statistics(world: World) -> None:
    evidence = world.evidence(torch.arange(20), forgotten_classes=(3,))
    history = History.read(world.record, window=2, parameters="*")
    mixed = _Walk(world.model(), evidence, history, PLAIN)
    object.__setattr__(evidence, "retain", None)
    alone = _Walk(world.model(), evidence, history, PLAIN)
    assert mixed.derivatives._model[1].training
    assert not alone.derivatives._model[1].training


def test_the_same_seed_draws_the_same_samples(world: World) -> None:
    history = History.read(world.record, window=None, parameters="*")
    settings = Settings(**{**PLAIN.__dict__, "curvature": "hvp", "batch_size": 16, "curvature_samples": 16})
    looks = [world.evidence(torch.arange(20), seed=seed) for seed in (1, 1, 2)]
    deltas = [correct(world.model(), evidence, history, settings).delta for evidence in looks]
    assert all(torch.equal(deltas[0][name], deltas[1][name]) for name in deltas[0])
    assert not all(torch.equal(deltas[0][name], deltas[2][name]) for name in deltas[0])
