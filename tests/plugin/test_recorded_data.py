"""Over every kind of data: what a recorded training calls its samples is what the flags of `unlearn apply` list."""

import csv
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from click.testing import CliRunner
from PIL import Image
from timm.data import create_dataset
from timm.models import save_for_hf
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, Grayscale, Normalize, ToTensor

from tests.plugin.pictures import hugging_face, split_pictures, write_digits, write_shards, write_table
from unlearn_hooks import TrainingRecord, record
from unlearn_hooks.ids import data_fingerprint
from unlearn_hooks.plan import Plan
from unlearn_hooks.shards import shard_keys
from unlearn_plugin.cli import main
from unlearn_plugin.listing import DataSource
from unlearn_plugin.reading import open_split

CLASSES = ("10", "2", "cat")  # torchvision's order; timm sorts 2 before 10
TRANSFORM = Compose([Grayscale(), ToTensor(), Normalize(0.5, 0.5)])
TRAINED, HELD_OUT = 16, 12  # of each class


@dataclass
class Kind:
    """A training as a user writes it, and the flags that name the same data."""

    loader: Iterable[Any]
    flags: dict[str, str]
    names: list[str]
    key: Any = None


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds")
    write_digits(folder / "train", CLASSES, TRAINED)
    write_digits(folder / "validation", CLASSES, HELD_OUT, skip=TRAINED)
    (folder / "map.txt").write_text("\n".join(CLASSES) + "\n")
    return folder


def torchvision_folder(root: Path, tmp: Path) -> Kind:
    data = ImageFolder(str(root / "train"), TRANSFORM)
    names = [one.name for one in split_pictures(root / "train")]
    return Kind(DataLoader(data, 16, shuffle=True), {"--data-dir": str(root), "--dataset": "torch/image_folder"}, names)


def timm_folder(root: Path, tmp: Path) -> Kind:
    flags = {"--data-dir": str(root), "--class-map": str(root / "map.txt")}
    data = create_dataset("", str(root), split="train", class_map=str(root / "map.txt"))
    data.transform = TRANSFORM
    names = [one.name for one in split_pictures(root / "train")]
    return Kind(DataLoader(data, 16, shuffle=True), flags, names)


def saved_hugging_face(root: Path, tmp: Path) -> Kind:
    for split in ("train", "validation"):
        hugging_face(split_pictures(root / split), CLASSES).save_to_disk(tmp / split)
    from datasets import load_from_disk

    def pixels(batch: dict[str, Any]) -> dict[str, Any]:
        return {"pixel_values": [TRANSFORM(image) for image in batch["image"]], "labels": batch["label"]}

    data = load_from_disk(tmp / "train").shuffle(seed=3).with_transform(pixels)
    flags = {"--data-dir": str(tmp), "--dataset": "hfds"}
    return Kind(DataLoader(data, 16, shuffle=True), flags, [str(row) for row in range(len(data))])


def parquet_with_ids(root: Path, tmp: Path) -> Kind:
    for split in ("train", "validation"):
        hugging_face(split_pictures(root / split), CLASSES).to_parquet(tmp / f"{split}-00000-of-00001.parquet")
    cache = tmp.parent / "cache"  # elsewhere: the library would find its own copies among the data
    cache.mkdir()
    data = create_dataset(f"hfds/{tmp}", str(cache), split="train")
    names = [one.key for one in split_pictures(root / "train")]
    data.transform = TRANSFORM
    flags = {"--dataset": f"hfds/{tmp}", "--data-dir": str(cache), "--id-key": "uid"}
    return Kind(DataLoader(data, 16, shuffle=True), flags, names, key=data.reader.dataset["uid"])


def stream_of_shards(root: Path, tmp: Path) -> Kind:
    webdataset = pytest.importorskip("webdataset", reason="webdataset is in the test extra")
    shards = write_shards(tmp, "train", split_pictures(root / "train"))
    write_shards(tmp, "validation", split_pictures(root / "validation"))
    stream = webdataset.WebDataset([str(path) for path in shards], shardshuffle=2, seed=1).shuffle(30).decode("pil")
    stream = stream.to_tuple("png", "cls", "__key__").map_tuple(TRANSFORM, int, str).batched(16)
    names = [one.key for one in split_pictures(root / "train")]
    flags = {"--data-dir": str(tmp), "--dataset": "wds", "--train-split": "train-{0000..0002}.tar"}
    return Kind(DataLoader(stream, batch_size=None), flags, names, key=shard_keys(shards))


