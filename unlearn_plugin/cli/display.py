"""What people read in the terminal: tables and plans, as text."""

from collections.abc import Mapping
from typing import Any

from unlearn_plugin.primary import primary
from unlearn_plugin.values import as_text

__all__ = ["comparison", "facts_of", "lines_of", "plan_of", "purge_of"]


def facts_of(prepared: Any) -> dict[str, Any]:  # noqa: ANN401  # Prepared; importing it here would load torch
    """What a checked job would do, as JSON values."""
    from dataclasses import asdict

    job, splits, checkpoint = prepared.job, prepared.splits, prepared.checkpoint
    return {
        "model": {
            "architecture": checkpoint.architecture,
            "num_classes": checkpoint.num_classes,
            "source": checkpoint.source,
        },
        "data": {
            "n_train": len(prepared.train.ids),
            "n_forget": len(splits.forget),
            "n_retain": len(splits.retain),
            "n_tuning": len(splits.tuning),
            "n_verdict": len(splits.verdict),
        },
        "method": job.method,
        "options": asdict(prepared.method),
        "device": str(prepared.accelerator.device),
        "out": job.out,
    }


def plan_of(facts: Mapping[str, Any]) -> str:
    """What a checked job would do, in lines.

    Args:
        facts: What `facts_of` gives.

    Returns:
        The lines.
    """
    model, data = facts["model"], facts["data"]
    settings = ", ".join(f"{key}={as_text(value)}" for key, value in facts["options"].items())
    lines = [
        f"model      {model['architecture']}, {model['num_classes']} classes, from {model['source']}",
        f"data       {data['n_train']} for training; held out: {data['n_tuning']} + {data['n_verdict']}",
        f"forget     {data['n_forget']} samples; {data['n_retain']} retained ones may be used",
        f"method     {facts['method']}: {settings or 'no options'}",
        f"device     {facts['device']}",
        f"out        {facts['out']}",
        "Nothing is wrong; nothing was written (--dry-run).",
    ]
    return "\n".join(lines)


def purge_of(plan: Any) -> str:  # noqa: ANN401  # Purge; named here only
    """What a planned purge would do, in lines."""
    lines = [
        f"{plan.repository}, main at {plan.head}",
        *(f"{number:>3}. {step.text}" for number, step in enumerate(plan.steps, start=1)),
        *([] if plan.steps else ["Nothing of the past is left within reach."]),
        *(f"stays        {name}" for name in plan.left),
        *(f"unreachable  {line}" for line in plan.unreachable),
    ]
    if plan.public and plan.steps:
        lines.append("Anyone can download the earlier weights until then: make the repository private first.")
    return "\n".join(lines)


def comparison(reports: list[Mapping[str, Any]]) -> str:
    """A table of models (before, each result, the reference) against the main measurements.

    Args:
        reports: Contents of one or more report.json about the same request; the first gives the model before.

    Returns:
        The table as text; a dash is "not measured".
    """
    titles = ("retain acc", "forget acc", "unseen acc", "member AUC")
    head = " " * 12 + "".join(f"{title:>12}" for title in titles) + f"{'95 % interval':>18}{'seconds':>9}  verdict"
    rows = [head, _row("before", reports[0], "before", "", "")]
    for report in reports:
        procedure = report["procedure"]
        rows.append(
            _row(
                procedure["method"],
                report,
                "after",
                f"{procedure['seconds']:.1f}",
                report["overall"]["status"],
            )
        )
    if reports[-1]["model"]["reference"]:
        rows.append(_row("reference", reports[-1], "reference", "", ""))
    return "\n".join(rows) + "\n"


def _row(label: str, report: Mapping[str, Any], who: str, seconds: str, status: str) -> str:
    utility = (report["measurements"]["utility"][who] or {}).get("details", {})
    membership = report["measurements"][primary(report)][who] or {}
    cells = [_number((utility.get(split) or {}).get("value")) for split in ("retain", "forget", "controls")]
    interval = "–"
    if membership.get("low") is not None:
        interval = f"{membership['low']:.3f} to {membership['high']:.3f}"
    cells.append(_number(membership.get("value")))
    return f"{label:<12}" + "".join(f"{cell:>12}" for cell in cells) + f"{interval:>18}{seconds:>9}  {status}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def lines_of(facts: Mapping[str, Any]) -> str:
    """Facts by name, one a line.

    Args:
        facts: Numbers, truth values, text, or short lists of these.

    Returns:
        The lines.
    """
    return "\n".join(f"{name.replace('_', ' '):<22}{_words(value)}" for name, value in facts.items())


def _words(value: Any) -> str:  # noqa: ANN401  # any plain value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(str(one) for one in value[:24]) + " …" * (len(value) > 24) or "none"
    return f"{value:,}" if isinstance(value, int) else as_text(value)
