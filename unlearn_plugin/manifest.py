"""The forget manifest: which samples must go, as a CSV, JSONL or text file. docs/formats.md has the grammar."""

import hashlib
import hmac
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.table_rows import Row, csv_rows, jsonl_rows

__all__ = ["ForgetEntry", "ForgetManifest", "list_some"]

_REFERENCE = re.compile(r"(?=.*\d)[A-Za-z0-9._:/#-]{1,64}", re.ASCII)  # of a case: most names have no digit
_FIELDS = ("id", "class", "subject", "request", "received")
_SHOWN = 5  # entries named in one finding before "and N more"


@dataclass(frozen=True)
class ForgetEntry:
    """One thing that must go.

    Attributes:
        kind: One sample, or all training samples of a class, or all of a subject whom the data name.
        name: The sample's id, or the name of the class or subject.
        subject: Whose data it is, in words of the manifest's author; never published.
        line: Where it stands in the file, counted from 1.
    """

    kind: Literal["id", "class", "subject"]
    name: str
    subject: str | None
    line: int


@dataclass(frozen=True)
class ForgetManifest:
    """A request, as its author wrote it; not yet compared with any data.

    Attributes:
        entries: What must go, in the order of the file; at least one, none twice.
        request: Reference of the request, such as a ticket number. It is published, so it must look like one.
        received: The day it came in.
    """

    entries: tuple[ForgetEntry, ...]
    request: str | None = None
    received: date | None = None

    @classmethod
    def read(cls, path: str | Path) -> "ForgetManifest":
        """Read a manifest; the ending of the name says the format: .csv, .jsonl or .txt.

        Args:
            path: The file, in UTF-8.

        Returns:
            The request.

        Raises:
            UnlearnError: With everything that is wrong with the file at once.
        """
        path = Path(path)
        formats = {".csv": _read_csv, ".jsonl": _read_jsonl, ".txt": _read_text}
        if path.suffix.lower() not in formats:
            raise UnlearnError(
                f"The forget manifest {path.name!r} is of no known format; its name must end in {', '.join(formats)}."
            )
        if not path.is_file():
            raise UnlearnError(f"There is no forget manifest {str(path)!r}; check --forget.")
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UnlearnError(
                f"The forget manifest {path.name!r} is not UTF-8 (byte {error.start}); save it as UTF-8."
            ) from error
        builder = _Builder(path.name)
        for line, fields in formats[path.suffix.lower()](text):
            builder.add(line, fields)
        return cls(*builder.finish())

    @property
    def kind(self) -> str:
        """What is requested: ``samples``, ``classes`` or ``samples and classes``."""
        kinds = {"classes" if entry.kind == "class" else "samples" for entry in self.entries}
        return " and ".join(sorted(kinds, reverse=True))

    def commitment(self, key: bytes) -> str:
        """Commit to the entries without telling them.

        Formula: HMAC-SHA256(key, JSON of the sorted list of [kind, name, subject or ""], UTF-8, no spaces).

        Args:
            key: Secret of the operator; who has it and the manifest can compute the same value.

        Returns:
            Hex digest; it does not depend on the format or the order of the file.
        """
        rows = sorted([entry.kind, entry.name, entry.subject or ""] for entry in self.entries)
        message = json.dumps(rows, ensure_ascii=False, separators=(",", ":")).encode()
        return hmac.new(key, message, hashlib.sha256).hexdigest()


def _read_text(text: str) -> Iterator[Row]:
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        key, _, value = line.partition("=")
        if line and not line.startswith("#"):
            yield number, {key: value.strip()} if key in ("request", "received") else {"id": line}


def _read_csv(text: str) -> Iterator[Row]:
    def judge(names: Sequence[str]) -> str | None:
        lowered = [name.lower() for name in names]
        sound = (
            set(lowered) <= set(_FIELDS) and len(set(lowered)) == len(names) and bool({"id", "class"} & set(lowered))
        )
        return None if sound else f"it must name columns out of {', '.join(_FIELDS)}, with id or class"

    for number, fields in csv_rows(text, judge):
        yield number, fields if isinstance(fields, str) else {name.lower(): value for name, value in fields.items()}


