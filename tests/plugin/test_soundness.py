"""An output folder agrees with itself, or the disagreement is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from unlearn_plugin.evidence import write_digests
from unlearn_plugin.pipeline import Outcome
from unlearn_plugin.report.card import render_card
from unlearn_plugin.report.html import render_html
from unlearn_plugin.report.report import read_report, report_text
from unlearn_plugin.soundness import check_soundness


@pytest.fixture
def copy(finetuned: Outcome, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finetuned.folder, tmp_path / "out"))


def findings(folder: Path) -> list[str]:
    return [finding for _, found in check_soundness(folder, read_report(folder)) for finding in found]


def with_digests(folder: Path) -> list[str]:
    """What is found when the digests fit what was changed."""
    write_digests(folder)
    return findings(folder)


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def test_a_folder_as_it_was_written_agrees_with_itself(copy: Path) -> None:
    checks = dict(check_soundness(copy, read_report(copy)))
    assert len(checks) == 10
    assert not any(checks.values())


def test_a_report_that_does_not_fit_its_schema_is_named_with_the_place(copy: Path) -> None:
    edit(copy / "report.json", lambda report: report["request"].update(ids=["anna.png"]))
    assert "report.json: request.ids is not a field of it." in with_digests(copy)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace("  ", " "),
        lambda text: text.rstrip("\n"),
        lambda text: text.replace('"released":', '"released": true,\n    "released":', 1),
    ],
    ids=["indent", "end", "twice"],
)
def test_a_report_in_another_form_than_we_write_is_found(copy: Path, spoil: Callable[[str], str]) -> None:
    path = copy / "report.json"
    path.write_text(spoil(path.read_text()))
    assert any(finding.startswith("report.json is not in the form") for finding in with_digests(copy))


def test_a_card_that_says_more_than_the_report_is_found(copy: Path) -> None:
    path = copy / "README.md"
    path.write_text(path.read_text() + "\nAll data were deleted.\n")
    (finding,) = with_digests(copy)
    assert finding.startswith("README.md is not the card that report.json makes")


def test_a_page_of_another_report_is_found(copy: Path) -> None:
    report = read_report(copy)
    report["overall"]["statement"] = "All is well."
    (copy / "report.html").write_text(render_html(report))
    (finding,) = with_digests(copy)
    assert finding.startswith("report.html is not the page that report.json makes")


def test_other_weights_are_found_without_the_data(copy: Path) -> None:
    state = load_file(copy / "model.safetensors")
    save_file({**state, "fc.bias": state["fc.bias"] + 1}, copy / "model.safetensors")
    assert with_digests(copy) == ["model.safetensors: not the weights the report names; the digest differs."]
    save_file({**state, "fc.bias": torch.full_like(state["fc.bias"], torch.nan)}, copy / "model.safetensors")
    assert len(with_digests(copy)) == 1


def test_weights_beside_a_report_that_refused_them_are_found(copy: Path) -> None:
    report = read_report(copy)
    report["model"]["after"] = None
    (copy / "report.json").write_text(report_text(report))
    assert "model.safetensors is there, and report.json says that no weights were written." in with_digests(copy)


def test_missing_and_second_weights_are_found(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "old.safetensors")
    assert "report.json speaks of model.safetensors, and there is old.safetensors." in with_digests(copy)
    (copy / "old.safetensors").unlink()
    assert "report.json speaks of model.safetensors, and there is none." in with_digests(copy)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("environment", lambda e: e.update(python="2.7"), "environment.json: python is '2.7'"),
        ("environment", lambda e: e["packages"].update(timm="0"), "environment.json: timm is '0'"),
        ("environment", lambda e: e.pop("packages"), "evidence/environment.json is the environment"),
        ("job", lambda j: j.update(seed=99), "evidence/job.json: seed is 99, and report.json says 0."),
        ("job", lambda j: j["options"].update(epochs="9"), "job.json: options.epochs is 9, and report.json says 1."),
        ("job", lambda j: j["options"].update(epochs="many"), "evidence/job.json has the settings"),
    ],
)
def test_environment_and_settings_are_those_of_the_report(
    copy: Path, name: str, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    edit(copy / "evidence" / f"{name}.json", change)
    (finding,) = with_digests(copy)
    assert said in finding


def test_evidence_that_cannot_be_read_is_a_finding(copy: Path) -> None:
    (copy / "evidence" / "environment.json").write_text("{")
    (finding,) = with_digests(copy)
    assert finding.startswith("evidence/environment.json cannot be read")


def test_a_misshapen_report_is_a_finding_of_each_check_it_hinders_and_no_crash(copy: Path) -> None:
    report = read_report(copy)
    report["measurements"] = {"membership": "good"}
    (copy / "report.json").write_text(report_text(report))
    found = with_digests(copy)
    assert "report.json: measurements.membership is 'good', not of type object." in found
    assert any("the verdict follows from the measurements in report.json cannot be computed again" in f for f in found)


def test_card_and_page_are_made_from_the_report_alone(finetuned: Outcome) -> None:
    report = read_report(finetuned.folder)
    assert (finetuned.folder / "README.md").read_text() == render_card(report)
    assert (finetuned.folder / "report.html").read_text() == render_html(report)
