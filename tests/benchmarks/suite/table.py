"""The tables of docs/benchmarks.md, from the lines of results; nothing in them is typed by hand."""

import os
import platform
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import timm
import torch

from tests.benchmarks.suite.measure import gap, tug_of_war
from tests.benchmarks.suite.runs import PUBLISHED, YARDSTICKS, Line, equal_cost, version

COLUMNS = ("RA", "FA", "TA", "AUC", "AUC, calibrated", "DA", "LP", "NMI", "gap", "ToW", "time", "memory", "verdict")
REPORTED = range(10)  # seeds; settings are chosen on others
_MARK = re.compile(r"<!-- suite (\w+) (\w+) (\w+)(?: (\w+))? begin -->.*?<!-- end -->", re.DOTALL)
_BARS = re.compile(r"<!-- suite bars begin -->.*?<!-- end -->", re.DOTALL)
_CHEAP = 0.10  # of retraining


@dataclass(frozen=True)
class Row:
    """What is known of one method on one request.

    Attributes:
        name: As the table says it.
        runs: One line for each seed, with gap, ToW and time added.
        failed: Why the method does not take such requests.
        old: Some run was made by an earlier version of the method's code.
    """

    name: str
    runs: tuple[Line, ...]
    failed: str = ""
    old: bool = False

    def mean(self, column: str) -> float | None:
        values = [line[column] for line in self.runs if line.get(column) is not None]
        return statistics.mean(values) if values else None


def rows(lines: Iterable[Line], dataset: str, arch: str, request: str, only: str | None = None) -> list[Row]:
    """All rows of one table: the original, the retrained models, and the methods by name.

    Args:
        lines: Of results.
        dataset: Which data set.
        arch: Which network.
        request: Which kind of request.
        only: A method: the table is of its options. Otherwise only `finetune` is shown with others than its own.
    """
    mine = _latest([
        line for line in lines if (line["dataset"], line["arch"], line["request"]) == (dataset, arch, request)
    ])
    references = [line for line in mine if line["method"] == "retrain"]
    if not references:
        return []
    found = [_row(name, name, "", mine, references) for name in YARDSTICKS]
    names = sorted({(line["method"], line["options"]) for line in mine if line["method"] not in YARDSTICKS})
    named = {("finetune", equal_cost(mine, name)): name for name in reversed(PUBLISHED)}
    for method, options in names:
        if method != only if only else options and (method, options) not in named:
            continue
        label = method + (f", {options.replace(',', ', ')}" if options else "")
        if (method, options) in named:
            label += f" (costs as much as {' and '.join(_as_dear(mine, options))})"
        found.append(_row(label, method, options, mine, references))
    return [row for row in found if row.runs or row.failed]


def _as_dear(lines: Sequence[Line], options: str) -> list[str]:
    return [f"`{name}`" for name in PUBLISHED if equal_cost(lines, name) == options]


def _latest(lines: Iterable[Line]) -> list[Line]:
    """Of runs that were made again the last one."""
    last = {
        (line["method"], line["options"], line["seed"]): line
        for line in lines
        if line["seed"] in REPORTED or line["method"] == "retrain" and line["seed"] // 10 == 50
    }
    return list(last.values())


def _row(name: str, method: str, options: str, lines: Sequence[Line], references: Sequence[Line]) -> Row:
    mine = [line for line in lines if (line["method"], line["options"]) == (method, options)]
    current = [line for line in mine if line["code"] == version(method)]
    mine = current or mine  # two versions are never averaged
    dear = statistics.mean(line["steps"] for line in references)
    runs = []
    for line in mine:
        if "failed" in line:
            continue
        others = [one for one in references if one is not line] or list(references)
        more = {"gap": gap(line, others), "ToW": tug_of_war(line, others)}
        runs.append({**line, **more, "time": line["steps"] / dear if "steps" in line else None})
    failed = next((line["failed"] for line in mine if "failed" in line), "")
    old = method not in YARDSTICKS and any(line["code"] != version(method) for line in mine)
    return Row(name, tuple(runs), failed, old)


