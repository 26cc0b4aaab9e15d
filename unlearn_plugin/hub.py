"""Hub: the only file that writes to the network. Pushes an output folder, and purges the weights before it.

The token is the one huggingface_hub finds (``HF_TOKEN``, or ``hf auth login``); it is never asked for and never shown.
"""

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import LFSFileInfo, RepoFile

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.patience import HTTPError, explained, may_pass, patiently, reason, was_turned_away
from unlearn_plugin.purge import Digests, Inventory, Purge, Step, differing, plan_purge
from unlearn_plugin.release import check_release

__all__ = ["Purged", "Pushed", "note", "plan", "purge", "push"]

T = TypeVar("T")
_Exit = Callable[[type[BaseException] | None, BaseException | None, TracebackType | None], None]
_SCHEMA = "urn:unlearn-plugin:hub:1"


@dataclass(frozen=True)
class Pushed:
    """What a push did.

    Attributes:
        repository: ``owner/name``.
        revision: The branch, or the reference of the pull request.
        commit: The commit that holds the files; each was compared with its digest.
        url: Where to look at it.
    """

    repository: str
    revision: str
    commit: str
    url: str


@dataclass(frozen=True)
class Purged:
    """What a purge did.

    Attributes:
        repository: ``owner/name``.
        done: The steps that were done.
        failed: Why the purge stopped, if it did.
        remaining: What a second look still found, or what was not done.
        unreachable: What no call can purge.
        erasure: Never more than pending: nobody sees every copy.
    """

    repository: str
    done: tuple[str, ...]
    failed: str | None
    remaining: tuple[str, ...]
    unreachable: tuple[str, ...]
    erasure: str = "PENDING"


def push(
    folder: Path,
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    purge: Purge | None = None,
    endpoint: str | None = None,
) -> Pushed:
    """Publish an output folder: weights, card, report and evidence in one commit, or nothing.

    What may pass (a lost connection, 429, 5xx) is tried again. If the push fails for good, a repository or branch
    that was made for it is deleted again. Other files of the repository stay, except those that a purge names.

    Args:
        folder: An output folder of ``unlearn apply``.
        repository: ``owner/name``; made if it is not there.
        private: Make it private, or insist that it is.
        revision: Branch to push to, made from main if it is not there; main if left out.
        create_pr: Open a pull request on main instead.
        purge: What `plan` found: its files are taken away in the same commit, and main must be as it was then.
        endpoint: Address of the Hub; huggingface_hub's own if left out.

    Returns:
        Where the files are.

    Raises:
        UnlearnError: If the folder may not be published, or the Hub does not take it.
    """
    if sum((revision is not None, create_pr, purge is not None)) > 1:
        raise UnlearnError("Give one of --revision, --create-pr and --purge-history; the last two are about main.")
    hub = _Hub(repository, endpoint)
    keep = check_release(folder, repository)
    with explained(f"Pushing to {repository}"), ExitStack() as undo:
        hub.open(undo, private=private, must_exist=create_pr or purge is not None)
        branch = revision or "main"
        head = hub.find_branch(branch, undo)
        if purge is not None and head != purge.head:
            raise UnlearnError(f"{repository} has changed since the plan was made; look at a new plan.")
        pushed = hub.commit(folder, keep, branch, head, create_pr=create_pr, remove=purge.files if purge else ())
        undo.pop_all()
    with explained(f"Checking what was pushed to {repository}"):
        hub.require(keep, pushed.commit)
    return pushed


def plan(folder: Path, repository: str, *, endpoint: str | None = None) -> Purge:
    """Look at a repository, and plan what must go when `folder` is published there. Changes nothing.

    Args:
        folder: An output folder of ``unlearn apply``.
        repository: ``owner/name``.
        endpoint: Address of the Hub; huggingface_hub's own if left out.

    Returns:
        The plan; after a purge, what is left of it.

    Raises:
        UnlearnError: If the folder may not be published, or the Hub cannot be read.
    """
    hub = _Hub(repository, endpoint)
    keep = check_release(folder, repository)
    with explained(f"Looking at {repository}"):
        return plan_purge(hub.inventory(), keep)


