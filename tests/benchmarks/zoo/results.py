"""Results of the zoo: one line of a CSV file for each verdict, so that tables can be made again, and grow."""

import csv
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was said of one model.

    Attributes:
        seed: Of the world.
        cell: Kind and size of the request.
        case: How the request was answered, see `cases.py`.
        A: Status by tier A, without references; empty where only tier B was asked for.
        B: Status by tier B.
        A_without: Status by tier A if nothing were known of the request's difficulty, line 13 of the rule.
        B_without: The same by tier B.
        A_difficulty: What tier A knows of it: an AUC, below 0.5 for hard requests; ``None`` where it knows nothing.
        B_difficulty: What tier B knows of it.
        margin: Excess over 0.5 that tier B had to rule out; ``None`` where it was blind.
        left: AUC that the oracle sees, see `judge.oracle`; ``None`` for the retrained models, which it is made from.
        left_surely: Its one-sided 97.5 % lower bound.
    """

    seed: int
    cell: str
    case: str
    A: str = ""
    B: str
    A_without: str = ""
    B_without: str = ""
    A_difficulty: float | None = None
    B_difficulty: float | None = None
    margin: float | None = None
    left: float | None = None
    left_surely: float | None = None


def read(path: Path) -> list[Result]:
    """Read a file of results; one that is not there has none."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [_result(row) for row in csv.DictReader(file)]


def append(path: Path, result: Result) -> None:
    """Add a line, and the names of the columns to a new file."""
    row = {name: f"{value:.4f}" if isinstance(value, float) else value for name, value in asdict(result).items()}
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Result)], lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def _result(row: Mapping[str, str]) -> Result:
    values = {
        field.name: (float(row[field.name]) if row[field.name] else None) if field.default is None else row[field.name]
        for field in fields(Result)
    }
    return Result(**{**values, "seed": int(row["seed"])})
