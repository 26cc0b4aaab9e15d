import copy
import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.conftest import World
from tests.plugin.unlearners.trained_runs import BATCH, FORGET, ROWS, RecordedRun, distance, others
from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.plan import Plan
from unlearn_plugin.data import Samples
from unlearn_plugin.outputs import compute_outputs
from unlearn_plugin.unlearners.mini import Mini
from unlearn_plugin.unlearners.retrain import Retrain


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RecordedRun:
    """Logistic regression, every step recorded."""
    return RecordedRun(tmp_path_factory.mktemp("run") / "record")


def unlearn(run: RecordedRun, options: dict[str, object], **changes: object) -> tuple[nn.Module, dict[str, object]]:
    model = copy.deepcopy(run.model)
    return model, dict(Mini(**options).unlearn(model, run.evidence(**changes)))


def test_with_the_whole_run_recorded_it_lands_where_training_without_f_lands(run: RecordedRun) -> None:
    truth = run.without(FORGET)
    model, facts = unlearn(run, {})
    assert facts["form"] == "exact"
    assert facts["recorded_steps"] == run.epochs * ROWS / BATCH
    assert facts["share_of_history"] == 1.0
    assert facts["contracts"]
    assert facts["tail_bound"] == 0.0
    assert distance(model, truth) < 0.06 * distance(run.model, truth)


def test_the_error_falls_as_the_window_grows(run: RecordedRun) -> None:
    truth = run.without(FORGET)
    errors, bounds = [], []
    for window in (10, 20, 40, 60):
        model, facts = unlearn(run, {"window": window})
        errors.append(distance(model, truth))
        bounds.append(facts["tail_bound"])
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.25 * errors[0]
    assert bounds[:3] == sorted(bounds[:3], reverse=True)
    assert bounds[2] > 0.0
    assert bounds[3] == 0.0  # nothing was cut off


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (torch.optim.SGD, {"lr": 0.02, "momentum": 0.8, "nesterov": True, "weight_decay": 0.05}),
        (torch.optim.SGD, {"lr": 0.02, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.05}),
    ],
)
def test_other_kinds_of_momentum_are_followed(
    tmp_path: Path, kind: type[torch.optim.Optimizer], settings: dict[str, object]
) -> None:
    run = RecordedRun(tmp_path / "record", kind=kind, settings=settings, epochs=4)
    truth = run.without(FORGET)
    model, facts = unlearn(run, {})
    assert facts["form"] == "exact"
    assert distance(model, truth) < 0.1 * distance(run.model, truth)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
        (torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.01}),
    ],
)
def test_adam_is_followed_from_its_first_step_with_a_preconditioner_that_moves(
    tmp_path: Path, kind: type[torch.optim.Optimizer], settings: dict[str, object]
) -> None:
    run = RecordedRun(tmp_path / "record", kind=kind, settings=settings, epochs=8)
    truth = run.without(FORGET)
    model, facts = unlearn(run, {})
    assert (facts["form"], facts["recorded_steps"]) == ("exact", 8 * ROWS // BATCH)
    assert distance(model, truth) < 0.15 * distance(run.model, truth)


def test_amsgrad_holds_its_preconditioner_and_leaves_its_first_steps_out(tmp_path: Path) -> None:
    settings = {"lr": 0.01, "weight_decay": 0.1, "amsgrad": True}
    run = RecordedRun(tmp_path / "record", kind=torch.optim.AdamW, settings=settings, epochs=8)
    truth = run.without(FORGET)
    model, facts = unlearn(run, {})
    assert (facts["form"], facts["recorded_steps"]) == ("exact", 8 * ROWS // BATCH - 10)
    assert distance(model, truth) < 0.8 * distance(run.model, truth)


@pytest.mark.parametrize("curvature", ["lbfgs", "diagonal", "scalar"])
def test_curvature_from_the_record_comes_nearer_and_needs_no_retained_data(run: RecordedRun, curvature: str) -> None:
    truth = run.without(FORGET)
    model, facts = unlearn(run, {"curvature": curvature, "steps": 12})
    assert facts["form"] == "exact"
    assert facts["curvature"] > 0
    assert distance(model, truth) < 0.9 * distance(run.model, truth)
    _, alone = unlearn(run, {"curvature": curvature, "steps": 12}, retain=None)
    assert alone["form"] == "strided"
    assert alone["curvature"] >= 0  # batches of 12 may be too noisy to see any
    assert 0 < alone["contraction"] < 1


def test_a_record_in_a_quarter_of_the_bytes_gives_nearly_the_same_correction(tmp_path: Path) -> None:
    corrected, sizes = {}, {}
    for dtype in ("fp32", "int8"):
        plan = Plan(steps=6, weights_dtype=dtype, gradient_dtype=dtype, features=False, samples=False)
        run = RecordedRun(tmp_path / dtype, plan=plan, epochs=6)
        corrected[dtype], facts = unlearn(run, {"iterations": 20})
        sizes[dtype] = facts["bytes_read"]
    assert distance(corrected["int8"], corrected["fp32"]) < 0.02 * distance(corrected["fp32"], run.model)
    assert sizes["int8"] < 0.5 * sizes["fp32"]  # of 650 weights; of many, 0.26


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3, 0.5])
def test_at_high_ratios_it_still_comes_nearer_to_the_run_without_f(run: RecordedRun, share: float) -> None:
    forget = torch.arange(0, round(share * ROWS))
    truth = run.without(forget)
    for options in ({}, {"steps": 8}):
        part = {} if not options else {"retain": Samples(run.data, others(forget)[:20])}
        model = copy.deepcopy(run.model)
        values = {"retain": Samples(run.data, others(forget)), **part}
        facts = Mini(**options, limit=2.0).unlearn(model, run.evidence(forget, **values))
        assert facts["correction_norm"] > 0
        assert distance(model, truth) < (0.9 if options else 0.3) * distance(run.model, truth)


