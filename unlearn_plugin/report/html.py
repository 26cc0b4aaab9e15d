"""HTML: one self-contained page made from a report and from nothing else; no script, nothing fetched from outside."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from unlearn_plugin.primary import primary
from unlearn_plugin.report.plots import draw
from unlearn_plugin.report.report import rounded
from unlearn_plugin.report.wording import (
    LABELS,
    NOT_MEASURED,
    WRITERS,
    Writer,
    estimate,
    headline,
    interval,
    number,
    percent,
    plain,
)

__all__ = ["page_environment", "render_html"]

_MODELS = {"before": "Before", "after": "After", "reference": "Reference"}
_FIRST = (  # others follow by name
    "calibrated_membership", "membership", "utility", "calibrated_null_control", "null_control", "completeness",
    "three_way", "linear_probe", "neighbours", "rounding", "relearning", "suppression", "tails", "conformal",
    "alignment", "clusters", "change",
)  # fmt: skip
_ELSEWHERE = {"histogram", "roc", "map", "per_class", "per_layer"}  # in pictures, and in tables of their own
_REPEATED = {
    f"{metric} {part}"
    for metric, parts in (
        ("utility", ["controls"]),
        ("change", ["relative_norm"]),
        ("null_control", ["low", "high"]),
        ("calibrated_null_control", ["low", "high"]),
    )
    for part in parts
}  # the value itself
_DIGEST = re.compile("[0-9a-f]{64}")
_GOALS = {
    "high": "Higher is better",
    "low": "Lower is better",
    "like the reference": "Best as in a model that never saw the requested images",
    "context only": "For context only",
}
_DATA = {
    "n_train": "Images trained on",
    "n_forget": "To be forgotten",
    "n_retain": "To be kept",
    "n_tuning": "Unseen images the method may use",
    "n_verdict": "Unseen images for the verdict alone",
    "controls": "Where the unseen images come from",
    "n_copies": "Kept images that are exact copies of one to be forgotten",
}
_SURROGATES = {
    "count": "Pseudo-requests",
    "samples": "Their images",
    "test": "Test",
    "matched_by": "Matched by",
    "area": "Area under the curve",
    "rank": "Place of this request, 1 being the one with most left",
}
_COSTS = {"cpu_seconds": "Processor seconds", "peak_memory": "Memory at most, in bytes"}
_GUARD = {"finite": "All values finite", "changed": "Changed at all", "collapsed": "Collapsed to few classes"}


@dataclass(frozen=True)
class _Cell:
    """A value, and in small type its interval and how many samples it rests on."""

    value: str = NOT_MEASURED
    more: str = ""


@dataclass(frozen=True)
class _Row:
    """One line of a table: what it is, and a cell for each model."""

    label: str
    cells: list[_Cell]


@dataclass(frozen=True)
class _Mark:
    """One model on the scale of a card; the positions are shares of its width, ``None`` where not measured."""

    who: str
    name: str
    cell: _Cell
    value: int | float | None
    low: int | float | None
    high: int | float | None


@dataclass(frozen=True)
class _Card:
    """One of the large numbers: the marks of all models on one scale from 0 to 1."""

    title: str
    marks: list[_Mark]
    guessing: bool
    meaning: str


def page_environment() -> Environment:
    """Make what all our pages are written with: everything is escaped, and a name that is missing is an error.

    Returns:
        The environment; its templates are those beside this file.
    """
    return Environment(
        loader=PackageLoader("unlearn_plugin.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render_html(report: Mapping[str, Any]) -> str:
    """Write the page.

    Args:
        report: Content of report.json, before or after it was written; the page is the same.

    Returns:
        A complete HTML document; equal reports give equal bytes.
    """
    report = rounded(report)
    environment = page_environment()
    environment.filters |= {"number": number, "percent": percent}
    environment.tests["digest"] = _DIGEST.fullmatch
    measured, overall = report["measurements"], report["overall"]
    verdict, outcome = headline(overall["status"]), headline(overall["outcome"])
    tone = "open" if verdict.tone == "good" and outcome.tone == "bad" else verdict.tone
    models = {who: name for who, name in _MODELS.items() if who != "reference" or _digest(report, "reference")}
    return environment.get_template("page.html.j2").render(
        report=report,
        verdict=verdict,
        outcome=outcome,
        tone=tone,
        reasons=[reason for reason in overall["reasons"] if reason not in overall["statement"]],
        weights=_weights(report, tone),
        cards=[
            _membership_card(measured.get(primary(report), {}), models, overall["margin"]),
            _utility_card(measured, models),
        ],
        change=(measured.get("change", {}).get("after") or {}).get("details", {}),
        pictures=[(picture, Markup(picture.svg)) for picture in draw(report)],  # noqa: S704  # our own drawing
        models=models,
        metrics=[_table(name, measured[name], models) for name in sorted(measured, key=_rank)],
        provenance=_provenance(report),
    )


def _digest(report: Mapping[str, Any], who: str) -> str | None:
    return (report["model"][who] or {}).get("digest")


def _weights(report: Mapping[str, Any], tone: str) -> str:
    if not _digest(report, "after"):
        return "not written"
    if not report["overall"]["released"]:
        return "withheld"
    return "may be used" if tone == "good" else "for a person to decide"


def _rank(metric: str) -> tuple[int, str]:
    return (_FIRST.index(metric) if metric in _FIRST else len(_FIRST), metric)


def _membership_card(test: Mapping[str, Any], models: Mapping[str, str], margin: int | float | None) -> _Card:
    limit = "" if margin is None else f" Values above {number(0.5 + margin, 2)} after unlearning had to be ruled out."
    return _Card(
        title="Can the model tell the requested images from unseen ones?",
        marks=_marks(test, models, lambda value: number(value, 2)),
        guessing=True,
        meaning=f"Area under the ROC curve. 0.5: no better than guessing. 1: always.{limit}",
    )


def _utility_card(measured: Mapping[str, Any], models: Mapping[str, str]) -> _Card:
    return _Card(
        title="Does the model still do its work?",
        marks=_marks(measured.get("utility", {}), models, percent),
        guessing=False,
        meaning="Share of unseen images that it classifies correctly.",
    )


def _marks(metric: Mapping[str, Any], models: Mapping[str, str], write: Writer) -> list[_Mark]:
    marks = []
    for who, name in models.items():
        measurement = metric.get(who) or {}
        value, low, high = (measurement.get(key) for key in ("value", "low", "high"))
        marks.append(_Mark(who, name, _Cell(write(value), interval(low, high, write)), value, low, high))
    return marks


def _table(name: str, metric: Mapping[str, Any], models: Mapping[str, str]) -> dict[str, Any]:
    """All numbers of one metric: the value, its details, and the long lists in tables of their own."""
    measured = {who: metric[who] for who in models}
    details = {who: one["details"] if one else {} for who, one in measured.items()}
    flat = {who: dict(_flatten(one)) for who, one in details.items()}
    keys = sorted({key for one in flat.values() for key in one if f"{name} {key}" not in _REPEATED}, key=_label_rank)
    return {
        "name": name,
        "title": metric["title"],
        "explanation": metric["explanation"],
        "goal": _GOALS.get(metric["goal"], metric["goal"]),
        "source": metric["source"].rstrip("."),
        "rows": [
            _Row(metric["title"], [_cell(one, name) for one in measured.values()]),
            *(_Row(_label(key), [_cell(one.get(key), f"{name} {key}") for one in flat.values()]) for key in keys),
        ],
        "notes": _notes({models[who]: one["note"] for who, one in measured.items() if one and one["note"]}),
        "classes": _list_rows(details, "per_class", "class", f"{name} per_class"),
        "layers": _list_rows(details, "per_layer", "name", f"{name} per_layer"),
    }


def _notes(notes: Mapping[str, str]) -> list[str]:
    """Each note once, after the models it is about."""
    return [
        f"{', '.join(name for name, text in notes.items() if text == note)}: {note}"
        for note in dict.fromkeys(notes.values())
    ]


def _flatten(details: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in details.items():
        path = f"{above} {key}".lstrip()
        if key in _ELSEWHERE:
            continue
        if isinstance(value, Mapping) and "value" in value:
            yield path, value
            yield from ((f"{path} {name}", value[name]) for name in value.keys() - {"value", "low", "high", "n"})
        elif isinstance(value, Mapping):
            yield from _flatten(value, path)
        else:
            yield path, value


def _label(key: str) -> str:
    return LABELS.get(key, key.replace("_", " ").capitalize())


def _label_rank(key: str) -> tuple[int, str]:
    labels = list(LABELS)
    return (labels.index(key) if key in LABELS else len(labels), key)


def _cell(value: Any, path: str) -> _Cell:
    write = WRITERS.get(path, number)
    if isinstance(value, Mapping):
        ends = interval(value.get("low"), value.get("high"), write)
        count = f"n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{number(value['n'])}" if value.get("n") is not None else ""
        return _Cell(write(value["value"]), "; ".join(text for text in (ends, count) if text))
    if value is None:
        return _Cell()
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return _Cell(write(value) if is_number else plain(value))


def _list_rows(details: Mapping[str, Any], key: str, label: str, path: str) -> list[_Row]:
    """A list of details as rows: entries of the same label side by side, in the order in which they first come."""
    number_of = "relative_norm" if key == "per_layer" else "value"
    found = {who: {entry[label]: entry for entry in one.get(key) or []} for who, one in details.items()}
    names = dict.fromkeys(name for one in found.values() for name in one)
    rows = []
    for name in names:
        entries = [one.get(name) for one in found.values()]
        cells = [_cell({**entry, "value": entry.get(number_of)}, path) if entry else _Cell() for entry in entries]
        rows.append(_Row(name, cells))
    return rows


def _provenance(report: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Where everything comes from: headings, each with labels and texts."""
    procedure = report["procedure"]
    groups = [
        ("Request", _request(report["request"])),
        ("Model", _model(report)),
        ("Data", [(_DATA[key], plain(report["data"][key])) for key in _DATA if key in report["data"]]),
        ("Requests like this one", _surrogates(report.get("surrogates"))),
        ("Checks of the new weights", [(_GUARD[key], plain(report["guard"][key])) for key in _GUARD]),
        ("Method", _method(procedure)),
        ("Options of the method", [(key, plain(value)) for key, value in sorted(_flatten(procedure["options"]))]),
        (
            "What the method reports",
            [(_label(key), plain(value)) for key, value in sorted(_flatten(procedure["facts"]))],
        ),
        ("Record of the training run", _record(procedure["record"])),
        ("Environment", [(key.replace("_", "-"), text) for key, text in sorted(procedure["environment"].items())]),
    ]
    return [(heading, entries) for heading, entries in groups if entries]


