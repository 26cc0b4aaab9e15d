"""`verify` recomputes everything from the files; every lie is found and named."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from tests.plugin.release_folder import NAMES
from unlearn_hooks.errors import UnlearnError
from unlearn_plugin import verification
from unlearn_plugin.environment import code_digests
from unlearn_plugin.evidence import private_folder, write_digests
from unlearn_plugin.pipeline import Outcome
from unlearn_plugin.probes import PROBES
from unlearn_plugin.report.card import render_card
from unlearn_plugin.report.html import render_html
from unlearn_plugin.report.report import read_report, rounded, write_report
from unlearn_plugin.signing import PublicKey, Signer, generate_key
from unlearn_plugin.verdict import decide
from unlearn_plugin.verification import verify


@pytest.fixture
def copy(finetuned: Outcome, tmp_path: Path) -> Path:
    shutil.copytree(private_folder(finetuned.folder), tmp_path / "out.private")
    return Path(shutil.copytree(finetuned.folder, tmp_path / "out"))


def forge(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the report as a careful forger would: page, card, statement and digests fit the changed report."""
    report = read_report(folder)
    change(report)
    write_report(report, folder)
    (folder / "report.html").write_text(render_html(report))
    (folder / "README.md").write_text(render_card(report))
    write_digests(folder)


def findings(folder: Path, key: PublicKey | None = None) -> list[str]:
    try:
        return verify(folder, key=key).findings
    except UnlearnError as error:
        return list(error.findings)


def test_an_honest_folder_passes_every_check_and_is_measured_again(copy: Path) -> None:
    found = verify(copy)
    assert found.findings == []
    assert found.skipped == [
        "signature: there is none; whoever wrote the folder could have changed all of it",
        "what only the run itself knows: its time, its memory, what the method reports of it",
    ]
    assert len(found.checked) == 17
    assert found.measured is not None