def test_a_sparse_record_is_used_in_strides_and_comes_near(tmp_path: Path) -> None:
    plan = Plan(steps=6, tail=1, features=False, samples=False)
    run = RecordedRun(tmp_path / "record", plan=plan, epochs=12)
    truth = run.without(FORGET)
    model, facts = unlearn(run, {"iterations": 20, "batch_size": 64, "batches": 8})
    assert facts["form"] == "strided"
    assert 6 <= facts["recorded_steps"] <= 13
    assert facts["share_of_history"] < 0.25
    assert distance(model, truth) < 0.6 * distance(run.model, truth)


def test_strides_come_nearer_with_the_curvature_than_without(tmp_path: Path) -> None:
    plan = Plan(steps=6, tail=1, features=False, samples=False)
    run = RecordedRun(tmp_path / "record", plan=plan, epochs=12)
    truth = run.without(FORGET)
    errors = {}
    for curvature in ("hvp", "none"):
        model, _ = unlearn(run, {"curvature": curvature, "iterations": 20, "limit": 100.0})
        errors[curvature] = distance(model, truth)
    assert errors["hvp"] < 0.5 * errors["none"]


def test_samples_of_batches_that_are_not_at_hand_lead_to_strides(run: RecordedRun) -> None:
    """With only a part of R, a batch cannot be run again without F."""
    part = Samples(run.data, others(FORGET)[:20])
    _, facts = unlearn(run, {"steps": 8}, retain=part)
    assert (facts["form"], facts["recorded_steps"]) == ("strided", 8)


def test_it_works_without_any_retained_data_from_recorded_gradients(run: RecordedRun) -> None:
    truth = run.without(FORGET)
    model, facts = unlearn(run, {"curvature": "scalar", "contraction": 0.95, "steps": 60}, retain=None)
    assert facts["form"] == "strided"
    assert facts["curvature"] > 0
    assert distance(model, truth) < 0.85 * distance(run.model, truth)
    with pytest.raises(UnlearnError, match="retained data for curvature=hvp"):
        unlearn(run, {}, retain=None)


def test_a_contraction_that_is_asked_for_is_the_one_used(run: RecordedRun) -> None:
    strong, weak = (
        unlearn(run, {"curvature": "scalar", "contraction": rho, "steps": 8}, retain=None)[1] for rho in (0.8, 0.99)
    )
    assert strong["correction_norm"] < weak["correction_norm"]
    assert strong["curvature"] > weak["curvature"]


def test_ids_of_the_record_are_matched_by_name_and_not_by_row(run: RecordedRun) -> None:
    """The plugin may read the same data in another order."""
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(8))
    data = dataclasses.replace(
        run.data,
        dataset=torch.utils.data.Subset(run.data.dataset, order.tolist()),
        ids=tuple(run.data.ids[row] for row in order.tolist()),
        labels=run.data.labels[order],
    )
    place = {name: row for row, name in enumerate(data.ids)}
    there = torch.tensor([place[run.data.ids[row]] for row in FORGET.tolist()])
    evidence = run.evidence(retain=Samples(data, others(there)))
    object.__setattr__(evidence, "forget", Samples(data, there))
    model = copy.deepcopy(run.model)
    facts = Mini().unlearn(model, evidence)
    assert facts["form"] == "exact"
    assert distance(model, unlearn(run, {})[0]) < 1e-9


