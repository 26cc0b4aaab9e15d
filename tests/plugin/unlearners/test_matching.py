"""matching: targets by their formula, no label of F, never past the target, and never the judge's pairs."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import World, fresh_net, image_data
from tests.plugin.reference_world import ACCELERATOR, QUIET, RECIPE, ReferenceWorld, reference_job
from unlearn_hooks.controls import halves
from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.references import add_reference, recorded_references, without_judge
from unlearn_hooks.training_record import TrainingRecord, weights_digest
from unlearn_plugin.data import Samples
from unlearn_plugin.outputs import compute_outputs
from unlearn_plugin.pipeline import run
from unlearn_plugin.training import train
from unlearn_plugin.unlearners.base import Evidence
from unlearn_plugin.unlearners.matching import Matching, average, complete
from unlearn_plugin.verification import verify

FORGET = torch.arange(0, 20)
GENTLE = {"batch_size": 16, "epochs": 1, "learning_rate": 0.005, "weight": 1.0}
NAN = torch.nan


class Louder(nn.Module):
    """A model with its logits multiplied: surer of everything, of the same opinion."""

    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, images: Tensor) -> Tensor:
        return self.factor * self.model(images)


def said(model: nn.Module, samples: Samples, evidence: Evidence) -> Tensor:
    return compute_outputs(
        model, samples, evidence.accelerator, batch_size=100, progress=evidence.progress
    ).logits.softmax(1)


def recorded_anew(world: World, folder: Path, *purposes: str, factor: float = 1.0) -> TrainingRecord:
    """The world's record without its pair and with others, whose models are the trained one, louder by a factor."""
    shutil.copytree(world.record.folder, folder)
    for part in folder.glob("reference-*"):
        shutil.rmtree(part)
    for pair, purpose in enumerate(purposes):
        for half in halves(world.train.dataset, pair, 0, labels=world.train.labels):
            add_reference(folder, Louder(world.model(), factor), world.train.dataset, half, purpose=purpose)
    return TrainingRecord.open(folder)


def after(world: World, evidence: Evidence, **options: object) -> tuple[str, dict[str, object]]:
    """Digest of the weights after the method, and its facts."""
    model = world.model()
    facts = Matching(**{**GENTLE, **options}).unlearn(model, evidence)
    return weights_digest(model.state_dict()), dict(facts)


def test_the_target_has_the_mean_log_odds_of_the_models_that_never_saw_a_sample() -> None:
    """Two classes: logits (1, 0) and (3, 0) have the mean (2, 0); the third model saw the sample."""
    logits = torch.tensor([[[1.0, 0.0]], [[3.0, 0.0]], [[NAN, NAN]]]).half()
    assert torch.allclose(average(logits), torch.tensor([[2.0, 0.0]]).softmax(1))


def test_log_probabilities_are_averaged_not_probabilities_nor_raw_logits() -> None:
    logits = torch.tensor([[[5.0, 0.0, -1.0]], [[105.0, 101.0, 103.0]]]).half()  # an offset per model means nothing
    wanted = torch.tensor([[4.5, 0.0, 0.5]]).softmax(1)
    assert torch.allclose(average(logits), wanted, atol=1e-5)


def test_a_sample_that_every_model_saw_has_no_target() -> None:
    assert bool(average(torch.full((2, 1, 3), NAN).half()).isnan().all())


def test_classes_that_go_as_a_whole_are_left_out_of_the_target() -> None:
    found = average(torch.tensor([[[2.0, 1.0, 0.0]]]).half(), without=(0,))
    assert torch.allclose(found, torch.tensor([[0.0, torch.e / (1 + torch.e), 1 / (1 + torch.e)]]))