def purge(folder: Path, plan: Purge, *, endpoint: str | None = None) -> Purged:
    """Delete what a plan names, once the new files are there, and look again. It cannot be taken back.

    Tags and branches go first, then LFS objects, then the history of main. A step that fails for good ends it;
    pushing with a new plan, and purging again, goes on from there.

    Args:
        folder: The output folder; nothing with the content of one of its files is deleted.
        plan: What `plan` found, before the push.
        endpoint: Address of the Hub; huggingface_hub's own if left out.

    Returns:
        What was done and what is left.

    Raises:
        UnlearnError: If main does not hold the files of `folder`, or the Hub cannot be read.
    """
    hub = _Hub(plan.repository, endpoint)
    keep = check_release(folder, plan.repository)
    with explained(f"Looking at {plan.repository}"):
        hub.require(keep, "main")
    steps = [step for step in plan.steps if step.kind != "file"]
    done: list[str] = []
    try:
        for step in steps:
            with explained(f"The step '{step.text}'"):
                hub.do(step, keep)
            done.append(step.text)
        with explained(f"Looking again at {plan.repository}"):
            hub.require(keep, "main")
            again = plan_purge(hub.inventory(), keep)
            still = [f"the earlier commit {commit} still answers" for commit in plan.commits if hub.answers(commit)]
    except UnlearnError as error:
        rest = (*(step.text for step in steps[len(done) :]), "a second look at what is left")
        return Purged(plan.repository, tuple(done), str(error), rest, plan.unreachable)
    remaining = (*(step.text for step in again.steps), *still)
    return Purged(plan.repository, tuple(done), None, remaining, again.unreachable)


