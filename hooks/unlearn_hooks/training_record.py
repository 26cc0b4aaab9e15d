"""The record on disk: a journal per process, unique shards, and a few JSON files."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.journal import journal_line, read_journal, write_file
from unlearn_hooks.tensor_bytes import is_sharded, safetensors_parts, tensor_bytes

__all__ = ["SCHEMA", "RecordWriter", "Shard", "TrainingRecord", "final_digest", "weights_digest"]

SCHEMA = 1
_JOURNAL = "journal.jsonl"


def weights_digest(tensors: Mapping[str, Tensor]) -> str:
    """Name a set of weights, such as a `state_dict`, by what is in it.

    Args:
        tensors: Named tensors of any device and layout.

    Returns:
        Hex sha256 over name, dtype, shape and raw bytes of every tensor, in the order of the names.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def final_digest(tensors: Mapping[str, Tensor]) -> str | None:
    """Name the weights that a training ended with.

    Args:
        tensors: The model's `state_dict`.

    Returns:
        Their `weights_digest`; ``None`` where they are sharded over processes, since then nobody has them all.
    """
    return None if is_sharded(tensors.values()) else weights_digest(tensors)


@dataclass(frozen=True)
class Shard:
    """One file of a record: tensors about the steps `first` to `last` (both included).

    Attributes:
        kind: Which collector wrote it.
        first: First step it is about.
        last: Last step it is about.
        meta: Plain values that the collector wrote with it.
        path: The safetensors file.
        rank: Process that wrote it.
        sha256: Digest of the file; ``None`` for a shard that was just handed over.
        wait: Returns when the shard is on disk; ``None`` if it is there.
    """

    kind: str
    first: int
    last: int
    meta: Mapping[str, Any]
    path: Path
    rank: int = 0
    sha256: str | None = None
    wait: Callable[[], object] | None = field(default=None, repr=False, compare=False)

    def tensors(self) -> dict[str, Tensor]:
        """Read the tensors.

        Returns:
            The tensors by name, on the CPU.

        Raises:
            UnlearnError: If the file is missing or not what the journal says was written.
        """
        if self.wait is not None:
            self.wait()
        try:
            data = self.path.read_bytes()
            if self.sha256 not in (None, hashlib.sha256(data).hexdigest()):
                raise UnlearnError(
                    f"The file {self.path} of the record is damaged: its content is not what the journal says was "
                    f"written; bring it back from a copy, or record the training again."
                )
            tensors: dict[str, Tensor] = load_tensors(data)
            return tensors
        except (OSError, SafetensorError) as error:
            raise UnlearnError(
                f"The file {self.path} of the record cannot be read ({error}); bring it back from a copy, or record "
                f"the training again."
            ) from error


def _live_shards(folder: Path, events: Sequence[Mapping[str, Any]]) -> list[Shard]:
    """Apply the journal: a shard is alive if it was written, not dropped, and not rewound."""
    live: dict[str, Shard] = {}
    rank = int(folder.name.removeprefix("rank")) if folder.name.startswith("rank") else 0
    for event in events:
        match event["event"]:
            case "shard":
                path = folder / event["file"]
                known = {name: event[name] for name in ("kind", "first", "last", "meta", "sha256")}
                live[event["file"]] = Shard(**known, path=path, rank=rank)
            case "drop":
                live.pop(event["file"], None)
            case "rewind":
                live = {file: shard for file, shard in live.items() if shard.last < event["to"]}
    return list(live.values())


