"""Opening data sets: ids belong to the pixels they stand for, and nothing is guessed."""

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from timm.data import create_dataset
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder

from tests.plugin.pictures import write_digits
from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.reading import DataSource, call_function, open_split

CLASSES = ("2", "10", "cat")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_digits(tmp_path / "data" / "train", CLASSES, 12)
    write_digits(tmp_path / "data" / "val", CLASSES, 3, skip=12)
    return tmp_path / "data"


def source(folder: Path, **fields: str) -> DataSource:
    return DataSource(data_dir=str(folder), **fields)


def test_ids_are_paths_relative_to_the_split_and_belong_to_their_pixels(folder: Path) -> None:
    listed = open_split(source(folder), "train", 1)
    assert len(listed.ids) == 36
    for row, name in enumerate(listed.ids):
        image, label = listed.open(row)
        assert image.tobytes() == Image.open(folder / "train" / name).tobytes()
        assert listed.classes[label] == listed.classes[int(listed.labels[row])] == name.split("/")[0]


def test_ids_agree_with_torchvision_although_it_sorts_differently(folder: Path) -> None:
    listed, other = open_split(source(folder), "train", 3), ImageFolder(str(folder / "train"))
    theirs = [Path(path).relative_to(folder / "train").as_posix() for path, _ in other.samples]
    assert list(listed.ids) != theirs
    assert set(listed.ids) == set(theirs)
    row = theirs.index("10/11.png")
    assert listed.open(listed.ids.index("10/11.png"))[0].tobytes() == other[row][0].tobytes()


def test_the_order_is_that_of_timms_own_data_set(folder: Path) -> None:
    timms = create_dataset("", str(folder), split="train")
    listed = open_split(source(folder), "train", 3)
    assert list(listed.ids) == timms.filenames()
    assert listed.labels.tolist() == [label for _, label in timms.reader.samples]


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_images_get_the_channels_of_the_model(folder: Path, channels: int, mode: str) -> None:
    assert open_split(source(folder), "train", channels).open(0)[0].mode == mode


def test_image_files_cannot_give_other_channel_numbers(folder: Path) -> None:
    with pytest.raises(UnlearnError, match="images of 4 channels, and image files have 1 or 3"):
        open_split(source(folder), "train", 4)


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_an_unreadable_image_is_an_error_where_timm_would_give_the_next(folder: Path, content: bytes | None) -> None:
    path = folder / "train" / "2" / "1.png"
    path.write_bytes(path.read_bytes()[:60] if content is None else content)
    timms = create_dataset("", str(folder), split="train")
    assert timms[1][0].tobytes() == timms[2][0].tobytes()  # what must not happen to us
    listed = open_split(source(folder), "train", 1)
    with pytest.raises(UnlearnError, match=r"The image '2/1\.png' cannot be read"):
        listed.open(listed.ids.index("2/1.png"))
    assert listed.open(listed.ids.index("2/2.png"))[0].tobytes() == Image.open(folder / "train/2/2.png").tobytes()


def test_a_vanished_image_is_named(folder: Path) -> None:
    listed = open_split(source(folder), "train", 1)
    (folder / "train" / "cat" / "3.png").unlink()
    with pytest.raises(UnlearnError, match=r"'cat/3\.png' cannot be read"):
        listed.open(listed.ids.index("cat/3.png"))


def test_a_link_out_of_the_folder_keeps_the_name_it_has_inside(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / "train" / "2" / "0.png", tmp_path / "elsewhere.png")
    (folder / "train" / "2" / "0.png").symlink_to(tmp_path / "elsewhere.png")
    listed = open_split(source(folder), "train", 1)
    assert "2/0.png" in listed.ids
    assert not any(".." in name for name in listed.ids)
    assert listed.open(listed.ids.index("2/0.png"))[0].tobytes() == Image.open(tmp_path / "elsewhere.png").tobytes()


@pytest.mark.parametrize("name", ["val", "valid", "validation", "eval", "test"])
def test_the_held_out_folder_goes_by_several_names(folder: Path, name: str) -> None:
    (folder / "val").rename(folder / name)
    assert len(open_split(source(folder), "validation", 1).ids) == 9


def test_a_missing_split_is_never_replaced_by_the_whole_folder(folder: Path) -> None:
    shutil.rmtree(folder / "val")
    assert len(create_dataset("", str(folder), split="validation")) == 36  # timm reads the training images here
    with pytest.raises(UnlearnError, match=r"no sub-folder 'validation' or 'val'.*--val-split"):
        open_split(source(folder), "validation", 1)
    with pytest.raises(UnlearnError, match="no sub-folder 'mine'"):
        open_split(source(folder), "mine", 1)


