"""Lines of a table, whatever its format: what they hold, or what is wrong with them and where."""

from collections.abc import Sequence

from unlearn_plugin.table_rows import csv_rows, jsonl_rows


def sound(names: Sequence[str]) -> None:
    return None


def needs_a(names: Sequence[str]) -> str | None:
    return None if "a" in names else f"no a in {', '.join(names)}"


def test_cells_go_by_the_name_of_their_column_and_lines_are_counted_with_empty_ones() -> None:
    rows = list(csv_rows('a, b\n\n1,"x, y"\n2,\n', sound))
    assert rows == [(3, {"a": "1", "b": "x, y"}), (4, {"a": "2", "b": ""})]


def test_other_delimiters_are_read() -> None:
    assert list(csv_rows("a\tb\n1\t2,3\n", sound, delimiter="\t")) == [(2, {"a": "1", "b": "2,3"})]


def test_a_wrong_first_line_ends_the_table() -> None:
    assert list(csv_rows("b,c\n1,2\n", needs_a)) == [(1, "no a in b, c")]
    assert list(csv_rows("a,a\n1,2\n", needs_a)) == [(1, "a column is named twice")]


def test_a_line_with_too_few_cells_or_an_open_quote_is_named() -> None:
    assert list(csv_rows("a,b\n1\n2,3\n", sound)) == [
        (2, "1 cells where the first line names 2 columns"),
        (3, {"a": "2", "b": "3"}),
    ]
    (line, wrong), = csv_rows('a\n"1\n', sound)  # fmt: skip
    assert line == 2
    assert "no valid CSV" in str(wrong)


def test_json_lines_keep_their_values() -> None:
    text = '{"a": 1, "box": [1, 2]}\n\n{"a": null}\n'
    assert list(jsonl_rows(text, needs_a)) == [(1, {"a": 1, "box": [1, 2]}), (3, {"a": None})]


def test_a_line_that_is_no_object_or_lacks_a_key_is_named() -> None:
    rows = list(jsonl_rows('{"a": \n[1]\n{"b": 1}\n', needs_a))
    assert rows == [(1, "no valid JSON"), (2, "not an object"), (3, "no a in b")]