def _read_jsonl(text: str) -> Iterator[Row]:
    def judge(names: Sequence[str]) -> str | None:
        return None if set(names) <= set(_FIELDS) else f"it must have keys out of {', '.join(_FIELDS)}"

    for number, fields in jsonl_rows(text, judge):
        if isinstance(fields, str):
            yield number, fields
        elif not all(isinstance(value, str | int) and not isinstance(value, bool) for value in fields.values()):
            yield number, "a value is neither text nor a whole number"
        else:
            yield number, {key: str(value).strip() for key, value in fields.items()}


class _Builder:
    """Takes in the lines of a manifest, whatever its format, and gathers what is wrong with them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.entries: dict[tuple[str, str], ForgetEntry] = {}
        self.once: dict[str, dict[str, int]] = {"request": {}, "received": {}}  # value -> first line
        self.malformed: list[str] = []
        self.twice: list[str] = []

    def add(self, line: int, fields: dict[str, str] | str) -> None:
        if isinstance(fields, str):
            self.malformed.append(f"line {line}: {fields}")
            return
        for key, values in self.once.items():
            if fields.get(key):
                values.setdefault(fields[key], line)
        sample, group, subject = (fields.get(key, "") for key in ("id", "class", "subject"))
        kind: Literal["id", "class", "subject"] = "class" if group else "id"
        name = sample or group
        for prefix in ("class", "subject") if sample and not group else ():
            if sample.startswith(f"{prefix}="):
                kind, name = prefix, sample.removeprefix(f"{prefix}=").strip()
        name = name.removeprefix("id=") if kind == "id" else name
        if not name or (sample and group):
            if sample or group or not any(fields.get(key) for key in self.once):
                self.malformed.append(f"line {line}: it must name either an id or a class")
        elif kind == "subject" and subject not in ("", name):
            self.malformed.append(f"line {line}: it names two subjects")
        elif not name.isprintable():
            self.malformed.append(f"line {line}: it holds a character that cannot be printed")
        else:
            self._keep(ForgetEntry(kind, name, (name if kind == "subject" else subject) or None, line))

    def _keep(self, entry: ForgetEntry) -> None:
        first = self.entries.setdefault((entry.kind, entry.name), entry)
        if first is not entry:
            self.twice.append(f"{entry.name!r} (lines {first.line} and {entry.line})")

    def finish(self) -> tuple[tuple[ForgetEntry, ...], str | None, date | None]:
        findings = []
        if self.malformed:
            findings.append(f"{self.name!r} has lines that cannot be read: {list_some(self.malformed, '; ')}.")
        if self.twice:
            findings.append(f"{self.name!r} names twice: {list_some(self.twice)}; keep one of each.")
        if not self.entries and not self.malformed:
            findings.append(f"{self.name!r} is empty; write one id a line, or class=NAME for a whole class.")
        for key, values in self.once.items():
            if len(values) > 1:
                lines = list_some([f"{value!r} in line {line}" for value, line in values.items()])
                findings.append(f"{self.name!r} gives several values of {key!r}: {lines}; one manifest is one request.")
        request, received = (next(iter(values), None) for values in self.once.values())
        day = _parse_date(received)
        if received and day is None:
            findings.append(f"{self.name!r} says received={received}, which is no date; write it as YYYY-MM-DD.")
        if request and not _REFERENCE.fullmatch(request):
            findings.append(
                f"{self.name!r} says request={request}, and the report would publish it; give a case number: letters, "
                f"digits and any of . _ : / # -, 64 at most, with a digit among them."
            )
        if findings:
            raise UnlearnError.of(findings)
        return tuple(self.entries.values()), request, day


def _parse_date(text: str | None) -> date | None:
    try:
        return date.fromisoformat(text) if text and re.fullmatch(r"\d{4}-\d{2}-\d{2}", text) else None
    except ValueError:
        return None


def list_some(items: Sequence[str], between: str = ", ") -> str:
    """Join the first few items for a message.

    Args:
        items: All of them.
        between: What stands between two.

    Returns:
        The first five, and how many more there are.
    """
    shown = between.join(items[:_SHOWN])
    return shown if len(items) <= _SHOWN else f"{shown}{between}and {len(items) - _SHOWN} more"