def test_a_class_may_have_the_name_of_a_split(folder: Path) -> None:
    (folder / "train" / "cat").rename(folder / "train" / "train")  # a railway
    assert open_split(source(folder), "train", 1).classes == ("2", "10", "train")


def test_a_folder_that_is_not_there_or_not_given_is_said_so(tmp_path: Path) -> None:
    for where in (source(tmp_path / "none"), DataSource()):
        with pytest.raises(UnlearnError, match="There is no folder .*check --data-dir"):
            open_split(where, "train", 1)


def test_an_empty_folder_and_a_picture_outside_class_folders_are_refused(folder: Path) -> None:
    shutil.copy(folder / "val" / "2" / "0.png", folder / "val" / "loose.png")
    with pytest.raises(UnlearnError, match=r"'loose\.png' lies in no class folder"):
        open_split(source(folder), "val", 1)
    shutil.rmtree(folder / "val")
    (folder / "val").mkdir()
    with pytest.raises(UnlearnError, match="cannot be opened .*Found 0 images"):
        open_split(source(folder), "val", 1)


def test_a_class_map_sets_the_numbers(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "map.txt").write_text("cat\nnone\n2\n10\n")
    listed = open_split(source(folder, class_map=str(tmp_path / "map.txt")), "train", 1)
    assert listed.classes == ("cat", "none", "2", "10")
    assert int(listed.labels[listed.ids.index("2/0.png")]) == 2


def test_a_class_map_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(UnlearnError, match="Cannot locate specified class map"):
        open_split(source(folder, class_map="none.txt"), "train", 1)


def test_tar_files_are_read_like_folders(folder: Path) -> None:
    for split in ("train", "val"):
        with tarfile.open(folder / f"{split}.tar", "w") as archive:
            for path in sorted((folder / split).rglob("*.png")):
                archive.add(path, path.relative_to(folder / split).as_posix())
    plain = open_split(source(folder), "train", 1)
    pixels = {name: plain.open(row)[0].tobytes() for row, name in enumerate(plain.ids)}
    for split in ("train", "val"):
        shutil.rmtree(folder / split)
    packed = open_split(source(folder), "train", 1)
    assert {name: packed.open(row)[0].tobytes() for row, name in enumerate(packed.ids)} == pixels
    assert dict(zip(packed.ids, packed.labels.tolist(), strict=True)) == dict(
        zip(plain.ids, plain.labels.tolist(), strict=True)
    )
    assert packed.classes == plain.classes


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ("torch/nothing", "Unknown torchvision dataset nothing"),
        ("torch/cifar10", "not found"),
        ("tfds/mnist", "cannot be opened"),
    ],
)
def test_a_data_set_that_cannot_be_opened_is_named(tmp_path: Path, dataset: str, words: str) -> None:
    with pytest.raises(UnlearnError, match=words):
        open_split(source(tmp_path, dataset=dataset), "train", 3)


def test_torchvisions_folder_can_be_asked_for(folder: Path) -> None:
    listed = open_split(source(folder, dataset="torch/image_folder"), "train", 3)
    assert listed.classes == ("10", "2", "cat")
    assert set(listed.ids) == set(open_split(source(folder), "train", 3).ids)


# --data package.module:function


class OwnData(Dataset[tuple[torch.Tensor, int]]):
    """Row r is an image of r, in class r % 3."""

    def __init__(self, n: int, *, noisy: bool = False) -> None:
        self.n, self.noisy = n, noisy

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return torch.full((1, 2, 2), float(row)) + (torch.rand(1) if self.noisy else 0), row % 3


class Named(OwnData):
    classes = ("x", "y", "z")

    @property
    def ids(self) -> list[str]:
        return [f"case-{row}" for row in range(self.n)]


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


def plain() -> tuple[OwnData, OwnData]:
    return OwnData(9), OwnData(6)


def named() -> tuple[Named, Named]:
    return Named(9), Named(6)


def noisy() -> list[OwnData]:
    return [OwnData(9, noisy=True), OwnData(6)]


def subsets() -> tuple[Dataset[object], Dataset[object]]:
    whole = Named(12)
    return ConcatDataset([Subset(whole, [4, 2]), Subset(whole, [7])]), Subset(whole, [0, 1])


