"""job.yaml: a job as a file, the one a user writes and the one that repeats a run; and the part that is published."""

import json
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.job import Flag, Job, Setting, Shape, settings
from unlearn_plugin.user_code import without_names_of_code
from unlearn_plugin.values import allowed_values, as_text, nearest, read_value

__all__ = [
    "JOB_FILE", "check_published_job", "differing_settings", "read_job", "read_job_file", "write_job_file",
    "write_published_job",
]  # fmt: skip

JOB_FILE = "job.yaml"  # in the private folder
_PUBLISHED = "evidence/job.json"
_SCHEMA = "urn:unlearn-plugin:job:1"
_ENDINGS = (".yaml", ".yml", ".json")
_FOLDER = "local-dir:"


def read_job_file(path: Path) -> dict[str, Any]:
    """Read a job file: the flags of ``unlearn apply`` by their own names, hyphens or underscores alike.

    Args:
        path: A .yaml, .yml or .json file with one mapping.

    Returns:
        What the file gives, as values of `Job`'s fields; relative paths are relative to the folder of the file.

    Raises:
        UnlearnError: If it cannot be read, or a key or a value is not one of a job; with all findings at once.
    """
    content = {str(key).replace("-", "_"): value for key, value in _load(path).items()}
    if (schema := content.pop("schema", _SCHEMA)) != _SCHEMA:
        raise UnlearnError(f"{path.name} has the schema {schema!r}, and this version reads {_SCHEMA!r}.")
    known, found = settings(), {}
    findings: list[str] = []
    for name, value in content.items():
        if name not in known:
            findings.append(
                f"{path.name}: there is no flag {name!r}{nearest(name, known)}; there are: {', '.join(known)}."
            )
            continue
        try:
            found[name] = _typed(value, known[name])
        except ValueError:
            findings.append(f"{path.name}: {name} is {value!r}, and it takes {_allowed(known[name])}.")
    if findings:
        raise UnlearnError.of(findings)
    return _located(found, path.absolute().parent)


def write_job_file(job: Job, path: Path) -> None:
    """Write a job so that ``unlearn apply --config`` repeats it from any folder. It holds paths, and is private.

    Args:
        job: With every option of its method.
        path: The file; only its owner may read it.
    """
    content = {name: value for name, value in _located(job.as_dict(), Path.cwd()).items() if value is not None}
    content = {name: list(value) if isinstance(value, tuple) else value for name, value in content.items()}
    path.touch(mode=0o600)
    text = yaml.safe_dump({"schema": _SCHEMA, **content}, sort_keys=False, allow_unicode=True)
    path.write_text(text, encoding="utf-8")


def read_job(path: Path) -> Job:
    """Read a job file that gives everything a job needs.

    Args:
        path: As for `read_job_file`.

    Returns:
        The job.

    Raises:
        UnlearnError: If it cannot be read, or something is missing.
    """
    found = read_job_file(path)
    missing = [name for name, setting in settings().items() if setting.required and name not in found]
    if missing:
        raise UnlearnError(f"{path.name} lacks {', '.join(missing)}; add what is missing.")
    return Job(**found)


def differing_settings(job: Job, path: Path) -> list[str]:
    """Compare a job with one that was written.

    Args:
        job: With every option of its method.
        path: A file of `write_job_file`.

    Returns:
        Names of the settings that differ.

    Raises:
        UnlearnError: If the file cannot be read.
    """
    told, asked = read_job(path).as_dict(), _located(job.as_dict(), Path.cwd())
    return [name for name in asked if told[name] != asked[name]]


def write_published_job(job: Job, folder: Path) -> None:
    """Write the part of a job that may be published: no path, no name of data, no code of the user's own.

    Args:
        job: With every option of its method.
        folder: The output folder.
    """
    path = folder / _PUBLISHED
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(_published(job), indent=2) + "\n", encoding="utf-8")


def check_published_job(job: Job, folder: Path) -> list[str]:
    """Compare the published part of a job with the job.

    Args:
        job: With every option of its method.
        folder: The output folder.

    Returns:
        A sentence if they differ.
    """
    path = folder / _PUBLISHED
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        return [f"{_PUBLISHED} cannot be read ({error})."]
    if not isinstance(told, dict):
        return [f"{_PUBLISHED} is no job."]
    expected, default = _published(job), {field.name: field.default for field in fields(Job)}
    differing = sorted(
        name
        for name in told.keys() | expected.keys()
        if told.get(name, default.get(name)) != expected.get(name)  # an earlier version knew fewer flags
    )
    return [f"{_PUBLISHED} is not the job of the private folder: {', '.join(differing)}."] if differing else []


def _published(job: Job) -> dict[str, Any]:
    values = json.loads(json.dumps(job.as_dict()))
    values["options"] = without_names_of_code(values["options"])
    return {"schema": _SCHEMA, **{name: values[name] for name, setting in settings().items() if setting.flag.public}}


def _located(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """All values, with paths made absolute; a model's name that is no path there stays as it is."""
    known = settings()
    return {
        name: _place(value, known[name].flag, folder) if known[name].flag.path and value is not None else value
        for name, value in values.items()
    }


def _place(value: Any, flag: Flag, folder: Path) -> Any:  # noqa: ANN401  # a path, or several
    return (
        tuple(_locate(one, flag, folder) for one in value) if isinstance(value, tuple) else _locate(value, flag, folder)
    )


def _locate(value: str, flag: Flag, folder: Path) -> str:
    prefix = _FOLDER if value.startswith(_FOLDER) else ""
    path = Path(os.path.normpath(folder / Path(value.removeprefix(prefix)).expanduser()))
    return value if flag.or_name and not prefix and not path.exists() else f"{prefix}{path}"


def _load(path: Path) -> dict[Any, Any]:
    if path.suffix.lower() not in _ENDINGS:
        raise UnlearnError(f"--config {path.name!r} does not end in {', '.join(_ENDINGS)}; rename it.")
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UnlearnError(f"--config {str(path)!r} cannot be read ({error}).") from error
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        where = " ".join(str(error).split())
        raise UnlearnError(f"{path.name} is no {path.suffix[1:].upper()} that can be read: {where}.") from error
    if not isinstance(content, dict):
        raise UnlearnError(f"{path.name} must hold flags and their values, such as `method: mini`, line by line.")
    return content


def _typed(value: Any, setting: Setting) -> Any:  # noqa: ANN401  # whatever a file may hold
    """The value as its field takes it; ValueError if it does not."""
    if value is None and setting.optional:
        return None
    if setting.shape is Shape.MAPPING:
        if not isinstance(value, dict):
            raise ValueError(value)
        return {str(name): _text(one) for name, one in value.items()}
    if setting.shape is Shape.LIST:
        return tuple(read_value(_text(one), setting.kind) for one in (value if isinstance(value, list) else [value]))
    if value is None or (setting.kind is str and isinstance(value, bool)):  # YAML reads a plain `no` as false
        raise ValueError(value)
    return read_value(_text(value), setting.kind)


def _text(value: Any) -> str:  # noqa: ANN401  # whatever a file may hold
    if value is not None and not isinstance(value, (str, int, float)):
        raise ValueError(value)
    return as_text(value)


def _allowed(setting: Setting) -> str:
    if setting.shape is Shape.MAPPING:
        return "options and their values"
    return f"{allowed_values(setting.kind)}{', or a list of such' * (setting.shape is Shape.LIST)}"
