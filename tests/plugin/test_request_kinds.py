"""Every kind of request from the manifest to the verification, and a second request after a first."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from tests.conftest import TRAINED, World
from tests.plugin.small_job import data, small_job
from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.earlier import Earlier
from unlearn_plugin.evidence import private_folder
from unlearn_plugin.guard import inspect_change
from unlearn_plugin.job import Job
from unlearn_plugin.job_file import read_job
from unlearn_plugin.judging import make_trial
from unlearn_plugin.manifest import ForgetManifest
from unlearn_plugin.pipeline import Outcome, _evidence, carry_out, run
from unlearn_plugin.preparation import Prepared, prepare
from unlearn_plugin.progress import Progress
from unlearn_plugin.registry import unlearners
from unlearn_plugin.report.report import read_report
from unlearn_plugin.splits import Need
from unlearn_plugin.unlearners._correction import Settings, _Walk
from unlearn_plugin.unlearners._history import History
from unlearn_plugin.unlearners.neg_grad_plus import NegGradPlus
from unlearn_plugin.verification import _check_earlier, verify

LABELS = data()[0].labels
QUIET = Progress(enabled=False)


def of_classes(*classes: int) -> list[int]:
    return [row for row in range(TRAINED) if int(LABELS[row]) in classes]


@dataclass(frozen=True)
class Kind:
    """What is requested, and what must be made of it."""

    lines: list[str]
    rows: list[int]
    words: str
    classes: tuple[int, ...] = ()


HALF = [row for label in range(5, 10) for row in of_classes(label)[: round(0.4 * len(of_classes(label)))]]
KINDS = {
    "samples": Kind(["3", "17", "40", *map(str, range(60, 80))], [3, 17, 40, *range(60, 80)], "samples"),
    "class": Kind(["class=4"], of_classes(4), "classes", (4,)),
    "classes": Kind(["class=7", "class=2"], of_classes(2, 7), "classes", (2, 7)),
    "subject": Kind(["subject=person 5"], list(range(5, TRAINED, 8)), "samples"),
    "part of classes": Kind([str(row) for row in HALF], HALF, "samples"),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture(scope="module")
def served(kind: Kind, world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, Outcome]:
    """The request of each kind, served by the method that needs a record."""
    job = small_job(world, tmp_path_factory.mktemp("kind"), kind.lines, method="mini", options={"steps": "2"})
    prepared = prepare(job)
    return prepared, carry_out(prepared, QUIET)


def test_the_splits_are_those_of_the_request(kind: Kind, served: tuple[Prepared, Outcome]) -> None:
    splits, manifest = served[0].splits, served[0].manifest
    assert splits.forget.rows.tolist() == sorted(kind.rows)
    assert sorted([*splits.forget.rows.tolist(), *splits.retain.rows.tolist()]) == list(range(TRAINED))
    assert splits.forgotten_classes == kind.classes
    assert not set(kind.classes) & set(splits.retain.labels.tolist())
    assert (manifest.kind, len(splits.earlier)) == (kind.words, 0)
    assert splits.subjects is not None
    assert len(set(splits.subjects.tolist())) == len({row % 8 for row in kind.rows})


def test_the_report_says_what_was_asked_for_and_measures_it(kind: Kind, served: tuple[Prepared, Outcome]) -> None:
    report = served[1].report
    request, after = report["request"], report["measurements"]["utility"]["after"]["details"]
    assert (request["kind"], request["n_samples"]) == (kind.words, len(kind.rows))
    assert request["n_subjects"] == len({row % 8 for row in kind.rows})
    assert "earlier" not in request
    assert after["forget"]["n"] == len(kind.rows)
    assert after["retain"]["n"] == TRAINED - len(kind.rows)
    unseen = sum(int(label) in kind.classes for label in served[0].splits.verdict.labels)
    assert (after["forgotten_classes"] or {"n": 0})["n"] == unseen
    assert {entry["class"] for entry in after["per_class"]}.isdisjoint(map(str, kind.classes))
    assert after["controls"]["n"] == len(served[0].splits.verdict) - unseen
    assert any("whole classes" in limit for limit in report["overall"]["limits"]) is bool(kind.classes)


def test_the_output_verifies(kind: Kind, served: tuple[Prepared, Outcome]) -> None:
    if kind not in (KINDS["class"], KINDS["subject"]):
        pytest.skip("a verification takes as long as a run; one with classes and one without stand for all")
    found = verify(served[1].folder, private=private_folder(served[1].folder), progress=QUIET)
    assert found.findings == []
    assert not any("earlier" in line for line in found.checked)


def test_a_method_without_a_record_serves_it_too(kind: Kind, served: tuple[Prepared, Outcome]) -> None:
    prepared = served[0]
    model = prepared.checkpoint.copy()
    evidence = replace(_evidence(prepared, QUIET), record=None)
    NegGradPlus(epochs=1).unlearn(model, evidence)
    trial = make_trial(prepared, QUIET)
    assert inspect_change(prepared.checkpoint.model, model, trial)["finite"]
    margins = [trial.outputs(each, "forget").margins.mean() for each in (prepared.checkpoint.model, model)]
    assert margins[1] < margins[0]


# A second request after a first.

FIRST, SECOND = list(range(30, 42)), list(range(50, 60))


@pytest.fixture(scope="module")
def first(world: World, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The model without the first request, as training without it would have made it."""
    job = small_job(world, tmp_path_factory.mktemp("first"), [str(row) for row in FIRST], method="retrain")
    return run(job, progress=QUIET)


