"""The table of the zoo, with exact intervals, written into docs/verification.md."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unlearn_plugin.statistics import proportion

DOCS = Path(__file__).parents[3] / "docs" / "verification.md"
OK, DECIDED = "NO_RESIDUAL_DETECTED", ("NO_RESIDUAL_DETECTED", "RESIDUAL_DETECTED", "UTILITY_FAILED", "LOW_SIDE")


def write_table(lines: list[Mapping[str, Any]]) -> None:
    """Put the tables between the markers of the page."""
    text = DOCS.read_text()
    begin, end = "<!-- zoo:begin -->", "<!-- zoo:end -->"
    head, rest = text.split(begin)
    DOCS.write_text(head + begin + "\n\n" + "\n\n".join(_tables(lines)) + "\n\n" + end + rest.split(end)[1])


def _tables(lines: list[Mapping[str, Any]]) -> Iterable[str]:
    known = [line for line in lines if line["truth"] != "unknown"]
    for tier, with_what in (("B", "With one pair of reference models (tier B)"), ("A", "Without references (tier A)")):
        seeds = len({line["seed"] for line in known})
        yield f"**{with_what}**, {seeds} seeds, {len(known)} verdicts. Share and exact 95 % interval."
        yield _by_request(known, tier)
        yield _by_case(lines, tier)


def _by_request(lines: list[Mapping[str, Any]], tier: str) -> str:
    rows = ["| request | false OK | false alarm | retrained: OK | decisive |", "|---|---|---|---|---|"]
    for cell in [*dict.fromkeys(line["cell"] for line in lines), "all"]:
        mine = [line for line in lines if cell in ("all", line["cell"])]
        kept, forgotten = (
            [line["status"][tier] for line in mine if line["truth"] == truth] for truth in ("kept", "forgotten")
        )
        cells = [
            _share(kept, (OK,)),
            _share(forgotten, ("RESIDUAL_DETECTED",)),
            _share(forgotten, (OK,)),
            _share(kept + forgotten, DECIDED),
        ]
        rows.append(f"| {cell} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _by_case(lines: list[Mapping[str, Any]], tier: str) -> str:
    statuses = (*DECIDED, "INCONCLUSIVE")
    rows = ["| model | truth | " + " | ".join(statuses) + " |", "|---|---|" + "---|" * len(statuses)]
    for case in dict.fromkeys(line["case"] for line in lines):
        mine = [line for line in lines if line["case"] == case]
        counts = [sum(line["status"][tier] == status for line in mine) for status in statuses]
        rows.append(f"| {case} | {mine[0]['truth']} | " + " | ".join(map(str, counts)) + " |")
    return "\n".join(rows)


def _share(statuses: Sequence[str], wanted: Sequence[str]) -> str:
    if not statuses:
        return "–"
    found = proportion(sum(status in wanted for status in statuses), len(statuses))
    return f"{found.value:.0%} ({found.low:.0%} to {found.high:.0%}) of {found.n}"
