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
METHODS = ("finetune", "neg_grad_plus", "mini", "muda", "mixunlearn")


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


def retrained(world: World, cell: Cell) -> nn.Module:
    return train(world.data.dataset, _retained(world, cell), world.seed + 500)


def untouched(world: World, cell: Cell) -> nn.Module:
    """The original under another name: one millionth of the weights' size is added, so that the digest differs."""
    model = copy.deepcopy(world.original)
    generator = torch.Generator().manual_seed(world.seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1e-6 * parameter.abs().mean() * torch.randn(parameter.shape, generator=generator)
    return model


def fine_tuned(world: World, cell: Cell) -> nn.Module:
    return _descend(world, _retained(world, cell), epochs=1, rate=0.01)


def head_refitted(world: World, cell: Cell) -> nn.Module:
    """Only the head forgets: it is made anew and trained on R, the features stay."""
    model = copy.deepcopy(world.original)
    model.reset_classifier(CLASSES)
    return _descend(world, _retained(world, cell), epochs=5, rate=0.05, model=model, only="fc")


def suppressed(world: World, cell: Cell) -> nn.Module:
    return _Masked(world, cell, lambda logits, labels, _: logits - 4.0 * F.one_hot(labels, CLASSES))


def noised(world: World, cell: Cell) -> nn.Module:
    generator = torch.Generator().manual_seed(world.seed)
    noise = 4.0 * torch.randn((len(cell.rows), CLASSES), generator=generator)
    return _Masked(world, cell, lambda logits, _, places: logits + noise[places])


def relabelled(world: World, cell: Cell) -> nn.Module:
    """F is taught with random other labels for two epochs, R beside it."""
    generator = torch.Generator().manual_seed(world.seed)
    labels = world.data.labels.clone()
    shift = torch.randint(1, CLASSES, (len(cell.rows),), generator=generator)
    labels[cell.rows] = (labels[cell.rows] + shift) % CLASSES
    return _descend(world, world.trained, epochs=2, rate=0.005, labels=labels)


def over_forgotten(world: World, cell: Cell) -> nn.Module:
    """Gradient ascent on F, descent on R beside it, until not one picture of F is recognised."""
    model, images, labels = copy.deepcopy(world.original), world.images(cell.rows), world.data.labels[cell.rows]
    optimizer = SGD(model.parameters(), lr=0.01)
    retained, generator = _retained(world, cell), torch.Generator().manual_seed(world.seed)
    for _ in range(100):
        logits = model(images)
        if not bool((logits.argmax(1) == labels).any()):
            break
        batch = retained[torch.randint(len(retained), (BATCH,), generator=generator)]
        kept = F.cross_entropy(model(world.images(batch)), world.data.labels[batch])
        optimizer.zero_grad()
        (kept - F.cross_entropy(logits, labels).clamp(max=10.0)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model


def _retained(world: World, cell: Cell) -> Tensor:
    return world.trained[~torch.isin(world.trained, cell.rows)]


def _descend(
    world: World,
    rows: Tensor,
    *,
    epochs: int,
    rate: float,
    model: nn.Module | None = None,
    labels: Tensor | None = None,
    only: str = "",
) -> nn.Module:
    """Plain SGD on some rows, from the original if no model is given, in those parameters whose names begin so."""
    model = copy.deepcopy(world.original) if model is None else model
    labels = world.data.labels if labels is None else labels
    optimizer = SGD([value for name, value in model.named_parameters() if name.startswith(only)], lr=rate, momentum=0.9)
    generator = torch.Generator().manual_seed(world.seed)
    model.train(not only)  # a head alone learns on features as they are in evaluation
    for _ in range(epochs):
        for batch in rows[torch.randperm(len(rows), generator=generator)].split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(world.images(batch)), labels[batch]).backward()
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
