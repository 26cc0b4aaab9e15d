"""Trials made of plain feature vectors: an image *is* its feature, and a linear head is the whole model."""

from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from unlearn_plugin.data import ImageData, Samples
from unlearn_plugin.metrics.base import Split, Trial
from unlearn_plugin.progress import Progress

Labelled = tuple[Tensor, Sequence[int]]


class HeadOnly(nn.Module):
    """Logits = W z + b, with z the flattened image; W is the identity unless given."""

    def __init__(self, dimensions: int, classes: int, weight: Tensor | None = None) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(dimensions, classes)
        with torch.no_grad():
            self.fc.weight.copy_(torch.eye(classes, dimensions) if weight is None else weight)
            self.fc.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.flatten(images))


def samples_of(features: Tensor, labels: Sequence[int], classes: int) -> Samples:
    """Samples whose images are the given vectors."""
    images = features.float().reshape(len(features), 1, 1, -1)
    data = ImageData(
        dataset=list(zip(images, list(labels), strict=True)),
        ids=tuple(f"sample-{row}" for row in range(len(images))),
        labels=torch.tensor(list(labels), dtype=torch.int64),
        classes=tuple(f"class-{label}" for label in range(classes)),
        deterministic=True,
    )
    return Samples(data, torch.arange(len(images)))


def make_trial(
    forget: Labelled,
    retain: Labelled,
    controls: Labelled,
    *,
    original: nn.Module,
    classes: int,
    subjects: Sequence[int] | None = None,
    forgotten_classes: tuple[int, ...] = (),
    seed: int = 0,
    tuning: Labelled | None = None,
    references: Mapping[Split, Tensor] | None = None,
) -> Trial:
    """A trial on three sets of (vectors, labels), or four; and margins of reference models by split."""
    return Trial(
        forget=samples_of(*forget, classes),
        retain=samples_of(*retain, classes),
        controls=samples_of(*controls, classes),
        tuning=None if tuning is None else samples_of(*tuning, classes),
        references={} if references is None else references,
        subjects=None if subjects is None else torch.tensor(list(subjects), dtype=torch.int64),
        forgotten_classes=forgotten_classes,
        classes=tuple(f"class-{label}" for label in range(classes)),
        original=original,
        accelerator=Accelerator(cpu=True),
        seed=seed,
        progress=Progress(enabled=False),
    )


def with_margins(margins: Tensor, labels: Sequence[int], classes: int) -> Tensor:
    """Vectors for which `HeadOnly` gives exactly these margins: z_y = margin + log(classes - 1), the others 0."""
    vectors = torch.zeros(len(margins), classes)
    places = torch.arange(len(margins)), torch.tensor(list(labels))
    vectors[places] = margins.float() + torch.tensor(classes - 1.0).log()
    return vectors
