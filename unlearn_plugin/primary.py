"""The primary test of a report: which of the membership tests decides, and its numbers."""

from collections.abc import Mapping
from typing import Any

__all__ = [
    "CALIBRATED",
    "PLAIN",
    "margin",
    "measured",
    "null_control",
    "part",
    "primary",
    "result",
    "tail",
    "tier",
]

LARGEST_MARGIN = 0.10  # of the AUC above 0.5 that a verdict may leave open
PART_OF_EFFECT = 0.5  # of what the test saw before, the most that a verdict may leave open
CALIBRATED, PLAIN = "calibrated_membership", "membership"
_CONTROLS = {CALIBRATED: "calibrated_null_control", PLAIN: "null_control"}


def measured(report: Mapping[str, Any], metric: str, who: str) -> Mapping[str, Any] | None:
    """Find one measurement that has a value.

    Args:
        report: Content of report.json.
        metric: Name of the metric.
        who: ``before``, ``after`` or ``reference``.

    Returns:
        The measurement; ``None`` if there is none, or none with a value.
    """
    found = report["measurements"].get(metric, {}).get(who)
    return found if found and found["value"] is not None else None


def part(report: Mapping[str, Any], metric: str, who: str, name: str) -> Mapping[str, Any] | None:
    """Find one entry of a measurement's details, if it was measured.

    Args:
        report: Content of report.json.
        metric: Name of the metric.
        who: ``before``, ``after`` or ``reference``.
        name: Of the entry.

    Returns:
        The entry, or ``None``.
    """
    found = report["measurements"].get(metric, {}).get(who)
    entry: Mapping[str, Any] | None = (found or {}).get("details", {}).get(name)
    return entry


def primary(report: Mapping[str, Any]) -> str:
    """Name the test that decides: the calibrated one where it was made before and after, else the plain one."""
    both = all(measured(report, CALIBRATED, who) for who in ("before", "after"))
    return CALIBRATED if both else PLAIN


def tier(report: Mapping[str, Any]) -> str:
    """Name the tier of the test that decides."""
    return "B" if primary(report) == CALIBRATED else "A"


def result(report: Mapping[str, Any], who: str) -> Mapping[str, Any]:
    """Get the primary test's measurement; to be asked for only where it was made."""
    found: Mapping[str, Any] = report["measurements"][primary(report)][who]
    return found


def null_control(report: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Find the negative control of the primary test on the model after, if it has a value."""
    return measured(report, _CONTROLS[primary(report)], "after")


def margin(report: Mapping[str, Any]) -> float | None:
    """Excess of the AUC over 0.5 that has to be ruled out: min(0.10, half of what the test surely saw before).

    Args:
        report: Content of report.json.

    Returns:
        The margin; ``None`` where the test saw nothing before.
    """
    before = measured(report, primary(report), "before")
    if before is None or before["details"]["lower95"] <= 0.5:
        return None
    return min(LARGEST_MARGIN, PART_OF_EFFECT * (float(before["details"]["lower95"]) - 0.5))


def tail(report: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Find the true-positive rate of the primary test at 1 % false positives, if it was measured after."""
    return (part(report, primary(report), "after", "tpr") or {}).get("0.01")
