"""What must go from a repository for its earlier weights to be gone, and what no call can reach. Touches no network."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["Digests", "Inventory", "Purge", "Step", "differing", "plan_purge"]

Digests = Mapping[str, Collection[str]]
"""Files by name, each with the digests it may be listed under: SHA-256 as an LFS file, SHA-1 as a git blob."""

_SHA256_LENGTH = 64  # how a listing tells LFS files from git blobs
_PICKLES = (".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth", ".tar", ".zip")
_EXPORTS = (".gguf", ".h5", ".keras", ".mlmodel", ".msgpack", ".npy", ".npz", ".onnx", ".pb", ".pte", ".tflite")
_WEIGHTS = (*_PICKLES, *_EXPORTS, ".safetensors")
_ELSEWHERE = (
    "Forks and duplicates, models trained from it, quantised variants, mirrors, running Spaces and endpoints, and "
    "the caches of everyone who downloaded it: no call lists them all; tell those you know of."
)


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """What a model repository holds, as the Hub tells it.

    Attributes:
        repository: ``owner/name``.
        public: Whether anyone may read it.
        head: Commit of main.
        files: Digest of each file of main: SHA-256 for an LFS file, the git blob's SHA-1 for another.
        lfs: Name of each LFS object by its SHA-256, whichever commit uses it.
        commits: All commits that branches and tags lead to.
        branches: The branches besides main.
        tags: The tags.
        pull_requests: References of pull requests, such as ``refs/pr/1``.
        converts: References the Hub itself made, such as ``refs/convert/onnx``.
        derived: Models that name this one as their base.
    """

    repository: str
    public: bool
    head: str
    files: Mapping[str, str]
    lfs: Mapping[str, str]
    commits: tuple[str, ...]
    branches: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    pull_requests: tuple[str, ...] = ()
    converts: tuple[str, ...] = ()
    derived: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """One thing to do that cannot be taken back.

    Attributes:
        kind: What is done; ``file`` is part of the push, the others come after it.
        names: To which files, tags, branches or LFS objects (by SHA-256).
        text: In words.
    """

    kind: Literal["file", "tag", "branch", "lfs", "history"]
    names: tuple[str, ...]
    text: str


@dataclass(frozen=True, kw_only=True)
class Purge:
    """What will be done to a repository, and what cannot.

    Attributes:
        repository: ``owner/name``.
        public: Whether anyone can download the earlier weights until it is done.
        head: The commit of main that was looked at; a push fails if main has moved since.
        commits: Earlier commits, which must not answer any more.
        steps: What will be done, in order; empty if nothing of the past is left within reach.
        left: Files of main that are neither published by us nor weights; they stay.
        unreachable: What no call can purge, one sentence each.
    """

    repository: str
    public: bool
    head: str
    commits: tuple[str, ...]
    steps: tuple[Step, ...]
    left: tuple[str, ...]
    unreachable: tuple[str, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """Files of main that hold other weights."""
        return tuple(name for step in self.steps if step.kind == "file" for name in step.names)


def differing(files: Mapping[str, str], keep: Digests) -> tuple[str, ...]:
    """Name the files to keep that a listing lacks, or lists with another content.

    Args:
        files: Digest of each file in the repository.
        keep: The files that should be there.

    Returns:
        Their names, sorted.
    """
    return tuple(sorted(name for name, digests in keep.items() if files.get(name) not in digests))


def plan_purge(inventory: Inventory, keep: Digests) -> Purge:
    """Decide what must go. An LFS object with the content of a file to keep is never among it.

    Args:
        inventory: What the repository holds.
        keep: The files that are published.

    Returns:
        The plan.
    """
    published = not differing(inventory.files, keep)
    weights = [name for name in _others(inventory, keep) if _holds_weights(name, inventory.files[name])]
    return Purge(
        repository=inventory.repository,
        public=inventory.public,
        head=inventory.head,
        commits=tuple(commit for commit in inventory.commits if not (published and commit == inventory.head)),
        steps=tuple(_steps(inventory, keep, weights, squash=not published or len(inventory.commits) > 1)),
        left=tuple(name for name in _others(inventory, keep) if name not in weights),
        unreachable=tuple(_unreachable(inventory)),
    )


def _others(inventory: Inventory, keep: Digests) -> list[str]:
    return [name for name in sorted(inventory.files) if name not in keep and name != ".gitattributes"]


def _holds_weights(name: str, digest: str) -> bool:
    return len(digest) == _SHA256_LENGTH or name.lower().endswith(_WEIGHTS)


def _steps(inventory: Inventory, keep: Digests, weights: list[str], *, squash: bool) -> Iterator[Step]:
    kept = {digest for digests in keep.values() for digest in digests}
    objects = sorted((name, digest) for digest, name in inventory.lfs.items() if digest not in kept)
    for name in weights:
        yield Step("file", (name,), f"take {name} away from main")
    for name in inventory.tags:
        yield Step("tag", (name,), f"delete the tag {name}")
    for name in inventory.branches:
        yield Step("branch", (name,), f"delete the branch {name}")
    if objects:
        told = ", ".join(f"{digest[:12]} ({name})" for name, digest in objects)
        yield Step("lfs", tuple(digest for _, digest in objects), f"delete for good the LFS objects {told}")
    if squash or weights:
        yield Step("history", ("main",), "make the history of main one commit")


def _unreachable(inventory: Inventory) -> Iterator[str]:
    for name in inventory.pull_requests:
        yield (
            f"{name} may hold earlier weights, and no call deletes it: close the pull request and delete its "
            f"reference on its page, discussion {name.rpartition('/')[2]} of {inventory.repository}."
        )
    for name in inventory.converts:
        yield f"{name} was made by the Hub from earlier weights: ask the Hub's support to delete it."
    for name in inventory.derived:
        yield f"{name} says it was made from this model: tell its owner."
    yield _ELSEWHERE
