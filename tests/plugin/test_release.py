"""Which folders may be published."""

import hashlib
import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.plugin.release_folder import NAMES, make_folder
from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.evidence import SIGNATURE, write_digests
from unlearn_plugin.release import check_release
from unlearn_plugin.report.report import read_report, write_report
from unlearn_plugin.signing import Signer, generate_key

CARD = "---\ntags: [machine-unlearning]\n{more}---\n# A model\n"


def refusal(folder: Path) -> tuple[str, ...]:
    with pytest.raises(UnlearnError) as caught:
        check_release(folder, "clinic/classifier")
    return caught.value.findings


def test_a_finished_folder_may_be_published_all_of_it(tmp_path: Path) -> None:
    assert tuple(check_release(make_folder(tmp_path / "out"), "clinic/classifier")) == NAMES


def test_a_file_has_the_digest_of_an_lfs_file_and_the_one_git_itself_gives(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "out")
    digests = check_release(folder, "clinic/classifier")["model.safetensors"]
    git = subprocess.run(
        ["git", "hash-object", "--no-filters", folder / "model.safetensors"], capture_output=True, text=True, check=True
    )
    assert set(digests) == {hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(), git.stdout.strip()}


def test_changed_missing_and_added_files_are_all_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "out")
    (folder / "config.json").write_text("{}")
    (folder / "report.html").unlink()
    (folder / "ids.csv").write_text("anna.png")
    said = refusal(folder)
    expected = ("config.json was changed.", "report.html is missing.", "ids.csv was added.")
    assert said == tuple(f"{finding} Push the folder as `unlearn apply` wrote it." for finding in expected)


def test_a_signed_folder_may_be_published_with_its_signature(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "out")
    generate_key(tmp_path / "me.pem")
    Signer.load(tmp_path / "me.pem").sign(folder)
    assert set(check_release(folder, "clinic/classifier")) == {*NAMES, SIGNATURE}


def test_a_signature_that_does_not_fit_is_refused_even_where_the_digests_do(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "out")
    generate_key(tmp_path / "me.pem")
    Signer.load(tmp_path / "me.pem").sign(folder)
    (folder / "config.json").write_text("{}")
    write_digests(folder)
    (said,) = refusal(folder)
    assert said.startswith("evidence/report.dsse.json is the signature of another statement")


def test_a_file_changed_together_with_its_digest_is_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "out")
    sums, config = folder / "evidence" / "SHA256SUMS", folder / "config.json"
    old = hashlib.sha256(config.read_bytes()).hexdigest()
    config.write_text("{}")
    new = hashlib.sha256(b"{}").hexdigest()
    sums.write_text(sums.read_text().replace(f"{old}  config.json", f"{new}  config.json"))
    (said,) = refusal(folder)
    assert said.startswith("evidence/statement.json: config.json was changed.")


def test_a_file_that_is_none_of_an_output_folder_is_refused_even_with_a_digest(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "out")
    (folder / "job.json").write_text("{}")
    write_digests(folder)
    (said,) = refusal(folder)
    assert said.startswith("job.json is not a file that is published; only README.md, config.json,")


def test_a_verdict_that_does_not_follow_from_the_measurements_is_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "out", status="UTILITY_FAILED")
    report = read_report(folder)
    report["overall"]["released"] = True
    write_report(report, folder)
    write_digests(folder)
    assert any("overall.released is True, and the measurements give False" in said for said in refusal(folder))


@pytest.mark.parametrize("status", ["RESIDUAL_DETECTED", "UTILITY_FAILED"])
def test_a_verdict_that_does_not_allow_release_is_refused(tmp_path: Path, status: str) -> None:
    assert any(
        f"its verdict is {status}" in finding for finding in refusal(make_folder(tmp_path / "out", status=status))
    )


def test_a_released_report_without_weights_is_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "out")
    (folder / "model.safetensors").unlink()
    write_digests(folder)
    (said,) = refusal(folder)
    assert said == f"There is no model.safetensors in {str(folder)!r}, so there is nothing to push."


@pytest.mark.parametrize("base", ["clinic/classifier", "[other/one, clinic/classifier]", "clinic/original"])
def test_a_card_may_not_lead_to_the_weights_that_were_to_be_forgotten(tmp_path: Path, base: str) -> None:
    folder = make_folder(tmp_path / "out", card=CARD.format(more=f"base_model: {base}\n"))
    report = json.loads((folder / "report.json").read_text())
    report["model"]["source"] = "hf-hub:clinic/original"
    (folder / "report.json").write_text(json.dumps(report))
    write_digests(folder)
    (said,) = refusal(folder)
    assert re.match(r"README.md names clinic/(classifier|original) as base_model", said)


def test_a_base_model_that_may_stay_public_is_allowed(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "out", card=CARD.format(more="base_model: google/vit-base\n"))
    assert tuple(check_release(folder, "clinic/classifier")) == NAMES


@pytest.mark.parametrize(
    ("card", "part"),
    [
        ("---\ntags: [timm]\n---\n", "lacks the tag machine-unlearning"),
        ("# No metadata at all\n", "lacks the tag machine-unlearning"),
        ("---\ntags: [a\n---\n", "no readable metadata"),
        ("---\n- a list\n---\n", "no readable metadata"),
        (CARD.format(more="model-index: 3\n"), "no readable metadata"),
    ],
)
def test_a_card_with_unusable_metadata_is_refused(tmp_path: Path, card: str, part: str) -> None:
    (said,) = refusal(make_folder(tmp_path / "out", card=card))
    assert part in said


def test_the_private_folder_is_no_output_folder(tmp_path: Path) -> None:
    (tmp_path / "out.private").mkdir()
    (tmp_path / "out.private" / "job.json").write_text("{}")
    (said,) = refusal(tmp_path / "out.private")
    assert "no readable report.json" in said
