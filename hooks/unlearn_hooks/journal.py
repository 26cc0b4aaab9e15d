"""Files that survive a crash: written whole or not at all, and a journal whose lines carry a checksum."""

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unlearn_hooks.errors import UnlearnError

__all__ = ["journal_line", "read_journal", "write_file", "write_json"]


def write_json(path: Path, value: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write a JSON file as `write_file` does.

    Args:
        path: The file; its folder exists.
        value: Plain values.

    Raises:
        OSError: If the folder cannot be written.
    """
    write_file(path, json.dumps(value, indent=1).encode())


def write_file(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file, readable by its owner only, so that a crash leaves the old one or the new one.

    Args:
        path: The file; its folder exists.
        parts: What to write, one after the other.

    Raises:
        OSError: If the folder cannot be written or is full.
    """
    temporary = path.with_name(path.name + ".partial")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename or removal in the folder survive a power loss, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def journal_line(event: Mapping[str, Any]) -> bytes:
    """Write an event as one line: the CRC-32 of its compact JSON in hex, a space, the JSON."""
    body = json.dumps(event, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def read_journal(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Read a journal up to a torn last line, which is what a crash leaves behind.

    Args:
        path: The journal; it may be missing.

    Returns:
        The events, and how many bytes of the file they take.

    Raises:
        UnlearnError: If a line is damaged that is not the last one.
    """
    data = path.read_bytes() if path.exists() else b""
    events: list[dict[str, Any]] = []
    good = 0
    while good < len(data):
        end = data.find(b"\n", good)
        crc, _, body = data[good:end].partition(b" ")
        if end < 0 or crc != b"%08x" % zlib.crc32(body):
            break
        events.append(json.loads(body))
        good = end + 1
    if data.find(b"\n", good) not in (-1, len(data) - 1):  # more lines follow: no crash does that
        raise UnlearnError(
            f"The journal {path} is damaged at line {len(events) + 1}, so what follows cannot be trusted; "
            f"bring the file back from a copy, or record the training again."
        )
    return events, good
