"""WebDataset shards as rows: the picture, label and name that the stream gives, at any place at once."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.plugin.pictures import split_pictures, write_digits, write_shards
from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.listing import DataSource, Listed
from unlearn_plugin.reading import open_split
from unlearn_plugin.web_shards import find_shards, list_shards


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_digits(tmp_path / "train", ("2", "cat"), 5)
    write_shards(tmp_path / "shards", "train", split_pictures(tmp_path / "train"), each=4)
    return tmp_path / "shards"


def shards(root: Path, split: str = "train", **fields: str) -> Listed:
    return list_shards(DataSource(data_dir=str(root), dataset="wds", **fields), split)


def one_shard(root: Path, *files: tuple[str, bytes]) -> Path:
    root.mkdir()
    with tarfile.open(root / "train-0000.tar", "w") as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return root


def test_rows_are_what_webdataset_streams(root: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="webdataset is in the test extra")
    urls = [str(path) for path in sorted(root.glob("*.tar"))]
    stream = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple("__key__", "png", "cls"))
    listed = shards(root)
    assert len(stream) == len(listed.ids) == 10
    for row in (7, 0, 9, 3):  # in any order
        key, image, label = stream[row]
        ours, number = listed.open(row)
        assert (listed.ids[row], number) == (key, label)
        assert ours.convert("RGB").tobytes() == image.convert("RGB").tobytes()


def test_the_label_can_be_a_field_of_the_json(root: Path) -> None:
    assert shards(root, target_key="species").labels.tolist() == shards(root).labels.tolist()


def test_a_class_map_names_the_numbers(root: Path) -> None:
    (root / "map.txt").write_text("two\ncat\n")
    assert shards(root, class_map=str(root / "map.txt")).classes == ("two", "cat")


def test_labels_may_be_names(tmp_path: Path) -> None:
    root = one_shard(tmp_path / "s", ("a.jpg", b""), ("a.cls", b"dog\n"), ("b.jpg", b""), ("b.cls", b"cat"))
    listed = shards(root)
    assert (listed.labels.tolist(), listed.classes) == ([1, 0], ("cat", "dog"))


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("train", ["0000", "0001", "0002"]),
        ("training", ["0000", "0001", "0002"]),
        ("train-{0001..0002}.tar", ["0001", "0002"]),
        ("train-{0001..0002}.tar|6", ["0001", "0002"]),
        ("train-*2.tar", ["0002"]),
        ("train-00{0..0}{1..2}.tar", ["0001", "0002"]),
    ],
)
def test_a_split_is_a_name_or_a_pattern(root: Path, split: str, names: list[str]) -> None:
    assert [path.name for path in find_shards(root, split)] == [f"train-{name}.tar" for name in names]


def test_a_split_may_be_a_folder_of_shards(root: Path) -> None:
    (root / "validation").mkdir()
    (root / "train-0002.tar").rename(root / "validation" / "x.tar")
    assert find_shards(root, "validation") == [root / "validation" / "x.tar"]


def test_timms_info_file_says_which_shards_a_split_has(root: Path) -> None:
    entry = {"filenames": ["train-0002.tar", "train-0000.tar"], "num_samples": 6}
    (root / "_info.json").write_text(json.dumps({"splits": {"train": entry}}))
    assert [path.name for path in find_shards(root, "train")] == ["train-0002.tar", "train-0000.tar"]
    for broken in ("{", '{"splits": [1]}', '{"splits": {"train": {}}}'):
        (root / "_info.json").write_text(broken)
        with pytest.raises(UnlearnError, match=r"'_info\.json' does not list the shards of splits"):
            find_shards(root, "train")


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ("validation", r"no shards of the split 'validation'; give their pattern, such as 'validation-\{0000"),
        ("train-{0000..0009}.tar", r"7 shards of .* are not there, such as 'train-0003\.tar'"),
    ],
)
def test_shards_that_are_not_there_are_named(root: Path, split: str, words: str) -> None:
    with pytest.raises(UnlearnError, match=words):
        shards(root, split)


PNG = ("a.png", b"")


@pytest.mark.parametrize(
    ("files", "fields", "words"),
    [
        ([("a.cls", b"1")], {}, r"'a' has 0 images among its files \(cls\); give .*--input-key"),
        ([PNG, ("a.jpg", b""), ("a.cls", b"1")], {}, r"'a' has 2 images among its files \(png, jpg, cls\)"),
        ([PNG], {}, "'a' has no file 'cls' that holds its label; .*--target-key"),
        ([PNG, ("a.cls", b"1")], {"target_key": "y"}, "'a' has no file 'json'"),
        ([PNG, ("a.json", b'{"x": 1}')], {"target_key": "y"}, "JSON of the sample 'a' has no field 'y'"),
        ([PNG, ("a.json", b"{")], {"target_key": "y"}, "JSON of the sample 'a' has no field 'y'"),
        ([PNG, ("a.cls", b"\xff")], {}, "The label of 'a' is not UTF-8"),
        ([PNG, ("a.cls", b"")], {}, "The sample 'a' has no label"),
        ([PNG, ("a.cls", b"1")], {"id_key": "uid"}, "named by their key; leave it out"),
        ([("README", b"")], {}, "holds no file named KEY.EXTENSION"),
    ],
)
def test_a_sample_without_image_or_label_is_refused_by_its_key(
    tmp_path: Path, files: list[tuple[str, bytes]], fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(UnlearnError, match=words):
        shards(one_shard(tmp_path / "s", *files), **fields)


def test_one_of_several_images_can_be_chosen_as_in_timm(tmp_path: Path) -> None:
    root = one_shard(tmp_path / "s", PNG, ("a.jpg", b""), ("a.cls", b"1"))
    assert shards(root, input_key="webp;png").ids == ("a",)


def test_a_key_in_two_shards_and_a_damaged_image_are_refused(root: Path, tmp_path: Path) -> None:
    source = DataSource(data_dir=str(root), dataset="wds")
    (root / "train-0003.tar").write_bytes((root / "train-0000.tar").read_bytes())
    with pytest.raises(UnlearnError, match="'2-0' stands for 2 samples of 'train'"):
        open_split(source, "train", 1)
    broken = one_shard(tmp_path / "broken", ("a.png", b"no picture"), ("a.cls", b"0"))
    listed = open_split(DataSource(data_dir=str(broken), dataset="wds/"), "train", 1)
    with pytest.raises(UnlearnError, match="The image 'a' cannot be read"):
        listed.open(0)