def tensors() -> tuple[TensorDataset, TensorDataset]:
    images = torch.rand(6, 1, 2, 2)
    return TensorDataset(images, torch.arange(6) % 3), TensorDataset(images, torch.rand(6, 3))


def one_only() -> OwnData:
    return OwnData(3)


def streams() -> tuple[Stream, Stream]:
    return Stream(), Stream()


def empty() -> tuple[OwnData, OwnData]:
    return OwnData(0), OwnData(3)


def repeated() -> tuple[Dataset[object], OwnData]:
    return Subset(Named(3), [0, 1, 0]), OwnData(3)


def negative() -> tuple[TensorDataset, OwnData]:
    return TensorDataset(torch.rand(2, 1, 2, 2), torch.tensor([0, -1])), OwnData(3)


def call(function: object) -> str:
    return f"{__name__}:{getattr(function, '__name__', '')}"


def test_a_function_gives_rows_labels_and_numbers_as_ids() -> None:
    train, heldout, deterministic = call_function(call(plain))
    assert (train.ids, heldout.ids) == (tuple("012345678"), tuple("012345"))
    assert train.labels.tolist() == [0, 1, 2] * 3
    assert train.open(4)[0].unique().tolist() == [4.0]
    assert deterministic
    assert train.classes == ()


def test_names_of_samples_and_classes_are_taken_where_they_are_given() -> None:
    train, _, _ = call_function(call(named))
    assert (train.ids[8], train.classes) == ("case-8", ("x", "y", "z"))


def test_parts_of_a_data_set_keep_the_names_of_the_whole() -> None:
    train, heldout, _ = call_function(call(subsets))
    assert (train.ids, heldout.ids) == (("case-4", "case-2", "case-7"), ("case-0", "case-1"))
    assert train.labels.tolist() == [1, 2, 1]
    assert train.open(2)[0].unique().tolist() == [7.0]


def test_random_augmentation_is_noticed_without_touching_the_random_state() -> None:
    state = torch.get_rng_state()
    assert not call_function(call(noisy))[2]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (one_only, "returned OwnData; give .train, held-out."),
        (streams, "returned Stream; give data sets with __len__"),
        (empty, "The split 'train' is empty"),
        (repeated, "The id 'case-0' stands for 2 samples"),
        (tensors, "A label is .*one whole number"),
        (negative, "The sample '1' has no label"),
    ],
)
def test_a_function_that_returns_something_else_is_answered(function: object, words: str) -> None:
    with pytest.raises(UnlearnError, match=words):
        call_function(call(function))


# real data sets, where they are


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shared = Path(os.environ.get("UNLEARN_SHARED_DATA", "nowhere"))
    if not (shared / "unpack.py").exists():
        pytest.skip("the real data sets are not here")
    place = tmp_path_factory.mktemp("real")
    command = [sys.executable, str(shared / "unpack.py"), str(place), "cifar-10-batches-py", "FashionMNIST"]
    subprocess.run(command, check=True)
    return place


def test_cifar10_opens_by_timms_name(unpacked: Path) -> None:
    train, heldout = (
        open_split(source(unpacked, dataset="torch/cifar10"), split, 3) for split in ("train", "validation")
    )
    assert (len(train.ids), len(heldout.ids)) == (50_000, 10_000)
    assert train.ids[17] == "17"
    assert train.classes[:2] == ("airplane", "automobile")
    assert torch.bincount(train.labels).tolist() == [5_000] * 10
    assert train.open(0)[0].size == (32, 32)


def test_grey_fashion_mnist_becomes_colour_for_a_colour_model(unpacked: Path) -> None:
    listed = open_split(source(unpacked, dataset="torch/fashion_mnist"), "train", 3)
    image, label = listed.open(0)
    assert (image.mode, image.size, len(listed.ids)) == ("RGB", (28, 28), 60_000)
    assert listed.classes[label] == "Ankle boot"


def test_a_data_set_in_memory_may_name_the_person_of_each_sample() -> None:
    data = TensorDataset(torch.zeros(3, 1, 4, 4), torch.tensor([0, 1, 0]))
    other = TensorDataset(*data.tensors)
    data.subjects = ["anna", None, "bert"]
    train, heldout, _ = call_function((data, other))
    assert train.subjects == ("anna", "", "bert")
    assert heldout.subjects == ()
    data.subjects = ["anna"]
    with pytest.raises(UnlearnError, match="3 samples and names 1 subjects"):
        call_function((data, other))