class Table(Dataset[tuple[Tensor, int]]):
    """What people write for a table of paths and labels."""

    def __init__(self, root: Path, table: str) -> None:
        self.root = root
        with (root / table).open() as file:
            self.rows = list(csv.DictReader(file))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        line = self.rows[row]
        return TRANSFORM(Image.open(self.root / line["path"])), CLASSES.index(line["label"])


def table(root: Path, tmp: Path) -> Kind:
    for split in ("train", "validation"):
        write_table(root, split, split_pictures(root / split), CLASSES)
    data = Table(root, "train.csv")
    names = [f"train/{one.name}" for one in split_pictures(root / "train")]
    flags = {"--data-dir": str(root), "--dataset": "csv"}
    return Kind(DataLoader(data, 16, shuffle=True), flags, names, key=[row["path"] for row in data.rows])


def table_by_rows(root: Path, tmp: Path) -> Kind:
    found = table(root, tmp)
    return Kind(found.loader, {**found.flags, "--id-key": "row"}, [str(row) for row in range(len(found.names))])


KINDS: dict[Callable[[Path, Path], Kind], str] = {
    torchvision_folder: "finetune",
    timm_folder: "finetune",
    saved_hugging_face: "mini",
    parquet_with_ids: "finetune",
    stream_of_shards: "mini",
    table: "mini",
    table_by_rows: "finetune",
}


def train(kind: Kind, out: Path) -> None:
    torch.manual_seed(0)
    overlay = {"input_size": (1, 16, 16), "mean": (0.5,), "std": (0.5,), "crop_pct": 1.0}
    model = timm.create_model("test_resnet", num_classes=3, in_chans=1, pretrained_cfg_overlay=overlay)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    with record(out / "record", model, optimizer, plan=Plan(steps=4), key=kind.key) as recorder:
        for _ in range(2):
            for batch in recorder.batches(kind.loader):
                images, labels = batch.values() if isinstance(batch, dict) else batch[:2]
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(images), labels).backward()
                optimizer.step()
    assert recorder.status().unknown == {}
    save_for_hf(model, out / "model", model_args={"in_chans": 1}, safe_serialization=True)


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_the_record_and_the_flags_name_the_same_samples(
    make: Callable[[Path, Path], Kind], root: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    kind = make(root, tmp_path / "data")
    train(kind, tmp_path)
    found = TrainingRecord.open(tmp_path / "record")
    fields = {name[2:].replace("-", "_"): value for name, value in kind.flags.items()}
    source = DataSource(**fields)
    listed = open_split(source, source.train_split, 1)
    assert found.ids is not None
    assert sorted(listed.ids) == sorted(found.ids) == sorted(kind.names)
    order = torch.tensor([listed.ids.index(name) for name in found.ids])
    assert data_fingerprint(listed.labels[order]) == found.data["fingerprint"]
    forget = [kind.names[row] for row in (1, 5, 20, 33)]
    (tmp_path / "forget.txt").write_text("\n".join(forget) + "\n")
    flags = {"--model": f"local-dir:{tmp_path / 'model'}", "--record": str(tmp_path / "record"), **kind.flags}
    flags |= {"--forget": str(tmp_path / "forget.txt"), "--out": str(tmp_path / "out"), "--method": KINDS[make]}
    words = [word for pair in flags.items() for word in pair]
    done = CliRunner().invoke(main, ["apply", *words, "--device", "cpu"])
    assert done.exit_code in (0, 3), done.output + repr(done.exception)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["request"]["n_samples"] == 4
    published = [path for path in (tmp_path / "out").rglob("*") if path.suffix in (".json", ".html", ".md")]
    assert not any(kind.names[20] in path.read_text() for path in published if len(kind.names[20]) > 2)
