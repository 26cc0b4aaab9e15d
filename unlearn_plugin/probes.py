"""Probes: tests beside the primary one that may show a residual, together no more often by chance than it alone."""

from collections.abc import Mapping
from typing import Any

__all__ = ["LEVEL", "PROBES", "found_by_probes", "holm"]

LEVEL = 0.025  # of all probes together, one-sided; the primary test has as much again

PROBES = {  # metric: what is said of it when it finds something
    "linear_probe": "A fresh linear head on the model's features still tells the requested data apart",
    "neighbours": "Slightly changed copies of the requested data are still told apart",
    "rounding": "On a copy of the model rounded to fewer bits the requested data are told apart",
    "relearning": "After a little further training without them the requested data are told apart again",
}


def found_by_probes(report: Mapping[str, Any]) -> list[str]:
    """Name the probes that find a residual in the model after.

    Args:
        report: Content of report.json; of ``measurements`` the ``p_value`` of each probe is read.

    Returns:
        One sentence for each probe that `holm` lets stand.
    """
    after = {name: report["measurements"].get(name, {}).get("after") for name in PROBES}
    p_values = {name: (one or {}).get("details", {}).get("p_value") for name, one in after.items()}
    tested = {name: float(p_value) for name, p_value in p_values.items() if p_value is not None}
    return [
        f"{PROBES[name]} (AUC {after[name]['value']:.3f}, one-sided p-value {tested[name]:.2g}; "
        f"{len(tested)} probes share a level of {LEVEL:.1%})."
        for name in holm(tested)
    ]


def holm(p_values: Mapping[str, float], level: float = LEVEL) -> list[str]:
    """Reject what stands against the number of tests made.

    Formula: with the m p-values in ascending order, reject the first ones as long as p_(i) < level / (m - i + 1). The
    chance of any false rejection is at most `level`, however the tests depend on each other.

    Args:
        p_values: By name.
        level: Chance of a false rejection that is tolerated.

    Returns:
        The names rejected, the smallest p-value first.

    Source: Holm 1979, Scandinavian Journal of Statistics 6:65-70.
    """
    rejected: list[str] = []
    for name in sorted(p_values, key=lambda one: p_values[one]):
        if p_values[name] >= level / (len(p_values) - len(rejected)):
            break
        rejected.append(name)
    return rejected
