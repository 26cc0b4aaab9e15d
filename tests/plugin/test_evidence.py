"""Digests name every file that was changed, is missing or was added; the provenance says what it is and is not."""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.plugin.report.example import example_report
from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.evidence import PREDICATE, check_digests, write_digests
from unlearn_plugin.report.report import write_report


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished output folder with stand-ins for the large files."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 9000)
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("card")
    write_report(example_report(), folder)
    write_digests(folder)
    return folder


def provenance(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "evidence" / "provenance.json").read_text()))


def test_an_untouched_folder_has_no_findings(folder: Path) -> None:
    assert check_digests(folder) == []


def test_every_published_file_is_listed_in_order_with_its_sha256(folder: Path) -> None:
    lines = (folder / "evidence" / "SHA256SUMS").read_text().splitlines()
    names = ["README.md", "config.json", "evidence/provenance.json", "model.safetensors", "report.json"]
    assert lines == [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}" for name in names]
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {*names, "evidence/SHA256SUMS"}  # and no temporary file is left


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum on this machine")
def test_the_ordinary_tool_reads_the_digests(folder: Path) -> None:
    command = ["sha256sum", "--check", "--strict", "--quiet", "evidence/SHA256SUMS"]
    assert subprocess.run(command, cwd=folder, check=False).returncode == 0
    (folder / "config.json").write_text("[]")
    assert subprocess.run(command, cwd=folder, check=False, capture_output=True).returncode == 1


@pytest.mark.parametrize(
    ("change", "findings"),
    [
        (lambda f: (f / "config.json").write_text("{ }"), ["config.json was changed."]),
        (lambda f: (f / "model.safetensors").unlink(), ["model.safetensors is missing."]),
        (lambda f: (f / ".hidden").write_text(""), [".hidden was added."]),
        (lambda f: (f / "evidence" / "more.json").write_text("{}"), ["evidence/more.json was added."]),
        (lambda f: (f / "evidence" / "provenance.json").write_text("{}"), ["evidence/provenance.json was changed."]),
        (lambda f: (f / "README.md").rename(f / "NOTES.md"), ["README.md is missing.", "NOTES.md was added."]),
        (lambda f: (f / "empty").mkdir(), []),
    ],
    ids=["changed", "missing", "hidden", "beside", "evidence", "renamed", "empty-folder"],
)
def test_what_differs_is_named(folder: Path, change: Callable[[Path], object], findings: list[str]) -> None:
    change(folder)
    assert check_digests(folder) == findings


def test_one_flipped_bit_deep_in_a_large_file_is_found(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[(1 << 20) + 5] ^= 1  # in the second block that is read
    path.write_bytes(content)
    assert check_digests(folder) == ["model.safetensors was changed."]


def test_a_name_that_leads_out_of_the_folder_is_never_opened(folder: Path) -> None:
    outside = folder.parent / "outside.txt"
    outside.write_text("secret")
    digest = hashlib.sha256(b"secret").hexdigest()
    with (folder / "evidence" / "SHA256SUMS").open("a") as sums:
        sums.write(f"{digest}  ../outside.txt\n")
    assert check_digests(folder) == ["../outside.txt is missing."]


@pytest.mark.parametrize("target", ["../elsewhere", "report.json"])
def test_a_link_is_refused_when_writing_and_when_checking(folder: Path, target: str) -> None:
    (folder.parent / "elsewhere").mkdir()
    (folder / "link").symlink_to(target)
    for act in (check_digests, write_digests):
        with pytest.raises(UnlearnError, match="link in .* is not a plain file"):
            act(folder)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda path: path.unlink(), "There is no readable evidence/SHA256SUMS"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "There is no readable evidence/SHA256SUMS"),
        (lambda path: path.write_text(""), "Line 1 of"),
        (lambda path: path.write_text(path.read_text() + "abc  config.json\n"), "Line 6 of"),
        (lambda path: path.write_text(path.read_text().replace("  ", " *")), "Line 1 of"),
    ],
    ids=["missing", "not-text", "empty", "short-digest", "binary-mode"],
)
def test_damaged_digests_are_refused_in_one_sentence(
    folder: Path, damage: Callable[[Path], object], complaint: str
) -> None:
    damage(folder / "evidence" / "SHA256SUMS")
    with pytest.raises(UnlearnError, match=complaint) as caught:
        check_digests(folder)
    assert "\n" not in str(caught.value)


def test_writing_twice_gives_the_same_bytes(folder: Path) -> None:
    before = {path: path.read_bytes() for path in (folder / "evidence").iterdir()}
    write_digests(folder)
    assert {path: path.read_bytes() for path in (folder / "evidence").iterdir()} == before


def test_there_is_no_evidence_without_a_report(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(UnlearnError, match="There is no report.json"):
        write_digests(tmp_path)
    assert not (tmp_path / "evidence").exists()


def test_the_provenance_is_an_unsigned_statement_about_the_model_files(folder: Path) -> None:
    statement = provenance(folder)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == PREDICATE
    digests = {entry["name"]: entry["digest"]["sha256"] for entry in statement["subject"]}
    assert list(digests) == ["config.json", "model.safetensors"]
    for name, digest in digests.items():
        assert digest == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert statement["predicate"]["signed"] is False
    assert "Nobody signed this" in statement["predicate"]["note"]


def test_the_provenance_ties_procedure_request_and_report_together(folder: Path) -> None:
    predicate, report = provenance(folder)["predicate"], json.loads((folder / "report.json").read_text())
    assert predicate["procedure"] == report["procedure"]
    assert predicate["procedure"]["environment"]["torch"] == "2.15.0"
    assert predicate["request_commitment"] == report["request"]["commitment"]
    assert predicate["model_before"] == report["model"]["before"]
    assert predicate["status"] == "NO_RESIDUAL_DETECTED"
    assert predicate["report"]["digest"]["sha256"] == hashlib.sha256((folder / "report.json").read_bytes()).hexdigest()


def test_where_the_weights_were_refused_the_statement_is_about_the_report(tmp_path: Path) -> None:
    write_report(example_report("REFUSED"), tmp_path)
    write_digests(tmp_path)
    assert [entry["name"] for entry in provenance(tmp_path)["subject"]] == ["report.json"]
    assert check_digests(tmp_path) == []
