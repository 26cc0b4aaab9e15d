"""One seed of the zoo: data, a recorded training with references, and requests of every kind and size."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from jaxtyping import Int64
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import FashionMNIST
from torchvision.transforms.v2 import functional as pictures

from tests.benchmarks.suite.tasks import Rows
from unlearn_hooks import Plan, record
from unlearn_hooks.controls import halves, holdout
from unlearn_hooks.references import add_reference, log_odds
from unlearn_hooks.training_record import TrainingRecord
from unlearn_plugin.data import ImageData

CLASSES, SIDE = 10, 14
TRAINED, HELD_OUT = 2000, 4000
WRONG_LABELS = 0.1  # of training samples and controls alike: a careless annotator, and a network that remembers
EPOCHS, BATCH, RATE = 20, 100, 0.1
SERIES = (5, 20, 100)  # pictures of each of three persons in the training set
SIZES = {
    "random": (5, 20, 100, 500), "class": (5, 20, 100), "subject": SERIES, "atypical": (5, 20, 100), "hard": (100,),
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One kind of request in one size.

    Attributes:
        kind: ``random``; ``class``: all of one class; ``subject``: all pictures of one person; ``atypical``: wrongly
            labelled; ``hard``: rightly labelled, and least known to a model that was trained on the other half.
        rows: The requested training rows, sorted.
    """

    kind: str
    rows: Int64[Tensor, " n"]

    @property
    def name(self) -> str:
        return f"{self.kind} {len(self.rows)}"

    @property
    def left_out_with(self) -> str:
        """Requests of the same answer are left out of one retrained model together, which never saw any of them."""
        small, alone = len(self.rows) <= 20, self.kind in ("class", "hard") or len(self.rows) > 100
        return "up to 20" if small else self.name if alone else "others of 100"


@dataclass(frozen=True)
class World:
    """What one seed gives.

    Attributes:
        data: Training samples and controls, as one data set; the record says which are which.
        trained: Rows the original was trained on.
        wrong: Whether each row has a wrong label.
        persons: Person each row shows; -1 for nobody.
        original: The network trained on all of `trained`.
        record: What its training left behind, references included.
        kept: Models that serve several requests, by name.
    """

    seed: int
    data: ImageData
    trained: Int64[Tensor, " t"]
    wrong: Tensor
    persons: Int64[Tensor, " n"]
    original: nn.Module
    record: TrainingRecord
    kept: dict[str, nn.Module] = field(default_factory=dict, repr=False)

    def images(self, rows: Tensor) -> Tensor:
        """The images of some rows, (n, 1, 14, 14)."""
        return self.data.images(rows)

    def cells(self) -> Iterator[Cell]:
        """The requests, drawn from this seed."""
        generator = torch.Generator().manual_seed(self.seed + 7000)
        labels = self.data.labels[self.trained]
        right = ~self.wrong[self.trained] & (self.persons[self.trained] < 0)
        pools = {
            "random": self.trained[self.persons[self.trained] < 0],
            "class": self.trained[right & (labels == self.seed % CLASSES)],
            "atypical": self.trained[self.wrong[self.trained]],
        }
        for kind, sizes in SIZES.items():
            for place, size in enumerate(sizes):
                if kind == "subject":
                    yield Cell(kind, (self.persons == place).nonzero().flatten())
                elif kind == "hard":
                    yield Cell(kind, self._hardest()[:size].sort().values)
                else:
                    order = torch.randperm(len(pools[kind]), generator=generator)[:size]
                    yield Cell(kind, pools[kind][order].sort().values)

    def _hardest(self) -> Int64[Tensor, " h"]:
        """Half of the single, rightly labelled rows, the hardest first; none of the references tells which."""
        generator = torch.Generator().manual_seed(self.seed + 8000)
        half, others = self.trained[torch.randperm(len(self.trained), generator=generator)].chunk(2)
        if "of one half" not in self.kept:
            self.kept["of one half"] = train(self.data.dataset, half, self.seed + 900)
        rows = others[~self.wrong[others] & (self.persons[others] < 0)]
        with torch.no_grad():
            logits = self.kept["of one half"](self.images(rows))
        return rows[log_odds(logits, self.data.labels[rows]).argsort(stable=True)]


