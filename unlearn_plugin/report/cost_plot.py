"""The picture of a comparison: how far each method is from retrained models, against what it cost."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from unlearn_plugin.report.drawing import COLOURS, Picture, canvas, make_picture, page_style
from unlearn_plugin.report.wording import number, percent

__all__ = ["draw_costs", "heights", "widths"]

_NEAR = 14.0  # pixels
_WIDE = 12.0  # a range of costs beyond this factor is drawn in powers of ten


def draw_costs(content: Mapping[str, Any]) -> Picture | None:
    """Draw what was found against what it cost.

    Args:
        content: Of compare.json.

    Returns:
        A numbered mark for each method; a band as high as exact models differ from each other. ``None`` if no method
        has both numbers.
    """
    up, across = heights(content["rows"]), widths(content["rows"])
    points = {
        place: (x, y) for place, (x, y) in enumerate(zip(across, up, strict=True)) if x is not None and y is not None
    }
    if not points:
        return None
    by_distance, spread = _by_distance(content["rows"]), content["exact"]["spread"]
    with page_style():
        figure, axes = canvas(3.3)
        for place, (x, y) in points.items():
            _mark(axes, x, y, content["rows"][place])
        if by_distance and spread:
            axes.axhspan(0, spread["largest"], color=COLOURS["unseen"], alpha=0.25, linewidth=0)
        axes.axhline(0, color=COLOURS["unseen"], linewidth=0.8)
        _scale(axes, [x for x, _ in points.values()], _in_shares(content["rows"]))
        unit = "processor seconds" if content["cost"]["measured_in"] == "cpu_seconds" else "seconds"
        axes.set_xlabel("share of retraining" if _in_shares(content["rows"]) else unit)
        axes.set_ylabel("distance to exact models" if by_distance else "membership AUC above 0.5")
        axes.set_title("Distance against cost" if by_distance else "Membership against cost")
        axes.margins(x=0.12, y=0.14)
        _number(axes, points)
        return make_picture(
            figure, name="costs", title="What each method reaches against what it costs",
            drawn=_drawn(by_distance, spread), seen=_seen(content["rows"], points),
        )  # fmt: skip


def heights(rows: Sequence[Mapping[str, Any]]) -> list[float | None]:
    """How high each row stands in the picture.

    Args:
        rows: Of compare.json.

    Returns:
        Distances to the exact models, 0 for the only one; AUC - 0.5 where there is no exact model.
    """
    if not _by_distance(rows):
        return [row["measured"] and row["measured"]["auc"] and row["measured"]["auc"] - 0.5 for row in rows]
    return [
        None if not row["measured"] else 0.0 if row["status"] == "EXACT_BY_PROCESS"
        and row["measured"]["distance"] is None else row["measured"]["distance"]
        for row in rows
    ]  # fmt: skip


def widths(rows: Sequence[Mapping[str, Any]]) -> list[float | None]:
    """How far to the right each row stands in the picture.

    Args:
        rows: Of compare.json.

    Returns:
        Shares of the cost of retraining; seconds where none was retrained.
    """
    name = "share_of_retraining" if _in_shares(rows) else "seconds"
    if name == "seconds" and all(row["cost"] is None or row["cost"]["cpu_seconds"] is not None for row in rows):
        name = "cpu_seconds"
    return [row["cost"] and row["cost"][name] for row in rows]


def _by_distance(rows: Sequence[Mapping[str, Any]]) -> bool:
    return any(row["measured"] and row["measured"]["distance"] is not None for row in rows)


def _in_shares(rows: Sequence[Mapping[str, Any]]) -> bool:
    return any(row["cost"] and row["cost"]["share_of_retraining"] is not None for row in rows)


def _mark(axes: Axes, x: float, y: float, row: Mapping[str, Any]) -> None:
    """A circle: filled where the weights may be released, a square for exact methods."""
    colour = COLOURS["reference" if row["exact"] else "after"]
    face = colour if row["released"] else "none"
    axes.plot(x, y, "s" if row["exact"] else "o", markersize=5.5, markerfacecolor=face, markeredgecolor=colour)


def _number(axes: Axes, points: Mapping[int, tuple[float, float]]) -> None:
    """Write each mark's number beside it; marks that nearly cover each other share a place for theirs."""
    axes.autoscale_view()
    groups: list[list[int]] = []
    pixels = {place: axes.transData.transform(point) for place, point in points.items()}
    for place in points:
        near = [group for group in groups if abs(pixels[group[0]] - pixels[place]).max() < _NEAR]
        if near:
            near[0].append(place)
        else:
            groups.append([place])
    for group in groups:
        axes.annotate(
            ", ".join(str(place + 1) for place in group), points[group[0]], xytext=(5.5, 3),
            textcoords="offset points", color=COLOURS["ink"], fontsize=9,
        )  # fmt: skip


def _scale(axes: Axes, costs: Sequence[float], in_shares: bool) -> None:
    known = [cost for cost in costs if cost]
    if known and max(known) > _WIDE * min(known):
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
    write = (lambda x, _: f"{100 * x:.3g}%") if in_shares else (lambda x, _: f"{x:.3g}")
    axes.xaxis.set_major_formatter(FuncFormatter(write))


def _drawn(by_distance: bool, spread: Mapping[str, Any] | None) -> str:
    text = "A mark for each method, with its number in the table: filled where the weights may be released, square for exact methods."  # noqa: E501
    if not by_distance:
        return f"{text} No exact model is there, so the height is the membership AUC above 0.5."
    if spread is None:
        return f"{text} How much exact models differ from each other is not known: there is one only."
    return f"{text} The band: as far as exact models are from each other."


def _seen(rows: Sequence[Mapping[str, Any]], points: Mapping[int, tuple[float, float]]) -> str:
    others = [place for place in points if not rows[place]["exact"]] or list(points)
    nearest = min(others, key=lambda place: abs(points[place][1]))
    cheapest = min(others, key=lambda place: points[place][0])
    what = "distance" if _by_distance(rows) else "AUC above 0.5 by"

    def say(place: int) -> str:
        cost, height = points[place]
        took = percent(cost) if _in_shares(rows) else f"{number(cost, 1)} seconds"
        return f"{rows[place]['label']} ({what} {number(height)}, cost {took})"

    if cheapest == nearest:
        return f"Nearest and cheapest: {say(nearest)}."
    return f"Nearest: {say(nearest)}. Cheapest: {say(cheapest)}."
