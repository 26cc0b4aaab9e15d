"""Report: all that was found about one job, as one JSON file. The page, the card and the verdict read nothing else."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.report.schema import report_schema

__all__ = ["SCHEMA", "read_report", "report_text", "rounded", "write_report"]

SCHEMA = "urn:unlearn-plugin:report:1"
_FILE = "report.json"
_DIGITS = 6  # significant; far below every interval's width, and enough to redo the verdict


def write_report(content: Mapping[str, Any], folder: Path) -> Path:
    """Write ``report.json``: sorted keys, two spaces of indent, numbers as `rounded` leaves them.

    The same content gives the same bytes, so its digest can be quoted.

    Args:
        content: The report, of the structure in docs/formats.md.
        folder: An existing folder.

    Returns:
        The file.
    """
    text = report_text(content)
    path = folder / _FILE
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    return path


def report_text(content: Mapping[str, Any]) -> str:
    """The text of report.json.

    Args:
        content: The report.

    Returns:
        JSON, and a newline.
    """
    return json.dumps(rounded(content), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def read_report(folder: Path) -> dict[str, Any]:
    """Read ``report.json``.

    Args:
        folder: A folder that `write_report` wrote into.

    Returns:
        The content.

    Raises:
        UnlearnError: If there is no report, or it is damaged, or of a schema this version does not know.
    """
    path = folder / _FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UnlearnError(
            f"There is no readable {_FILE} in {str(folder)!r} ({error.strerror}); "
            f"give a folder that `unlearn apply` wrote."
        ) from error
    except (ValueError, RecursionError) as error:
        raise UnlearnError(f"{str(path)!r} is damaged ({error}); take an undamaged copy of the folder.") from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise UnlearnError(
            f"{str(path)!r} is of schema {schema!r} and this version reads {SCHEMA!r}; "
            f"read it with the version of unlearn-plugin that wrote it."
        )
    missing = sorted(set(report_schema()["required"]) - content.keys())
    if missing:
        raise UnlearnError(f"{str(path)!r} lacks {', '.join(missing)}; take an undamaged copy of the folder.")
    return dict(content)


def rounded(value: Any) -> Any:
    """Bring a value into the form in which a report holds it.

    Floats are rounded to six significant digits. A float that is not finite is no number, and ``None`` is how a
    report says so. Tuples become lists.

    Args:
        value: Anything JSON can hold, nested as deep as you like.

    Returns:
        A copy; applying it twice changes nothing more.
    """
    if isinstance(value, Mapping):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(inner) for inner in value]
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    return value
