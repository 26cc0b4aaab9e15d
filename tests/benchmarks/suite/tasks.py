"""What is learnt: a few thousand pictures of a public data set, drawn at random, at a size for two cores."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.datasets import CIFAR10, FashionMNIST
from torchvision.transforms.v2.functional import to_image

Drawn = dict[str, Tensor]  # images float32 (n, c, h, w), labels int64 (n,), and more by name


@dataclass(frozen=True)
class Task:
    """One data set and what is trained on it.

    Attributes:
        draw: Gives images and labels from (root, seed of the draw).
        classes: How many.
        channels: Of an image.
        side: Of an image, in pixels.
        held_out: Samples set apart before training, half for tuning and half for the verdict.
        epochs: Of every training, by the kind of network.
        requests: Kinds of request that make sense here.
    """

    draw: Callable[[Path, int], Drawn]
    classes: int
    channels: int
    side: int
    held_out: int
    epochs: dict[str, int]
    requests: tuple[str, ...] = ("random", "class", "part", "classes", "second")

    def fresh(self, arch: str, seed: int) -> nn.Module:
        """A timm model with new random weights of the seed alone; transformers see patches of 4 or 2 pixels."""
        shape = {"img_size": self.side, "patch_size": 2 if self.side % 4 else 4} if "vit" in arch else {}
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            return timm.create_model(arch, num_classes=self.classes, in_chans=self.channels, **shape)

    def trained_for(self, arch: str) -> int:
        """Epochs of a training."""
        return self.epochs["vit" if "vit" in arch else "resnet"]


class Rows(Dataset[tuple[Tensor, int]]):
    """Images and labels in memory."""

    def __init__(self, images: Tensor, labels: Tensor, classes: int) -> None:
        self.images, self.labels = images, labels
        self.targets = labels.tolist()
        self.classes = [str(label) for label in range(classes)]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.images[row], self.targets[row]


def drawn(task: Task, root: Path | None, place: Path, draw: int) -> Drawn:
    """The samples of one draw, kept in `place` once they are drawn."""
    if not place.exists():
        if root is None:
            raise FileNotFoundError(f"{place} is not there yet, and drawing it needs the data: give --root.")
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_suffix(".partial")
        save_file(task.draw(root, draw), partial)
        partial.rename(place)
    return load_file(place)


def pictures(source: Callable[..., Any], count: int, side: int, wrong_labels: float) -> Callable[[Path, int], Drawn]:
    """Draw from the official training set; some labels are wrong, in training data and controls alike."""

    def draw(root: Path, seed: int) -> Drawn:
        whole, generator = source(root, train=True, download=False), torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(whole.targets), generator=generator)[:count]
        images = torch.as_tensor(whole.data)[chosen].float() / 255
        images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
        images = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
        axes = (0, 2, 3)
        images = (images - images.mean(axes, keepdim=True)) / images.std(axes, keepdim=True)
        labels = torch.as_tensor(whole.targets)[chosen].long()
        wrong = torch.rand(count, generator=generator) < wrong_labels
        shift = torch.randint(1, 10, (count,), generator=generator)
        return {"images": images.contiguous(), "labels": (labels + shift * wrong) % 10, "wrong": wrong}

    return draw


def digits(_root: Path, **_: object) -> SimpleNamespace:
    """The 1,797 handwritten digits of scikit-learn, which come with the package."""
    found = load_digits()
    return SimpleNamespace(data=torch.from_numpy(found.images) * (255 / 16), targets=found.target)


def faces(root: Path, seed: int) -> Drawn:
    """The ORL faces, ten pictures of each of 40 persons; a door lets half of them in.

    Who may pass is drawn by lot, so nothing but having seen a person tells: the class is not the person, and of
    somebody forgotten a network can only guess.
    """
    generator = torch.Generator().manual_seed(seed)
    allowed = (torch.randperm(_PERSONS, generator=generator) < _PERSONS // 2).long()
    shown = [
        Image.open(root / "orl_faces" / f"s{person + 1}" / f"{number + 1}.pgm").convert("L").resize((24, 24))
        for person in range(_PERSONS)
        for number in torch.randperm(10, generator=generator).tolist()
    ]
    images = torch.stack([to_image(one) for one in shown]).float() / 255
    persons = torch.arange(_PERSONS).repeat_interleave(10)
    return {"images": (images - images.mean()) / images.std(), "labels": allowed[persons], "persons": persons}


_PERSONS = 40
_TRAINED, _HELD_OUT = 1000, 2000
_EPOCHS = {"resnet": 20, "vit": 20}
TASKS = {
    "fashion_mnist": Task(
        pictures(FashionMNIST, _TRAINED + _HELD_OUT, 14, 0.1), classes=10, channels=1, side=14, held_out=_HELD_OUT,
        epochs=_EPOCHS,
    ),
    "cifar10": Task(
        pictures(CIFAR10, _TRAINED + _HELD_OUT, 16, 0.0), classes=10, channels=3, side=16, held_out=_HELD_OUT,
        epochs=_EPOCHS,
    ),
    "cifar10_long": Task(
        pictures(CIFAR10, _TRAINED + _HELD_OUT, 16, 0.0), classes=10, channels=3, side=16, held_out=_HELD_OUT,
        epochs={"resnet": 80, "vit": 80}, requests=("random",),
    ),
    "digits": Task(
        pictures(digits, 700 + 1096, 16, 0.2), classes=10, channels=1, side=16, held_out=1096,
        epochs={"resnet": 30, "vit": 30}, requests=("random", "class"),
    ),
    "faces": Task(
        faces, classes=2, channels=1, side=24, held_out=140, epochs={"resnet": 40, "vit": 40}, requests=("subject",)
    ),
}  # fmt: skip
