"""A picture of each table: distance to the retrained models against cost."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from tests.benchmarks.suite.table import Row

_YARDSTICKS = ("finetune", "original", "left_out")
_WIDE, _HIGH = 25, 0.01  # what a name takes, in per cent of retraining and in gap


def draw(found: Sequence[Row], title: str, place: Path) -> None:
    """Points are methods (mean over seeds); the band is how far the retrained models are from each other."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    own = [line["gap"] for row in found if row.name == "retrain" for line in row.runs]
    axes.axhspan(0, max(own), color="0.9", lw=0, label="retrained models among themselves")
    written: list[tuple[float, float]] = []
    for row in sorted(found, key=lambda row: row.mean("time") or 0.0):
        cost, gap = 100 * (row.mean("time") or 0.0), row.mean("gap")
        if row.name == "retrain" or gap is None:
            continue
        name = row.name.split(" (")[0]
        axes.plot(cost, gap, "o", color="0.4" if name.startswith(_YARDSTICKS) else "C0", ms=5)
        taken = any(abs(cost - x) < _WIDE and abs(gap - y) < _HIGH for x, y in written)
        axes.annotate(name, (cost, gap), xytext=(4, -9 if taken else 3), textcoords="offset points", fontsize=7)
        written.append((cost, gap))
    axes.set(xlabel="processor time, % of retraining", ylabel="average gap to retrained models", title=title)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    place.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(place, dpi=110, metadata={"Software": None})
