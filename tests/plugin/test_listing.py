"""What all kinds of data share: finding a split or a column, and numbering labels without guessing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.listing import (
    DataSource,
    choose_column,
    find_split,
    number_labels,
    read_image,
    split_names,
)


def numbered(labels: list[Any], *more: Any) -> tuple[list[int], tuple[str, ...]]:
    found, classes = number_labels(labels, [f"s{row}" for row in range(len(labels))], *more)
    return found.tolist(), classes


@pytest.fixture
def class_map(tmp_path: Path) -> str:
    (tmp_path / "map.txt").write_text("emu\ncat\ndog\n")
    return str(tmp_path / "map.txt")


def test_whole_numbers_stay_what_they_are_and_have_no_names() -> None:
    assert numbered([2, 0, 2]) == ([2, 0, 2], ())
    assert numbered(["2", " 0", "10"]) == ([2, 0, 10], ())
    assert numbered([np.int64(3), np.uint8(1)]) == ([3, 1], ())


def test_names_are_counted_in_alphabetical_order() -> None:
    assert numbered(["dog", "cat", "dog"]) == ([1, 0, 1], ("cat", "dog"))
    assert numbered(["dog", "7"]) == ([1, 0], ("7", "dog"))


def test_numbers_with_names_keep_their_order() -> None:
    assert numbered([1, 0], ("dog", "cat")) == ([1, 0], ("dog", "cat"))


def test_a_class_map_decides_by_name_and_for_nameless_numbers_by_position(class_map: str) -> None:
    assert numbered(["dog", "cat"], (), class_map) == ([2, 1], ("emu", "cat", "dog"))
    assert numbered([1, 0], ("dog", "cat"), class_map) == ([1, 2], ("emu", "cat", "dog"))
    assert numbered([2, 0], (), class_map) == ([2, 0], ("emu", "cat", "dog"))


@pytest.mark.parametrize(
    ("labels", "names", "words"),
    [
        (["dgo", "cat"], (), "The label 'dgo' of 's0' is no class of the data, nearest: 'dog'"),
        ([0, 3], (), "The label '3' of 's1' is no class"),
        ([0, 1], ("cat", "bird"), "The label 'bird' of 's1' is no class"),
    ],
)
def test_a_label_that_is_not_in_the_class_map_is_refused(
    class_map: str, labels: list[Any], names: tuple[str, ...], words: str
) -> None:
    with pytest.raises(UnlearnError, match=words):
        numbered(labels, names, class_map)


def test_a_number_beyond_the_names_is_refused() -> None:
    with pytest.raises(UnlearnError, match="The label '2' of 's1' is no class"):
        numbered([0, 2], ("cat", "dog"))


@pytest.mark.parametrize("label", [None, "", "  ", -1])
def test_a_missing_label_is_refused(label: Any) -> None:
    with pytest.raises(UnlearnError, match="The sample 's1' has no label"):
        numbered([0, label])


@pytest.mark.parametrize("label", [[1, 2], 0.5, True, {"a": 1}])
def test_a_label_that_is_neither_a_number_nor_a_name_is_refused(label: Any) -> None:
    with pytest.raises(UnlearnError, match="The label of 's1' is .*one whole number or one name"):
        numbered([0, label])


def test_no_labels_are_no_mistake_of_their_own() -> None:
    assert numbered([]) == ([], ())


def test_a_split_goes_by_several_names_and_its_own_comes_first() -> None:
    assert split_names("test")[:3] == ("test", "val", "valid")
    assert split_names("training") == ("training", "train")
    assert split_names("mine") == ("mine",)


def test_a_split_is_a_folder_or_a_file_whichever_fits(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train.csv").write_text("")
    assert find_split(tmp_path, "train", ".csv") == tmp_path / "train"
    assert find_split(tmp_path, "train", ".csv", Path.is_file) == tmp_path / "train.csv"
    assert find_split(tmp_path, "train.csv", ".csv", Path.is_file) == tmp_path / "train.csv"
    with pytest.raises(UnlearnError, match=r"has no file 'validation\.csv' or 'val\.csv'.*--val-split"):
        find_split(tmp_path, "validation", ".csv", Path.is_file)


def choose(there: list[str], given: str | None = None) -> str:
    return choose_column(there, given, ("path", "file"), "--input-key", "image")


def test_a_column_is_the_one_that_is_named_or_the_only_usual_one() -> None:
    assert choose(["a", "File", "b"]) == "File"
    assert choose(["path", "file", "a"], "a") == "a"


@pytest.mark.parametrize(
    ("there", "given", "words"),
    [
        (["a", "b"], None, "no column called 'path'; name the one of the image with --input-key: .* are 'a', 'b'"),
        (["path", "file"], None, r"several columns that could hold the image \(path, file\)"),
        (["path"], "img", "no column 'img' for --input-key; the columns are 'path'"),
    ],
)
def test_a_column_that_is_missing_or_not_clear_is_answered_with_those_there_are(
    there: list[str], given: str | None, words: str
) -> None:
    with pytest.raises(UnlearnError, match=words):
        choose(there, given)


def test_the_kind_is_the_same_in_upper_and_lower_case_and_the_root_must_exist(tmp_path: Path) -> None:
    assert DataSource(dataset="HFDS/Org/Name").kind == "hfds"
    assert DataSource(data_dir=str(tmp_path)).root == tmp_path
    for where in (None, str(tmp_path / "none")):
        with pytest.raises(UnlearnError, match="There is no folder .*check --data-dir"):
            DataSource(data_dir=where).root  # noqa: B018


def test_an_image_is_read_as_it_is_stored(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: to be shown turned by 90 degrees
    Image.new("RGB", (4, 2)).save(tmp_path / "a.jpg", exif=turned)
    assert read_image(tmp_path / "a.jpg").size == (4, 2)