def test_only_the_parameters_that_match_are_corrected(run: RecordedRun) -> None:
    model, _ = unlearn(run, {"parameters": "*.bias"})
    assert torch.equal(model[1].weight, run.model[1].weight)
    assert not torch.equal(model[1].bias, run.model[1].bias)
    with pytest.raises(UnlearnError, match="parameters='body' fits none of the 2 recorded parameters"):
        unlearn(run, {"parameters": "body"})


def test_the_correction_is_never_longer_than_its_limit(run: RecordedRun) -> None:
    model, facts = unlearn(run, {"limit": 0.01})
    assert facts["correction_shrunk_to"] < 1
    assert distance(model, run.model) == pytest.approx(0.01)
    assert unlearn(run, {})[1]["correction_shrunk_to"] == 1.0


def test_a_record_without_recorded_steps_is_refused(tmp_path: Path) -> None:
    run = RecordedRun(tmp_path / "record", plan=Plan(updates=False), epochs=1)
    with pytest.raises(UnlearnError, match="holds no recorded steps; train again with Plan"):
        unlearn(run, {})


def test_an_optimizer_whose_steps_are_not_known_is_refused(tmp_path: Path) -> None:
    run = RecordedRun(tmp_path / "record", kind=torch.optim.RMSprop, settings={"lr": 1e-3}, epochs=1)
    with pytest.raises(UnlearnError, match="RMSprop, whose steps mini does not know; it knows SGD, Adam, AdamW"):
        unlearn(run, {})


def test_a_record_is_needed(run: RecordedRun) -> None:
    with pytest.raises(UnlearnError, match="mini needs the record"):
        unlearn(run, {}, record=None)


@pytest.mark.parametrize(
    "options",
    [{"window": 0}, {"steps": 0}, {"contraction": 1.5}, {"contraction": 0.0}, {"iterations": 0}, {"limit": 0.0},
     {"batch_size": 1}, {"batches": 0}, {"repair": -1}, {"repair_rate": 0.0}, {"repair_hold": -1.0},
     {"curvature_samples": 1}, {"limit": math.nan}],
)  # fmt: skip
def test_options_out_of_range_are_refused_by_name(options: dict[str, object]) -> None:
    with pytest.raises(UnlearnError, match=f"{next(iter(options))}=.*is out of range"):
        Mini(**options)


def test_on_a_net_with_batchnorm_f_looks_less_trained_on_and_the_rest_stays(world: World) -> None:
    evidence = world.evidence(torch.arange(20))
    model, reference = world.model(), world.model()
    Mini().unlearn(model, evidence)
    Retrain().unlearn(reference, evidence)
    margins, kept = {}, {}
    for name, each in (("before", world.model()), ("after", model), ("retrained", reference)):
        found = [
            compute_outputs(each, part, evidence.accelerator, batch_size=64, progress=evidence.progress)
            for part in (evidence.forget, evidence.retain)
        ]
        margins[name], kept[name] = float(found[0].margins.mean()), float(found[1].correct.float().mean())
    assert margins["after"] < margins["before"]
    assert abs(margins["after"] - margins["retrained"]) < 0.7 * abs(margins["before"] - margins["retrained"])
    assert kept["after"] > kept["before"] - 0.1


def test_the_running_statistics_are_measured_anew_for_the_corrected_weights(world: World) -> None:
    evidence = world.evidence(torch.arange(20))
    model = world.model()
    Mini().unlearn(model, evidence)
    with torch.no_grad():
        inside = model[0](next(iter(evidence.retain.loader(len(evidence.retain))))[0])
    torch.testing.assert_close(model[1].running_mean, inside.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model[1].running_var, inside.var((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_a_repair_with_hold_brings_the_retained_data_back_and_not_f(world: World) -> None:
    evidence = world.evidence(torch.arange(20))

    def margin_of_forget(options: dict[str, object]) -> float:
        model = world.model()
        Mini(**options).unlearn(model, evidence)
        return float(
            compute_outputs(model, evidence.forget, evidence.accelerator, batch_size=64, progress=evidence.progress)
            .margins.mean()
        )  # fmt: skip

    plain = margin_of_forget({})
    held = margin_of_forget({"repair": 4, "repair_hold": 5.0, "repair_rate": 0.02})
    free = margin_of_forget({"repair": 4, "repair_hold": 0.0, "repair_rate": 0.02})
    assert abs(held - plain) < abs(free - plain)