def fresh(seed: int) -> nn.Module:
    """The network with new random weights."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model: nn.Module = timm.create_model("test_resnet", num_classes=CLASSES, in_chans=1)
    return model.to(memory_format=torch.channels_last)  # the same numbers, sooner


def make_world(root: Path, folder: Path, seed: int, purposes: Sequence[str] = ("judge",)) -> World:
    """Draw the data, train the original with the hook on, and add a pair of half models for each purpose."""
    images, labels, wrong, persons = _draw(root, seed)
    rows = Rows(images, labels, CLASSES)
    # controls are drawn like the single pictures of the training data; persons never become controls
    held = holdout(Subset(rows, (persons < 0).nonzero().flatten().tolist()), HELD_OUT, seed=seed)
    sealed = held.sealed()
    trained = torch.arange(len(rows))
    trained = trained[~sealed.contains(trained)]
    original = fresh(seed)
    torch.manual_seed(seed)
    optimizer = _optimizer(original)
    with record(folder, original, optimizer, plan=Plan(steps=12), holdout=held) as recorder:
        loader = DataLoader(Subset(rows, trained.tolist()), batch_size=BATCH, shuffle=True, drop_last=True)
        _epochs(original, optimizer, recorder.batches, loader)
    people = [f"person {person}" if person >= 0 else f"row {row}" for row, person in enumerate(persons.tolist())]
    for pair, purpose in enumerate(purposes):
        subjects = [people[row] for row in trained.tolist()]
        for half in halves(Subset(rows, trained.tolist()), pair, seed, subjects=subjects):
            add_reference(folder, train(rows, half.rows(), seed + 100 + pair), rows, half, purpose=purpose)
    data = ImageData(
        dataset=rows, ids=tuple(str(row) for row in range(len(rows))), labels=labels,
        classes=tuple(rows.classes), deterministic=True,
    )  # fmt: skip
    return World(seed, data, trained, wrong, persons, original.eval(), TrainingRecord.open(folder))


def train(rows: Rows, chosen: Int64[Tensor, " n"], seed: int) -> nn.Module:
    """Train a new network on some rows as the original was; returns it in evaluation mode."""
    model, generator = fresh(seed), torch.Generator().manual_seed(seed)

    def batches(_: object) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in chosen[torch.randperm(len(chosen), generator=generator)].split(BATCH):
            if len(batch) == BATCH:
                yield rows.images[batch], rows.labels[batch]

    _epochs(model, _optimizer(model), batches, range(len(chosen) // BATCH))
    return model.eval()


def _optimizer(model: nn.Module) -> Optimizer:
    return SGD(model.parameters(), lr=RATE, momentum=0.9, weight_decay=5e-4)


def _epochs(model: nn.Module, optimizer: Optimizer, batches: Callable[[Any], Any], loader: Any) -> None:
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=EPOCHS * len(loader) + 1)
    model.train()
    for _ in range(EPOCHS):
        for images, labels in batches(loader):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            schedule.step()


def _draw(root: Path, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, labels, which labels are wrong, and persons; the persons' pictures come last."""
    source = FashionMNIST(root, train=True)
    generator = torch.Generator().manual_seed(seed)
    single = TRAINED - sum(SERIES) + HELD_OUT
    chosen = torch.randperm(len(source), generator=generator)[: single + len(SERIES)]
    images = F.avg_pool2d((source.data[chosen, None] / 255 - 0.286) / 0.353, 28 // SIDE)
    labels = source.targets[chosen].clone()
    wrong = torch.rand(single, generator=generator) < WRONG_LABELS
    labels[:single][wrong] = (
        labels[:single][wrong] + torch.randint(1, CLASSES, (int(wrong.sum()),), generator=generator)
    ) % CLASSES
    shown = [_series(images[single + person], size, generator) for person, size in enumerate(SERIES)]
    persons = torch.full((single + sum(SERIES),), -1)
    persons[single:] = torch.arange(len(SERIES)).repeat_interleave(torch.tensor(SERIES))
    return (
        torch.cat([images[:single], *shown]),
        torch.cat([labels[:single], labels[single:].repeat_interleave(torch.tensor(SERIES))]),
        torch.cat([wrong, torch.zeros(sum(SERIES), dtype=torch.bool)]),
        persons,
    )


def _series(image: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Pictures of one person: the same thing turned, moved, lit and noised in another way each time."""
    turned = []
    for _ in range(size):
        angle, dx, dy, light = (torch.rand(4, generator=generator) * 2 - 1).tolist()
        moved = pictures.affine(
            image, angle=12 * angle, translate=[2 * dx, 2 * dy], scale=1.0, shear=[0.0, 0.0], fill=[float(image.min())]
        )
        turned.append((1 + 0.2 * light) * moved + 0.1 * torch.randn(image.shape, generator=generator))
    return torch.stack(turned)
