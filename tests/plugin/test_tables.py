"""Tables of paths and labels: columns are found or asked for, and every line is one image that is there."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.plugin.pictures import write_digits
from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.listing import DataSource, Listed
from unlearn_plugin.reading import open_split
from unlearn_plugin.tables import list_table

ROWS = [("train/cat/0.png", "cat"), ("train/2/1.png", "2"), ("train/cat/1.png", "cat")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_digits(tmp_path / "train", ("2", "cat"), 3)
    return tmp_path


def table(root: Path, text: str, kind: str = "csv", **fields: str) -> Listed:
    (root / f"train.{kind}").write_text(text)
    return list_table(DataSource(data_dir=str(root), dataset=kind, **fields), "train")


def lines(*more: str, header: str = "path,label") -> str:
    return "\n".join([header, *(f"{path},{label}" for path, label in ROWS), *more]) + "\n"


def test_a_row_is_the_image_at_its_path_with_its_label(root: Path) -> None:
    listed = table(root, lines())
    assert listed.ids == tuple(path for path, _ in ROWS)
    assert (listed.labels.tolist(), listed.classes, listed.subjects) == ([1, 0, 1], ("2", "cat"), ())
    for row, (path, _) in enumerate(ROWS):
        image, label = listed.open(row)
        assert image.tobytes() == Image.open(root / path).tobytes()
        assert label == listed.labels[row]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("tsv", "file\tclass\n" + "".join(f"{path}\t{label}\n" for path, label in ROWS)),
        ("jsonl", "".join(f'{{"file_name": "{path}", "label": "{label}", "box": [1.5]}}\n' for path, label in ROWS)),
        ("csv", "﻿Image,Target\r\n" + "".join(f"{path},{label}\r\n" for path, label in ROWS)),
    ],
)
def test_other_formats_and_usual_names_of_columns_are_read(root: Path, kind: str, text: str) -> None:
    plain, other = table(root, lines()), table(root, text, kind)
    assert (other.ids, other.labels.tolist(), other.classes) == (plain.ids, plain.labels.tolist(), plain.classes)


def test_an_id_column_names_the_samples_and_a_subject_column_their_people(root: Path) -> None:
    text = "path,label,id,subject\ntrain/cat/0.png,1,a,anna\ntrain/2/1.png,0,b,\n"
    listed = table(root, text)
    assert (listed.ids, listed.subjects, listed.classes) == (("a", "b"), ("anna", ""), ())


@pytest.mark.parametrize(
    ("id_key", "ids"), [("path", ("train/cat/0.png",)), ("label", ("1",)), ("row", ("0",)), (None, ("a",))]
)
def test_the_id_can_be_any_column_or_the_number_of_the_row(root: Path, id_key: str, ids: tuple[str, ...]) -> None:
    assert table(root, "path,label,id\ntrain/cat/0.png,1,a\n", id_key=id_key).ids == ids


def test_columns_can_be_named(root: Path) -> None:
    text = "a,b,label\ntrain/cat/0.png,3,x\n"
    listed = table(root, text, input_key="a", target_key="b")
    assert (listed.ids, listed.labels.tolist()) == (("train/cat/0.png",), [3])


def test_a_table_may_lie_in_a_folder_and_have_any_name(root: Path) -> None:
    (root / "lists").mkdir()
    (root / "lists" / "mine.csv").write_text(lines())
    source = DataSource(data_dir=str(root), dataset="csv")
    for split in ("lists/mine", "lists/mine.csv"):
        assert len(list_table(source, split).ids) == 3


@pytest.mark.parametrize(
    ("text", "fields", "words"),
    [
        (lines(header="where,label"), {}, "no column called 'path'; name the one of the path with --input-key"),
        (lines(header="path;label"), {}, "lines that cannot be read: line 2: 2 cells where the first line names 1"),
        (lines(), {"target_key": "kind"}, "no column 'kind' for --target-key; the columns are 'path', 'label'"),
        (lines(), {"id_key": "uid"}, "no column 'uid' for --id-key"),
        (lines("train/cat/9.png,cat"), {}, r"1 images that 'train\.csv' names are not there: .*cat/9\.png' \(line 5\)"),
        (lines(",cat"), {}, r"1 images that 'train\.csv' names are not there: '' \(line 5\)"),
        (lines("train/2/0.png,"), {}, "The sample 'train/2/0.png' has no label"),
        ("path,label,id\ntrain/2/0.png,2,\n", {}, "Line 2 of the table has nothing in 'id'"),
        ("path,path\n", {}, "line 1: a column is named twice"),
    ],
)
def test_a_table_that_is_not_sound_is_answered_by_line(
    root: Path, text: str, fields: dict[str, str], words: str
) -> None:
    with pytest.raises(UnlearnError, match=words):
        table(root, text, **fields)


def test_a_table_that_is_missing_or_not_utf8_is_refused(root: Path) -> None:
    source = DataSource(data_dir=str(root), dataset="csv")
    with pytest.raises(UnlearnError, match=r"no file 'train\.csv'"):
        list_table(source, "train")
    (root / "train.csv").write_bytes(b"path,label\n\xff,1\n")
    with pytest.raises(UnlearnError, match=r"'train\.csv' is not UTF-8 \(byte 11\)"):
        list_table(source, "train")


def test_an_empty_table_an_image_named_twice_and_a_damaged_image_are_refused(root: Path) -> None:
    source = DataSource(data_dir=str(root), dataset="csv")
    for text, words in ((lines("train/2/1.png,2"), "'train/2/1.png' stands for 2 samples"), ("path,label\n", "empty")):
        (root / "train.csv").write_text(text)
        with pytest.raises(UnlearnError, match=words):
            open_split(source, "train", 1)
    (root / "train.csv").write_text(lines())
    shutil.copy(root / "train.csv", root / "train" / "2" / "1.png")
    with pytest.raises(UnlearnError, match=r"The image 'train/2/1\.png' cannot be read"):
        open_split(source, "train", 1).open(1)