def second_job(world: World, folder: Path, first: Outcome, rows: list[int], **changes: object) -> Job:
    return small_job(world, folder, [str(row) for row in rows], **{"model": f"local-dir:{first.folder}", **changes})


@pytest.fixture(scope="module")
def second(world: World, first: Outcome, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run(
        second_job(world, tmp_path_factory.mktemp("second"), first, SECOND, method="mini", options={"steps": "2"})
    )


def test_what_the_first_request_named_is_neither_kept_nor_forgotten_again(
    world: World, first: Outcome, tmp_path: Path
) -> None:
    prepared = prepare(second_job(world, tmp_path, first, SECOND, method="mini"))
    assert prepared.splits.forget.rows.tolist() == SECOND
    assert prepared.splits.earlier.rows.tolist() == FIRST
    assert not {*FIRST, *SECOND} & set(prepared.splits.retain.rows.tolist())
    assert len(prepared.splits.retain) == TRAINED - len(FIRST) - len(SECOND)
    assert _evidence(prepared, QUIET).left_out.rows.tolist() == sorted([*FIRST, *SECOND])


EXACT = [  # those that go by the record need one with snapshots; their own tests have it
    name for name in unlearners().names() if (one := unlearners().get(name)).exact and Need.RECORD not in one.needs
]


@pytest.mark.parametrize("method", EXACT)
def test_an_exact_method_leaves_out_both_requests_bit_for_bit(
    method: str, world: World, first: Outcome, tmp_path: Path
) -> None:
    then = prepare(second_job(world, tmp_path, first, SECOND, method=method))
    at_once = prepare(small_job(world, tmp_path, [str(row) for row in [*FIRST, *SECOND]], method=method))
    states = []
    for prepared in (then, at_once):
        model = prepared.checkpoint.copy()
        prepared.method.unlearn(model, _evidence(prepared, QUIET))
        states.append(model.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_the_correction_of_mini_for_the_second_request_is_that_of_a_run_that_never_had_the_first(
    world: World, first: Outcome, tmp_path: Path
) -> None:
    """First-order additivity: theta(D - F1) + delta(F2) is nearer to theta(D - F1 - F2) than before."""
    prepared = prepare(second_job(world, tmp_path, first, SECOND, method="mini", options={"steps": "4"}))
    evidence = _evidence(prepared, QUIET)
    history = History.read(world.record, window=None, parameters="*")
    shares = [_Walk(prepared.checkpoint.copy(), one, history, Settings(
        curvature="none", contraction=None, steps=4, iterations=5, curvature_samples=64, batch_size=64, batches=1,
    )).share for one in (evidence, replace(evidence, earlier=None))]  # fmt: skip
    assert shares == [len(SECOND) / (TRAINED - len(FIRST)), len(SECOND) / TRAINED]
    batches = history.batches(evidence.forget, evidence.retain, evidence.earlier)
    assert batches is not None
    for (forget, retain), update in zip(batches, history.updates, strict=True):
        rows = set(update.rows.tolist())
        assert sorted([*forget.rows.tolist(), *retain.rows.tolist()]) == sorted(rows - set(FIRST))
    assert history.batches(evidence.forget, evidence.retain) is None  # these rows belong to nobody without it


def test_the_report_counts_the_earlier_requests_and_verify_repeats_it(first: Outcome, second: Outcome) -> None:
    told = second.report["request"]["earlier"]
    assert (told["requests"], told["n_samples"], len(told["commitments"])) == (1, len(FIRST), 1)
    assert second.report["model"]["before"]["digest"] == first.report["model"]["after"]["digest"]
    assert any("1 earlier request" in limit for limit in second.report["overall"]["limits"])
    assert "Earlier requests" in (second.folder / "report.html").read_text()
    found = verify(second.folder, private=private_folder(second.folder), progress=QUIET)
    assert found.findings == []
    assert "the earlier requests are the ones the report commits to" in found.checked


def test_the_control_of_the_second_verdict_is_the_cleaned_model(first: Outcome, second: Outcome) -> None:
    before = second.report["measurements"]["utility"]["before"]["value"]
    assert before == first.report["measurements"]["utility"]["after"]["value"]  # the same unseen images


def test_a_changed_earlier_manifest_is_found(second: Outcome, tmp_path: Path) -> None:
    folder, private = tmp_path / "out", tmp_path / "out.private"
    shutil.copytree(second.folder, folder)
    shutil.copytree(private_folder(second.folder), private)
    other = tmp_path / "other.txt"
    other.write_text("\n".join(map(str, FIRST[1:])) + "\n")
    text = (private / "job.yaml").read_text()
    (private / "job.yaml").write_text(text.replace(read_job(private / "job.yaml").earlier[0], str(other)))
    report, prepared = (
        read_report(folder),
        replace(prepare_again(private), earlier=Earlier({"": ForgetManifest.read(other)})),
    )
    assert "earlier requests" in _check_earlier(report, prepared, private)[0]


def prepare_again(private: Path) -> Prepared:
    job = read_job(private / "job.yaml")
    return prepare(replace(job, out=str(private.with_name("out"))), writing=False)


def test_a_third_request_knows_the_first_two(world: World, second: Outcome, tmp_path: Path) -> None:
    prepared = prepare(second_job(world, tmp_path, second, [70, 71], method="finetune"))
    assert prepared.splits.earlier.rows.tolist() == sorted([*FIRST, *SECOND])
    assert len(prepared.earlier.manifests) == 2


def test_a_cleaned_model_away_from_its_private_folder_is_not_taken_for_a_first_one(
    world: World, second: Outcome, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(second.folder, tmp_path / "downloaded"))
    job = second_job(world, tmp_path, second, [70, 71], model=f"local-dir:{folder}")
    with pytest.raises(UnlearnError, match="2 earlier requests.*--earlier"):
        prepare(job)
    files = []
    for name, rows in (("one", FIRST), ("two", SECOND)):
        files.append(str(tmp_path / f"{name}.txt"))
        Path(files[-1]).write_text("\n".join(map(str, rows)) + "\n")
    prepared = prepare(replace(job, earlier=tuple(files)))
    assert prepared.splits.earlier.rows.tolist() == sorted([*FIRST, *SECOND])


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["30", "70"], "1 requested ids were named by an earlier request: '30'"),
        (["subject=nobody"], "requested subjects are not in"),
    ],
)
def test_asking_again_for_what_is_gone_is_said(
    lines: list[str], words: str, world: World, first: Outcome, tmp_path: Path
) -> None:
    with pytest.raises(UnlearnError, match=words):
        prepare(small_job(world, tmp_path, lines, model=f"local-dir:{first.folder}"))


def test_a_class_that_was_partly_forgotten_can_be_asked_for_as_a_whole(
    world: World, first: Outcome, tmp_path: Path
) -> None:
    label = int(LABELS[FIRST[0]])
    prepared = prepare(small_job(world, tmp_path, [f"class={label}"], model=f"local-dir:{first.folder}"))
    assert prepared.splits.forget.rows.tolist() == [row for row in of_classes(label) if row not in FIRST]
    assert prepared.splits.forgotten_classes == (label,)