def test_without_the_private_folder_all_that_the_files_allow_is_checked_and_the_rest_named(
    finetuned: Outcome, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finetuned.folder, tmp_path / "elsewhere"))
    found = verify(folder)
    assert found.findings == []
    assert len(found.checked) == 10
    assert [line.partition(":")[0] for line in found.skipped] == [
        "signature", "the measurements", "the model before", "the request",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def signed(finetuned: Outcome, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PublicKey]:
    """A signed folder, as it arrives on another machine; and the key that it should be signed with."""
    place = tmp_path_factory.mktemp("signed")
    folder = Path(shutil.copytree(finetuned.folder, place / "out"))
    key = generate_key(place / "officer.pem")
    Signer.load(place / "officer.pem").sign(folder)
    return folder, key


def test_a_signed_folder_is_sound_on_another_machine(signed: tuple[Path, PublicKey]) -> None:
    folder, key = signed
    found = verify(folder, key=key)
    assert found.findings == []
    assert f"the statement is signed by the key {key.keyid}" in found.checked


def test_without_the_key_the_signature_is_held_against_the_key_it_names(signed: tuple[Path, PublicKey]) -> None:
    found = verify(signed[0])
    assert "the signature fits the key that it names itself" in found.checked
    assert [line for line in found.skipped if line.startswith("who signed")]


PUBLISHED = (*NAMES, "evidence/report.dsse.json")


def test_every_published_file_is_among_those_that_are_tampered_with(signed: tuple[Path, PublicKey]) -> None:
    there = {path.relative_to(signed[0]).as_posix() for path in signed[0].rglob("*") if path.is_file()}
    assert there == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_changed_byte_in_any_published_file_is_found_and_the_file_named(
    signed: tuple[Path, PublicKey], tmp_path: Path, name: str
) -> None:
    folder = Path(shutil.copytree(signed[0], tmp_path / "out"))
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    assert any(name in finding for finding in findings(folder, signed[1]))


@pytest.mark.parametrize("name", ["report.json", "evidence/SHA256SUMS", "evidence/report.dsse.json"])
def test_a_missing_file_that_the_checks_begin_with_is_named(
    signed: tuple[Path, PublicKey], tmp_path: Path, name: str
) -> None:
    folder = Path(shutil.copytree(signed[0], tmp_path / "out"))
    (folder / name).unlink()
    assert any(name in finding for finding in findings(folder, signed[1]))


@pytest.mark.parametrize("name", ["notes.txt", "evidence/second.dsse.json", "pytorch_model.bin"])
def test_an_added_file_is_found_and_named(signed: tuple[Path, PublicKey], tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(signed[0], tmp_path / "out"))
    (folder / name).write_text("hello")
    assert f"{name} was added." in findings(folder, signed[1])


def test_a_forger_who_makes_everything_fit_is_found_by_the_signature_alone(
    signed: tuple[Path, PublicKey], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(signed[0], tmp_path / "out"))
    forge(folder, lambda report: report["request"].update(n_samples=7))
    (finding,) = findings(folder, signed[1])
    assert "is the signature of another statement" in finding
    (folder / "evidence" / "report.dsse.json").unlink()
    assert findings(folder) == []  # nothing but a signature can tell, and its absence is told


@pytest.mark.slow
def test_a_forged_verdict_is_found(copy: Path) -> None:
    forge(copy, lambda report: report["overall"].update(status="EXACT_BY_PROCESS", released=True))
    assert any("overall.status" in finding for finding in verify(copy).findings)


@pytest.mark.slow
@pytest.mark.parametrize(("field", "value"), [("margin", None), ("margin", 0.5), ("released", True), ("limits", [])])
def test_every_part_of_the_verdict_is_computed_again(copy: Path, field: str, value: object) -> None:
    forge(copy, lambda report: report["overall"].update({field: value}))
    assert any(f"overall.{field}" in finding for finding in verify(copy).findings)


def test_a_report_the_verdict_cannot_be_computed_from_is_a_finding_and_no_crash(copy: Path) -> None:
    shutil.rmtree(copy.with_name("out.private"))
    forge(copy, lambda report: report["measurements"]["membership"]["after"]["details"].pop("lower975"))
    assert any(
        "the verdict follows from the measurements in report.json cannot be computed" in finding
        for finding in verify(copy).findings
    )


def test_a_forged_measurement_is_found_by_measuring_again(copy: Path) -> None:
    forge(copy, lambda report: report["measurements"]["membership"]["after"].update(value=0.5))
    assert any(finding.startswith("membership (after)") for finding in verify(copy).findings)


@pytest.mark.slow
def test_a_forged_detail_that_turns_the_verdict_is_found_by_measuring_again(copy: Path) -> None:
    def flatter(report: dict[str, Any]) -> None:
        told = report["overall"]["status"]
        after = report["measurements"]["membership"]["after"]["details"]
        probes = [report["measurements"][name]["after"]["details"] for name in PROBES if name in report["measurements"]]
        for lower, p_value in ((0.4, 0.5), (0.6, 1e-6)):  # whichever turns it
            after["lower975"] = lower
            for probe in probes:
                probe["p_value"] = p_value
            report["overall"].update(rounded(asdict(decide(report))))
            if report["overall"]["status"] != told:
                return
        raise ValueError(f"the verdict {told} could not be turned")

    forge(copy, flatter)
    assert any(finding.startswith("The verdict is") for finding in findings(copy))


def _lie_about_everything(report: dict[str, Any]) -> None:
    measurements = report["measurements"]
    report["procedure"] |= {"summary": "Train again from the start.", "source": "a better one"}
    report["request"]["n_samples"] = 5000
    report["data"]["n_verdict"] += 1000
    report["guard"]["collapsed"] = True
    measurements["certified"] = measurements["change"]
    del measurements["tails"]
    measurements["neighbours"]["after"] = None
    measurements["membership"]["after"]["details"]["n_untested"] = 17
    measurements["membership"]["after"]["details"]["roc"][25][1] -= 0.5
    measurements["utility"]["after"]["details"]["per_class"][0]["value"] -= 0.5


def test_every_lie_that_leaves_the_verdict_as_it_was_is_found_by_doing_it_again(copy: Path) -> None:
    forge(copy, _lie_about_everything)
    said = "\n".join(findings(copy))
    for expected in (
        "procedure.summary is 'Train again", "procedure.source is 'a better one'", "request.n_samples is 5000",
        "data.n_verdict is", "guard.collapsed is True", "'certified' is none of those", "'tails' is missing",
        "neighbours (after): there is no value", "membership (after): details.n_untested",
        "membership (after): details.roc.25.1", "utility (after): details.per_class.0.value",
    ):  # fmt: skip
        assert expected in said, expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda report: report["procedure"].update(exact=True), "exact is False, and report.json says True"),
        (lambda report: report["procedure"].update(source="a better one"), "procedure.source is"),
        (lambda report: report["measurements"]["membership"].update(goal="low"), "measurements.membership.goal is"),
        (
            lambda report: report["measurements"]["suppression"].update(explanation="All is well."),
            "measurements.suppression.explanation is 'The share",
        ),
        (lambda report: report["overall"].update(erasure="CONFIRMED"), "overall.erasure is 'CONFIRMED'"),
    ],
)
def test_a_promise_that_no_such_method_makes_is_found_without_the_private_folder(
    copy: Path, change: Callable[[dict[str, Any]], None], expected: str
) -> None:
    shutil.rmtree(private_folder(copy))

    def promise(report: dict[str, Any]) -> None:
        change(report)
        told = report["overall"]
        report["overall"] = rounded(asdict(decide(report))) | {name: told[name] for name in ("process", "erasure")}

    forge(copy, promise)
    assert any(expected in finding for finding in findings(copy))


