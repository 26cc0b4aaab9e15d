"""Evidence: digests of every published file, and a statement of what they are; `signing` puts a name under it."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import rfc8785

from unlearn_hooks.errors import UnlearnError

__all__ = [
    "PREDICATE",
    "SIGNATURE",
    "STATEMENT",
    "check_digests",
    "check_statement",
    "private_folder",
    "read_commitment_key",
    "write_commitment_key",
    "write_digests",
    "write_whole",
]

PREDICATE = "urn:unlearn-plugin:unlearning:1"
STATEMENT = "evidence/statement.json"
SIGNATURE = "evidence/report.dsse.json"
_TYPE = "https://in-toto.io/Statement/v1"
_SUMS = "evidence/SHA256SUMS"
_KEY = "commitment.json"
_KEY_SCHEMA = "urn:unlearn-plugin:commitment-key:1"
_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


def write_digests(folder: Path) -> None:
    """Write ``evidence/statement.json`` and then ``evidence/SHA256SUMS``, the digests of all the other files.

    The statement is an in-toto statement: its subjects are the model's files and the report, its by-products the page,
    the card and the rest of the evidence. It is canonical JSON, so the same output makes the same bytes. What is
    signed is the statement; neither list holds the signature, which may come later.
    ``sha256sum --check evidence/SHA256SUMS`` reads the digests too.

    Args:
        folder: The finished output folder, with its report.json.

    Raises:
        UnlearnError: If there is no report, or the folder holds something that is not a plain file.

    Source: in-toto Attestation Framework, Statement v1, https://github.com/in-toto/attestation; JSON
    Canonicalization Scheme, RFC 8785. By-products are named as in SLSA provenance v1.
    """
    digests = _digests(folder)
    if "report.json" not in digests:
        raise UnlearnError(f"There is no report.json in {str(folder)!r}; the evidence is written after the report.")
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    (folder / "evidence").mkdir(exist_ok=True)
    write_whole(folder / STATEMENT, _statement(report, digests))
    digests[STATEMENT] = _sha256(folder / STATEMENT)
    write_whole(folder / _SUMS, _sums(digests))


def check_digests(folder: Path) -> list[str]:
    """Compare the files of an output folder with the digests written when it was finished.

    Args:
        folder: A folder that `write_digests` finished.

    Returns:
        One sentence for each file that was changed, is missing or was added; empty if all is as it was.

    Raises:
        UnlearnError: If the digests are missing or damaged, or the folder holds something that is not a plain file.
    """
    expected = _read_sums(folder / _SUMS)
    found = _digests(folder)
    if (folder / _SUMS).read_bytes() == _sums(found):
        return []
    if _is_about(folder, found):
        return [f"{_SUMS} was changed: it does not list the files as they are, and {STATEMENT} does."]
    return _compare(expected, found) or [f"{_SUMS} was changed: its lines are not as they were written."]


def check_statement(folder: Path) -> list[str]:
    """Make the statement again from the report and the files, and compare.

    Args:
        folder: An output folder whose report.json can be read.

    Returns:
        One sentence for each file the statement is not about; or one, if it says something else than the report.

    Raises:
        UnlearnError: If the folder holds something that is not a plain file.
    """
    found = _digests(folder)
    if _is_about(folder, found):
        return []
    told = _read_statement(folder)
    if told is None:
        return [f"{STATEMENT} is missing or cannot be read; take an undamaged copy of the folder."]
    found.pop(STATEMENT, None)
    differing = [f"{STATEMENT}: {finding}" for finding in _compare(told, found)]
    return differing or [f"{STATEMENT} is not the statement that report.json and the files make."]


def private_folder(out: Path) -> Path:
    """Name the folder beside the output that must not be published.

    Args:
        out: The output folder.

    Returns:
        Where the job with its paths, the commitment's key and the account of pushes are kept.
    """
    return out.with_name(out.name + ".private")


def write_commitment_key(key: bytes, folder: Path) -> None:
    """Write the key without which nobody can test whether a guessed sample was in the request.

    Args:
        key: Of the commitment in report.json.
        folder: The private folder.
    """
    path = folder / _KEY
    path.touch(mode=0o600)
    path.write_text(json.dumps({"schema": _KEY_SCHEMA, "key": key.hex()}) + "\n", encoding="utf-8")


def read_commitment_key(folder: Path) -> bytes:
    """Read the key of the commitment.

    Args:
        folder: The private folder.

    Returns:
        The key.

    Raises:
        UnlearnError: If it is not there or damaged.
    """
    try:
        content = json.loads((folder / _KEY).read_text(encoding="utf-8"))
        return bytes.fromhex(content["key"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnlearnError(
            f"There is no readable {_KEY} in {str(folder)!r} ({error}); take an undamaged copy of the folder."
        ) from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under another name and rename it, so that no reader ever sees half of it.

    Args:
        path: The file; replaced if it is there.
        content: All of its bytes.
    """
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def _digests(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    strange = [path.relative_to(folder).as_posix() for path in paths if path.is_symlink() or not path.is_file()]
    if strange:
        raise UnlearnError(
            f"{', '.join(strange)} in {str(folder)!r} is not a plain file; only plain files can be published: "
            f"remove it or put a copy in its place."
        )
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: _sha256(path) for name, path in names.items() if name not in (_SUMS, SIGNATURE)}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sums(digests: Mapping[str, str]) -> bytes:
    return "".join(f"{digests[name]}  {name}\n" for name in sorted(digests)).encode()


