"""Digests name every file that was changed, is missing or was added; the statement says what the files are."""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rfc8785

from tests.plugin.report.example import example_report
from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.evidence import PREDICATE, SIGNATURE, check_digests, check_statement, write_digests
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


def statement(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "evidence" / "statement.json").read_text()))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digests(resources: list[dict[str, Any]]) -> dict[str, str]:
    return {entry["name"]: entry["digest"]["sha256"] for entry in resources}


def test_an_untouched_folder_has_no_findings(folder: Path) -> None:
    assert check_digests(folder) == []


def test_every_published_file_is_listed_in_order_with_its_sha256(folder: Path) -> None:
    lines = (folder / "evidence" / "SHA256SUMS").read_text().splitlines()
    names = ["README.md", "config.json", "evidence/statement.json", "model.safetensors", "report.json"]
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
        (lambda f: (f / "evidence" / "statement.json").write_text("{}"), ["evidence/statement.json was changed."]),
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
    assert "SHA256SUMS was changed" in check_digests(folder)[0]
    (folder / "evidence" / "statement.json").unlink()  # so that only the digests are left to tell
    assert "../outside.txt is missing." in check_digests(folder)


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


def test_the_statement_has_model_and_report_as_subjects_and_the_rest_as_byproducts(folder: Path) -> None:
    content = statement(folder)
    assert content["_type"] == "https://in-toto.io/Statement/v1"
    assert content["predicateType"] == PREDICATE
    subjects, byproducts = digests(content["subject"]), digests(content["predicate"]["byproducts"])
    assert list(subjects) == ["config.json", "model.safetensors", "report.json"]
    assert list(byproducts) == ["README.md"]
    assert {**subjects, **byproducts} == {name: sha256(folder / name) for name in (*subjects, *byproducts)}


def test_the_statement_says_what_the_report_says(folder: Path) -> None:
    predicate, report = statement(folder)["predicate"], example_report()
    assert predicate["method"] == report["procedure"]["method"]
    assert predicate["weights"]["before"] == report["model"]["before"]["digest"]
    assert predicate["weights"]["after"] == report["model"]["after"]["digest"]
    assert predicate["request_commitment"] == report["request"]["commitment"]["digest"]
    assert (predicate["status"], predicate["released"]) == ("NO_RESIDUAL_DETECTED", True)
    assert predicate["created_utc"] == report["created_utc"]


def test_the_statement_is_canonical_json(folder: Path) -> None:
    content = (folder / "evidence" / "statement.json").read_bytes()
    assert content == rfc8785.dumps(json.loads(content))
    assert content.startswith(b'{"_type":"https://in-toto.io/Statement/v1","predicate":{"byproducts":[{"digest"')


def test_canonical_json_is_that_of_the_examples_of_rfc_8785() -> None:
    numbers = [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001]  # section 3.2.2
    text = json.loads(r'"\u20ac$\u000F\u000aA\u0027\u0042\u0022\u005c\\\"\/"')
    canonical = '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
    canonical += '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    given = {"numbers": numbers, "string": text, "literals": [None, True, False]}
    assert rfc8785.dumps(given).decode() == canonical
    keys = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]  # section 3.2.3: by UTF-16 code units
    ordered = list(json.loads(rfc8785.dumps(dict.fromkeys(keys, 0))))
    assert ordered == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]


def test_where_the_weights_were_refused_the_statement_is_about_the_report(tmp_path: Path) -> None:
    write_report(example_report("REFUSED"), tmp_path)
    write_digests(tmp_path)
    assert list(digests(statement(tmp_path)["subject"])) == ["report.json"]
    assert statement(tmp_path)["predicate"]["weights"]["after"] is None
    assert check_digests(tmp_path) == check_statement(tmp_path) == []


def test_a_signature_is_part_of_neither_list_so_that_it_can_come_later(folder: Path) -> None:
    (folder / SIGNATURE).write_text("{}")
    assert check_digests(folder) == check_statement(folder) == []
    before = (folder / "evidence" / "statement.json").read_bytes()
    write_digests(folder)
    assert (folder / "evidence" / "statement.json").read_bytes() == before


def test_a_file_that_was_changed_together_with_its_digest_is_found_by_the_statement(folder: Path) -> None:
    old = sha256(folder / "config.json")
    (folder / "config.json").write_text("[]")
    sums = folder / "evidence" / "SHA256SUMS"
    sums.write_text(sums.read_text().replace(old, sha256(folder / "config.json")))
    assert check_digests(folder) == []
    assert check_statement(folder) == ["evidence/statement.json: config.json was changed."]


def test_a_changed_digest_is_told_from_a_changed_file(folder: Path) -> None:
    sums = folder / "evidence" / "SHA256SUMS"
    content = bytearray(sums.read_bytes())
    for place in range(len(content)):  # every byte of it
        changed = content.copy()
        changed[place] ^= 1
        sums.write_bytes(changed)
        try:
            findings = check_digests(folder)
        except UnlearnError as error:
            findings = list(error.findings)
        assert len(findings) == 1
        assert "SHA256SUMS" in findings[0]


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"subject": 3}', b"\xff", b'{"subject":[{}]}'])
def test_a_damaged_statement_is_a_finding(folder: Path, content: bytes) -> None:
    (folder / "evidence" / "statement.json").write_bytes(content)
    (finding,) = check_statement(folder)
    assert finding.startswith("evidence/statement.json is missing or cannot be read")


def test_a_statement_that_says_something_else_than_the_report_is_found(folder: Path) -> None:
    path = folder / "evidence" / "statement.json"
    path.write_text(path.read_text().replace("NO_RESIDUAL_DETECTED", "EXACT_BY_PROCESS"))
    assert check_statement(folder) == [
        "evidence/statement.json is not the statement that report.json and the files make."
    ]
