"""Real pictures for tests: the digits of scikit-learn as PNG in folders, tables, shards and Hugging Face tables."""

import io
import json
import tarfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Grey 8x8 digits as uint8 (n, 8, 8), and which digit each is."""
    bunch = load_digits()
    return (bunch.images * 15.9).astype(np.uint8), bunch.target


def write_digits(folder: Path, classes: tuple[str, ...], each: int, *, skip: int = 0) -> None:
    """Write `each` pictures of the first digits as ``folder/class/number.png``, leaving out the first `skip`."""
    images, targets = digits()
    for digit, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            picture = images[targets == digit][skip + number]
            Image.fromarray(picture).resize((16, 16)).save(folder / name / f"{number}.png")


@dataclass(frozen=True)
class Picture:
    """One digit: its name below the folder of a split, its class, its bytes as PNG."""

    name: str
    label: int
    png: bytes

    @property
    def key(self) -> str:
        """What a shard and an id column call it."""
        return self.name.removesuffix(".png").replace("/", "-")


def split_pictures(folder: Path) -> list[Picture]:
    """The pictures that `write_digits` wrote, in alphabetical order; classes are counted so, too."""
    classes = sorted(path.name for path in folder.iterdir())
    files = sorted(folder.rglob("*.png"))
    return [
        Picture(file.relative_to(folder).as_posix(), classes.index(file.parent.name), file.read_bytes())
        for file in files
    ]


def write_table(folder: Path, split: str, pictures: list[Picture], names: tuple[str, ...]) -> None:
    """Write ``SPLIT.csv`` with columns path, label (by name) and subject; paths are relative to `folder`."""
    rows = [f"{split}/{one.name},{names[one.label]},person-{row % 7}" for row, one in enumerate(pictures)]
    (folder / f"{split}.csv").write_text("\n".join(["path,label,subject", *rows]) + "\n")


def write_shards(folder: Path, split: str, pictures: list[Picture], each: int = 20) -> list[Path]:
    """Write WebDataset shards ``SPLIT-0000.tar`` ... with KEY.png, KEY.cls and KEY.json."""
    folder.mkdir(exist_ok=True)
    for number in range(0, len(pictures), each):
        with tarfile.open(folder / f"{split}-{number // each:04d}.tar", "w") as archive:
            for one in pictures[number : number + each]:
                sidecar = json.dumps({"species": one.label}).encode()
                for ending, content in (("cls", str(one.label).encode()), ("json", sidecar), ("png", one.png)):
                    member = tarfile.TarInfo(f"{one.key}.{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return sorted(folder.glob(f"{split}-*.tar"))


def hugging_face(pictures: list[Picture], names: tuple[str, ...]) -> Any:
    """A ``datasets.Dataset`` with the columns image, label and uid."""
    datasets = pytest.importorskip("datasets", reason="datasets is an extra")
    features = {
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=list(names)),
        "uid": datasets.Value("string"),
    }
    columns = {
        "image": [{"bytes": one.png, "path": None} for one in pictures],
        "label": [one.label for one in pictures],
        "uid": [one.key for one in pictures],
    }
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))