def as_markdown(found: Sequence[Row]) -> str:
    """One table: mean and, of several runs, the standard deviation; notes below it."""
    lines = ["| model | runs | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    notes = []
    for row in found:
        if not row.runs:
            notes.append(f"`{row.name}` does not take such a request: {row.failed}")
            continue
        name = f"**{row.name}**" if row.name in YARDSTICKS else row.name
        cells = [name + ("†" if row.old else ""), str(len(row.runs)), *(_cell(row, column) for column in COLUMNS)]
        lines.append("| " + " | ".join(cells) + " |")
    if any(row.old for row in found):
        notes.append("† measured before the method's code was last changed.")
    return "\n".join(lines) + "".join(f"\n\n{note}" for note in notes)


def _cell(row: Row, column: str) -> str:
    key = {"memory": "peak"}.get(column, column)
    values = [line[key] for line in row.runs if line.get(key) is not None]
    if not values:
        return "–"
    if column == "verdict":
        counts = {value: values.count(value) for value in sorted(set(values))}
        return ", ".join(value + (f" ({n} of {len(values)})" if len(counts) > 1 else "") for value, n in counts.items())
    if column == "memory":
        return f"{max(values) / 2**20:.0f} MB"
    mean = statistics.mean(values)
    if column == "time":
        return f"{mean:.0%}"
    return f"{mean:.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")


def bars(tables: Mapping[tuple[str, str, str], Sequence[Row]]) -> str:
    """What was promised of the methods, and whether the tables hold it."""
    lines = ["| bar | data set, network, request | measured | met |", "|---|---|---|---|"]
    for place, found in tables.items():
        by_name = {row.name: row for row in found if row.runs}
        if "retrain" in by_name:
            lines += [
                f"| {what} | {', '.join(place)} | {measured} | {'yes' if met else '**no**'} |"
                for what, measured, met in _bars(by_name)
            ]
    return "\n".join(lines)


def _bars(found: Mapping[str, Row]) -> Iterable[tuple[str, str, bool]]:
    own = [line["gap"] for line in found["retrain"].runs]
    spread = statistics.mean(own)
    if "replay" in found:
        off = [line["off"] for line in found["replay"].runs]
        yield (
            "`replay` is the training that leaves F out of every batch, bit for bit",
            f"largest difference of a weight {max(off):.3g}, in {len(off)} trainings",
            max(off) == 0,
        )
    if "matching" in found:
        mine, cost = found["matching"].mean("gap") or 0.0, found["matching"].mean("time") or 0.0
        yield (
            "`matching` within twice the retrained models' own gap at 10 % of the cost",
            f"gap {mine:.3f}, {mine / spread:.1f} times theirs, at {cost:.1%}",
            mine <= 2 * spread and cost <= _CHEAP,
        )
    for name in PUBLISHED:
        baseline = next(
            (row for label, row in found.items() if label.startswith("finetune") and f"`{name}`" in label), None
        )
        if name in found and baseline:
            mine, theirs = found[name].mean("gap") or 0.0, baseline.mean("gap") or 0.0
            yield (
                f"`{name}` nearer to the retrained models than `finetune` at the same cost",
                f"gap {mine:.3f}, `finetune` {theirs:.3f}",
                mine < theirs,
            )


def write(lines: Sequence[Line], page: Path) -> None:
    """Put every table between its markers; what stands around them stays."""
    text, tables = page.read_text(), {}

    def one(match: "re.Match[str]") -> str:
        place, only = (match[1], match[2], match[3]), match[4]
        found = rows(lines, *place, only)
        content = as_markdown(found) if found else "Not measured yet."
        drawn = Path("pictures") / f"{'-'.join(place)}.png"
        if found and not only and (page.parent / drawn).exists():
            content = f"![Distance to the retrained models against cost]({drawn.as_posix()})\n\n{content}"
        if not only:
            tables[place] = found
        return f"<!-- suite {' '.join(part for part in (*place, only) if part)} begin -->\n\n{content}\n\n<!-- end -->"

    text = _MARK.sub(one, text)
    machine = (
        f"{platform.machine()}, {os.cpu_count()} cores, 1 thread, torch {torch.__version__}, timm {timm.__version__}"
    )
    text = _BARS.sub(lambda _: f"<!-- suite bars begin -->\n\n({machine})\n\n{bars(tables)}\n\n<!-- end -->", text)
    page.write_text(text)