def _read_sums(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UnlearnError(
            f"There is no readable {_SUMS} in {str(path.parent.parent)!r}; give a folder that `unlearn apply` finished."
        ) from error
    entries = [_LINE.fullmatch(line) for line in lines]
    if None in entries:
        number = entries.index(None) + 1
        raise UnlearnError(
            f"Line {number} of {str(path)!r} is not '<SHA-256>  <file>'; take an undamaged copy of the folder."
        )
    return {entry[2]: entry[1] for entry in entries if entry}


def _compare(expected: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    changed = [f"{name} was changed." for name in expected.keys() & found.keys() if expected[name] != found[name]]
    missing = [f"{name} is missing." for name in expected.keys() - found.keys()]
    extra = [f"{name} was added." for name in found.keys() - expected.keys()]
    return [*sorted(changed), *sorted(missing), *sorted(extra)]


def _statement(report: Mapping[str, Any], digests: Mapping[str, str]) -> bytes:
    """The statement about these files; report and model are its subjects, for they are what it is asked about."""
    beside = {name for name in digests if name in ("README.md", "report.html") or name.startswith("evidence/")}
    model, procedure = report["model"], report["procedure"]
    content: dict[str, Any] = {
        "_type": _TYPE,
        "subject": [_resource(name, digests[name]) for name in sorted(digests.keys() - beside)],
        "predicateType": PREDICATE,
        "predicate": {
            "byproducts": [_resource(name, digests[name]) for name in sorted(beside - {STATEMENT})],
            "report_id": report["report_id"],
            "created_utc": report["created_utc"],
            "status": report["overall"]["status"],
            "released": report["overall"]["released"],
            "method": procedure["method"],
            "record": (procedure["record"] or {}).get("digest"),
            "weights": {who: (model[who] or {}).get("digest") for who in ("before", "after", "reference")},
            "request_commitment": report["request"]["commitment"]["digest"],
        },
    }
    return rfc8785.dumps(content)


def _resource(name: str, digest: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": digest}}


def _is_about(folder: Path, digests: Mapping[str, str]) -> bool:
    """Whether the statement in the folder is the one that these files make."""
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        return (folder / STATEMENT).read_bytes() == _statement(report, digests)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):  # the forms damage takes
        return False


def _read_statement(folder: Path) -> dict[str, str] | None:
    """The digests the statement names."""
    try:
        content = json.loads((folder / STATEMENT).read_text(encoding="utf-8"))
        resources = [*content["subject"], *content["predicate"]["byproducts"]]
        return {str(entry["name"]): str(entry["digest"]["sha256"]) for entry in resources}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