class RecordWriter:
    """Writes one process's part of a record; the first write to an existing one starts a new attempt in it.

    A shard exists only if a line of the journal names it, and the line is written after the file. Rewinding and
    dropping are journaled before a file is removed. So the record can be read after a crash at any moment.

    Args:
        folder: The record; made if it is missing, readable by its owner only.
        rank: Number of this process among those that train together.
        part: Subfolder to write to, where it is no process of the training that writes.

    Attributes:
        finished: The record was complete when it was opened.
        attempt: Number of this attempt, counted from 0.

    Raises:
        UnlearnError: If the folder cannot be written, or holds a damaged journal or something that is no record.
    """

    def __init__(self, folder: str | Path, *, rank: int = 0, part: str | None = None) -> None:
        self.folder = Path(folder)
        self.rank = rank
        self._own = self.folder / (part or f"rank{rank:05d}")
        try:
            self._open()
        except OSError as error:
            raise UnlearnError(
                f"The record cannot be written to {self.folder} ({error.strerror or error}); give a folder that you "
                f"may write to and that has room."
            ) from error

    def _open(self) -> None:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        for folder in (self.folder, self._own):
            if folder == self.folder and folder.is_dir() and any(folder.iterdir()) and not _looks_like_record(folder):
                raise UnlearnError(
                    f"The folder {folder} is not empty and holds no record; give an empty or a new folder to record to."
                )
            folder.mkdir(mode=0o700, exist_ok=True)
        path = self._own / _JOURNAL
        events, good = read_journal(path)
        self._journal = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self._journal, good)
        os.lseek(self._journal, good, os.SEEK_SET)
        self._live = _live_shards(self._own, events)
        self.finished = bool(events) and events[-1]["event"] == "close"
        self.attempt = sum(event["event"] == "attempt" for event in events)
        self._names = 0
        self._begun = False

    def append(
        self, kind: str, tensors: Mapping[str, Tensor], *, first: int, last: int, meta: Mapping[str, Any]
    ) -> Shard | None:
        """Write one shard. The writer takes the tensors over: they may not be changed afterwards.

        Args:
            kind: Kind of evidence, a word that may be part of a file name.
            tensors: What to write.
            first: First step it is about.
            last: Last step it is about.
            meta: Plain values to keep with it.

        Returns:
            The shard, or ``None`` if it was not written because an earlier one is still being written (the journal
            then says so).

        Raises:
            OSError: If the disk is full.
        """
        shard = self._named(kind, first, last, meta)
        self._live.append(shard)
        self._do(partial(self._save, shard, tensors))
        return shard

    def _do(self, job: Callable[[], None]) -> None:
        """Change the disk; a subclass may do so later, but in this order."""
        job()

    def _named(self, kind: str, first: int, last: int, meta: Mapping[str, Any]) -> Shard:
        self._names += 1  # two shards of one kind may end at the same step
        file = f"{kind}-a{self.attempt:03d}-{last:09d}-{self._names:06d}.safetensors"
        return Shard(kind, first, last, dict(meta), self._own / file, self.rank)

    def _save(self, shard: Shard, tensors: Mapping[str, Tensor]) -> None:
        parts = safetensors_parts(tensors)
        write_file(shard.path, *parts)
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        self._journal_line(
            "shard", file=shard.path.name, kind=shard.kind, first=shard.first, last=shard.last, meta=shard.meta,
            bytes=sum(map(len, parts)), sha256=digest.hexdigest(),
        )  # fmt: skip

    def shards(self, kind: str) -> list[Shard]:
        """Return the shards of a kind that are alive now, those of earlier attempts included, sorted by first step."""
        return sorted((shard for shard in self._live if shard.kind == kind), key=lambda shard: shard.first)

    def drop(self, shard: Shard) -> None:
        """Take a shard out of the record and remove its file."""
        self._live = [other for other in self._live if other.path != shard.path]
        self.note("drop", file=shard.path.name)
        self._do(partial(shard.path.unlink, missing_ok=True))

    def note(self, event: str, **fields: Any) -> None:  # noqa: ANN401  # any plain value
        """Write a line about something that happened, such as a skipped capture, to the journal."""
        self._do(partial(self._journal_line, event, **fields))

    def _journal_line(self, event: str, **fields: Any) -> None:  # noqa: ANN401  # any plain value
        if not self._begun:  # a record that is opened but not trained on stays as it is
            self._begun = True
            self._journal_line("attempt", number=self.attempt)
        os.write(self._journal, journal_line({"event": event, **fields}))
        os.fsync(self._journal)

    def rewind(self, step: int) -> None:
        """Forget everything about `step` and later steps: training goes on from the weights before that step."""
        dead = [shard for shard in self._live if shard.last >= step]
        self._live = [shard for shard in self._live if shard.last < step]
        self.note("rewind", to=step)
        for shard in dead:
            self._do(partial(shard.path.unlink, missing_ok=True))

    def flush(self) -> None:
        """Wait until everything handed over is on disk; this writer never leaves anything open."""

    def close(self) -> None:
        """Finish the attempt; the record is complete from here on."""
        self.note("close")
        self.abandon()

    def abandon(self) -> None:
        """Stop writing without finishing: the record stays readable and says that it is not complete."""
        self.flush()
        os.close(self._journal)


def _looks_like_record(folder: Path) -> bool:
    return (folder / "manifest.json").exists() or any(folder.glob(f"rank*/{_JOURNAL}"))


