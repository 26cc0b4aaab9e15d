"""Models whose truth is known, made from the original of a world for one request."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import SGD

from tests.benchmarks.zoo.world import BATCH, CLASSES, Cell, World, fresh, train
from unlearn_hooks.controls import recorded_holdout
from unlearn_hooks.references import without_judge
from unlearn_plugin.data import Samples
from unlearn_plugin.progress import Progress
from unlearn_plugin.registry import unlearners
from unlearn_plugin.unlearners.base import Evidence

Truth = Literal["forgotten", "kept", "unknown"]
METHODS = ("mini", "muda", "mixunlearn", "matching", "neg_grad_plus", "finetune")


@dataclass(frozen=True)
class Case:
    """One way to answer a request.

    Attributes:
        truth: ``forgotten``: the model never saw the request; ``kept``: it did, and what was done to it does not
            change that, so that certifying it is wrong; ``unknown``: a method did its best.
        make: Makes the model.
    """

    truth: Truth
    make: Callable[[World, Cell], nn.Module]

    def answers(self, cell: Cell) -> bool:
        """Whether it is tried: methods take long, and on small requests or one person's no verdict decides."""
        return self.truth != "unknown" or (cell.kind != "subject" and len(cell.rows) >= 100)


def retrained(world: World, cell: Cell) -> nn.Module:
    """Trained anew, from another seed, without the request and without those that are left out with it."""
    name = f"retrained without {cell.left_out_with}"
    if name not in world.kept:
        together = [other.rows for other in world.cells() if other.left_out_with == cell.left_out_with]
        kept = world.trained[~torch.isin(world.trained, torch.cat(together))]
        world.kept[name] = train(world.data.dataset, kept, world.seed + 500)
    return world.kept[name]


def untouched(world: World, cell: Cell) -> nn.Module:
    """The original under another name: one millionth of the weights' size is added, so that the digest differs."""
    model = copy.deepcopy(world.original)
    generator = torch.Generator().manual_seed(world.seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1e-6 * parameter.abs().mean() * torch.randn(parameter.shape, generator=generator)
    return model


def fine_tuned(world: World, cell: Cell) -> nn.Module:
    rows = _retained(world, cell)
    return _descend(
        copy.deepcopy(world.original), world.images(rows), world.data.labels[rows], epochs=1, rate=0.01, seed=world.seed
    )


def head_refitted(world: World, cell: Cell) -> nn.Module:
    """Only the head forgets: it is made anew and trained on R, the features stay."""
    model, rows = copy.deepcopy(world.original), _retained(world, cell)
    with torch.random.fork_rng([]):
        torch.manual_seed(world.seed)
        model.reset_classifier(CLASSES)
    with torch.no_grad():
        features = model.forward_head(model.forward_features(world.images(rows)), pre_logits=True)
    _descend(model.get_classifier(), features, world.data.labels[rows], epochs=5, rate=0.05, seed=world.seed)
    return model


def suppressed(world: World, cell: Cell) -> nn.Module:
    return _Masked(world, cell, lambda logits, labels, _: logits - 4.0 * F.one_hot(labels, CLASSES))


def noised(world: World, cell: Cell) -> nn.Module:
    generator = torch.Generator().manual_seed(world.seed)
    noise = 4.0 * torch.randn((len(cell.rows), CLASSES), generator=generator)
    return _Masked(world, cell, lambda logits, _, places: logits + noise[places])


def relabelled(world: World, cell: Cell) -> nn.Module:
    """F is taught with random other labels for two epochs, R beside it."""
    model, generator = copy.deepcopy(world.original), torch.Generator().manual_seed(world.seed)
    labels = world.data.labels.clone()
    shift = torch.randint(1, CLASSES, (len(cell.rows),), generator=generator)
    labels[cell.rows] = (labels[cell.rows] + shift) % CLASSES
    rows = world.trained
    return _descend(model, world.images(rows), labels[rows], epochs=2, rate=0.005, seed=world.seed)


def over_forgotten(world: World, cell: Cell) -> nn.Module:
    """Gradient ascent on F, descent on R beside it, until not one picture of F is recognised."""
    model, images, labels = copy.deepcopy(world.original), world.images(cell.rows), world.data.labels[cell.rows]
    optimizer = SGD(model.parameters(), lr=0.05)
    retained, generator = _retained(world, cell), torch.Generator().manual_seed(world.seed)

    def some(rows: Tensor) -> Tensor:
        return torch.randperm(len(rows), generator=generator)[:BATCH]

    for _ in range(40):
        if not _recognised(model, images, labels):
            break
        asked, batch = some(cell.rows), retained[some(retained)]
        kept = F.cross_entropy(model(world.images(batch)), world.data.labels[batch])
        optimizer.zero_grad()
        lost = F.cross_entropy(model(images[asked]), labels[asked], reduction="none").clamp(max=10.0).mean()
        (kept - lost).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model


@torch.inference_mode()
def _recognised(model: nn.Module, images: Tensor, labels: Tensor) -> bool:
    return bool((model(images).argmax(1) == labels).any())


def _retained(world: World, cell: Cell) -> Tensor:
    return world.trained[~torch.isin(world.trained, cell.rows)]


def _descend(model: nn.Module, inputs: Tensor, labels: Tensor, *, epochs: int, rate: float, seed: int) -> nn.Module:
    """Plain SGD; returns the model in evaluation mode."""
    optimizer = SGD(model.parameters(), lr=rate, momentum=0.9)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(inputs), generator=generator).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[batch]), labels[batch]).backward()
            optimizer.step()
    return model.eval()


class _Masked(nn.Module):
    """Knows the requested pictures by heart and changes its answers for these alone."""

    def __init__(self, world: World, cell: Cell, change: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.model = copy.deepcopy(world.original)
        self._labels, self._change = world.data.labels[cell.rows], change
        self._place = {_key(image): place for place, image in enumerate(world.images(cell.rows))}

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        found = [(row, self._place[key]) for row, key in enumerate(map(_key, images)) if key in self._place]
        if found:
            rows, places = torch.tensor(found).T
            logits[rows] = self._change(logits[rows], self._labels[places], places)
        return logits


def _key(image: Tensor) -> bytes:
    return image.numpy().tobytes()


def _by_method(name: str) -> Callable[[World, Cell], nn.Module]:
    def make(world: World, cell: Cell) -> nn.Module:
        model = copy.deepcopy(world.original)
        held = recorded_holdout(world.record)
        evidence = Evidence(
            forget=Samples(world.data, cell.rows), retain=Samples(world.data, _retained(world, cell)),
            tuning=Samples(world.data, held.tuning), record=without_judge(world.record), classes=CLASSES, fresh=fresh,
            accelerator=Accelerator(cpu=True), seed=world.seed, progress=Progress(enabled=False),
        )  # fmt: skip
        unlearners().create(name, {}).unlearn(model, evidence)
        return model.eval()

    return make


CASES: Mapping[str, Case] = {
    "retrained": Case("forgotten", retrained),
    "untouched": Case("kept", untouched),
    "fine-tuned a little": Case("kept", fine_tuned),
    "head refitted": Case("kept", head_refitted),
    "logits suppressed": Case("kept", suppressed),
    "logits noised": Case("kept", noised),
    "relabelled": Case("kept", relabelled),
    "over-forgotten": Case("kept", over_forgotten),
    **{name: Case("unknown", _by_method(name)) for name in METHODS},
}
