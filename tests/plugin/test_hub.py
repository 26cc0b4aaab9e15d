"""Pushing and purging, with the real client against a Hub on the loopback that fails on purpose."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, ModelCard

import unlearn_plugin
from tests.plugin.hub_server import READER, WRITER, Hub, serve
from tests.plugin.hub_store import Repository, files_of, regular
from tests.plugin.release_folder import NAMES, make_folder
from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.hub import Purged, note, plan, purge, push

NAME = "clinic/classifier"
WRITES = ("preupload", "objects/batch", "PUT /lfs", "verify", "validate-yaml", "/commit/")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("HF_TOKEN", WRITER)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # plain LFS; read at import otherwise
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # how long is waited is the matter of patience
    with serve() as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("push") / "out")


@pytest.fixture
def old(hub: Hub) -> Repository:
    """A repository with a past: weights in LFS and in git, two commits, a tag, a branch and a pull request."""
    repository = hub.repositories[NAME] = Repository()
    first = repository.put({"model.safetensors": b"oldest weights", "README.md": b"# about Anna\n"})
    repository.refs["refs/tags/v1"] = repository.refs["refs/pr/1"] = first
    second = repository.put({
        "model.safetensors": b"old weights",
        "pytorch_model.bin": b"old weights again",
        "small.npz": b"old weights in git",
        "LICENSE": b"free",
        "README.md": b"---\ntags: [timm]\n---\n",
        ".gitattributes": b"",
    })
    repository.refs["refs/heads/dev"] = second
    return repository


def read(hub: Hub, revision: str = "main") -> dict[str, bytes]:
    """What a reader finds at a revision."""
    repository = hub.repositories[NAME]
    return {path: repository.read(file) for path, file in repository.commits[repository.resolve(revision)].tree.items()}


def refusal(hub: Hub, folder: Path, **how: Any) -> str:
    """Why a push fails; and see that it leaves the Hub as it was."""
    before = hub.state()
    with pytest.raises(UnlearnError) as caught:
        push(folder, NAME, endpoint=hub.address, **how)
    assert hub.state() == before
    assert WRITER not in str(caught.value)
    return str(caught.value)


def run_purge(hub: Hub, folder: Path) -> Purged:
    found = plan(folder, NAME, endpoint=hub.address)
    push(folder, NAME, purge=found, endpoint=hub.address)
    return purge(folder, found, endpoint=hub.address)


def test_a_push_makes_the_repository_and_puts_every_file_there_in_one_commit(hub: Hub, folder: Path) -> None:
    pushed = push(folder, NAME, endpoint=hub.address)
    found = read(hub)
    found.pop(".gitattributes")
    assert found == files_of(folder)
    assert (pushed.repository, pushed.revision) == (NAME, "main")
    assert pushed.commit == hub.repositories[NAME].refs["refs/heads/main"]
    assert pushed.url == f"{hub.address}/{NAME}/commit/{pushed.commit}"
    assert hub.asked("POST .*/commit/") == [200]
    assert not hub.repositories[NAME].private


def test_what_was_pushed_can_be_downloaded_and_its_card_read(hub: Hub, folder: Path, tmp_path: Path) -> None:
    push(folder, NAME, endpoint=hub.address)
    api = HfApi(endpoint=hub.address)
    for name in NAMES:
        copy = api.hf_hub_download(NAME, name, local_dir=tmp_path / "copy")
        assert Path(copy).read_bytes() == (folder / name).read_bytes()
    card = ModelCard.load(tmp_path / "copy" / "README.md").data
    assert "machine-unlearning" in (card.tags or [])
    assert {result.metric_type for result in card.eval_results or []} == {"accuracy", "roc_auc"}
    assert card.base_model is None


def test_private_makes_a_private_repository(hub: Hub, folder: Path) -> None:
    push(folder, NAME, private=True, endpoint=hub.address)
    assert hub.repositories[NAME].private
    push(folder, NAME, private=True, endpoint=hub.address)  # and is content with one


def test_private_refuses_a_repository_that_is_public(hub: Hub, folder: Path, old: Repository) -> None:
    assert "is public, and --private makes only new" in refusal(hub, folder, private=True)


def test_pushing_again_makes_no_second_commit(hub: Hub, folder: Path) -> None:
    first = push(folder, NAME, endpoint=hub.address)
    assert push(folder, NAME, endpoint=hub.address) == first
    assert hub.asked("POST .*/commit/") == [200]


def test_other_files_of_the_repository_stay(hub: Hub, folder: Path, old: Repository) -> None:
    push(folder, NAME, endpoint=hub.address)
    assert read(hub).keys() == {*NAMES, "pytorch_model.bin", "small.npz", "LICENSE", ".gitattributes"}


def test_a_revision_is_a_branch_made_from_main_if_it_is_not_there(hub: Hub, folder: Path, old: Repository) -> None:
    main = old.refs["refs/heads/main"]
    for branch in ("cleaned", "dev"):
        pushed = push(folder, NAME, revision=branch, endpoint=hub.address)
        assert pushed.revision == branch
        assert read(hub, branch)["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert old.refs["refs/heads/main"] == main


@pytest.mark.parametrize("revision", ["v1", "refs/pr/1"])
def test_a_revision_that_is_no_branch_is_refused(hub: Hub, folder: Path, old: Repository, revision: str) -> None:
    assert f"{revision!r} is no branch of {NAME}" in refusal(hub, folder, revision=revision)


def test_a_pull_request_leaves_main_alone(hub: Hub, folder: Path, old: Repository) -> None:
    main = old.refs["refs/heads/main"]
    pushed = push(folder, NAME, create_pr=True, endpoint=hub.address)
    assert (pushed.revision, pushed.url) == ("refs/pr/2", f"{hub.address}/{NAME}/discussions/2")
    assert read(hub, "refs/pr/2")["report.json"] == (folder / "report.json").read_bytes()
    assert old.refs["refs/heads/main"] == main


def test_a_pull_request_needs_a_repository_and_something_to_change(hub: Hub, folder: Path) -> None:
    assert refusal(hub, folder, create_pr=True) == (
        f"There is no {NAME} yet; push without --create-pr and --purge-history."
    )
    push(folder, NAME, endpoint=hub.address)
    assert "holds these files already" in refusal(hub, folder, create_pr=True)


def test_a_pull_request_whose_answer_was_lost_is_not_opened_twice(hub: Hub, folder: Path, old: Repository) -> None:
    hub.fail("/commit/", "lose")
    with pytest.raises(UnlearnError, match="did not answer"):
        push(folder, NAME, create_pr=True, endpoint=hub.address)
    assert [ref for ref in old.refs if ref.startswith("refs/pr/")] == ["refs/pr/1", "refs/pr/2"]


def test_flags_that_contradict_each_other_are_refused(hub: Hub, folder: Path, old: Repository) -> None:
    found = plan(folder, NAME, endpoint=hub.address)
    for flags in (
        {"revision": "dev", "create_pr": True},
        {"revision": "dev", "purge": found},
        {"create_pr": True, "purge": found},
    ):
        assert "Give one of --revision, --create-pr and --purge-history" in refusal(hub, folder, **flags)


@pytest.mark.parametrize("name", ["classifier", "a/b/c"])
def test_a_repository_has_an_owner_and_a_name(hub: Hub, folder: Path, name: str) -> None:
    with pytest.raises(UnlearnError, match="does not name a repository; write OWNER/NAME"):
        push(folder, name, endpoint=hub.address)
    assert hub.requests == []


def test_a_folder_that_may_not_be_published_is_never_shown_to_the_hub(hub: Hub, tmp_path: Path) -> None:
    assert "RESIDUAL_DETECTED" in refusal(hub, make_folder(tmp_path / "out", status="RESIDUAL_DETECTED"))
    assert hub.requests == []


@pytest.mark.parametrize("how", [429, 500, "drop", "lose", "half"])
@pytest.mark.parametrize("kind", ["repos/create", "/refs", *WRITES])
def test_what_passes_is_tried_again_and_commits_once(hub: Hub, folder: Path, kind: str, how: int | str) -> None:
    hub.fail(kind, how)
    push(folder, NAME, endpoint=hub.address)
    found = read(hub)
    found.pop(".gitattributes")
    assert found == files_of(folder)
    assert len(list(hub.repositories[NAME].history(hub.repositories[NAME].refs["refs/heads/main"]))) == 2
    assert hub.failures[0].times == 0


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        *(("/commit/", how) for how in (401, 403, 409, 412, 429, 500, "drop", "half")),
        *((kind, how) for kind in WRITES[:-1] for how in (403, 500, "half")),
    ],
)
def test_what_does_not_pass_leaves_a_repository_as_it_was(
    hub: Hub, folder: Path, old: Repository, kind: str, how: int | str
) -> None:
    hub.fail(f"(POST|PUT).*{kind.removeprefix('PUT ')}", how, times=99)
    said = refusal(hub, folder)
    assert said.startswith(f"Pushing to {NAME} failed: ")
    assert f"the Hub answered {how} (told to fail)" in said if isinstance(how, int) else "did not answer" in said


@pytest.mark.parametrize("how", [403, 500, "drop"])
@pytest.mark.parametrize("flags", [{}, {"revision": "cleaned"}])
def test_what_was_made_for_a_push_that_failed_is_deleted_again(
    hub: Hub, folder: Path, flags: dict[str, str], how: int | str
) -> None:
    if flags:
        hub.put(NAME, folder / "evidence")
    hub.fail("POST .*/commit/", how, times=99)
    refusal(hub, folder, **flags)
    assert hub.asked("DELETE") == [200]


def test_what_could_not_be_deleted_again_is_told_besides_the_failure(hub: Hub, folder: Path) -> None:
    hub.fail("POST .*/commit/", 403)
    hub.fail("DELETE", 403)
    with pytest.raises(UnlearnError) as caught:
        push(folder, NAME, endpoint=hub.address)
    first, second = caught.value.findings
    assert first.startswith("The push failed: the Hub answered 403")
    assert second.startswith(f"The repository {NAME} was made for it, and could not be deleted again (the Hub")


@pytest.mark.parametrize("branch", ["main", "cleaned", "dev"])
def test_a_push_does_not_overtake_somebody_else(
    hub: Hub, folder: Path, old: Repository, monkeypatch: pytest.MonkeyPatch, branch: str
) -> None:
    commit_between(hub, monkeypatch, branch)
    with pytest.raises(UnlearnError, match=r"answered 412 .*the repository has changed meanwhile"):
        push(folder, NAME, revision=branch, endpoint=hub.address)
    assert read(hub, branch) == {"notes.txt": b"by somebody else"}


def test_a_new_repository_somebody_wrote_to_meanwhile_is_not_deleted(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_between(hub, monkeypatch, "main")
    with pytest.raises(UnlearnError, match="answered 412"):
        push(folder, NAME, endpoint=hub.address)
    assert read(hub) == {"notes.txt": b"by somebody else"}


def commit_between(hub: Hub, monkeypatch: pytest.MonkeyPatch, branch: str) -> None:
    """Let somebody else commit after our upload and before our commit."""
    upload = HfApi.preupload_lfs_files

    def upload_and_lose_the_race(*args: Any, **more: Any) -> None:
        upload(*args, **more)
        ref, repository = f"refs/heads/{branch}", hub.repositories[NAME]
        repository.commit(ref, {"notes.txt": regular(b"by somebody else")}, "notes", repository.refs[ref])

    monkeypatch.setattr(HfApi, "preupload_lfs_files", upload_and_lose_the_race)


@pytest.mark.parametrize(("token", "status"), [(READER, 403), ("hf_unknown", 401), (None, 401)])
def test_a_token_that_may_not_write_is_told_and_never_shown(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, token: str | None, status: int
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setenv("HF_TOKEN", token or "")
    said = refusal(hub, folder)
    assert f"the Hub answered {status}" in said
    assert "token" in said
    assert not token or token not in said


def test_metadata_the_hub_refuses_are_told_before_anything_is_committed(
    hub: Hub, folder: Path, old: Repository
) -> None:
    hub.fail("validate-yaml", 400)
    assert "Invalid metadata in README.md" in refusal(hub, folder)


def test_a_file_that_the_repository_ignores_is_missed_after_the_push(hub: Hub, folder: Path) -> None:
    repository = hub.repositories[NAME] = Repository()
    repository.put({".gitignore": b"report.html\n"})
    with pytest.raises(
        UnlearnError, match=r"does not hold report\.html as it is in the folder; see that no \.gitignore"
    ):
        push(folder, NAME, endpoint=hub.address)


def test_a_plan_only_reads(hub: Hub, folder: Path, old: Repository) -> None:
    before = hub.state()
    found = plan(folder, NAME, endpoint=hub.address)
    assert [(step.kind, step.names) for step in found.steps if step.kind != "lfs"] == [
        ("file", ("pytorch_model.bin",)),
        ("file", ("small.npz",)),
        ("tag", ("v1",)),
        ("branch", ("dev",)),
        ("history", ("main",)),
    ]
    assert {digest for step in found.steps if step.kind == "lfs" for digest in step.names} == set(old.listed)
    assert found.left == ("LICENSE",)
    assert found.public
    assert hub.state() == before
    assert {method for method, _, _ in hub.requests} == {"GET"}


def test_a_purge_leaves_the_new_files_and_nothing_of_the_past_but_what_no_call_reaches(
    hub: Hub, folder: Path, old: Repository
) -> None:
    past = [sha for sha in old.reachable() if sha not in old.history(old.refs["refs/pr/1"])]
    found = plan(folder, NAME, endpoint=hub.address)
    done = run_purge(hub, folder)
    left = read(hub)
    assert (left.pop("LICENSE"), left.pop(".gitattributes")) == (b"free", b"")
    assert left == files_of(folder)
    assert set(old.refs) == {"refs/heads/main", "refs/pr/1"}
    assert list(old.history(old.refs["refs/heads/main"])) == [old.refs["refs/heads/main"]]
    assert list(old.listed.values()) == ["model.safetensors"]
    assert not set(past) & old.reachable()
    assert done.done == tuple(step.text for step in found.steps if step.kind != "file")
    assert (done.failed, done.erasure) == (None, "PENDING")
    assert done.remaining == (f"the earlier commit {old.refs['refs/pr/1']} still answers",)
    assert "refs/pr/1 may hold earlier weights" in done.unreachable[0]


def test_after_a_purge_there_is_nothing_left_to_plan(hub: Hub, folder: Path, old: Repository) -> None:
    del old.refs["refs/pr/1"]
    assert run_purge(hub, folder).remaining == ()
    again = plan(folder, NAME, endpoint=hub.address)
    assert (again.steps, again.commits) == ((), ())


def test_a_hub_that_still_shows_earlier_commits_is_not_believed(hub: Hub, folder: Path, old: Repository) -> None:
    past = old.reachable()
    old.forgets = False
    assert set(run_purge(hub, folder).remaining) == {f"the earlier commit {sha} still answers" for sha in past}


def test_models_that_name_this_one_as_their_base_are_told(hub: Hub, folder: Path, old: Repository) -> None:
    hub.repositories["someone/finetuned"] = Repository()
    hub.repositories["someone/finetuned"].put({"README.md": f"---\nbase_model: {NAME}\n---\n".encode()})
    assert "someone/finetuned says it was made from this model: tell its owner." in run_purge(hub, folder).unreachable


def test_an_old_object_with_the_content_of_a_new_file_stays(hub: Hub, folder: Path) -> None:
    repository = hub.repositories[NAME] = Repository()
    repository.put({"pytorch_model.bin": (folder / "model.safetensors").read_bytes(), "other.bin": b"old"})
    run_purge(hub, folder)
    assert read(hub)["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert len(repository.listed) == 1


def test_a_plan_that_names_a_new_object_does_not_get_it_deleted(hub: Hub, folder: Path, tmp_path: Path) -> None:
    other = make_folder(tmp_path / "other", seed=1)
    push(folder, NAME, endpoint=hub.address)
    found = plan(other, NAME, endpoint=hub.address)  # would delete the weights of `folder`
    assert [step.kind for step in found.steps] == ["lfs", "history"]
    purge(folder, found, endpoint=hub.address)
    assert read(hub)["model.safetensors"] == (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "kind", ["DELETE .*/tag/", "DELETE .*/branch/", "POST .*/lfs-files/batch", "POST .*/super-squash/"]
)
@pytest.mark.parametrize("how", [503, "lose"])
def test_a_purge_tries_again_what_passes(hub: Hub, folder: Path, old: Repository, kind: str, how: int | str) -> None:
    del old.refs["refs/pr/1"]
    hub.fail(kind, how)
    done = run_purge(hub, folder)
    assert (done.failed, done.remaining) == (None, ())
    assert hub.failures[0].times == 0


def test_a_purge_stops_at_what_does_not_pass_and_goes_on_from_there(hub: Hub, folder: Path, old: Repository) -> None:
    del old.refs["refs/pr/1"]
    hub.fail("POST .*/lfs-files/batch", 403)
    stopped = run_purge(hub, folder)
    assert stopped.done == ("delete the tag v1", "delete the branch dev")
    assert stopped.failed
    assert "failed: the Hub answered 403" in stopped.failed
    assert [text.split(" ")[0] for text in stopped.remaining] == ["delete", "make", "a"]
    assert len(old.listed) == 4  # three old objects and the new one
    again = run_purge(hub, folder)
    assert [text.split(" ")[0] for text in again.done] == ["delete", "make"]
    assert (again.failed, again.remaining) == (None, ())


def test_a_purge_that_could_not_look_again_says_so(hub: Hub, folder: Path, old: Repository) -> None:
    found = plan(folder, NAME, endpoint=hub.address)
    push(folder, NAME, purge=found, endpoint=hub.address)
    hub.fail("GET .*/refs", 403)
    done = purge(folder, found, endpoint=hub.address)
    assert done.remaining == ("a second look at what is left",)
    assert done.failed
    assert done.failed.startswith(f"Looking again at {NAME} failed: the Hub answered 403")
    assert len(done.done) == len([step for step in found.steps if step.kind != "file"])


def test_nothing_is_purged_before_the_new_files_are_there(hub: Hub, folder: Path, old: Repository) -> None:
    before = hub.state()
    with pytest.raises(UnlearnError, match="does not hold README.md"):
        purge(folder, plan(folder, NAME, endpoint=hub.address), endpoint=hub.address)
    assert hub.state() == before


def test_a_plan_is_worthless_once_main_has_moved(hub: Hub, folder: Path, old: Repository) -> None:
    found = plan(folder, NAME, endpoint=hub.address)
    old.put({"notes.txt": b"by somebody else"})
    assert "has changed since the plan was made" in refusal(hub, folder, purge=found)


def test_a_repository_that_is_not_there_has_no_history_to_purge(hub: Hub, folder: Path) -> None:
    with pytest.raises(UnlearnError, match=f"Looking at {NAME} failed: the Hub answered 404 .*check the name"):
        plan(folder, NAME, endpoint=hub.address)


def test_the_operator_keeps_an_account_of_every_push(hub: Hub, folder: Path, old: Repository, tmp_path: Path) -> None:
    private = tmp_path / "out.private"
    pushed = push(folder, NAME, endpoint=hub.address)
    path = note(private, pushed)
    note(private, run_purge(hub, folder))
    content = json.loads(path.read_text())
    assert content["schema"] == "urn:unlearn-plugin:hub:1"
    first, second = content["events"]
    assert (first["event"], first["repository"], first["commit"]) == ("pushed", NAME, pushed.commit)
    assert (second["event"], second["repository"], second["erasure"]) == ("purged", NAME, "PENDING")
    assert second["done"]
    assert second["unreachable"]
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert [file.name for file in private.iterdir()] == ["hub.json"]


def test_no_other_file_can_write_to_the_network() -> None:
    package = Path(unlearn_plugin.__file__).parent
    writers = ("HfApi", "push_to_hub", "push_to_hf_hub", "upload_", "create_repo", "create_commit")
    found = {path.name for path in package.rglob("*.py") if any(word in path.read_text() for word in writers)}
    assert found == {"hub.py"}
