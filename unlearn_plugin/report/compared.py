"""Compared: what several reports about the same request say side by side; all of compare.json, and its schema."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Any

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.primary import primary
from unlearn_plugin.report.report import report_text, rounded

__all__ = ["FAILED", "SCHEMA", "Entry", "compare_reports", "compare_schema", "read_compared", "write_compared"]

SCHEMA = "urn:unlearn-plugin:comparison:1"
FAILED = "FAILED"  # the status of a method that ended with an error
_FILE = "compare.json"
_Values = Mapping[str, float | None]  # of one model
_Exact = dict[str | None, _Values]  # by label; the reference that was given has none
_PARTS = ("forget", "retain", "controls")  # accuracies that count for the distance


@dataclass(frozen=True)
class Entry:
    """One method of a comparison and what came of it.

    Attributes:
        label: As it was asked for.
        method: The unlearner.
        folder: Name of its output folder.
        report: Content of report.json; ``None`` if the method failed.
    """

    label: str
    method: str
    folder: str
    report: Mapping[str, Any] | None


def compare_reports(entries: Sequence[Entry], *, created_utc: str) -> dict[str, Any]:
    """Put reports about the same request side by side.

    The distance of two models is the mean absolute difference of what both were measured by: the accuracy on F, on R
    and on unseen data, and the membership AUC; for requests of classes or of named people also the dimensional
    alignment. The distance of a method is its mean distance to the exact models: the reference that was given, and the
    results of the methods that retrain. That of an exact model is its mean distance to the other ones, so what is
    no larger than that is noise. What was not measured is ``None``.

    The cost is in processor seconds where the work was done on the processor, else in seconds on the clock.

    Args:
        entries: At least one with a report; all of the same request, and measured alike.
        created_utc: When, to the minute.

    Returns:
        The content of compare.json.
    """
    reports = [entry.report for entry in entries if entry.report]
    first = reports[0]
    parts = _compared_parts(first)
    given = next((report for report in reports if report["model"]["reference"] and _is_given(report, reports)), None)
    exact: _Exact = {} if given is None else {None: _values(given, "reference", parts)}
    exact |= {
        entry.label: _values(entry.report, "after", parts)
        for entry in entries
        if entry.report and entry.report["overall"]["status"] == "EXACT_BY_PROCESS"
    }
    cost = _costs(entries)
    content: dict[str, Any] = rounded({
        "schema": SCHEMA,
        "created_utc": created_utc,
        "request": {name: first["request"][name] for name in ("kind", "n_samples", "n_subjects")},
        "model": {"architecture": first["model"]["architecture"], "before": first["model"]["before"]},
        "compared_by": parts,
        "exact": {
            "given": given and given["model"]["reference"],
            "labels": [label for label in exact if label],
            "spread": _spread(list(exact.values())),
        },
        "cost": {"measured_in": cost.unit, "of_retraining": cost.retraining},
        "before": _row_of(first, "before", parts, exact, ""),
        "reference": _row_of(given, "reference", parts, exact, None) if given else None,
        "rows": [_row(entry, parts, exact, cost) for entry in entries],
    })
    return content


def _is_given(report: Mapping[str, Any], reports: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the reference came from elsewhere, and is not the outcome of one of the methods."""
    made = {(one["model"]["after"] or {}).get("digest") for one in reports}
    return report["model"]["reference"]["digest"] not in made


def _compared_parts(report: Mapping[str, Any]) -> list[str]:
    request = report["request"]
    by_group = "classes" in request["kind"] or request["n_subjects"] is not None
    return [*(f"accuracy_{part}" for part in _PARTS), "auc", *(["alignment"] if by_group else [])]


def _values(report: Mapping[str, Any], who: str, parts: Sequence[str]) -> dict[str, float | None]:
    measured = report["measurements"]
    details = (measured["utility"][who] or {}).get("details", {})
    found = {f"accuracy_{part}": (details.get(part) or {}).get("value") for part in _PARTS}
    found["auc"] = (measured[primary(report)][who] or {}).get("value")
    found["alignment"] = ((measured.get("alignment") or {}).get(who) or {}).get("value")
    return {part: found[part] for part in parts}


