"""An example of compare.json: invented numbers of the orders of magnitude of real ones."""

import copy
from typing import Any

from tests.plugin.report.example import example_report
from unlearn_plugin.report.compared import Entry, compare_reports


def report(
    method: str, accuracy: tuple[float, float, float], auc: float, seconds: float, status: str = "INCONCLUSIVE"
) -> dict[str, Any]:
    """A report with the numbers that a comparison looks at; accuracies on F, R and unseen images."""
    made = copy.deepcopy(example_report(status, reference=False))
    made["request"]["n_subjects"] = None
    made["procedure"] |= {"method": method, "seconds": seconds, "cpu_seconds": seconds * 0.9, "peak_memory": 10**9}
    made["procedure"]["environment"]["device"] = "cpu"
    if status == "REFUSED":
        made["model"]["after"] = None
        return made
    details = made["measurements"]["utility"]["after"]["details"]
    for part, value in zip(("forget", "retain", "controls"), accuracy, strict=True):
        details[part] = {"value": value, "low": value - 0.02, "high": value, "n": 100}
    made["measurements"]["membership"]["after"] |= {"value": auc, "low": auc - 0.05, "high": auc + 0.05}
    made["model"]["after"] = {"digest": f"{len(method):02x}" * 32}
    return made


def entries() -> list[Entry]:
    """Two retrained models, a good method, a cheap one, one refused and one that failed."""
    exact = "EXACT_BY_PROCESS"
    return [
        Entry("retrain", "retrain", "retrain", report("retrain", (0.70, 0.99, 0.72), 0.50, 40.0, exact)),
        Entry("retrain:seed=1", "retrain", "retrain-seed=1", report("retrain", (0.72, 0.99, 0.74), 0.52, 42.0, exact)),
        Entry("mini", "mini", "mini", report("mini", (0.75, 0.98, 0.71), 0.53, 4.0)),
        Entry(
            "finetune", "finetune", "finetune", report("finetune", (0.95, 0.99, 0.73), 0.68, 1.5, "RESIDUAL_DETECTED")
        ),
        Entry("scrub", "scrub", "scrub", report("scrub", (0, 0, 0), 0, 3.0, "REFUSED")),
        Entry("muda", "muda", "muda", None),
    ]


def example_comparison() -> dict[str, Any]:
    """What the entries make."""
    return compare_reports(entries(), created_utc="2026-02-03T10:00Z")
