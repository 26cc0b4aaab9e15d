"""Pictures of a report: margins, ROC curves, maps of the features, classes and layers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from unlearn_plugin.primary import CALIBRATED, PLAIN, primary
from unlearn_plugin.report.drawing import COLOURS, Picture, canvas, make_picture, page_style
from unlearn_plugin.report.wording import number, percent, points

__all__ = ["draw"]

_MODELS = {"before": "Before", "after": "After", "reference": "Reference"}
_DASHES = {"before": (0, (5, 2)), "after": "solid", "reference": (0, (1, 1.5))}
_MARKERS = {"before": "o", "after": "s", "reference": "D"}
_ABOUT = {  # test: what its margin is, on the axis and in a sentence
    PLAIN: ("margin: how sure of the right class", "a margin above"),
    CALIBRATED: ("calibrated margin: surer than of unseen", "a calibrated margin above"),
}
_MOST_CLASSES = 15
_LONGEST_LABEL = 16
_LOW_END = 0.05  # share of false alarms up to which the inset of the ROC goes
_LARGEST_FIELD = 130.0  # square points


def draw(report: Mapping[str, Any]) -> list[Picture]:
    """Draw all that the measurements allow; what was not measured has no picture.

    Margins and ROC are those of the test that decides: with references, the calibrated one.

    Args:
        report: Content of report.json; ``measurements`` and ``surrogates`` are read.

    Returns:
        Margin histograms (before, after, reference), ROC curves, surrogate requests, maps of the features, accuracy of
        classes, change of layers; the same measurements always give the same bytes.
    """
    measurements, test = report["measurements"], primary(report)
    with page_style():
        found = [
            *_margins(_details(measurements, test), _ABOUT[test]),
            _roc(_details(measurements, test), measurements.get(test, {})),
            _surrogates(report.get("surrogates"), measurements.get(test, {}).get("after")),
            *_maps(_details(measurements, "feature_space")),
            _classes(_details(measurements, "utility")),
            _layers(_details(measurements, "change").get("after", {})),
        ]
    return [picture for picture in found if picture]


def _details(measurements: Mapping[str, Any], metric: str) -> dict[str, Mapping[str, Any]]:
    measured = {who: measurements.get(metric, {}).get(who) for who in _MODELS}
    return {who: measurement["details"] for who, measurement in measured.items() if measurement}


def _margins(details: Mapping[str, Mapping[str, Any]], about: tuple[str, str]) -> list[Picture]:
    histograms = {who: one["histogram"] for who, one in details.items() if one.get("histogram")}
    if not histograms:
        return []
    left = min(one["edges"][0] for one in histograms.values())
    right = max(one["edges"][-1] for one in histograms.values())
    top = max(max(_shares(one[group])) for one in histograms.values() for group in ("forget", "controls"))
    return [_margin(who, one, (left, right), 1.42 * top or 1.0, about) for who, one in histograms.items()]


def _margin(
    who: str, histogram: Mapping[str, Any], ends: tuple[float, float], top: float, about: tuple[str, str]
) -> Picture:
    figure, axes = canvas(2.5)
    edges, forget, controls = histogram["edges"], _shares(histogram["forget"]), _shares(histogram["controls"])
    axes.stairs(controls, edges, fill=True, color=COLOURS["unseen"], alpha=0.35, linewidth=0)
    axes.stairs(controls, edges, color=COLOURS["unseen"], linewidth=0.8, label="unseen images")
    axes.stairs(forget, edges, color=COLOURS[who], linewidth=1.8, label="requested images")
    axes.set(xlim=ends, ylim=(0, top), ylabel="share of images")
    axes.set_xlabel(f"{about[0]} \N{RIGHTWARDS ARROW}")
    axes.set_title(_MODELS[who], color=COLOURS[who])
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend(loc="upper left", reverse=True)
    middle = {"forget": _median(edges, forget), "controls": _median(edges, controls)}
    return make_picture(
        figure,
        name=f"margins-{who}",
        title=f"{_MODELS[who]}: margins of requested and unseen images",
        drawn="Two histograms over one axis: a line for the requested images, a grey area for images never trained on.",
        seen=(
            f"Half of the requested images have {about[1]} {number(middle['forget'], 1)}, "
            f"half of the unseen ones above {number(middle['controls'], 1)}."
        ),
    )


def _roc(details: Mapping[str, Mapping[str, Any]], membership: Mapping[str, Any]) -> Picture | None:
    curves = {who: one["roc"] for who, one in details.items() if one.get("roc")}
    if not curves:
        return None
    figure, axes = canvas(3.6)
    axes.plot([0, 1], [0, 1], color=COLOURS["unseen"], linewidth=0.8)
    for who, curve in curves.items():
        auc = number(membership[who]["value"], 2)
        axes.plot(*zip(*curve, strict=True), **_line(who), label=f"{_MODELS[who].lower()}: {auc}")
    axes.set(
        xlim=(0, 1), ylim=(0, 1.01), xlabel="unseen images taken for trained ones", ylabel="requested images found"
    )
    axes.set_title("Telling requested from unseen")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    figure.legend(loc="outside lower center", ncols=3, title="area under the curve", handlelength=1.2, columnspacing=1)
    _low_end(axes, curves)
    areas = ", ".join(f"{number(membership[who]['value'], 2)} {_MODELS[who].lower()}" for who in curves)
    return make_picture(
        figure,
        name="roc",
        title="ROC curves of the membership test",
        drawn="One curve for each model; the diagonal is what guessing would give. Inset: its lower left corner.",
        seen=f"The nearer to the diagonal, the less the model gives away. Area under the curve: {areas}; guess 0.50.",
    )


def _low_end(axes: Axes, curves: Mapping[str, Sequence[Sequence[float]]]) -> None:
    """Show the lower left corner of the ROC large: few false alarms are what an attacker wants."""
    inset = axes.inset_axes((0.59, 0.1, 0.38, 0.38))
    inset.set_in_layout(False)
    inset.plot([0, _LOW_END], [0, _LOW_END], color=COLOURS["unseen"], linewidth=0.8)
    for who, curve in curves.items():
        inset.plot(*zip(*curve, strict=True), **_line(who))
    top = max(float(np.interp(_LOW_END, *np.transpose(curve))) for curve in curves.values())
    inset.set(xlim=(0, _LOW_END), ylim=(0, max(1.1 * top, 2 * _LOW_END)), xticks=[0, _LOW_END])
    inset.tick_params(labelsize=7, length=2)
    for axis in (inset.xaxis, inset.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))


def _surrogates(found: Mapping[str, Any] | None, real: Mapping[str, Any] | None) -> Picture | None:
    """What the procedure left on pseudo-requests, and on this request, on one scale."""
    if not found or not found["after"]:
        return None
    rows = {"others, before": ("before", found["before"]), "others, after": ("after", found["after"])}
    if own := real if real and real["value"] is not None and found["rank"] else None:
        rows["this one, after"] = ("after", own)
    figure, axes = canvas(1.5)
    axes.axvline(0.5, color=COLOURS["unseen"], linewidth=0.8)
    for row, (who, one) in enumerate(rows.values()):
        axes.hlines(row, one["low"], one["high"], color=COLOURS[who], linewidth=1.4)
        axes.plot(one["value"], row, _MARKERS[who], color=COLOURS[who], markersize=4.5)
    axes.set(xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5), xlabel="area under the curve")
    axes.set_yticks(range(len(rows)), list(rows))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.set_title("Requests like this one")
    before, after = (found[who] for who in ("before", "after"))
    rank = f"number {number(found['rank'])} of {number(found['count'] + 1)}"
    also = f"; on this request it left {number(own['value'], 2)}, {rank}" if own else ""
    return make_picture(
        figure,
        name="surrogates",
        title="What the same procedure leaves on requests like this one",
        drawn="A row for each: a mark with its 95 % interval; the pseudo-requests first. The line is a guess.",
        seen=(
            f"On {number(found['count'])} pseudo-requests the procedure took the area from "
            f"{number(before['value'], 2)} to {number(after['value'], 2)}{also}."
        ),
    )


def _maps(details: Mapping[str, Mapping[str, Any]]) -> list[Picture]:
    return [_map(who, one["map"]) for who, one in details.items() if one.get("map")]


def _map(who: str, shares: Mapping[str, Sequence[Sequence[float]]]) -> Picture:
    figure, axes = canvas(3.1)
    retain, forget = (np.array(shares[group]) for group in ("retain", "forget"))
    _fields(axes, retain, "retained images", color=COLOURS["unseen"], alpha=0.45)
    _fields(axes, forget, "requested images", facecolors="none", edgecolors=COLOURS[who], linewidths=1.3)
    axes.set(xlim=(-1, len(retain)), ylim=(-1, len(retain) + 2.6), xticks=[], yticks=[])
    axes.set(xlabel="first main direction", ylabel="second")
    axes.set_title(f"{_MODELS[who]}: map of the features", color=COLOURS[who])
    axes.legend(loc="upper left", ncols=2)
    among = float(forget[retain > 0].sum() / forget.sum())
    return make_picture(
        figure,
        name=f"map-{who}",
        title=f"{_MODELS[who]}: where the requested images lie among the retained ones",
        drawn="Squares on a grid; the larger, the more images: filled for retained images, open for requested ones.",
        seen=(
            f"{percent(among)} of the requested images lie on fields where retained images lie, too. "
            f"A flat map shows a small part of what the model knows; it decides nothing."
        ),
    )


def _fields(axes: Axes, shares: Float64[np.ndarray, "x y"], label: str, **style: Any) -> None:  # noqa: ANN401
    places = np.argwhere(shares > 0)
    sizes = _LARGEST_FIELD * shares[tuple(places.T)] / shares.max()
    axes.scatter(places[:, 0], places[:, 1], s=sizes, marker="s", **style)
    axes.scatter([], [], s=_LARGEST_FIELD / 4, marker="s", label=label, **style)


def _classes(details: Mapping[str, Mapping[str, Any]]) -> Picture | None:
    accuracy = {
        who: {entry["class"]: entry for entry in one.get("per_class") or [] if entry.get("value") is not None}
        for who, one in details.items()
    }
    accuracy = {who: found for who, found in accuracy.items() if found}
    if not accuracy:
        return None
    shown, among = _most_changed(accuracy)
    figure, axes = canvas(1.1 + 0.22 * len(shown))
    for position, (who, found) in enumerate(accuracy.items()):
        rows = [
            (row + 0.2 * (position - (len(accuracy) - 1) / 2), found[name])
            for row, name in enumerate(shown)
            if name in found
        ]
        axes.hlines(*zip(*[(y, e["low"], e["high"]) for y, e in rows], strict=True), color=COLOURS[who], linewidth=1.1)
        heights, values = zip(*[(y, e["value"]) for y, e in rows], strict=True)
        axes.plot(values, heights, _MARKERS[who], color=COLOURS[who], markersize=3.6, label=_MODELS[who].lower())
    axes.set_yticks(range(len(shown)), [_label(name) for name in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_title("Accuracy of each class" if among is None else "Accuracy, most changed")
    figure.legend(loc="outside lower center", ncols=3)
    return make_picture(
        figure,
        name="classes",
        title="Accuracy on unseen images of each class",
        drawn="One row for each class; a mark for each model, with its 95 % interval as a line.",
        seen=_change_of_classes(accuracy, among),
    )


def _most_changed(accuracy: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], int | None]:
    first, *others = accuracy.values()
    names = list(first)
    if len(names) <= _MOST_CLASSES:
        return names, None
    later = others[0] if others else first
    change = {name: abs(later[name]["value"] - first[name]["value"]) if name in later else 0.0 for name in names}
    chosen = set(sorted(names, key=lambda name: -change[name])[:_MOST_CLASSES])
    return [name for name in names if name in chosen], len(names)


def _change_of_classes(accuracy: Mapping[str, Mapping[str, Any]], among: int | None) -> str:
    scope = "" if among is None else f"Of {number(among)} classes, those that changed most are shown. "
    before, after = (accuracy.get(who, {}) for who in ("before", "after"))
    change = {name: after[name]["value"] - before[name]["value"] for name in before if name in after}
    if not change:
        only = next(iter(accuracy.values()))
        lowest = min(only, key=lambda name: only[name]["value"])
        return f"{scope}The lowest accuracy is that of class \u201c{lowest}\u201d: {percent(only[lowest]['value'])}."
    worst = min(change, key=lambda name: change[name])
    return f"{scope}The largest loss is that of class \u201c{worst}\u201d: {points(change[worst])}."


def _layers(details: Mapping[str, Any]) -> Picture | None:
    layers = details.get("per_layer")
    if not layers:
        return None
    figure, axes = canvas(3.3)
    moved = [layer["relative_norm"] or 0.0 for layer in layers]
    axes.bar(range(len(moved)), moved, width=0.72, color=COLOURS["after"])
    axes.set(xticks=[0, len(moved) - 1], xticklabels=["input", "output"], xlim=(-0.7, len(moved) - 0.3))
    axes.get_xticklabels()[0].set_horizontalalignment("left")
    axes.get_xticklabels()[-1].set_horizontalalignment("right")
    axes.tick_params(axis="x", length=0)
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g}%")
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.set_title("Change of each layer")
    axes.set_ylabel("change against its size")
    most = max(layers, key=lambda layer: layer["relative_norm"] or 0.0)
    return make_picture(
        figure,
        name="layers",
        title="Change of each layer",
        drawn="One bar for each layer, from input to output; its height is the change against the size of its weights.",
        seen=f"{most['name']} moved most: by {percent(most['relative_norm'])} of its size.",
    )


def _line(who: str) -> dict[str, Any]:
    return {"color": COLOURS[who], "linestyle": _DASHES[who], "linewidth": 1.7}


def _shares(counts: Sequence[int | float]) -> list[float]:
    total = sum(counts)
    return [count / total if total else 0.0 for count in counts]


def _median(edges: Sequence[int | float], shares: Sequence[int | float]) -> float:
    return float(np.interp(0.5, np.cumsum([0.0, *shares]), edges))


def _label(name: str) -> str:
    printable = "".join(letter if letter.isprintable() else " " for letter in name)
    return (
        printable if len(printable) <= _LONGEST_LABEL else printable[: _LONGEST_LABEL - 1] + "\N{HORIZONTAL ELLIPSIS}"
    )
