"""Evidence: digests of every published file, and a statement of where they came from; no signature yet."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unlearn_hooks.errors import UnlearnError

__all__ = [
    "PREDICATE",
    "check_digests",
    "private_folder",
    "read_commitment_key",
    "write_commitment_key",
    "write_digests",
]

PREDICATE = "urn:unlearn-plugin:provenance:1"
_STATEMENT = "https://in-toto.io/Statement/v1"
_SUMS = "evidence/SHA256SUMS"
_KEY = "commitment.json"
_KEY_SCHEMA = "urn:unlearn-plugin:commitment-key:1"
_PROVENANCE = "evidence/provenance.json"
_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


def write_digests(folder: Path) -> None:
    """Write ``evidence/provenance.json`` and then ``evidence/SHA256SUMS``, the digests of all the other files.

    The provenance is shaped as an in-toto statement about the model files, or about the report where the weights
    were refused. It is not signed, and says so. ``sha256sum --check evidence/SHA256SUMS`` reads the digests too.

    Args:
        folder: The finished output folder, with its report.json.

    Raises:
        UnlearnError: If there is no report, or the folder holds something that is not a plain file.

    Source: in-toto Attestation Framework, Statement v1, https://github.com/in-toto/attestation.
    """
    digests = _digests(folder)
    if "report.json" not in digests:
        raise UnlearnError(f"There is no report.json in {str(folder)!r}; the evidence is written after the report.")
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    (folder / "evidence").mkdir(exist_ok=True)
    _write(folder / _PROVENANCE, json.dumps(_provenance(report, digests), indent=2, sort_keys=True) + "\n")
    digests[_PROVENANCE] = _sha256(folder / _PROVENANCE)
    _write(folder / _SUMS, "".join(f"{digests[name]}  {name}\n" for name in sorted(digests)))


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
    changed = [f"{name} was changed." for name in expected.keys() & found.keys() if expected[name] != found[name]]
    missing = [f"{name} is missing." for name in expected.keys() - found.keys()]
    extra = [f"{name} was added." for name in found.keys() - expected.keys()]
    return [*sorted(changed), *sorted(missing), *sorted(extra)]


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


def _digests(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    strange = [path.relative_to(folder).as_posix() for path in paths if path.is_symlink() or not path.is_file()]
    if strange:
        raise UnlearnError(
            f"{', '.join(strange)} in {str(folder)!r} is not a plain file; only plain files can be published: "
            f"remove it or put a copy in its place."
        )
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: _sha256(path) for name, path in names.items() if name != _SUMS}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


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


def _provenance(report: Mapping[str, Any], digests: Mapping[str, str]) -> dict[str, Any]:
    model_files = [name for name in sorted(digests) if name == "config.json" or name.endswith(".safetensors")]
    return {
        "_type": _STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": digests[name]}} for name in model_files or ["report.json"]],
        "predicateType": PREDICATE,
        "predicate": {
            "signed": False,
            "note": "Nobody signed this statement: it shows mistakes, not the deceit of whoever wrote the folder.",
            "created_utc": report["created_utc"],
            "status": report["overall"]["status"],
            "procedure": report["procedure"],
            "model_before": report["model"]["before"],
            "request_commitment": report["request"]["commitment"],
            "report": {"name": "report.json", "digest": {"sha256": digests["report.json"]}},
        },
    }


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
