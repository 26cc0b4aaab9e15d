"""`unlearn push`: what it says, asks and refuses."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.plugin.cli.invoke import invoke
from tests.plugin.hub_server import WRITER, Hub, serve
from tests.plugin.hub_store import Repository
from tests.plugin.release_folder import make_folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub with a model that has a past."""
    monkeypatch.setenv("HF_TOKEN", WRITER)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with serve() as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.address)
        repository = server.repositories["clinic/classifier"] = Repository()
        repository.put({"pytorch_model.bin": b"old weights"})
        repository.refs["refs/tags/v1"] = repository.refs["refs/heads/main"]
        yield server


PURGE = ("clinic/classifier", "--purge-history")


def test_push_says_where_the_files_are_and_keeps_account_beside_them(hub: Hub, tmp_path: Path) -> None:
    out = make_folder(tmp_path / "out")
    done = invoke("push", str(out), "clinic/new", "--private")
    assert done.exit_code == 0, done.output
    assert f"pushed       {hub.address}/clinic/new/commit/" in done.output
    assert hub.repositories["clinic/new"].private
    events = json.loads((tmp_path / "out.private" / "hub.json").read_text())["events"]
    assert [event["event"] for event in events] == ["pushed"]


def test_with_json_the_plan_the_push_and_the_purge_are_one_document(hub: Hub, tmp_path: Path) -> None:
    out = str(make_folder(tmp_path / "out"))
    planned = json.loads(invoke("push", out, *PURGE, "--json").stdout)
    assert planned["plan"]["steps"][1] == "delete the tag v1"
    assert (planned["pushed"], planned["purged"]) == (None, None)
    done = json.loads(invoke("push", out, *PURGE, "--confirm", "clinic/classifier", "--json").stdout)
    assert done["schema"] == "urn:unlearn-plugin:push:1"
    assert done["pushed"]["repository"] == "clinic/classifier"
    assert done["purged"]["erasure"] == "PENDING"


def test_push_refuses_a_changed_folder_in_a_sentence(hub: Hub, tmp_path: Path) -> None:
    out = make_folder(tmp_path / "out")
    (out / "config.json").write_text("{}")
    done = invoke("push", str(out), "clinic/new")
    assert done.exit_code == 1
    assert done.output == "Error: config.json was changed. Push the folder as `unlearn apply` wrote it.\n"
    assert list(hub.repositories) == ["clinic/classifier"]


def test_a_purge_is_only_planned_unless_it_is_confirmed(hub: Hub, tmp_path: Path) -> None:
    before = hub.state()
    out = str(make_folder(tmp_path / "out"))
    planned = invoke("push", out, *PURGE)
    assert planned.exit_code == 0, planned.output
    for line in (
        "  1. take pytorch_model.bin away from main",
        "  2. delete the tag v1",
        "  4. make the history of main one commit",
        "Anyone can download the earlier weights until then",
        "Nothing was changed. To do it: --purge-history --confirm clinic/classifier",
    ):
        assert line in planned.output
    wrong = invoke("push", out, *PURGE, "--confirm", "clinic/clasifier")
    assert wrong.exit_code == 1
    assert "'clinic/clasifier' is not 'clinic/classifier'; nothing was changed." in wrong.output
    assert hub.state() == before
    assert not (tmp_path / "out.private").exists()


def test_a_confirmed_purge_tells_what_was_done_and_that_the_erasure_is_pending(hub: Hub, tmp_path: Path) -> None:
    out = str(make_folder(tmp_path / "out"))
    done = invoke("push", out, *PURGE, "--confirm", "clinic/classifier")
    assert done.exit_code == 0, done.output
    assert "done         delete the tag v1" in done.output
    assert "remains" not in done.output
    assert "The erasure is PENDING." in done.output
    events = json.loads((tmp_path / "out.private" / "hub.json").read_text())["events"]
    assert [event["event"] for event in events] == ["pushed", "purged"]
    again = invoke("push", out, *PURGE)
    assert again.exit_code == 0
    assert "Nothing of the past is left within reach." in again.output
    assert "To do it" not in again.output


def test_a_purge_that_stopped_ends_with_exit_code_1_and_tells_how_to_go_on(hub: Hub, tmp_path: Path) -> None:
    hub.fail("super-squash", 403)
    done = invoke("push", str(make_folder(tmp_path / "out")), *PURGE, "--confirm", "clinic/classifier")
    assert done.exit_code == 1
    assert "remains      make the history of main one commit" in done.output
    assert "answered 403" in done.output
    assert "The same command goes on from there." in done.output


@pytest.mark.parametrize(
    "flags",
    [
        ("--purge-history", "--revision", "dev"),
        ("--purge-history", "--create-pr"),
        ("--confirm", "clinic/classifier"),
    ],
)
def test_push_flags_that_contradict_each_other_are_a_usage_error(tmp_path: Path, flags: tuple[str, ...]) -> None:
    assert invoke("push", str(tmp_path), "clinic/classifier", *flags).exit_code == 2


@pytest.mark.skipif(sys.platform == "win32", reason="has no pseudo-terminals")
@pytest.mark.parametrize(
    ("typed", "code", "last"),
    [("clinic/classifier", 0, "The erasure is PENDING"), ("clinic", 1, "nothing was changed"), ("", 0, "Nothing was")],
)
def test_on_a_terminal_the_name_of_the_repository_is_asked_for(
    hub: Hub, tmp_path: Path, typed: str, code: int, last: str
) -> None:
    before = hub.state()
    out = make_folder(tmp_path / "out")
    ours, theirs = os.openpty()
    os.write(ours, f"{typed}\n".encode())
    root = Path(__file__).parents[3]
    environment = {**os.environ, **hub.environment(tmp_path / "home"), "PYTHONPATH": f"{root}:{root / 'hooks'}"}
    command = [sys.executable, "-m", "unlearn_plugin", "push", str(out), *PURGE]
    done = subprocess.run(
        command, stdin=theirs, capture_output=True, text=True, env=environment, timeout=60, check=False
    )
    for end in (ours, theirs):
        os.close(end)
    assert done.returncode == code, done.stderr
    assert "Type clinic/classifier to go on" in done.stdout
    assert last in done.stdout + done.stderr
    assert (hub.state() == before) == (typed != "clinic/classifier")
    assert WRITER not in done.stdout + done.stderr