def _read_json(path: Path) -> Any:  # noqa: ANN401  # JSON is any plain value
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UnlearnError(
            f"The file {path} of the record cannot be read ({error}); bring it back from a copy, or record the "
            f"training again."
        ) from error


@dataclass(frozen=True)
class TrainingRecord:
    """A record that a training left behind, opened for reading.

    Attributes:
        folder: Where it is.
        manifest: schema, run_id, plan, parameters (name, shape, dtype, recorded), head, versions, classes, and
            final_weights, the digest of the trained weights (``None`` where they are sharded).
        recipe: optimizer, groups, batch size and whatever the user added.
        data: n, id_kind, fingerprint of the training data.
        ids: Stable name of each row of the root data set, or ``None`` if it was not written (yet).
        complete: The training was recorded to its end, by every process.
    """

    folder: Path
    manifest: Mapping[str, Any]
    recipe: Mapping[str, Any]
    data: Mapping[str, Any]
    ids: tuple[str, ...] | None
    complete: bool
    _shards: tuple[Shard, ...] = field(repr=False)
    _journals: tuple[bytes, ...] = field(repr=False)

    @classmethod
    def open(cls, folder: str | Path) -> "TrainingRecord":
        """Open a record, also that of a training that crashed.

        Args:
            folder: What was given to `record`.

        Returns:
            The record as of now.

        Raises:
            UnlearnError: If there is no record, it is of a newer schema, or something in it is damaged.
        """
        folder = Path(folder)
        manifest = _read_json(folder / "manifest.json") if folder.is_dir() else None
        if not isinstance(manifest, dict) or "schema" not in manifest:
            raise UnlearnError(
                f"{folder} is not a training record (it has no manifest.json); give the folder that was given to "
                f"record()."
            )
        if manifest["schema"] != SCHEMA:
            raise UnlearnError(
                f"The record {folder} has schema {manifest['schema']}, and this version reads schema {SCHEMA}; "
                f"install a newer version."
            )
        shards: list[Shard] = []
        endings, journals = [], []
        for path in sorted(folder.glob(f"*/{_JOURNAL}")):
            events, good = read_journal(path)
            shards += _checked(_live_shards(path.parent, events))
            if path.parent.name.startswith("rank"):  # the others are references, which training does not wait for
                endings.append(events[-1]["event"] if events else None)
            journals.append(path.read_bytes()[:good])
        ids = _read_json(folder / "ids.json")
        return cls(
            folder=folder,
            manifest=manifest,
            recipe=_read_json(folder / "recipe.json") or {},
            data=_read_json(folder / "data.json") or {},
            ids=tuple(ids["ids"]) if ids else None,
            complete=len(endings) == manifest.get("world", 1) and set(endings) == {"close"},
            _shards=tuple(sorted(shards, key=lambda shard: (shard.first, shard.rank))),
            _journals=tuple(journals),
        )

    @cached_property
    def row_of(self) -> dict[str, int] | None:
        """Row of the root data set that each stable name stands for; ``None`` without names."""
        return None if self.ids is None else {name: row for row, name in enumerate(self.ids)}

    def shards(self, kind: str) -> list[Shard]:
        """Return the shards of a kind, with rewinds and drops applied, sorted by their first step."""
        return [shard for shard in self._shards if shard.kind == kind]

    def only(self, wanted: Callable[[Shard], bool]) -> "TrainingRecord":
        """Return the same record without the shards that are not wanted; nothing changes on the disk."""
        return replace(self, _shards=tuple(shard for shard in self._shards if wanted(shard)))

    def noted(self, event: str) -> list[dict[str, Any]]:
        """Return the lines of one kind of event in the journals, those before a rewind included."""
        lines = (json.loads(line.partition(b" ")[2]) for journal in self._journals for line in journal.splitlines())
        return [line for line in lines if line["event"] == event]

    def digest(self) -> str:
        """Return the hex sha256 of manifest and journals; the journals hold the digest of every shard."""
        digest = hashlib.sha256((self.folder / "manifest.json").read_bytes())
        for journal in self._journals:
            digest.update(journal)
        return digest.hexdigest()


def _checked(shards: list[Shard]) -> list[Shard]:
    missing = [shard.path for shard in shards if not shard.path.is_file()]
    if missing:
        raise UnlearnError(
            f"The record lacks {len(missing)} file(s) that its journal names, the first is {missing[0]}; "
            f"bring them back from a copy, or record the training again."
        )
    return shards
