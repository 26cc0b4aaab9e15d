"""The tables of the zoo, with exact intervals, written into docs/verification.md."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev

from scipy.stats import t as student

from tests.benchmarks.zoo.cases import CASES
from tests.benchmarks.zoo.results import Result
from unlearn_plugin.statistics import proportion

RESULTS = Path(__file__).with_name("results.csv")  # what the page shows
DOCS = Path(__file__).parents[3] / "docs" / "verification.md"
OK, ALARM = "NO_RESIDUAL_DETECTED", "RESIDUAL_DETECTED"
DECIDED = (OK, ALARM, "UTILITY_FAILED", "LOW_SIDE")
STATUSES = (*DECIDED, "INCONCLUSIVE")
TIERS = {"B": "With one pair of reference models (tier B)", "A": "Without references (tier A)"}
BAR, DECISIVE = 0.05, 0.80  # false answers, and answers at all, that the judge is held to


def write_tables(lines: list[Result], page: Path = DOCS) -> None:
    """Put the tables between the markers of the page."""
    begin, end = "<!-- zoo:begin -->", "<!-- zoo:end -->"
    head, rest = page.read_text().split(begin)
    page.write_text(head + begin + "\n\n" + "\n\n".join(tables(lines)) + "\n\n" + end + rest.split(end)[1])


def tables(lines: list[Result]) -> Iterable[str]:
    """All tables, in the order of the page."""
    known = [line for line in lines if _truth(line) != "unknown"]
    for tier, title in TIERS.items():
        known = [line for line in lines if _truth(line) != "unknown" and _status(line, tier)]
        yield f"**{title}**, {_seeds(known)} seeds, {len(known)} verdicts. Share and exact two-sided 95 % interval."
        yield _by_request(known, tier)
        yield _by_case(known, tier)
        yield _bars(known, tier)
    methods = [line for line in lines if _truth(line) == "unknown"]
    if methods:
        yield (
            f"**Published methods** with their default settings (tier B), {_seeds(methods)} seeds, {len(methods)} "
            f"verdicts. *Left*: mean AUC that the oracle sees, and its 95 % interval over the seeds."
        )
        yield _by_method(methods, known)
    large = [line for line in lines if int(line.cell.split()[-1]) >= 100]
    yield (
        "**What line 13 of the rule does**, on requests of 100 samples or more: what is known of their difficulty (an "
        "AUC, below 0.5 for harder ones), and the verdicts that it turned from OK to INCONCLUSIVE. *Rightly*: the "
        "model still knew the request, or the oracle surely sees more than the margin."
    )
    yield _by_difficulty(large)


def _by_request(lines: list[Result], tier: str) -> str:
    rows = ["| request | false OK | false alarm | retrained: OK | decisive |", "|---|---|---|---|---|"]
    for cell in [*_cells(lines), "all"]:
        kept, forgotten = (_statuses(lines, tier, cell, truth) for truth in ("kept", "forgotten"))
        shares = (
            _share(kept, (OK,)), _share(forgotten, (ALARM,)), _share(forgotten, (OK,)),
            _share(kept + forgotten, DECIDED),
        )  # fmt: skip
        rows.append(f"| {cell} | " + " | ".join(shares) + " |")
    return "\n".join(rows)


def _by_case(lines: list[Result], tier: str) -> str:
    rows = ["| model | truth | " + " | ".join(STATUSES) + " |", "|---|---|" + "---|" * len(STATUSES)]
    for case in dict.fromkeys(line.case for line in lines):
        found = [_status(line, tier) for line in lines if line.case == case]
        rows.append(f"| {case} | {CASES[case].truth} | " + " | ".join(str(found.count(one)) for one in STATUSES) + " |")
    return "\n".join(rows)


def _bars(lines: list[Result], tier: str) -> str:
    """What was promised of the judge, and what it did."""
    cells = _cells(lines)
    wrong = {cell: proportion(*_count(_statuses(lines, tier, cell, "kept"), (OK,))) for cell in cells}
    worst = max(wrong.values(), key=lambda share: share.high)
    alarms = proportion(*_count(_statuses(lines, tier, "all", "forgotten"), (ALARM,)))
    rows = [
        (
            f"false OK at most {BAR:.0%} in every kind of request",
            f"{max(share.value for share in wrong.values()):.1%} at most; the largest upper bound is {worst.high:.1%}",
            max(share.value for share in wrong.values()) <= BAR,
        ),
        (
            f"false alarm on true retrains at most {BAR:.0%} overall",
            f"{alarms.value:.1%} ({alarms.low:.1%} to {alarms.high:.1%}), on {_alarmed(lines, tier)} of "
            f"{_seeds(lines)} seeds",
            alarms.value <= BAR,
        ),
    ]
    if tier == "B":
        rows.append(_decisive(lines))
    table = [f"| {bar} | {found} | {'yes' if met else '**no**'} |" for bar, found, met in rows]
    return "\n".join([f"| bar, tier {tier} | measured | met |", "|---|---|---|", *table])


def _decisive(lines: list[Result]) -> tuple[str, str, bool]:
    large = [cell for cell in _cells(lines) if int(cell.split()[-1]) >= 100]
    decided = {cell: proportion(*_count(_statuses(lines, "B", cell), DECIDED)).value for cell in large}
    enough = [cell for cell in large if decided[cell] >= DECISIVE]
    others = "".join(f"; {cell}: {decided[cell]:.0%}" for cell in large if cell not in enough)
    return (
        f"an answer in at least {DECISIVE:.0%} of the kinds of request of 100 samples or more",
        f"{len(enough)} of {len(large)} kinds have one in {DECISIVE:.0%} or more of their verdicts{others}",
        len(enough) >= DECISIVE * len(large),
    )


def _by_method(methods: list[Result], known: list[Result]) -> str:
    rows = [
        "| method | request | " + " | ".join(STATUSES) + " | left | OK where more than the margin is left |",
        "|---|---|" + "---|" * (len(STATUSES) + 2),
    ]
    shown = [line for line in known if line.case == "untouched" and line.cell in {one.cell for one in methods}]
    for case in dict.fromkeys(line.case for line in [*shown, *methods]):
        for cell in _cells(methods):
            mine = [line for line in [*shown, *methods] if (line.case, line.cell) == (case, cell)]
            passed = [line for line in mine if line.B == OK]
            wrong = sum(_surely_more(line) for line in passed)
            counts = " | ".join(str([line.B for line in mine].count(one)) for one in STATUSES)
            rows.append(f"| {case} | {cell} | {counts} | {_mean_left(mine)} | {wrong} of {len(passed)} |")
    return "\n".join(rows)


def _by_difficulty(lines: list[Result]) -> str:
    rows = ["| request | tier | difficulty | held back | rightly | really retrained |", "|---|---|---|---|---|---|"]
    for cell in _cells(lines):
        for tier in TIERS:
            mine = [line for line in lines if line.cell == cell and _status(line, tier)]
            known = [value for line in mine if (value := getattr(line, f"{tier}_difficulty")) is not None]
            held = [line for line in mine if getattr(line, f"{tier}_without") == OK != _status(line, tier)]
            rightly = sum(_truth(line) == "kept" or _surely_more(line) for line in held)
            retrained = sum(_truth(line) == "forgotten" for line in held)
            reach = f"{min(known):.2f} to {max(known):.2f}" if known else "–"
            rows.append(f"| {cell} | {tier} | {reach} | {len(held)} of {len(mine)} | {rightly} | {retrained} |")
    return "\n".join(rows)


def _surely_more(line: Result) -> bool:
    return line.left_surely is not None and line.left_surely > 0.5 + (line.margin or 0.0)


def _mean_left(lines: list[Result]) -> str:
    values = [line.left for line in lines if line.left is not None]
    if len(values) < 2:
        return f"{values[0]:.3f}" if values else "–"
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return f"{mean(values):.3f} ± {half:.3f}"


def _alarmed(lines: list[Result], tier: str) -> int:
    """Seeds on which any retrained model raised an alarm: verdicts about one network are not independent."""
    return len({line.seed for line in lines if _truth(line) == "forgotten" and _status(line, tier) == ALARM})


def _truth(line: Result) -> str:
    return CASES[line.case].truth


def _status(line: Result, tier: str) -> str:
    return line.B if tier == "B" else line.A


def _statuses(lines: list[Result], tier: str, cell: str, truth: str = "") -> list[str]:
    return [
        _status(line, tier) for line in lines if cell in ("all", line.cell) and (not truth or _truth(line) == truth)
    ]


def _cells(lines: list[Result]) -> list[str]:
    return list(dict.fromkeys(line.cell for line in lines))


def _seeds(lines: list[Result]) -> int:
    return len({line.seed for line in lines})


def _count(statuses: Sequence[str], wanted: Sequence[str]) -> tuple[int, int]:
    return sum(status in wanted for status in statuses), len(statuses)


def _share(statuses: Sequence[str], wanted: Sequence[str]) -> str:
    if not statuses:
        return "–"
    found = proportion(*_count(statuses, wanted))
    return f"{found.value:.0%} ({found.low:.0%} to {found.high:.0%}) of {found.n}"
