"""Data sets that are a table: CSV, TSV or JSONL files with one line per image."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.listing import (
    ROW_NUMBER,
    DataSource,
    Listed,
    choose_column,
    find_split,
    number_labels,
    read_image,
)
from unlearn_plugin.manifest import list_some
from unlearn_plugin.table_rows import Row, csv_rows, jsonl_rows

__all__ = ["TABLES", "list_table"]

_PATHS = ("path", "file", "filename", "file_name", "filepath", "image", "image_path", "img")
_LABELS = ("label", "labels", "class", "class_name", "target", "category")

TABLES: dict[str, Callable[[str], Iterator[Row]]] = {
    "csv": lambda text: csv_rows(text, lambda names: None),
    "tsv": lambda text: csv_rows(text, lambda names: None, delimiter="\t"),
    "jsonl": lambda text: jsonl_rows(text, lambda names: None),
}


def list_table(source: DataSource, split: str) -> Listed:
    """List one split that is a table of paths and labels; the paths are relative to the root.

    The id is the column ``id`` if there is one, else the path as it is written. A column ``subject`` says whose
    picture it is.

    Args:
        source: Where the data are; its kind is one of `TABLES`.
        split: Name of the table, without its ending, or of its file.

    Returns:
        The split, giving Pillow images.

    Raises:
        UnlearnError: If a line or column is not sound, a file is not there, or a label is missing.
    """
    table = find_split(source.root, split, f".{source.kind}", Path.is_file)
    rows = _read_rows(table, source.kind)
    columns = list(rows[0][1]) if rows else []
    path = choose_column(columns, source.input_key, _PATHS, "--input-key", "path") if rows else ""
    label = choose_column(columns, source.target_key, _LABELS, "--target-key", "label") if rows else ""
    paths = [_text(fields, path) for _, fields in rows]
    ids = _ids(rows, columns, source.id_key, [Path(name).as_posix() for name in paths])
    _check_files(table.name, [line for line, _ in rows], source.root, paths)
    labels, classes = number_labels([fields.get(label) for _, fields in rows], ids, class_map=source.class_map)
    subjects = tuple(_text(fields, "subject") for _, fields in rows) if "subject" in columns else ()
    root = source.root

    def open_image(row: int) -> tuple[Any, int]:
        return read_image(root / paths[row]), int(labels[row])

    return Listed(open_image, ids, labels, classes, subjects)


def _read_rows(table: Path, kind: str) -> list[tuple[int, dict[str, Any]]]:
    try:
        text = table.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnlearnError(f"The table {table.name!r} is not UTF-8 (byte {error.start}); save it as UTF-8.") from error
    found = list(TABLES[kind](text))
    wrong = [f"line {line}: {fields}" for line, fields in found if isinstance(fields, str)]
    if wrong:
        raise UnlearnError(f"The table {table.name!r} has lines that cannot be read: {list_some(wrong, '; ')}.")
    return [(line, fields) for line, fields in found if not isinstance(fields, str)]


def _text(fields: dict[str, Any], column: str) -> str:
    value = fields.get(column)
    return "" if value is None else str(value).strip()


def _ids(
    rows: Sequence[tuple[int, dict[str, Any]]], columns: Sequence[str], id_key: str | None, paths: Sequence[str]
) -> tuple[str, ...]:
    if id_key == ROW_NUMBER and ROW_NUMBER not in columns:
        return tuple(map(str, range(len(rows))))
    if id_key:
        choose_column(columns, id_key, (), "--id-key", "id")
    column = id_key or ("id" if "id" in columns else None)
    ids = tuple(_text(fields, column) for _, fields in rows) if column else tuple(paths)
    if "" in ids:
        raise UnlearnError(
            f"Line {rows[ids.index('')][0]} of the table has nothing in {column or 'its path'!r}; fill it in."
        )
    return ids


def _check_files(table: str, lines: Sequence[int], root: Path, paths: Sequence[str]) -> None:
    missing = [
        f"{path!r} (line {line})" for line, path in zip(lines, paths, strict=True) if not (root / path).is_file()
    ]
    if missing:
        raise UnlearnError(
            f"{len(missing)} images that {table!r} names are not there: {list_some(missing)}; paths are relative to "
            f"--data-dir."
        )
