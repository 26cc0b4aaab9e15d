"""What an earlier version wrote is still read: one golden file, or folder, of every schema that was ever released.

A golden file is never changed. A new schema gets a new one beside it, and the code goes on reading both.
"""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

import unlearn_hooks
import unlearn_plugin
from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.features import recorded_features
from unlearn_hooks.samples import recorded_samples
from unlearn_hooks.schedule import recorded_schedule
from unlearn_hooks.training_record import SCHEMA, TrainingRecord
from unlearn_hooks.updates import recorded_updates
from unlearn_plugin.evidence import check_digests, check_statement, read_commitment_key
from unlearn_plugin.hub import Pushed, note
from unlearn_plugin.inspection import describe
from unlearn_plugin.job_file import check_published_job, read_job
from unlearn_plugin.report.compared import compare_schema, read_compared
from unlearn_plugin.report.compared_html import render_compared
from unlearn_plugin.report.report import read_report
from unlearn_plugin.report.schema import misfits, report_schema
from unlearn_plugin.signing import PublicKey, check_signature

GOLDEN = Path(__file__).parent / "golden"
SOURCES = [path for one in (unlearn_hooks, unlearn_plugin) for path in Path(one.__file__).parent.rglob("*.py")]
OUTPUT, PRIVATE = GOLDEN / "output-1", GOLDEN / "private-1"
PUBLISHED = sorted(path.relative_to(OUTPUT).as_posix() for path in OUTPUT.rglob("*") if path.is_file())


def test_the_record_is_read_with_all_its_parts() -> None:
    record = TrainingRecord.open(GOLDEN / "record-1")
    assert record.complete
    assert record.ids == tuple(f"{'ab'[row % 2]}/{row}.png" for row in range(8))
    assert (record.data["n"], record.recipe["steps"]) == (8, 4)
    assert [update.step for update in recorded_updates(record)] == [0, 2, 3]
    assert recorded_schedule(record).steps == 4
    assert [len(epoch.rows) for epoch in recorded_samples(record)] == [8, 8]
    assert recorded_features(record).n == 16


def test_numbers_in_the_record_are_read_as_they_were_written() -> None:
    record = TrainingRecord.open(GOLDEN / "record-1")
    assert record.digest() == "a32534d1d2164bc065550ffae43fb7f57b9ac9bfb8f0e8af39540b8817c96b96"
    first = recorded_updates(record)[0]
    expected = torch.tensor([[-0.0053, 0.3793], [-0.5820, -0.5204]])
    assert torch.allclose(first.weights()["weight"], expected, rtol=0, atol=1e-4)
    assert first.rows is not None
    assert first.rows.tolist() == [6, 1, 3, 4]


def test_the_record_is_described() -> None:
    told = dict(describe(str(GOLDEN / "record-1")))
    assert (told["kind"], told["samples"], told["steps"]) == ("record of a training run", 8, 4)


def test_the_output_folder_is_sound_and_its_signature_fits() -> None:
    assert check_digests(OUTPUT) == check_statement(OUTPUT) == []
    assert check_signature(OUTPUT, PublicKey.load(GOLDEN / "officer.pub.pem")) == []
    assert misfits(read_report(OUTPUT), report_schema()) == []
    assert dict(describe(str(OUTPUT)))["verdict"] == "NO_RESIDUAL_DETECTED"


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("harm", ["flip", "truncate", "delete"])
def test_harm_to_any_file_of_the_golden_output_is_found_and_the_file_named(
    tmp_path: Path, name: str, harm: str
) -> None:
    folder = Path(shutil.copytree(OUTPUT, tmp_path / "out"))
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    if harm == "delete":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content if harm == "flip" else content[: len(content) // 2])
    key = PublicKey.load(GOLDEN / "officer.pub.pem")
    try:
        findings = [*check_digests(folder), *check_signature(folder, key)]
    except UnlearnError as error:
        findings = list(error.findings)
    assert any(name in finding for finding in findings)


def test_the_private_job_is_read_and_is_the_published_one() -> None:
    job = read_job(PRIVATE / "job.yaml")
    assert (job.method, job.options, job.mean, job.std) == ("finetune", {"epochs": "5"}, (0.5,), (0.25,))
    assert (job.model, job.data_dir, job.retain_fraction) == ("local-dir:/models/a", "/data", 1.0)
    assert check_published_job(job, OUTPUT) == []


def test_the_key_of_the_commitment_is_read() -> None:
    assert read_commitment_key(PRIVATE) == bytes(range(32))


def test_the_account_of_pushes_goes_on_where_it_was(tmp_path: Path) -> None:
    shutil.copy(PRIVATE / "hub.json", tmp_path / "hub.json")
    earlier = json.loads((PRIVATE / "hub.json").read_text())["events"]
    note(tmp_path, Pushed("clinic/classifier", "main", "beef", "https://hub.example"))
    later = json.loads((tmp_path / "hub.json").read_text())["events"]
    assert later[:-1] == earlier
    assert [event["event"] for event in later] == ["pushed", "purged", "pushed"]


def test_the_comparison_is_read_and_makes_a_page() -> None:
    content = read_compared(GOLDEN / "comparison-1")
    assert misfits(content, compare_schema()) == []
    assert [row["label"] for row in content["rows"]] == [
        "retrain", "retrain:seed=1", "mini", "finetune", "scrub", "muda",
    ]  # fmt: skip
    assert "Nearest to a retrained model: mini" in render_compared(content)


WRITTEN_ONLY = {"urn:unlearn-plugin:annex:1", "urn:unlearn-plugin:audit:1"}  # for people; no code of ours reads them


def test_every_schema_that_the_sources_name_has_its_golden_file() -> None:
    named = {name for path in SOURCES for name in re.findall(r"urn:unlearn-plugin:[a-z-]+:\d+", path.read_text())}
    kept = "".join(path.read_text() for path in GOLDEN.rglob("*") if path.suffix in (".json", ".yaml"))
    assert [name for name in sorted(named - WRITTEN_ONLY) if name not in kept] == []
    assert (GOLDEN / f"record-{SCHEMA}").is_dir()