def test_what_was_found_is_told_where_the_private_part_cannot_be_read(copy: Path) -> None:
    (copy / "README.md").write_text("changed")
    (private_folder(copy) / "commitment.json").unlink()
    found = verify(copy)
    assert any("README.md" in finding for finding in found.findings)
    assert any("commitment.json" in line for line in found.skipped)


def test_code_that_a_private_folder_names_is_not_run_unless_that_folder_was_named(copy: Path) -> None:
    path = private_folder(copy) / "job.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"data": "os:abort", "data_dir": None}))
    assert any("os:abort" in line and "--private" in line for line in verify(copy).skipped)


def test_what_other_code_wrote_is_said_to_be_so(copy: Path) -> None:
    shutil.rmtree(private_folder(copy))
    path = copy / "evidence" / "environment.json"
    path.write_text(path.read_text().replace(code_digests()["unlearn_plugin"], "0" * 64))
    (copy / "report.html").write_text("an older page")
    write_digests(copy)
    assert any("other code of unlearn-plugin" in finding for finding in findings(copy))


@pytest.mark.parametrize("name", ["README.md", "report.html", "evidence/statement.json", "evidence/report.dsse.json"])
def test_a_folder_in_the_place_of_a_file_is_a_finding(
    signed: tuple[Path, PublicKey], tmp_path: Path, name: str
) -> None:
    folder = Path(shutil.copytree(signed[0], tmp_path / "out"))
    (folder / name).unlink()
    (folder / name).mkdir()
    assert any(name.rpartition("/")[2] in finding for finding in findings(folder))


@pytest.mark.parametrize(
    "name", ["report.json", "evidence/job.json", "evidence/statement.json", "evidence/report.dsse.json"]
)
def test_json_nested_without_end_is_a_finding(signed: tuple[Path, PublicKey], tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(signed[0], tmp_path / "out"))
    (folder / name).write_text("[" * 100_000 + "]" * 100_000)
    assert any(name in finding for finding in findings(folder))


def test_a_value_for_which_a_copy_is_trained_may_differ_by_half_its_interval_and_any_other_by_rounding() -> None:
    told = {"value": 0.5, "low": 0.45, "high": 0.57}
    assert verification._allowed("relearning", told) == pytest.approx(0.06)
    assert verification._allowed("relearning", {**told, "low": None}) == verification._TOLERANCE
    assert verification._allowed("membership", told) == verification._TOLERANCE
    assert verification._close(0.5, 0.55, 0.06)
    assert not verification._close(0.5, 0.55, verification._TOLERANCE)


@pytest.mark.slow
def test_other_weights_are_found(copy: Path) -> None:
    state = load_file(copy / "model.safetensors")
    state["fc.bias"][0] += 0.5
    save_file(state, copy / "model.safetensors")
    forge(copy, lambda report: None)
    assert any("digest differs" in finding for finding in verify(copy).findings)


@pytest.mark.slow
def test_another_manifest_is_found(copy: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.private" / "job.yaml"
    content = yaml.safe_load(path.read_text())
    lines = Path(content["forget"]).read_text().splitlines()
    (tmp_path / "fewer.csv").write_text("\n".join(lines[:-1]))
    path.write_text(yaml.safe_dump({**content, "forget": str(tmp_path / "fewer.csv")}))
    assert any("manifest" in finding for finding in verify(copy).findings)


@pytest.mark.slow
def test_a_published_job_that_is_not_the_private_one_is_found(copy: Path) -> None:
    path = copy / "evidence" / "job.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "seed": 5}))
    assert "evidence/job.json is not the job of the private folder: seed." in verify(copy).findings


def test_a_private_folder_without_the_key_is_refused(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "out.private" / "commitment.json").write_text("{}")
    with pytest.raises(UnlearnError, match=r"no readable commitment\.json"):
        verify(copy)


def test_in_a_notebook_what_is_wrong_stands_first(copy: Path) -> None:
    (copy / "README.md").write_text("# All good")
    shown = verify(copy, private=copy)._repr_html_()
    assert "3 findings" in shown  # by its digest, by the statement, and by the report it is made from
    assert shown.index("README.md was changed.") < shown.index("the verdict follows")


def test_a_folder_that_is_no_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnlearnError, match=r"report\.json"):
        verify(tmp_path)
