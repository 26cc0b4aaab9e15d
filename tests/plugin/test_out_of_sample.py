"""From real trainings to the judge: what is kept for it reaches it, and no one else; and it sees more with it."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from tests.conftest import fresh_net, image_data
from tests.plugin.reference_world import POOL, ReferenceWorld, reference_job
from unlearn_hooks import TrainingRecord, UnlearnError, holdout, record
from unlearn_hooks.references import recorded_references
from unlearn_plugin.data import Samples
from unlearn_plugin.evidence import private_folder
from unlearn_plugin.judging import make_trial
from unlearn_plugin.metrics.base import Metric
from unlearn_plugin.metrics.calibrated_membership import CalibratedMembership
from unlearn_plugin.metrics.completeness import Completeness
from unlearn_plugin.metrics.membership import Membership
from unlearn_plugin.metrics.three_way import ThreeWay
from unlearn_plugin.out_of_sample import judge_references, sealed_ids
from unlearn_plugin.pipeline import _evidence, run
from unlearn_plugin.preparation import prepare
from unlearn_plugin.primary import LARGEST_MARGIN, PART_OF_EFFECT
from unlearn_plugin.progress import Progress
from unlearn_plugin.verification import verify


def test_margins_are_found_by_id_whatever_the_order_of_the_rows(references: ReferenceWorld) -> None:
    data = references.data
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    shuffled = dataclasses.replace(
        data, ids=tuple(data.ids[row] for row in order.tolist()), labels=data.labels[order], dataset=[]
    )
    again = judge_references(references.record, shuffled, seed=0)
    mine, theirs = torch.arange(len(data)), torch.argsort(order)
    first, second = references.references.margins(Samples(data, mine)), again.margins(Samples(shuffled, theirs))
    assert torch.equal(first, second)
    assert bool(first.isfinite().all())


def test_data_that_the_record_does_not_know_have_no_margins(references: ReferenceWorld) -> None:
    other = image_data(torch.zeros(5, 1, 8, 8), torch.zeros(5, dtype=torch.int64))
    assert bool(references.references.margins(Samples(other, torch.arange(5))).isnan().all())


def test_training_and_held_out_samples_have_margins_of_the_same_kind(references: ReferenceWorld) -> None:
    """One model each: were held-out samples averaged over two, their margins would spread less."""
    trial = references.trial(references.train_rows[:300])
    forget, controls = trial.out_of_sample("forget"), trial.out_of_sample("controls")
    assert float(controls.std() / forget.std()) == pytest.approx(1.0, abs=0.15)
    sealed = references.held.sealed().verdict
    averaged = references.references.found.margins(sealed)
    assert float(averaged.std()) < float(controls.std())


def test_without_a_holdout_or_for_methods_there_is_nothing_for_the_judge(
    references: ReferenceWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert recorded_references(references.record, "method") is None
    monkeypatch.setattr(TrainingRecord, "noted", lambda *_: [])
    assert judge_references(references.record, references.data, 0) is None
    assert sealed_ids(references.record, references.data) is None


def test_a_holdout_that_was_trained_on_is_refused(tmp_path: Path, references: ReferenceWorld) -> None:
    data = references.data.dataset
    held = holdout(data, 100, 0, labels=references.data.labels)
    model = fresh_net(0)
    with (
        pytest.warns(RuntimeWarning, match="holdout"),
        record(tmp_path / "r", model, torch.optim.SGD(model.parameters(), 0.1), holdout=held) as recorder,
    ):
        for _ in recorder.batches(DataLoader(data, 650)):
            pass
    with pytest.raises(UnlearnError, match="was trained on"):
        sealed_ids(TrainingRecord.open(tmp_path / "r"), references.data)


def passes(metric: Metric, references: ReferenceWorld, rows: torch.Tensor) -> bool:
    """The lines of the rule about the primary test: seen before, not seen after, and enough data to say so."""
    trial = references.trial(rows)
    before, after = (metric.measure(model, trial) for model in (references.original, references.retrained))
    limit = min(LARGEST_MARGIN, PART_OF_EFFECT * (before.details["lower95"] - 0.5))
    return limit > 0 and after.low <= 0.5 and after.details["upper95"] <= 0.5 + limit


def test_a_retrained_model_passes_more_often_than_with_the_plain_test(references: ReferenceWorld) -> None:
    requests = [rows for size in (50, 100, 200) for rows in references.train_rows[:POOL].split(size)]
    plain, calibrated = (
        sum(passes(metric, references, rows) for rows in requests) for metric in (Membership(), CalibratedMembership())
    )
    assert calibrated >= plain + 2
    assert calibrated >= len(requests) - 3


def test_the_untouched_model_is_detected_in_every_request(references: ReferenceWorld) -> None:
    for rows in references.train_rows[:POOL].split(25):
        found = CalibratedMembership().measure(references.original, references.trial(rows))
        assert found.details["lower95"] > 0.5


def test_a_retrained_model_is_complete_and_nearer_to_unseen_data(references: ReferenceWorld) -> None:
    trial = references.trial(references.train_rows[:POOL])
    assert Completeness().measure(references.retrained, trial).value == pytest.approx(1.0, abs=0.25)
    assert ThreeWay().measure(references.retrained, trial).high < 0 < ThreeWay().measure(references.original, trial).low


def test_a_job_with_such_a_record_is_judged_by_the_calibrated_test(references: ReferenceWorld, tmp_path: Path) -> None:
    rows = references.train_rows[:POOL]
    outcome = run(reference_job(references, rows, tmp_path / "out"), progress=Progress(enabled=False))
    report = json.loads((outcome.folder / "report.json").read_text())
    assert report["overall"]["tier"] == "B"
    assert report["data"]["controls"] == "sealed before training"
    assert (report["data"]["n_train"], report["data"]["n_retain"]) == (600, 400)
    assert report["measurements"]["calibrated_membership"]["before"]["details"]["lower95"] > 0.6
    assert report["measurements"]["calibrated_null_control"]["after"]["low"] < 0.05
    assert report["measurements"]["completeness"]["after"]["value"] is not None
    checked = verify(outcome.folder, private=private_folder(outcome.folder))
    assert checked.findings == []
    assert "measured again, every value is the report's" in checked.checked


@pytest.mark.slow
def test_a_lower_tier_leaves_its_tests_out(references: ReferenceWorld, tmp_path: Path) -> None:
    outcome = run(reference_job(references, references.train_rows[:50], tmp_path / "out", tier="A"))
    assert outcome.report["overall"]["tier"] == "A"
    assert "membership" in outcome.report["measurements"]
    assert not {"calibrated_membership", "completeness", "three_way"} & set(outcome.report["measurements"])


def test_the_tier_that_cannot_be_had_is_a_finding(references: ReferenceWorld, tmp_path: Path) -> None:
    with pytest.raises(UnlearnError, match="--tier B needs a record with a sealed holdout"):
        prepare(reference_job(references, references.train_rows[:50], tmp_path / "out", tier="B", record=None))


def test_a_sealed_sample_cannot_be_requested(references: ReferenceWorld, tmp_path: Path) -> None:
    rows = torch.cat([references.train_rows[:5], references.held.sealed().verdict[:1]])
    with pytest.raises(UnlearnError, match="in the holdout of the record"):
        prepare(reference_job(references, rows, tmp_path / "out"))


def test_no_method_is_shown_what_is_kept_for_the_judge(references: ReferenceWorld, tmp_path: Path) -> None:
    prepared = prepare(reference_job(references, references.train_rows[:50], tmp_path / "out"))
    evidence = _evidence(prepared, Progress(enabled=False))
    assert recorded_references(evidence.record, "judge") is None
    assert recorded_references(prepared.record, "judge") is not None
    sealed = references.held.sealed()
    assert evidence.tuning.ids == tuple(str(row) for row in sealed.tuning.tolist())
    shown = {*evidence.forget.ids, *evidence.retain.ids, *evidence.tuning.ids}
    assert not shown & {str(row) for row in sealed.verdict.tolist()}
    assert make_trial(prepared, Progress(enabled=False)).out_of_sample("forget") is not None