def _request(request: Mapping[str, Any]) -> list[tuple[str, str]]:
    commitment = request["commitment"]
    return [
        *((_label(key), request[key] or "not stated") for key in ("reference", "received")),
        ("Asked for", request["kind"]),
        ("Images", plain(request["n_samples"])),
        *_earlier(request.get("earlier")),
        ("Data subjects", "not stated" if request["n_subjects"] is None else plain(request["n_subjects"])),
        ("Commitment to the list", commitment["digest"]),
        ("How it is made", f"{commitment['scheme']}; key {commitment['key_state']}"),
    ]


def _earlier(earlier: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if earlier is None:
        return []
    return [
        ("Earlier requests", plain(earlier["requests"])),
        ("Images of earlier requests, left out", plain(earlier["n_samples"])),
        *(("Commitment to an earlier list", digest) for digest in earlier["commitments"]),
    ]


def _surrogates(found: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if found is None:
        return []
    return [
        *((_SURROGATES[key], plain(found[key])) for key in ("count", "samples", "test", "matched_by")),
        *((f"{_SURROGATES['area']}, {who}", estimate(found[who])) for who in ("before", "after")),
        (_SURROGATES["rank"], plain(found["rank"])),
    ]


def _model(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    model = report["model"]
    return [
        ("Architecture", model["architecture"]),
        ("Source", model["source"]),
        ("Classes", plain(model["num_classes"])),
        *((f"Weights, {name.lower()}", _digest(report, who) or "none") for who, name in _MODELS.items()),
    ]


def _method(procedure: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("Name", procedure["method"]),
        ("What it does", procedure["summary"]),
        ("Source", procedure["source"]),
        ("Trains again without the data", plain(procedure["exact"])),
        ("Seed", str(procedure["seed"])),
        ("Seconds", plain(procedure["seconds"])),
        *((label, plain(procedure[key])) for key, label in _COSTS.items() if procedure.get(key) is not None),
    ]


def _record(record: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    return [(_label(key), plain(record[key])) for key in sorted(record)] if record else [("Given", "no")]
