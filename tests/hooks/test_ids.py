import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm.data
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, IterableDataset, Subset, TensorDataset, random_split
from torchvision.datasets import ImageFolder

from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.ids import (
    batch_labels,
    data_fingerprint,
    dataset_labels,
    first_tensor,
    label_checksum,
    root_count,
    root_keys,
    root_rows,
    sample_keys,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    return tmp_path


def tensors(n: int = 10) -> TensorDataset:
    return TensorDataset(torch.zeros(n, 2), torch.arange(n) % 3)


def test_rows_of_a_plain_data_set_are_named_by_their_number() -> None:
    assert sample_keys(tensors(3)) == ("0", "1", "2")


def test_torchvision_and_timm_folders_name_rows_by_the_path_below_the_root(folder: Path) -> None:
    names = ("cat/1.png", "cat/2.png", "dog/1.png")
    assert sample_keys(ImageFolder(str(folder))) == names
    assert sample_keys(timm.data.create_dataset("", root=str(folder))) == names


def test_ids_that_a_data_set_declares_are_taken_if_there_is_one_per_row() -> None:
    dataset = tensors(2)
    dataset.ids = [7, "b"]
    assert sample_keys(dataset) == ("7", "b")
    dataset.ids = ["too few"]
    assert sample_keys(dataset) == ("0", "1")


def test_parts_keep_the_names_of_the_root(folder: Path) -> None:
    root = ImageFolder(str(folder))
    assert sample_keys(Subset(root, [2, 0])) == ("dog/1.png", "cat/1.png")
    assert root_keys(Subset(root, [2])) == sample_keys(root)
    assert root_count(Subset(root, [2])) == 3


def test_names_that_collide_between_roots_become_numbers() -> None:
    both = ConcatDataset([tensors(2), tensors(3)])
    assert sample_keys(both) == ("0", "1", "2", "3", "4")


def test_rows_are_resolved_to_the_root_through_any_depth() -> None:
    first, second = tensors(10), tensors(4)
    left, right = random_split(first, [6, 4], generator=torch.Generator().manual_seed(0))
    nested = ConcatDataset([Subset(right, [3, 1]), second, left])
    truth = [right.indices[3], right.indices[1], *range(10, 14), *left.indices]
    assert root_rows(nested, range(len(nested))).tolist() == truth
    assert root_rows(nested, [5, 0, 5]).tolist() == [truth[5], truth[0], truth[5]]
    assert root_rows(Subset(nested, np.array([4, 9])), torch.tensor([1, 0])).tolist() == [truth[9], truth[4]]
    assert root_count(nested) == 14


def test_joined_parts_of_one_root_cover_it_once() -> None:
    parts = random_split(tensors(10), [3, 7], generator=torch.Generator().manual_seed(1))
    assert sorted(root_rows(ConcatDataset(parts), range(10)).tolist()) == list(range(10))


def test_a_stream_has_no_names() -> None:
    class Stream(IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            return iter(range(3))

    with pytest.raises(UnlearnError, match=r"Stream has no length.*rec\.ids"):
        sample_keys(Stream())


def test_labels_are_found_without_loading_images(folder: Path) -> None:
    folders = ImageFolder(str(folder), loader=lambda path: pytest.fail("an image was loaded"))
    for dataset in (folders, timm.data.create_dataset("", root=str(folder))):
        labels = dataset_labels(dataset)
        assert labels is not None
        assert labels.tolist() == [0, 0, 1]
    labels = dataset_labels(ConcatDataset([Subset(folders, [1]), tensors(2)]))
    assert labels is not None
    assert labels.tolist() == [0, 0, 1, 0, 1]


def test_labels_of_other_types_or_lengths_are_not_taken_for_classes() -> None:
    dataset = tensors(2)
    dataset.targets = np.array([4, 5], dtype=np.int16)
    labels = dataset_labels(dataset)
    assert labels is not None
    assert (labels.tolist(), labels.dtype) == ([4, 5], torch.int64)
    assert dataset_labels(TensorDataset(torch.zeros(2), torch.zeros(2))) is None
    assert dataset_labels(TensorDataset(torch.zeros(2))) is None


def test_the_fingerprint_follows_its_published_definition_and_sees_order_and_length() -> None:
    labels = torch.tensor([1, 0, 2])
    raw = (3).to_bytes(8, "little") + b"".join(n.to_bytes(8, "little") for n in (1, 0, 2))
    assert data_fingerprint(labels) == hashlib.sha256(raw).hexdigest()
    assert len({data_fingerprint(torch.tensor(x)) for x in ([1, 0, 2], [0, 1, 2], [1, 0, 2, 0], [1, 0])}) == 4


def test_labels_of_a_batch_are_found_by_place_or_name() -> None:
    images, labels = torch.zeros(2, 3), torch.tensor([1, 0])
    for batch in ((images, labels), [images, labels, "x"], {"pixel_values": images, "labels": labels}):
        assert batch_labels(batch) is labels
    for batch in (images, (images,), (images, labels.float()), (images, torch.eye(2)), {"x": images}, (images, None)):
        assert batch_labels(batch) is None


def test_the_first_tensor_with_rows_is_found() -> None:
    images = torch.zeros(2, 3)
    assert first_tensor({"size": torch.tensor(4), "inner": [{"x": images}]}) is images
    assert first_tensor(["a", 3]) is None


def test_the_checksum_is_that_of_the_values_whatever_their_type() -> None:
    labels = torch.tensor([1, 0, 2])
    assert label_checksum(labels) == label_checksum(labels.to(torch.uint8)) != label_checksum(labels.flip(0))
    assert label_checksum(None) is None


# what other libraries read


def hugging_face(n: int = 10) -> Any:
    datasets = pytest.importorskip("datasets", reason="datasets is an extra")
    picture = {"bytes": _png(), "path": None}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})
    return datasets.Dataset.from_dict({"image": [picture] * n, "label": [r % 3 for r in range(n)]}, features=features)


