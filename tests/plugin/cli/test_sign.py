"""`unlearn sign`, `unlearn apply --sign-key` and `unlearn verify --key`."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.plugin.cli.invoke import invoke
from unlearn_plugin.cli import main
from unlearn_plugin.cli.sign import PASSPHRASE
from unlearn_plugin.demo import Scene
from unlearn_plugin.evidence import SIGNATURE
from unlearn_plugin.pipeline import Outcome
from unlearn_plugin.signing import check_signature, generate_key


@pytest.fixture
def copy(finetuned: Outcome, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finetuned.folder, tmp_path / "out"))


def test_what_was_signed_after_reading_is_verified_with_the_public_key(copy: Path, tmp_path: Path) -> None:
    generate_key(tmp_path / "me.pem")
    done = invoke("sign", str(copy), "--key", str(tmp_path / "me.pem"))
    assert done.exit_code == 0, done.output
    assert str(copy / SIGNATURE) in done.output
    done = invoke("verify", str(copy), "--key", str(tmp_path / "me.pub.pem"))
    assert done.exit_code == 0, done.output
    assert "ok  the statement is signed by the key" in done.output
    assert "--  the measurements: " in done.output


def test_a_folder_that_is_not_sound_is_not_signed(copy: Path, tmp_path: Path) -> None:
    generate_key(tmp_path / "me.pem")
    (copy / "README.md").write_text("# All good")
    done = invoke("sign", str(copy), "--key", str(tmp_path / "me.pem"))
    assert done.exit_code == 1
    assert "README.md was changed. Nothing was signed." in done.output
    assert not (copy / SIGNATURE).exists()


def test_a_missing_signature_and_a_wrong_key_end_with_exit_code_1(copy: Path, tmp_path: Path) -> None:
    generate_key(tmp_path / "me.pem")
    generate_key(tmp_path / "other.pem")
    done = invoke("verify", str(copy), "--key", str(tmp_path / "me.pub.pem"))
    assert done.exit_code == 1
    assert "nobody signed this output" in done.output
    invoke("sign", str(copy), "--key", str(tmp_path / "other.pem"))
    done = invoke("verify", str(copy), "--key", str(tmp_path / "me.pub.pem"))
    assert done.exit_code == 1
    assert "and not with the one given" in done.output


def test_an_encrypted_key_asks_for_its_passphrase_or_takes_it_from_the_environment(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["sign", str(copy), "--key", str(tmp_path / "me.pem")]
    generate_key(tmp_path / "me.pem", "correct horse")
    done = CliRunner().invoke(main, words, input="wrong\n")
    assert done.exit_code == 1
    assert "cannot be opened with that passphrase" in done.output
    done = CliRunner().invoke(main, words, input="correct horse\n")
    assert done.exit_code == 0, done.output
    assert "correct horse" not in done.output
    (copy / SIGNATURE).unlink()
    monkeypatch.setenv(PASSPHRASE, "correct horse")
    assert invoke(*words).exit_code == 0


@pytest.mark.slow
def test_apply_signs_what_it_writes_and_checks_the_key_before_any_work(scene: Scene, tmp_path: Path) -> None:
    words = ["apply", "--model", f"local-dir:{scene.model}", "--data-dir", str(scene.data), "--device", "cpu"]
    words += ["--forget", str(scene.forget), "--method", "finetune", "-o", "epochs=1", "--out", str(tmp_path / "out")]
    done = invoke(*words, "--sign-key", str(tmp_path / "none.pem"))
    assert done.exit_code == 1
    assert "none.pem' cannot be read" in done.output
    assert not (tmp_path / "out").exists()
    key = generate_key(tmp_path / "me.pem")
    done = invoke(*words, "--sign-key", str(tmp_path / "me.pem"))
    assert done.exit_code in (0, 3), done.output
    assert check_signature(tmp_path / "out", key) == []
