"""Lines of a table: CSV, TSV or JSONL text as rows of fields, with what is wrong instead where a line is none."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

__all__ = ["Row", "csv_rows", "jsonl_rows"]

Row = tuple[int, dict[str, Any] | str]
"""Number of the line, counted from 1, and its fields or what is wrong with it."""


def csv_rows(text: str, judge: Callable[[Sequence[str]], str | None], delimiter: str = ",") -> Iterator[Row]:
    """Read the rows of a CSV text whose first line names the columns; empty lines are skipped.

    Args:
        text: The content of the file.
        judge: Says what is wrong with the names of the columns, ``None`` if nothing is.
        delimiter: What stands between two cells.

    Yields:
        The rows; nothing after the first line if that is wrong.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    header: list[str] | None = None
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
                wrong = judge(header) or ("a column is named twice" if len(set(header)) < len(header) else None)
                if wrong:
                    yield reader.line_num, wrong
                    return
            elif len(cells) != len(header):
                yield reader.line_num, f"{len(cells)} cells where the first line names {len(header)} columns"
            else:
                yield reader.line_num, dict(zip(header, (cell.strip() for cell in cells), strict=True))
    except csv.Error as error:
        yield reader.line_num, f"no valid CSV ({error})"


def jsonl_rows(text: str, judge: Callable[[Sequence[str]], str | None]) -> Iterator[Row]:
    """Read the rows of a text with one JSON object a line; empty lines are skipped.

    Args:
        text: The content of the file.
        judge: Says what is wrong with the keys of an object; ``None`` if nothing is.

    Yields:
        The rows, with values as JSON has them.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            yield number, "no valid JSON"
            continue
        wrong = judge(list(found)) if isinstance(found, dict) else "not an object"
        yield number, wrong or found