def _png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    return file.getvalue()


def test_a_hugging_face_data_set_is_named_by_rows_of_the_table_behind_select_and_shuffle() -> None:
    whole = hugging_face()
    assert sample_keys(whole) == tuple("0123456789")
    chosen = whole.select([5, 2, 9]).with_transform(lambda batch: {"image": batch["image"]})
    assert sample_keys(chosen) == ("5", "2", "9")
    halves = whole.train_test_split(test_size=4, seed=1)
    assert set(sample_keys(halves["train"])).isdisjoint(sample_keys(halves["test"]))
    shuffled = whole.shuffle(seed=2)
    assert [whole[int(name)]["label"] for name in sample_keys(shuffled)] == shuffled["label"][:]
    assert sample_keys(Subset(chosen, [2, 0])) == ("9", "5")


def test_where_a_contiguous_slice_was_cut_out_is_not_known() -> None:
    assert sample_keys(hugging_face().select(range(4, 7))) == ("0", "1", "2")


def test_labels_of_a_hugging_face_data_set_are_found_without_its_transform() -> None:
    def transform(batch: dict[str, Any]) -> dict[str, Any]:
        pytest.fail("an image was decoded")

    labels = dataset_labels(hugging_face().select([5, 2, 9]).with_transform(transform))
    assert labels is not None
    assert labels.tolist() == [2, 2, 0]


def test_timms_reader_of_a_hugging_face_data_set_names_rows_as_the_data_set_does(tmp_path: Path) -> None:
    for name in ("data", "cache"):
        (tmp_path / name).mkdir()
    hugging_face(4).to_parquet(tmp_path / "data" / "train.parquet")
    read = timm.data.create_dataset(f"hfds/{tmp_path / 'data'}", root=str(tmp_path / "cache"), split="train")
    assert read.filename(0) is None
    assert sample_keys(read) == tuple("0123")
    labels = dataset_labels(read)
    assert labels is not None
    assert labels.tolist() == [0, 1, 2, 0]


def test_a_reader_that_has_no_file_names_numbers_its_rows() -> None:
    dataset = tensors(3)
    dataset.reader = SimpleNamespace(filename=lambda row, **kind: None)
    assert sample_keys(dataset) == ("0", "1", "2")


def test_samples_outside_the_root_are_numbered(tmp_path: Path) -> None:
    dataset = tensors(2)
    dataset.samples, dataset.root = [(str(tmp_path / "x.png"), 0), ("/elsewhere/y.png", 1)], str(tmp_path)
    assert sample_keys(dataset) == ("0", "1")


def test_a_stream_that_claims_a_length_is_a_stream_all_the_same() -> None:
    class Padded(IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            return iter(range(30))

        def __len__(self) -> int:
            return 32

    for ask in (sample_keys, root_count):
        with pytest.raises(UnlearnError, match="Padded has no length or is a stream.*key="):
            ask(Padded())
