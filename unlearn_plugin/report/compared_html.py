"""The page of a comparison, made from compare.json and from nothing else; it looks like that of a report."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from unlearn_plugin.report.compared import FAILED
from unlearn_plugin.report.cost_plot import draw_costs
from unlearn_plugin.report.html import page_environment
from unlearn_plugin.report.report import rounded
from unlearn_plugin.report.wording import NOT_MEASURED, headline, interval, number, percent, plain

__all__ = ["COLUMNS", "Tables", "render_compared"]

Tables = list[list[str]]
COLUMNS = ("distance", "requested", "retained", "unseen", "membership AUC", "cost", "verdict")
_PARTS = {
    "accuracy_forget": "the accuracy on the requested images",
    "accuracy_retain": "on retained ones",
    "accuracy_controls": "on unseen ones",
    "auc": "the membership AUC",
    "alignment": "the dimensional alignment",
}


def render_compared(content: Mapping[str, Any]) -> str:
    """Write the page.

    Args:
        content: Of compare.json, before or after it was written; the page is the same.

    Returns:
        A complete HTML document; equal contents give equal bytes.
    """
    content = rounded(content)
    picture = draw_costs(content)
    template = page_environment().get_template("compared.html.j2")
    return template.render(
        title=f"Unlearning: {len(content['rows'])} methods compared",
        tone="open",
        content=content,
        summary=_summary(content),
        notes=_notes(content),
        columns=COLUMNS,
        table=_table(content),
        settings=[(row["label"], _settings(row["options"])) for row in content["rows"] if row["options"]],
        picture=picture,
        drawing=picture and Markup(picture.svg),  # noqa: S704  # our own drawing
    )


def _summary(content: Mapping[str, Any]) -> str:
    """What a reader takes away, in a sentence or two."""
    rows, spread = content["rows"], content["exact"]["spread"]
    known = [row for row in rows if row["measured"] and row["measured"]["distance"] is not None and not row["exact"]]
    if not known:
        if content["exact"]["labels"] or content["exact"]["given"]:
            return "There is nothing but exact models to compare."
        return (
            "There is no retrained model among them, so how far they are from one is not known; they can be compared "
            "by membership only."
        )
    best = min(known, key=lambda row: float(row["measured"]["distance"]))
    share = best["cost"]["share_of_retraining"]
    cost = "" if share is None else f", at {percent(share)} of the cost of retraining"
    text = (
        f"Nearest to a retrained model: {best['label']}, at a distance of {number(best['measured']['distance'])}{cost}."
    )
    if spread is None:
        return f"{text} How far two retrained models are from each other is not known here."
    return f"{text} Retrained models are up to {number(spread['largest'])} from each other."


def _notes(content: Mapping[str, Any]) -> list[str]:
    exact, unit = content["exact"], content["cost"]["measured_in"]
    where = "processor time" if unit == "cpu_seconds" else "time on the clock"
    share = "as a share of retraining" if content["cost"]["of_retraining"] else "in seconds"
    known = [*([] if exact["given"] is None else ["the reference given"]), *exact["labels"]]
    return [
        f"Distance: mean absolute difference of {', '.join(_PARTS[part] for part in content['compared_by'])}, to "
        f"{' and '.join(known) or 'exact models, of which there is none'}; an exact model is compared with the others.",
        f"Cost: {where} of the method itself, {share}; preparing and judging are the same for all.",
        "Verdict: that of each method's own report, by its own rule; a small distance is no verdict.",
    ]


def _table(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    before = {"label": "before", "note": "", "cells": _numbers(content["before"], False), "number": ""}
    rows = [before]
    for place, row in enumerate(content["rows"], start=1):
        words = "failed; see failure.txt in its private folder" if row["status"] == FAILED else (
            headline(row["status"]).words.lower()
        )  # fmt: skip
        alone = row["status"] == "EXACT_BY_PROCESS" and not (row["measured"] or {}).get("distance")
        cells = [*_numbers(row["measured"], alone)[:-2], _cost(row["cost"]), (words, "")]
        rows.append({"label": row["label"], "note": "", "cells": cells, "number": str(place)})
    if content["reference"]:
        rows.append({"label": "reference", "note": "", "cells": _numbers(content["reference"], False), "number": ""})
    return rows


def _numbers(measured: Mapping[str, Any] | None, alone: bool) -> list[tuple[str, str]]:
    one = measured or {}
    ends = interval(one.get("auc_low"), one.get("auc_high"))
    distance = "the yardstick" if alone and measured and one["distance"] is None else number(one.get("distance"))
    shares = [(percent(one.get(f"accuracy_{part}")), "") for part in ("forget", "retain", "controls")]
    return [(distance, ""), *shares, (number(one.get("auc")), ends), ("", ""), ("", "")]


def _cost(cost: Mapping[str, Any] | None) -> tuple[str, str]:
    if cost is None:
        return NOT_MEASURED, ""
    seconds = f"{number(float(cost['seconds']), 1)}\N{NO-BREAK SPACE}s"
    return (seconds, "") if cost["share_of_retraining"] is None else (percent(cost["share_of_retraining"]), seconds)


def _settings(options: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    return [(name, plain(value)) for name, value in sorted(options.items())]
