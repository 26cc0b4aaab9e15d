"""What a Hub keeps: repositories with revisions, branches, tags, pull requests and LFS objects, in memory."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

LFS = (".bin", ".gguf", ".onnx", ".pt", ".pth", ".safetensors")


class RefusedError(Exception):
    """The Hub says no: status, error code and message of its answer."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


@dataclass(frozen=True)
class File:
    """A git blob, or a pointer to an LFS object, whose content lies elsewhere."""

    size: int
    blob: bytes  # what git keeps: the content, or the text of the pointer
    sha256: str | None = None  # of an LFS file

    @property
    def oid(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.blob) + self.blob).hexdigest()

    def about(self, path: str) -> dict[str, object]:
        lfs = {"lfs": {"oid": self.sha256, "size": self.size, "pointerSize": len(self.blob)}} if self.sha256 else {}
        return {"type": "file", "path": path, "size": self.size, "oid": self.oid, **lfs}


def regular(content: bytes) -> File:
    return File(len(content), content)


def pointer(sha256: str, size: int) -> File:
    return File(
        size, f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode(), sha256
    )


Tree = Mapping[str, File]


@dataclass(frozen=True)
class Commit:
    tree: Tree
    title: str
    parent: str | None = None

    @property
    def sha(self) -> str:
        text = f"{self.parent} {self.title} {sorted((path, file.oid) for path, file in self.tree.items())}"
        return hashlib.sha1(text.encode()).hexdigest()


@dataclass
class Repository:
    """References by their full name lead to commits; nothing else makes a commit readable."""

    private: bool = False
    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)  # LFS contents, uploaded
    listed: dict[str, str] = field(default_factory=dict)  # those some commit used: SHA-256 to file name
    forgets: bool = True  # that commits without a reference can no longer be read; the real Hub takes its time

    def resolve(self, revision: str) -> str:
        for name in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if name in self.refs:
                return self.refs[name]
        readable = self.reachable() if self.forgets else self.commits
        found = [sha for sha in readable if sha == revision]
        if not found:
            raise RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found[0]

    def history(self, sha: str | None) -> Iterator[str]:
        while sha is not None:
            yield sha
            sha = self.commits[sha].parent

    def reachable(self) -> set[str]:
        return {sha for head in self.refs.values() for sha in self.history(head)}

    def read(self, file: File) -> bytes:
        if file.sha256 is None:
            return file.blob
        if file.sha256 not in self.objects:
            raise RefusedError(404, "Entry not found", "EntryNotFound")
        return self.objects[file.sha256]

    def commit(self, ref: str, tree: Tree, title: str, parent: str | None) -> str:
        for path, file in tree.items():
            if file.sha256:
                self.listed.setdefault(file.sha256, path)
        return self._point(ref, Commit(dict(tree), title, parent))

    def put(self, files: Mapping[str, bytes]) -> str:
        """A new commit on main that holds these files, large kinds as LFS."""
        tree = {}
        for path, content in files.items():
            if path.endswith(LFS):
                sha256 = hashlib.sha256(content).hexdigest()
                self.objects[sha256] = content
                tree[path] = pointer(sha256, len(content))
            else:
                tree[path] = regular(content)
        return self.commit("refs/heads/main", tree, "an upload", self.refs.get("refs/heads/main"))

    def squash(self, branch: str, title: str) -> None:
        head = self.commits[self.refs[f"refs/heads/{branch}"]]
        self._point(f"refs/heads/{branch}", Commit(head.tree, title))

    def delete_objects(self, doomed: set[str]) -> None:
        """Delete LFS objects for good, and their pointers from the history of branches and tags."""
        for sha256 in doomed:
            self.objects.pop(sha256, None)
            self.listed.pop(sha256, None)
        for ref, head in list(self.refs.items()):
            if not ref.startswith("refs/pr/"):
                parent = None
                for old in reversed([self.commits[sha] for sha in self.history(head)]):
                    tree = {path: file for path, file in old.tree.items() if file.sha256 not in doomed}
                    parent = self._point(ref, Commit(tree, old.title, parent))

    def base_models(self) -> list[str]:
        """What the card of main names as base_model."""
        card = self.commits[self.refs["refs/heads/main"]].tree.get("README.md")
        data = yaml.safe_load(card.blob.decode().split("---")[1]) if card else {}
        base = (data or {}).get("base_model") or []
        return [base] if isinstance(base, str) else list(base)

    def named(self, prefix: str) -> list[dict[str, str]]:
        return [
            {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": sha}
            for ref, sha in sorted(self.refs.items())
            if ref.startswith(prefix)
        ]

    def state(self) -> dict[str, object]:
        """All that a reader can see, to compare before with after."""
        trees = {sha: {path: file.oid for path, file in self.commits[sha].tree.items()} for sha in self.reachable()}
        return {"private": self.private, "refs": dict(self.refs), "trees": trees, "lfs": dict(self.listed)}

    def _point(self, ref: str, commit: Commit) -> str:
        self.commits[commit.sha] = commit
        self.refs[ref] = commit.sha
        return commit.sha


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