def test_classes_that_were_not_kept_share_as_much_mass_as_the_smallest_kept_one() -> None:
    logits = torch.full((1, 1, 100), NAN).half()
    logits[0, 0, :10] = torch.arange(10.0, 0.0, -1.0).half()
    found = complete(logits).exp()[0, 0]
    assert float(found.sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(found[10:].sum()) == pytest.approx(float(found[9]), rel=1e-4)
    assert len(set(found[10:].tolist())) == 1
    assert float(found[0] / found[1]) == pytest.approx(torch.e, rel=1e-4)


def test_pairs_that_kept_different_classes_are_averaged_without_forbidding_any() -> None:
    logits = torch.full((2, 1, 80), NAN).half()
    logits[0, 0, :10], logits[1, 0, 5:15] = 4.0, 4.0
    found = average(logits)[0]
    assert bool((found > 0).all())
    assert float(found[5:10].min()) > float(found[:5].max()) > float(found[20:].max())


def test_it_leads_f_to_its_targets_and_keeps_r(world: World) -> None:
    evidence = world.evidence(FORGET)
    targets = average(recorded_references(world.record, "method").logits(FORGET))
    model = world.model()
    Matching(**{**GENTLE, "epochs": 3}).unlearn(model, evidence)

    def divergence(one: nn.Module) -> float:
        return float(nn.functional.kl_div(said(one, evidence.forget, evidence).log(), targets, reduction="batchmean"))

    assert divergence(model) < 0.5 * divergence(world.trained)
    kept = [float((said(one, evidence.retain, evidence).argmax(1) == evidence.retain.labels).float().mean())
            for one in (world.model(), model)]  # fmt: skip
    assert kept[1] > kept[0] - 0.05


def test_the_judges_pairs_are_not_even_in_the_record_a_method_sees(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "record"
    shutil.copytree(world.record.folder, folder)
    for half in halves(world.train.dataset, 1, 0, labels=world.train.labels):
        add_reference(folder, Louder(world.model(), 3.0), world.train.dataset, half, purpose="judge")
    both = TrainingRecord.open(folder)
    shown = without_judge(both)
    assert len(recorded_references(both, "judge").models) == 2
    assert recorded_references(shown, "judge") is None
    assert {shard.meta["purpose"] for shard in shown.shards("reference")} == {"method"}
    evidence = world.evidence(FORGET)
    assert after(world, dataclasses.replace(evidence, record=shown)) == after(world, evidence)
    alone = without_judge(recorded_anew(world, tmp_path / "other", "judge"))
    with pytest.raises(UnlearnError, match="matching needs a pair .* A pair of the judge cannot be used"):
        after(world, dataclasses.replace(evidence, record=alone))


def test_no_label_of_the_forget_data_is_used(world: World) -> None:
    rows = torch.arange(len(world.train))
    labels = torch.where(torch.isin(rows, FORGET), (world.train.labels + 3) % 10, world.train.labels)
    other = dataclasses.replace(world, train=image_data(world.train.images(rows), labels))
    assert after(world, world.evidence(FORGET)) == after(world, other.evidence(FORGET))


def test_f_is_left_alone_where_it_is_no_surer_than_its_targets(world: World, tmp_path: Path) -> None:
    """References of the model's own opinion, only surer: whatever the weight, nothing is to be done about F."""
    evidence = dataclasses.replace(
        world.evidence(FORGET), record=recorded_anew(world, tmp_path / "record", "method", factor=2.0)
    )
    first, facts = after(world, evidence)
    assert facts["steps_until_targets_were_reached"] == 0
    assert facts["confidence_on_forget_before"] < facts["confidence_of_targets"]
    assert after(world, evidence, weight=50.0)[0] == first
    assert after(world, evidence, weight=50.0, stop=False)[0] != first


def test_a_class_request_has_no_confidence_to_stop_at_and_forgets_the_class(world: World) -> None:
    label = int(world.train.labels.mode().values)
    evidence = world.evidence((world.train.labels == label).nonzero().flatten(), forgotten_classes=(label,))
    model = world.model()
    facts = Matching(**{**GENTLE, "epochs": 4}).unlearn(model, evidence)
    assert facts["confidence_of_targets"] is None
    before, now = (float(said(one, evidence.forget, evidence)[:, label].mean()) for one in (world.model(), model))
    assert now < 0.3 * before


def test_what_to_do_without_a_pair_for_methods_is_said(world: World, tmp_path: Path) -> None:
    evidence = dataclasses.replace(world.evidence(FORGET), record=recorded_anew(world, tmp_path / "record"))
    with pytest.raises(UnlearnError, match=r'halves\(data, pair=.*add_reference\(..., purpose="method"\)'):
        after(world, evidence)


def test_samples_that_no_reference_speaks_of_are_counted(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "record"
    shutil.copytree(world.record.folder, folder)
    for part in folder.glob("reference-*"):
        shutil.rmtree(part)
    some = torch.utils.data.Subset(world.train.dataset, range(10, 96))
    for half in halves(some, 0, 0, labels=world.train.labels[10:]):
        add_reference(folder, world.model(), some, half, purpose="method")
    evidence = dataclasses.replace(world.evidence(FORGET), record=TrainingRecord.open(folder))
    with pytest.raises(UnlearnError, match="for 10 of 20 requested samples .* say nothing"):
        after(world, evidence)


@pytest.mark.slow
def test_from_the_record_to_a_verified_folder(references: ReferenceWorld, tmp_path: Path) -> None:
    """A pair for methods beside the judge's; apply and verify as they are."""
    record, held = tmp_path / "record", references.held
    shutil.copytree(references.record.folder, record)
    for half in halves(held.train, 1, 0, labels=references.data.labels[references.train_rows]):
        other, quick = fresh_net(half.side), dataclasses.replace(RECIPE, epochs=2)
        train(other, Samples(references.data, half.rows()), quick, accelerator=ACCELERATOR, seed=1, progress=QUIET)
        add_reference(record, other, references.data.dataset, half, purpose="method")
    job = reference_job(
        references, references.train_rows[:60], tmp_path / "out",
        method="matching", record=str(record), options={"epochs": "1"},
    )  # fmt: skip
    outcome = run(job)
    assert outcome.report["procedure"]["facts"]["reference_models"] == 2
    assert (
        outcome.report["procedure"]["options"]["learning_rate"] == Matching.presets["sample"].options["learning_rate"]
    )
    assert outcome.report["measurements"]["calibrated_membership"]["after"]["value"] is not None
    checked = verify(outcome.folder)
    assert checked.findings == []
    assert checked.measured is not None
    with pytest.raises(UnlearnError, match="A pair of the judge cannot be used"):
        run(dataclasses.replace(job, record=str(references.record.folder), out=str(tmp_path / "other")))


def test_the_rate_is_that_of_the_optimizer_unless_it_is_given() -> None:
    usual, sgd, given = (
        Matching(**options).settled("sample", fresh_net(0))
        for options in ({}, {"optimizer": "sgd"}, {"optimizer": "sgd", "learning_rate": 0.3})
    )
    assert (usual.optimizer, usual.learning_rate) == ("adamw", 0.002)
    assert (sgd.optimizer, sgd.learning_rate) == ("sgd", pytest.approx(0.01))
    assert (given.optimizer, given.learning_rate) == ("sgd", 0.3)
    normed = Matching().settled("sample", nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)))
    assert (normed.optimizer, normed.learning_rate) == ("adamw", 0.001)


@pytest.mark.parametrize(
    "options", [{"weight": 0.0}, {"distill": -1.0}, {"forget_batch_size": 1}, {"weight": torch.inf}]
)
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UnlearnError, match="is out of range"):
        Matching(**options)
