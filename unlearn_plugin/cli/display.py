"""What people read in the terminal: tables and plans, as text."""

from collections.abc import Mapping, Sequence
from typing import Any

from unlearn_plugin.primary import primary
from unlearn_plugin.values import as_text

__all__ = ["compared", "comparison", "facts_of", "lines_of", "plan_of", "plans_of", "purge_of"]

_ACCURACIES = ("retain", "forget", "controls")
_LABEL = 12  # columns of a method's name


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
        "options": asdict(prepared.method) | ({"search": prepared.trials} if prepared.trials else {}),
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


def plans_of(plans: Sequence[Mapping[str, Any]]) -> str:
    """What a checked comparison would do, in lines.

    Args:
        plans: For each method what `facts_of` gives, with ``label`` and ``done``.

    Returns:
        The lines.
    """
    shared = [
        line for line in plan_of(plans[0]).splitlines() if line.split()[0] in ("model", "data", "forget", "device")
    ]
    lines = []
    for plan in plans:
        settings = ", ".join(f"{key}={as_text(value)}" for key, value in plan["options"].items()) or "no options"
        state = "is there already" if plan["done"] else settings
        lines += [f"method     {plan['label']}: {state}", f"           to {plan['out']}"]
    return "\n".join([*shared, *lines, "Nothing is wrong; nothing was written (--dry-run)."])


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
    rows = [_head(), _row("before", _measured(reports[0], "before"))]
    for report in reports:
        procedure = report["procedure"]
        rows.append(
            _row(
                procedure["method"],
                _measured(report, "after"),
                f"{procedure['seconds']:>9.1f}  {report['overall']['status']}",
            )
        )
    if reports[-1]["model"]["reference"]:
        rows.append(_row("reference", _measured(reports[-1], "reference")))
    return "\n".join(rows) + "\n"


def compared(content: Mapping[str, Any]) -> str:
    """The table of a comparison, with distance and cost.

    Args:
        content: Of compare.json.

    Returns:
        The table as text, and what the distance is measured to; a dash is "not measured".
    """
    width = max(_LABEL, *(len(row["label"]) + 2 for row in content["rows"]))
    rows = [_head(width, f"{'distance':>10}{'seconds':>9}{'of retrain':>12}  verdict")]
    rows.append(_row("before", content["before"], f"{_number(content['before']['distance']):>10}", width))
    for row in content["rows"]:
        cost = row["cost"] or {"seconds": None, "share_of_retraining": None}
        seconds = "–" if cost["seconds"] is None else f"{cost['seconds']:.1f}"
        share = "–" if cost["share_of_retraining"] is None else f"{cost['share_of_retraining']:.1%}"
        measured = row["measured"] or {}
        more = f"{_number(measured.get('distance')):>10}{seconds:>9}{share:>12}  {row['status']}"
        rows.append(_row(row["label"], measured, more, width))
    if content["reference"]:
        more = f"{_number(content['reference']['distance']):>10}"
        rows.append(_row("reference", content["reference"], more, width))
    return "\n".join([*rows, "", _yardstick(content["exact"])]) + "\n"


def _yardstick(exact: Mapping[str, Any]) -> str:
    models = [*(["the reference"] if exact["given"] else []), *exact["labels"]]
    if not models:
        return "distance: not known, since there is no reference and no method that retrains"
    if exact["spread"] is None:
        return f"distance: to {models[0]}; how far a second retrained model would be from it is not known"
    return (
        f"distance: to {', '.join(models)}, which are {exact['spread']['mean']:.3f} from each other on average and "
        f"{exact['spread']['largest']:.3f} at most"
    )


def _head(width: int = _LABEL, more: str = f"{'seconds':>9}  verdict") -> str:
    titles = ("retain acc", "forget acc", "unseen acc", "member AUC")
    return " " * width + "".join(f"{title:>12}" for title in titles) + f"{'95 % interval':>18}{more}"


def _measured(report: Mapping[str, Any], who: str) -> dict[str, Any]:
    utility = (report["measurements"]["utility"][who] or {}).get("details", {})
    membership = report["measurements"][primary(report)][who] or {}
    accuracy = {f"accuracy_{part}": (utility.get(part) or {}).get("value") for part in _ACCURACIES}
    return {**accuracy, "auc": membership.get("value"), "auc_low": membership.get("low"),
            "auc_high": membership.get("high")}  # fmt: skip


def _row(label: str, measured: Mapping[str, Any], more: str = "", width: int = _LABEL) -> str:
    cells = [_number(measured.get(name)) for name in (*(f"accuracy_{part}" for part in _ACCURACIES), "auc")]
    known = measured.get("auc_low") is not None
    interval = f"{measured['auc_low']:.3f} to {measured['auc_high']:.3f}" if known else "–"
    return f"{label:<{width}}" + "".join(f"{cell:>12}" for cell in cells) + f"{interval:>18}{more}"


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
