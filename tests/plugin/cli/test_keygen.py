"""`unlearn keygen`."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.plugin.cli.invoke import invoke
from unlearn_plugin.cli import main
from unlearn_plugin.cli.sign import PASSPHRASE
from unlearn_plugin.signing import PublicKey, Signer, is_encrypted


def test_it_writes_both_halves_and_tells_the_key_id(tmp_path: Path) -> None:
    done = invoke("keygen", str(tmp_path / "me.pem"))
    assert done.exit_code == 0, done.output
    assert PublicKey.load(tmp_path / "me.pub.pem").keyid in done.output
    assert "BEGIN" not in done.output
    assert not is_encrypted(tmp_path / "me.pem")


def test_it_never_overwrites(tmp_path: Path) -> None:
    invoke("keygen", str(tmp_path / "me.pem"))
    before = (tmp_path / "me.pem").read_bytes()
    done = invoke("keygen", str(tmp_path / "me.pem"))
    assert done.exit_code == 1
    assert "exists already" in done.output
    assert (tmp_path / "me.pem").read_bytes() == before


def test_a_passphrase_is_asked_for_twice_and_never_shown(tmp_path: Path) -> None:
    words = ["keygen", str(tmp_path / "me.pem"), "--passphrase"]
    done = CliRunner().invoke(main, words, input="correct horse\ncorrect horse\n")
    assert done.exit_code == 0, done.output
    assert "correct horse" not in done.output
    assert Signer.load(tmp_path / "me.pem", "correct horse").public.keyid in done.output


def test_a_passphrase_can_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSPHRASE, "from the environment")
    assert invoke("keygen", str(tmp_path / "me.pem"), "--passphrase").exit_code == 0
    assert Signer.load(tmp_path / "me.pem", "from the environment")
