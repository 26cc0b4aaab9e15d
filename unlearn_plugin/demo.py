"""`unlearn demo`: real handwritten digits, a real training run with the hook on, and three real requests to forget."""

import csv
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from sklearn.datasets import load_digits
from timm.models import save_for_hf
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, Grayscale, Normalize, Resize, ToTensor

from unlearn_hooks import Plan, UnlearnError, record
from unlearn_plugin.job import Job
from unlearn_plugin.pipeline import Outcome, run
from unlearn_plugin.progress import Progress

__all__ = ["Scene", "make_scene", "play"]

_TRAINED_ON = 700  # of the 1,797 digits; the others are never trained on
_FORGET = 100
_WRONG_LABELS = 0.2  # a careless annotator: without, the net generalises so well that there is nothing to forget
_EPOCHS = 30
_SEED = 0
_SIDE = 16  # twice that of the digits, and enough for them
_INPUT = {"input_size": (1, _SIDE, _SIDE), "mean": (0.5,), "std": (0.5,), "crop_pct": 1.0}


@dataclass(frozen=True)
class Scene:
    """What a company has before anyone asks: data, a trained model, the record of its training; and the request."""

    data: Path
    model: Path
    record: Path
    forget: Path
    train_accuracy: float


def play(out: Path, say: Callable[[str], None]) -> Iterator[Outcome]:
    """Train with the hook on, forget 100 samples by three methods, and judge each.

    Args:
        out: Folder to write everything into; must not exist yet.
        say: Receives what to tell the reader, and the commands each part is equivalent to.

    Yields:
        The outcome of `retrain`, then of `mini` and `muda` with the retrained model as the judge's reference.

    Raises:
        UnlearnError: If `out` exists already.
    """
    if out.exists():
        raise UnlearnError(f"The folder {str(out)!r} exists already; give the demo a new name to write to.")
    with _one_thread():
        yield from _play(out, say)


def _play(out: Path, say: Callable[[str], None]) -> Iterator[Outcome]:
    say(f"Training test_resnet on {_TRAINED_ON} handwritten digits, {_WRONG_LABELS:.0%} of them with wrong labels ...")
    scene = make_scene(out)
    say(f"Trained with the hook on: training accuracy {scene.train_accuracy:.3f}. It remembers the wrong labels, too.")
    reference = None
    for method in ("retrain", "mini", "muda"):
        job = Job(
            model=f"local-dir:{scene.model}",
            data_dir=str(scene.data),
            forget=str(scene.forget),
            record=str(scene.record),
            method=method,
            reference=reference,
            out=str(out / method),
        )
        say("\n$ " + as_command(job))
        yield run(job, progress=Progress())
        reference = reference or f"local-dir:{out / method}"


@contextmanager
def _one_thread() -> Iterator[None]:
    """The same numbers whatever the number of cores; such small layers gain little from a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def as_command(job: Job) -> str:
    """The command line that does the same as `job`.

    Args:
        job: A job that sets only what the demo sets.

    Returns:
        One line a shell understands.
    """
    flags = ["model", "data_dir", "forget", "record", "method", "reference", "out"]
    given = [(flag, getattr(job, flag)) for flag in flags if getattr(job, flag) is not None]
    words = [word for flag, value in given for word in (f"--{flag.replace('_', '-')}", str(value))]
    return "unlearn apply " + " ".join(shlex.quote(word) for word in words)


def make_scene(out: Path) -> Scene:
    """Write the digits as class folders, train a small timm network on them with `record`, and write a request.

    Args:
        out: Folder to write into.

    Returns:
        Where everything lies.
    """
    _write_digits(out / "data")
    transform = Compose([Grayscale(), Resize((_SIDE, _SIDE)), ToTensor(), Normalize(0.5, 0.5)])
    digits = _InMemory(ImageFolder(str(out / "data" / "train"), transform))
    torch.manual_seed(_SEED)
    model = timm.create_model("test_resnet", num_classes=10, in_chans=1, pretrained_cfg_overlay=_INPUT)
    accuracy = _train(model, digits, out / "record")
    save_for_hf(
        model,
        out / "model",
        model_config={"label_names": list("0123456789")},
        model_args={"in_chans": 1},
        safe_serialization=True,
    )
    _write_request(out / "forget.csv", [path for path, _ in digits.folder.samples], out / "data" / "train")
    return Scene(out / "data", out / "model", out / "record", out / "forget.csv", accuracy)


def _train(model: torch.nn.Module, digits: Dataset[tuple[torch.Tensor, int]], folder: Path) -> float:
    loader = DataLoader(digits, batch_size=64, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _EPOCHS * len(loader))
    right = 0
    model.train()
    with record(folder, model, optimizer, plan=Plan(steps=24)) as recorder:
        for _ in range(_EPOCHS):
            right = 0
            for images, labels in recorder.batches(loader):
                optimizer.zero_grad()
                logits = model(images)
                loss = torch.nn.functional.cross_entropy(logits, labels)
                loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
                optimizer.step()
                schedule.step()
                right += int((logits.argmax(1) == labels).sum())
    return right / _TRAINED_ON


class _InMemory(Dataset[tuple[torch.Tensor, int]]):
    """A folder of images, decoded once."""

    def __init__(self, folder: ImageFolder) -> None:
        self.folder = folder
        self.samples = folder.samples
        self.root = folder.root
        self._items = [folder[row] for row in range(len(folder))]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        image, label = self._items[row]
        return image, label


def _write_digits(folder: Path) -> None:
    images, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(_SEED)
    wrong = rng.random(len(labels)) < _WRONG_LABELS
    labels = np.where(wrong, (labels + rng.integers(1, 10, len(labels))) % 10, labels)
    for place, row in enumerate(rng.permutation(len(labels))):
        split = "train" if place < _TRAINED_ON else "validation"
        path = folder / split / str(labels[row]) / f"digit-{row:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((images[row].reshape(8, 8) * 15.9375).astype(np.uint8)).save(path)


def _write_request(path: Path, images: list[str], root: Path) -> None:
    chosen = np.random.default_rng(_SEED + 1).choice(len(images), _FORGET, replace=False)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id"])
        writer.writerows([Path(images[row]).relative_to(root).as_posix()] for row in sorted(chosen))