def note(folder: Path, event: Pushed | Purged) -> Path:
    """Add to ``hub.json``, the operator's own account of what was published and what was deleted.

    Args:
        folder: The private folder beside the output, made if it is not there: published files change no more.
        event: What `push` or `purge` returned.

    Returns:
        The file.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / "hub.json"
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%MZ")
    earlier = json.loads(path.read_text(encoding="utf-8"))["events"] if path.exists() else []
    events = [*earlier, {"time_utc": now, "event": type(event).__name__.lower(), **asdict(event)}]
    partial_path = path.with_name(path.name + ".partial")
    partial_path.write_text(json.dumps({"schema": _SCHEMA, "events": events}, indent=2) + "\n", encoding="utf-8")
    partial_path.replace(path)
    return path


class _Hub:
    """One repository."""

    def __init__(self, repository: str, endpoint: str | None) -> None:
        if repository.count("/") != 1:
            raise UnlearnError(f"{repository!r} does not name a repository; write OWNER/NAME.")
        self.repository = repository
        self.api = HfApi(endpoint=endpoint, library_name="unlearn-plugin")

    def open(self, undo: ExitStack, *, private: bool, must_exist: bool) -> None:
        """See that the repository is there; make it if it may be made."""
        try:
            info = self._ask(self.api.model_info)
        except RepositoryNotFoundError as error:
            if error.response.status_code != 404:  # a missing token looks the same to the client
                raise
            if must_exist:
                raise UnlearnError(
                    f"There is no {self.repository} yet; push without --create-pr and --purge-history."
                ) from error
            self._ask(self.api.create_repo, private=private or None, exist_ok=True)
            delete = partial(self._ask, self.api.delete_repo, missing_ok=True)
            undo.push(_take_back(f"The repository {self.repository}", self._is_empty, delete))
            return
        if private and not info.private:
            raise UnlearnError(
                f"{self.repository} is public, and --private makes only new repositories private; "
                f"change it in its settings, or leave --private out."
            )

    def find_branch(self, name: str, undo: ExitStack) -> str:
        """Head of a branch; one that is not there is made from main."""
        refs = self._ask(self.api.list_repo_refs)
        heads = {branch.name: branch.target_commit for branch in refs.branches}
        if name in heads:
            return heads[name]
        if name.startswith("refs/") or name in {tag.name for tag in refs.tags}:
            raise UnlearnError(f"{name!r} is no branch of {self.repository}; --revision takes a branch, old or new.")
        head = heads["main"]
        self._ask(self.api.create_branch, branch=name, revision=head, exist_ok=True)
        delete = partial(self._ask, self.api.delete_branch, branch=name)
        undo.push(_take_back(f"The branch {name}", lambda: self._head(name) == head, delete))
        return head

    def commit(
        self, folder: Path, keep: Digests, branch: str, head: str, *, create_pr: bool, remove: tuple[str, ...]
    ) -> Pushed:
        """Send what differs from `head` and take `remove` away, in one commit whose parent is `head`."""
        files = patiently(partial(self._files, head))
        changed, gone = differing(files, keep), [name for name in remove if name in files]
        address = f"{self.api.endpoint}/{self.repository}"
        if not changed and not gone:
            if create_pr:
                raise UnlearnError(f"main of {self.repository} holds these files already; no pull request is needed.")
            return Pushed(self.repository, branch, head, f"{address}/commit/{head}")
        additions = [CommitOperationAdd(name, folder / name) for name in changed]
        self.api.preupload_lfs_files(
            self.repository, additions=additions, revision=branch, create_pr=create_pr, free_memory=False
        )
        deletions = [CommitOperationDelete(name, is_folder=False) for name in gone]

        def send() -> Pushed:
            try:
                info = self.api.create_commit(
                    self.repository,
                    [*additions, *deletions],
                    commit_message="Weights after unlearning, with their report",
                    revision=branch,
                    create_pr=create_pr,
                    parent_commit=head,  # so that sending twice commits once
                )
            except HTTPError:
                now = None if create_pr else self._head(branch)
                if now in (None, head) or differing(self._files(now), keep):
                    raise
                return Pushed(self.repository, branch, now, f"{address}/commit/{now}")  # only the answer got lost
            return Pushed(self.repository, info.pr_revision or branch, info.oid, info.pr_url or info.commit_url)

        return patiently(send, was_turned_away if create_pr else may_pass)

    def require(self, keep: Digests, revision: str) -> None:
        """See that a revision holds the files to keep."""
        if wrong := differing(patiently(partial(self._files, revision)), keep):
            raise UnlearnError(
                f"{self.repository} at {revision} does not hold {', '.join(wrong)} as it is in the folder; "
                f"see that no .gitignore there leaves it out, and push again."
            )

    def inventory(self) -> Inventory:
        """Everything in the repository that can be listed."""
        info = self._ask(self.api.model_info)
        refs = self._ask(self.api.list_repo_refs, include_pull_requests=True)
        named = [ref.name for ref in (*refs.branches, *refs.tags)]
        commits = [
            commit.commit_id for name in named for commit in self._ask(self.api.list_repo_commits, revision=name)
        ]
        derived = patiently(
            lambda: [model.id for model in self.api.list_models(filter=f"base_model:{self.repository}")]
        )
        return Inventory(
            repository=self.repository,
            public=not info.private,
            head=str(info.sha),
            files=patiently(partial(self._files, "main")),
            lfs={entry.file_oid: entry.filename for entry in patiently(self._lfs)},
            commits=tuple(dict.fromkeys(commits)),
            branches=tuple(branch.name for branch in refs.branches if branch.name != "main"),
            tags=tuple(tag.name for tag in refs.tags),
            pull_requests=tuple(ref.ref for ref in refs.pull_requests or ()),
            converts=tuple(ref.ref for ref in refs.converts),
            derived=tuple(derived),
        )

    def do(self, step: Step, keep: Digests) -> None:
        """Do a step of a purge; doing it again does no harm."""
        match step.kind:
            case "tag":
                self._drop(partial(self.api.delete_tag, tag=step.names[0]))
            case "branch":
                self._drop(partial(self.api.delete_branch, branch=step.names[0]))
            case "lfs":
                doomed = set(step.names).difference(*keep.values())  # whatever the plan says
                objects = [entry for entry in patiently(self._lfs) if entry.file_oid in doomed]
                self._ask(self.api.permanently_delete_lfs_files, lfs_files=objects, rewrite_history=True)
            case "history":
                self._ask(self.api.super_squash_history, branch="main", commit_message="Weights after unlearning")

    def answers(self, commit: str) -> bool:
        """Whether a commit can still be read."""
        try:
            self._ask(self.api.model_info, revision=commit)
        except RevisionNotFoundError:
            return False
        return True

    def _ask(self, call: Callable[..., T], **arguments: object) -> T:
        return patiently(partial(call, self.repository, **arguments))

    def _drop(self, delete: Callable[..., None]) -> None:
        try:
            self._ask(delete)
        except HfHubHTTPError as error:
            if error.response.status_code != 404:  # it is gone: the first answer was lost, or a purge goes on
                raise

    def _head(self, revision: str) -> str:
        return str(self.api.model_info(self.repository, revision=revision).sha)

    def _is_empty(self) -> bool:
        return self._files("main").keys() <= {".gitattributes"}

    def _files(self, revision: str) -> dict[str, str]:
        entries = self.api.list_repo_tree(self.repository, recursive=True, revision=revision)
        files = [entry for entry in entries if isinstance(entry, RepoFile)]
        return {file.path: file.lfs.sha256 if file.lfs else file.blob_id for file in files}

    def _lfs(self) -> list[LFSFileInfo]:
        return list(self.api.list_lfs_files(self.repository))


def _take_back(what: str, is_untouched: Callable[[], bool], delete: Callable[[], None]) -> _Exit:
    """Delete what was made for a push that failed, unless something is in it after all."""

    def take_back(kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if patiently(is_untouched):
                delete()
        except HTTPError as failure:
            left = f"{what} was made for it, and could not be deleted again ({reason(failure)})."
            raise UnlearnError(f"The push failed: {reason(error)}.", left) from failure

    return take_back