def _gap(one: _Values, other: _Values) -> float | None:
    gaps = [abs(a - b) for a, b in ((one[part], other[part]) for part in one) if a is not None and b is not None]
    return sum(gaps) / len(gaps) if gaps else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _spread(models: Sequence[_Values]) -> dict[str, Any] | None:
    gaps = [gap for gap in (_gap(*pair) for pair in combinations(models, 2)) if gap is not None]
    return {"models": len(models), "mean": _mean(gaps), "largest": max(gaps)} if gaps else None


@dataclass(frozen=True)
class _Costs:
    unit: str
    retraining: float | None

    def of(self, report: Mapping[str, Any]) -> float | None:
        value: float | None = report["procedure"].get(self.unit)
        return value

    def share(self, report: Mapping[str, Any]) -> float | None:
        value = self.of(report)
        return value / self.retraining if value is not None and self.retraining else None


def _costs(entries: Sequence[Entry]) -> _Costs:
    reports = [entry.report for entry in entries if entry.report]
    by_processor = all(
        report["procedure"]["environment"]["device"] == "cpu" and "cpu_seconds" in report["procedure"]
        for report in reports
    )
    unit = "cpu_seconds" if by_processor else "seconds"
    retrained = [report["procedure"][unit] for report in reports if report["procedure"]["method"] == "retrain"]
    return _Costs(unit, _mean(retrained))


def _row_of(
    report: Mapping[str, Any],
    who: str,
    parts: Sequence[str],
    exact: _Exact,
    label: str | None,
) -> dict[str, Any]:
    """What was measured on one model; its distance is to all exact models but the one of its own label."""
    values = _values(report, who, parts)
    membership = report["measurements"][primary(report)][who] or {}
    return {
        **values,
        "auc_low": membership.get("low"),
        "auc_high": membership.get("high"),
        "distance": _mean([_gap(values, other) for name, other in exact.items() if name != label]),
    }


def _row(entry: Entry, parts: Sequence[str], exact: _Exact, cost: _Costs) -> dict[str, Any]:
    told = {"label": entry.label, "method": entry.method, "folder": entry.folder}
    if entry.report is None:
        return {**told, "status": FAILED, "released": False, "exact": False, "options": None, "measured": None,
                "cost": None}  # fmt: skip
    report, procedure = entry.report, entry.report["procedure"]
    return {
        **told,
        "status": report["overall"]["status"],
        "released": report["overall"]["released"],
        "exact": procedure["exact"],
        "options": procedure["options"],
        "measured": _row_of(report, "after", parts, exact, entry.label) if report["model"]["after"] else None,
        "cost": {
            "seconds": procedure["seconds"],
            "cpu_seconds": procedure.get("cpu_seconds"),
            "peak_memory": procedure.get("peak_memory"),
            "share_of_retraining": cost.share(report),
        },
    }


def compare_schema() -> dict[str, Any]:
    """Read the schema of compare.json that comes with the package.

    Returns:
        A JSON Schema, draft 2020-12.
    """
    return dict(json.loads((files(__package__) / "comparison-1.schema.json").read_text(encoding="utf-8")))


def write_compared(content: Mapping[str, Any], folder: Path) -> Path:
    """Write ``compare.json``, in the form of a report.

    Args:
        content: What `compare_reports` gave.
        folder: An existing folder.

    Returns:
        The file.
    """
    path = folder / _FILE
    partial = path.with_name(path.name + ".partial")
    partial.write_text(report_text(content), encoding="utf-8")
    partial.replace(path)
    return path


def read_compared(folder: Path) -> dict[str, Any]:
    """Read ``compare.json``.

    Args:
        folder: An output folder of ``unlearn compare``.

    Returns:
        The content.

    Raises:
        UnlearnError: If there is none that can be read, or it is of another schema.
    """
    path = folder / _FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnlearnError(f"{str(path)!r} cannot be read ({error}); give an output folder of compare.") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise UnlearnError(f"{str(path)!r} is not of the schema {SCHEMA!r}, which this version reads.")
    return content
