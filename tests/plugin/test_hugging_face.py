"""Hugging Face data sets: saved, as Parquet or as image folders; their columns, and rows that are their own."""

import builtins
from pathlib import Path
from typing import Any

import pytest

from tests.plugin.pictures import hugging_face, split_pictures, write_digits
from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.hugging_face import list_hugging_face
from unlearn_plugin.listing import DataSource, Listed
from unlearn_plugin.reading import open_split

datasets = pytest.importorskip("datasets", reason="datasets is an extra")
CLASSES = ("2", "cat")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.fixture
def table(tmp_path: Path) -> Any:
    write_digits(tmp_path / "pictures", CLASSES, 4)
    return hugging_face(split_pictures(tmp_path / "pictures"), CLASSES)


@pytest.fixture
def saved(table: Any, tmp_path: Path) -> Path:
    datasets.DatasetDict(train=table, test=table.select([1, 6])).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def listed(place: Path | str, split: str = "train", **fields: str) -> Listed:
    return list_hugging_face(DataSource(data_dir=str(place), dataset="hfds", **fields), split)


def save(table: Any, tmp_path: Path) -> Path:
    table.save_to_disk(tmp_path / "changed" / "train")
    return tmp_path / "changed"


def test_a_saved_data_set_gives_its_pictures_labels_and_row_numbers(saved: Path, tmp_path: Path) -> None:
    found, pictures = listed(saved), split_pictures(tmp_path / "pictures")
    assert found.ids == tuple(map(str, range(8)))
    assert found.classes == CLASSES
    for row, picture in enumerate(pictures):
        image, label = found.open(row)
        assert (label, int(found.labels[row])) == (picture.label, picture.label)
        assert image.tobytes() == datasets.Image().decode_example({"bytes": picture.png, "path": None}).tobytes()


def test_the_held_out_split_goes_by_its_usual_names(saved: Path) -> None:
    assert listed(saved, "validation").labels.tolist() == [0, 1]


def test_parquet_files_are_read_and_slices_of_them(table: Any, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    table.to_parquet(tmp_path / "files" / "train.parquet")
    assert listed(tmp_path / "files").labels.tolist() == table["label"][:]
    assert listed(tmp_path / "files", "train[:25%]").ids == ("0", "1")
    by_name = DataSource(dataset=f"HFDS/{tmp_path / 'files'}")
    assert list_hugging_face(by_name, "train").ids == listed(tmp_path / "files").ids


def test_an_image_folder_is_read_from_its_files(tmp_path: Path) -> None:
    write_digits(tmp_path / "folder" / "train", CLASSES, 2)
    found = listed(tmp_path / "folder")
    assert (found.classes, found.labels.tolist(), found.open(3)[0].size) == (CLASSES, [0, 0, 1, 1], (16, 16))


def test_a_column_can_name_the_samples_and_their_subjects(table: Any, tmp_path: Path) -> None:
    table = table.add_column("subject", ["anna", None] * 4)
    found = listed(save(table, tmp_path), id_key="uid")
    assert found.ids[:2] == ("2-0", "2-1")
    assert found.subjects[:2] == ("anna", "")
    assert listed(tmp_path / "changed", id_key="row").ids[:2] == ("0", "1")


def test_a_stream_is_listed_as_the_table_it_is_read_from(saved: Path) -> None:
    source = DataSource(data_dir=str(saved), dataset="hfids")
    assert open_split(source, "train", 1).ids == listed(saved).ids


def test_columns_without_types_are_found_by_name(table: Any, tmp_path: Path) -> None:
    plain = table.cast_column("label", datasets.Value("int64")).rename_column("image", "img")
    found = listed(save(plain, tmp_path))
    assert (found.labels.tolist(), found.classes) == ([0] * 4 + [1] * 4, ())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"id_key": "name"}, "no column 'name' for --id-key; the columns are 'image', 'label', 'uid'"),
        ({"target_key": "y"}, "no column 'y' for --target-key"),
        ({"input_key": "picture"}, "no column 'picture' for --input-key"),
    ],
)
def test_a_column_that_is_missing_is_answered_with_those_there_are(
    saved: Path, fields: dict[str, str], words: str
) -> None:
    with pytest.raises(UnlearnError, match=words):
        listed(saved, **fields)


def test_missing_values_are_refused(table: Any, tmp_path: Path) -> None:
    changed = table.add_column("name", [None, *"bcdefgh"]).add_column("y", [0, None, *[1] * 6])
    place = save(changed, tmp_path)
    with pytest.raises(UnlearnError, match="Row 0 has nothing in the column 'name'"):
        listed(place, id_key="name")
    with pytest.raises(UnlearnError, match="The sample '1' has no label"):
        listed(place, target_key="y")


def test_a_damaged_or_missing_image_is_named_when_it_is_read(table: Any, tmp_path: Path) -> None:
    (tmp_path / "none.png").write_bytes(b"")
    pictures = [{"bytes": b"no picture", "path": None}, {"bytes": None, "path": str(tmp_path / "none.png")}, None]
    broken = datasets.Dataset.from_dict({"image": pictures, "label": [0, 1, 0]})
    broken = broken.cast_column("image", datasets.Image())
    source = DataSource(data_dir=str(save(broken, tmp_path)), dataset="hfds")
    (tmp_path / "none.png").unlink()
    found = open_split(source, "train", 1)
    for row in range(3):
        with pytest.raises(UnlearnError, match=f"The image '{row}' cannot be read"):
            found.open(row)


@pytest.mark.parametrize(
    ("where", "split", "words"),
    [
        ("saved", "mine", "has no sub-folder 'mine'"),
        ("saved/train", "train", "is one split of a saved data set; give the folder that holds its splits"),
        ("empty", "train", "'.*empty' cannot be opened .*contain any data files.*check --dataset"),
        ("files", "mine", r"split 'mine' of .* is not there; it has 'train': name one with --train-split"),
        ("files", "mine[:1]", "cannot be opened .*mine"),
        ("nowhere", "train", "There is no folder"),
    ],
)
def test_what_cannot_be_opened_is_answered(
    saved: Path, table: Any, tmp_path: Path, where: str, split: str, words: str
) -> None:
    for name in ("empty", "files"):
        (tmp_path / name).mkdir()
    table.to_parquet(tmp_path / "files" / "train.parquet")
    with pytest.raises(UnlearnError, match=words):
        listed(tmp_path / where, split)


def test_a_name_that_is_not_on_the_hub_and_a_cache_that_is_not_there_are_answered(tmp_path: Path) -> None:
    with pytest.raises(UnlearnError, match="'no/such' cannot be opened"):
        list_hugging_face(DataSource(dataset="hfds/no/such"), "train")
    with pytest.raises(UnlearnError, match="There is no folder .*none"):
        list_hugging_face(DataSource(dataset="hfds/no/such", data_dir=str(tmp_path / "none")), "train")


def test_without_the_library_it_is_said_how_to_install_it(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *more: Any) -> Any:
        if name == "datasets":
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UnlearnError, match=r"pip install 'unlearn-plugin\[datasets\]'"):
        listed(saved)
