"""A picture of each table: distance to the retrained models against cost."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from tests.benchmarks.suite.table import Row


def draw(found: Sequence[Row], title: str, place: Path) -> None:
    """Points are methods (mean over seeds); the band is how far the retrained models are from each other."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    own = [line["gap"] for row in found if row.name == "retrain" for line in row.runs]
    axes.axhspan(0, max(own), color="0.9", lw=0, label="retrained models among themselves")
    for row in found:
        cost, gap = row.mean("time"), row.mean("gap")
        if row.name == "retrain" or gap is None:
            continue
        name = row.name.split(" (")[0]
        axes.plot(
            100 * (cost or 0.0), gap, "o", color="0.4" if name.startswith(("finetune", "original")) else "C0", ms=5
        )
        axes.annotate(name, (100 * (cost or 0.0), gap), xytext=(4, 3), textcoords="offset points", fontsize=7)
    axes.set(xlabel="processor time, % of retraining", ylabel="average gap to retrained models", title=title)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    place.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(place, dpi=110, metadata={"Software": None})
