"""Samples and data sets: what a batch holds, that it is the same every time, and that it suits the model."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torch import nn

from tests.plugin.pictures import write_digits
from unlearn_hooks.errors import UnlearnError
from unlearn_plugin import data as data_module
from unlearn_plugin.blueprints.named import NamedBlueprint
from unlearn_plugin.checkpoint import Checkpoint
from unlearn_plugin.data import DataSource, ImageData, Samples, load_data

CLASSES = ("0", "1", "2")


class Counting:
    """Row r is an image of r, in class r % 3; counts how often each row is read."""

    def __init__(self, n: int) -> None:
        self.reads = [0] * n

    def __len__(self) -> int:
        return len(self.reads)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        self.reads[row] += 1
        return torch.full((1, 2, 2), float(row)), row % 3


def image_data(n: int = 10, *, deterministic: bool = True) -> ImageData:
    ids = tuple(f"s{row}" for row in range(n))
    return ImageData(Counting(n), ids, torch.arange(n) % 3, ("a", "b", "c"), deterministic)


def with_items(*items: tuple[Any, int]) -> ImageData:
    labels = torch.tensor([label for _, label in items])
    return ImageData(list(items), tuple(f"s{row}" for row in range(len(items))), labels, ("a", "b"), True)


def rows_of(samples: Samples, **options: Any) -> list[list[int]]:
    return [rows.tolist() for _, _, rows in samples.loader(**options)]


def checkpoint(**changes: Any) -> Checkpoint:
    """A checkpoint of which only what matters to data is filled in."""
    config = {
        "input_size": (1, 8, 8), "mean": (0.5,), "std": (0.25,), "interpolation": "bilinear", "crop_pct": 1.0,
        "crop_mode": "center",
    }  # fmt: skip
    fields = {
        "model": nn.Identity(), "blueprint": NamedBlueprint(architecture="test_resnet"), "data_config": config,
        "source": "here", "num_classes": 3, "label_names": None, "dtypes": {},
    }  # fmt: skip
    return Checkpoint(**{**fields, **changes})


def with_config(**changes: Any) -> Checkpoint:
    return checkpoint(data_config={**checkpoint().data_config, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_digits(tmp_path / "train", CLASSES, 4)
    write_digits(tmp_path / "val", CLASSES, 2, skip=4)
    return tmp_path


# samples


def test_a_batch_holds_images_labels_and_rows_that_belong_together() -> None:
    samples = Samples(image_data(), torch.tensor([7, 2, 5]))
    ((images, labels, rows),) = samples.loader(8)
    assert (images.dtype, images.shape, labels.dtype, rows.dtype) == (
        torch.float32,
        (3, 1, 2, 2),
        torch.int64,
        torch.int64,
    )
    assert images[:, 0, 0, 0].tolist() == rows.tolist() == [7, 2, 5]
    assert labels.tolist() == samples.labels.tolist() == [1, 2, 2]
    assert samples.ids == ("s7", "s2", "s5")


def test_batches_cover_all_samples_in_order_and_the_last_may_be_left_out() -> None:
    samples = Samples(image_data(), torch.arange(10))
    assert rows_of(samples, batch_size=4) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert rows_of(samples, batch_size=4, drop_last=True) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_shuffling_depends_on_the_seed_alone_and_differs_between_passes() -> None:
    samples = Samples(image_data(), torch.arange(10))
    loader = samples.loader(10, shuffle=True, seed=3)
    passes = [[rows.tolist() for _, _, rows in loader] for _ in range(2)]
    again = samples.loader(10, shuffle=True, seed=3)
    torch.manual_seed(99)
    assert [[rows.tolist() for _, _, rows in again] for _ in range(2)] == passes
    assert passes[0] != passes[1]
    assert sorted(passes[0][0]) == list(range(10))
    assert rows_of(samples, batch_size=10, shuffle=True, seed=4) != passes[0]


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_global_random_state_is_left_alone(shuffle: bool) -> None:
    state = torch.get_rng_state()
    rows_of(Samples(image_data(), torch.arange(10)), batch_size=3, shuffle=shuffle)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_selection_counts_positions_not_rows() -> None:
    samples = Samples(image_data(), torch.tensor([7, 2, 5]))
    assert samples.select([2, 0]).ids == ("s5", "s7")
    assert samples.select(torch.tensor([1])).rows.tolist() == [2]


def test_rows_in_a_record_are_found_by_name_where_it_has_names() -> None:
    samples = Samples(image_data(), torch.tensor([3, 1]))
    there = {name: 100 + row for row, name in enumerate(samples.data.ids)}
    assert samples.record_rows(there).tolist() == [103, 101]
    assert samples.record_rows(None).tolist() == [3, 1]


def test_no_samples_give_no_batches() -> None:
    nothing = Samples(image_data(), torch.arange(10)).select([])
    assert len(nothing) == 0
    assert rows_of(nothing, batch_size=2, shuffle=True) == []


def test_a_single_sample_is_a_batch_of_one() -> None:
    images, labels, rows = Samples(image_data(), torch.tensor([4]))[0]
    assert (images.shape, labels.tolist(), rows.tolist()) == ((1, 1, 2, 2), [1], [4])


# reading once


def test_images_are_read_once_and_only_when_asked_for() -> None:
    data = image_data()
    assert data.dataset.reads == [0] * 10
    for _ in range(3):
        rows_of(Samples(data, torch.tensor([3, 4])), batch_size=2)
    assert data.dataset.reads[3:6] == [1, 1, 0]
    assert sum(data.dataset.reads) == 3  # and the first row, for the size of all


def test_images_first_asked_for_in_inference_mode_can_be_read_on_outside_of_it() -> None:
    data = image_data()
    with torch.inference_mode():
        data.images(torch.tensor([3]))
    assert data.images(torch.tensor([3, 4]))[:, 0, 0, 0].tolist() == [3, 4]


def test_random_images_are_read_anew_each_time() -> None:
    data = image_data(deterministic=False)
    for _ in range(3):
        rows_of(Samples(data, torch.tensor([3])), batch_size=2)
    assert data.dataset.reads[3] == 3
    assert not data.fits_in_memory


def test_images_that_are_too_many_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 10 * 4 * 4  # ten images of four numbers of four bytes
    for budget, kept in ((size, True), (size - 1, False)):
        monkeypatch.setattr(data_module, "MEMORY_BUDGET", budget)
        data = image_data()
        assert data.fits_in_memory is kept
        assert data.images(torch.tensor([9, 9]))[:, 0, 0, 0].tolist() == [9, 9]


def test_changing_a_batch_does_not_change_the_data() -> None:
    data = image_data()
    data.images(torch.tensor([1, 2])).zero_()
    assert data.images(torch.tensor([1, 2]))[:, 0, 0, 0].tolist() == [1, 2]


def test_the_row_of_an_id_is_found() -> None:
    assert image_data().row_of["s4"] == 4


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (Image.new("L", (2, 2)), "The image of 's1' is Image; .*must give float tensors"),
        (torch.zeros(1, 2, 2, dtype=torch.uint8), r"is torch\.uint8 \(1, 2, 2\)"),
        (torch.zeros(2, 2), r"is torch\.float32 \(2, 2\); .*channels, height, width"),
        (torch.zeros(1, 2, 3), r"'s1' has shape \(1, 2, 3\) and that of 's0' has \(1, 2, 2\)"),
        (torch.zeros(1, 1, 2), r"has shape \(1, 1, 2\)"),
    ],
)
def test_what_is_no_image_of_the_common_size_is_refused_by_id(item: Any, words: str) -> None:
    data = with_items((torch.zeros(1, 2, 2), 0), (item, 1))
    for checked in (data, dataclasses.replace(data, deterministic=False)):
        with pytest.raises(UnlearnError, match=words):
            checked.images(torch.tensor([0, 1]))


def test_half_precision_images_become_single_precision() -> None:
    assert with_items((torch.ones(1, 2, 2).half(), 0)).images(torch.tensor([0])).dtype == torch.float32


def test_a_label_that_changes_after_listing_is_noticed() -> None:
    data = dataclasses.replace(image_data(), labels=torch.zeros(10, dtype=torch.int64))
    with pytest.raises(UnlearnError, match="says label 1 for 's1' now and said 0"):
        data.images(torch.tensor([1]))


# loading


def test_images_are_what_timms_evaluation_transform_gives(folder: Path) -> None:
    train, heldout = load_data(DataSource(data_dir=str(folder)), checkpoint())
    transform = create_transform((1, 8, 8), interpolation="bilinear", mean=(0.5,), std=(0.25,), crop_pct=1.0)
    for data, split in ((train, "train"), (heldout, "val")):
        for row, name in enumerate(data.ids):
            expected = transform(Image.open(folder / split / name).convert("L"))
            assert torch.equal(data.images(torch.tensor([row]))[0], expected)
    assert (len(train), len(heldout), train.classes, heldout.classes) == (12, 6, CLASSES, CLASSES)


def test_a_colour_model_gets_colour_images(folder: Path) -> None:
    train, _ = load_data(
        DataSource(data_dir=str(folder)), with_config(input_size=(3, 8, 12), mean=(0.5,) * 3, std=(1.0,) * 3)
    )
    assert train.images(torch.tensor([0, 1])).shape == (2, 3, 8, 12)


def test_the_models_names_decide_the_order_of_the_classes(folder: Path) -> None:
    train, heldout = load_data(DataSource(data_dir=str(folder)), checkpoint(label_names=("2", "0", "1")))
    assert train.classes == heldout.classes == ("2", "0", "1")
    for data in (train, heldout):
        assert [data.classes[label] for label in data.labels.tolist()] == [name.split("/")[0] for name in data.ids]
        data.images(torch.arange(len(data)))  # labels are checked when images are read


def test_names_of_other_things_than_folders_change_nothing(folder: Path) -> None:
    train, _ = load_data(DataSource(data_dir=str(folder)), checkpoint(label_names=("zero", "one", "two")))
    assert train.classes == CLASSES


def test_held_out_labels_follow_the_training_classes_though_a_class_is_missing(folder: Path) -> None:
    shutil.rmtree(folder / "val" / "0")
    _, heldout = load_data(DataSource(data_dir=str(folder)), checkpoint())
    assert heldout.labels.tolist() == [1, 1, 2, 2]  # by itself the folder would count 0, 0, 1, 1


def test_a_held_out_class_that_was_never_trained_is_a_finding(folder: Path) -> None:
    write_digits(folder / "val" / "more", ("9",), 1)
    shutil.move(folder / "val" / "more" / "9", folder / "val" / "9")
    with pytest.raises(UnlearnError, match="held-out data have classes that the model's data do not have: '9'"):
        load_data(DataSource(data_dir=str(folder)), checkpoint())


@pytest.mark.parametrize("outputs", [2, 4])
def test_another_number_of_classes_than_outputs_is_a_finding(folder: Path, outputs: int) -> None:
    with pytest.raises(UnlearnError, match=f"The data have 3 classes and the model has {outputs} outputs.*--class-map"):
        load_data(DataSource(data_dir=str(folder)), checkpoint(num_classes=outputs))


def test_a_class_map_places_few_classes_among_many_outputs(folder: Path) -> None:
    (folder / "map.txt").write_text("none\n2\n1\n0\n")
    source = DataSource(data_dir=str(folder), class_map=str(folder / "map.txt"))
    train, _ = load_data(source, checkpoint(num_classes=6))
    assert train.classes == ("none", "2", "1", "0", "4", "5")
    assert int(train.labels[train.row_of["0/0.png"]]) == 3
    with pytest.raises(UnlearnError, match="The data have 4 classes and the model has 3 outputs"):
        load_data(source, checkpoint(num_classes=3))


def test_both_splits_are_looked_at_before_complaining(folder: Path) -> None:
    source = DataSource(data_dir=str(folder), train_split="none", val_split="nor-this")
    with pytest.raises(UnlearnError) as caught:
        load_data(source, checkpoint())
    assert len(caught.value.findings) == 2
    with pytest.raises(UnlearnError) as caught:
        load_data(dataclasses.replace(source, data_dir="nowhere"), checkpoint())
    assert len(caught.value.findings) == 1


def test_files_need_an_input_size_and_functions_do_not(folder: Path) -> None:
    unsized = with_config(input_size=None)
    with pytest.raises(UnlearnError, match="give --input-size in pixels"):
        load_data(DataSource(data_dir=str(folder)), unsized)
    train, heldout = load_data(DataSource(function=f"{__name__}:two_sets"), unsized)
    assert (len(train), len(heldout), train.classes, train.deterministic) == (6, 3, ("0", "1", "2"), True)
    assert train.images(torch.tensor([4]))[0].unique().tolist() == [4.0]


def test_a_function_without_names_takes_those_of_the_model() -> None:
    train, _ = load_data(DataSource(function=f"{__name__}:two_sets"), checkpoint(label_names=("x", "y", "z")))
    assert (train.classes, train.labels.tolist()) == (("x", "y", "z"), [0, 1, 2, 0, 1, 2])


def test_a_function_with_more_classes_than_outputs_is_a_finding() -> None:
    with pytest.raises(UnlearnError, match="training data have classes that the model's data do not have: '2'"):
        load_data(DataSource(function=f"{__name__}:two_sets"), checkpoint(num_classes=2))


def two_sets() -> tuple[Counting, Counting]:
    return Counting(6), Counting(3)
