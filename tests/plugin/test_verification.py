"""`verify` recomputes everything from the files; every lie is found and named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.evidence import private_folder, write_digests
from unlearn_plugin.pipeline import Outcome
from unlearn_plugin.report.html import render_html
from unlearn_plugin.verification import verify


@pytest.fixture
def copy(finetuned: Outcome, tmp_path: Path) -> Path:
    shutil.copytree(private_folder(finetuned.folder), tmp_path / "out.private")
    return Path(shutil.copytree(finetuned.folder, tmp_path / "out"))


def forge(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the report as a careful forger would: page and digests fit the changed report."""
    path = folder / "report.json"
    report = json.loads(path.read_text())
    change(report)
    path.write_text(json.dumps(report, indent=2))
    (folder / "report.html").write_text(render_html(report))
    shutil.rmtree(folder / "evidence")
    write_digests(folder)


def test_an_honest_folder_passes_every_check_and_is_measured_again(copy: Path) -> None:
    found = verify(copy)
    assert found.findings == []
    assert found.skipped == []
    assert len(found.checked) == 8
    assert found.measured is not None


def test_without_the_private_folder_the_files_are_still_checked(finetuned: Outcome, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finetuned.folder, tmp_path / "elsewhere"))
    found = verify(folder)
    assert found.findings == []
    assert len(found.checked) == 3
    assert len(found.skipped) == 1


@pytest.mark.parametrize("name", ["model.safetensors", "report.json", "report.html", "README.md", "config.json"])
def test_one_changed_byte_is_found_and_its_file_named(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    place = content.rindex(b"0") if name == "report.json" else len(content) // 2
    content[place] = ord("1") if content[place] == ord("0") else content[place] ^ 1
    (copy / name).write_bytes(bytes(content))
    try:
        findings = verify(copy).findings
    except UnlearnError as error:
        findings = list(error.findings)
    assert any(name in finding for finding in findings)


def test_a_forged_verdict_is_found(copy: Path) -> None:
    forge(copy, lambda report: report["overall"].update(status="EXACT_BY_PROCESS", released=True))
    assert any("overall.status" in finding for finding in verify(copy).findings)


@pytest.mark.parametrize(("field", "value"), [("margin", None), ("margin", 0.5), ("released", True), ("limits", [])])
def test_every_part_of_the_verdict_is_computed_again(copy: Path, field: str, value: object) -> None:
    forge(copy, lambda report: report["overall"].update({field: value}))
    assert any(f"overall.{field}" in finding for finding in verify(copy).findings)


def test_a_report_the_verdict_cannot_be_computed_from_is_a_finding_and_no_crash(copy: Path) -> None:
    shutil.rmtree(copy.with_name("out.private"))
    forge(copy, lambda report: report["measurements"]["membership"]["after"]["details"].pop("lower975"))
    assert any("cannot be computed" in finding for finding in verify(copy).findings)


def test_a_forged_measurement_is_found_by_measuring_again(copy: Path) -> None:
    forge(copy, lambda report: report["measurements"]["membership"]["after"].update(value=0.5))
    assert any(finding.startswith("membership (after)") for finding in verify(copy).findings)


def test_other_weights_are_found(copy: Path) -> None:
    state = load_file(copy / "model.safetensors")
    state["fc.bias"][0] += 0.5
    save_file(state, copy / "model.safetensors")
    forge(copy, lambda report: None)
    assert any("digest differs" in finding for finding in verify(copy).findings)


def test_another_manifest_is_found(copy: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.private" / "job.yaml"
    content = yaml.safe_load(path.read_text())
    lines = Path(content["forget"]).read_text().splitlines()
    (tmp_path / "fewer.csv").write_text("\n".join(lines[:-1]))
    path.write_text(yaml.safe_dump({**content, "forget": str(tmp_path / "fewer.csv")}))
    assert any("manifest" in finding for finding in verify(copy).findings)


def test_a_published_job_that_is_not_the_private_one_is_found(copy: Path) -> None:
    path = copy / "evidence" / "job.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "seed": 5}))
    assert "evidence/job.json is not the job of the private folder: seed." in verify(copy).findings


def test_a_private_folder_without_the_key_is_refused(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "out.private" / "commitment.json").write_text("{}")
    with pytest.raises(UnlearnError, match=r"no readable commitment\.json"):
        verify(copy)


def test_a_folder_that_is_no_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnlearnError, match=r"report\.json"):
        verify(tmp_path)
