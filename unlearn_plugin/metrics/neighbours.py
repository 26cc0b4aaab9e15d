"""Neighbours: is F known by slightly changed copies, and what became of the retained samples that are most like it?"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float32
from torch import Tensor, nn

from unlearn_plugin.data import ImageData, Samples
from unlearn_plugin.measurement import Measurement
from unlearn_plugin.metrics._contest import NOT_COMPARABLE, Contest, compare, without_p_value
from unlearn_plugin.metrics.base import Goal, Metric, Trial
from unlearn_plugin.outputs import Outputs

__all__ = ["CHANGES", "Neighbours", "nearest_retained"]

_NOISE = 0.1  # of an image's own standard deviation
_SHIFT = 16  # part of the width that an image is moved by

Change = Callable[[Float32[Tensor, "c h w"], torch.Generator], Float32[Tensor, "c h w"]]


def _noise(image: Float32[Tensor, "c h w"], generator: torch.Generator) -> Float32[Tensor, "c h w"]:
    return image + _NOISE * image.std(correction=0) * torch.randn(image.shape, generator=generator)


def _shift(image: Float32[Tensor, "c h w"], generator: torch.Generator) -> Float32[Tensor, "c h w"]:
    """Move by a sixteenth of the size, at least by a pixel, along a diagonal; the border is repeated."""
    height, width = image.shape[1:]
    down, right = max(1, height // _SHIFT), max(1, width // _SHIFT)
    top, left = (torch.randint(2, (2,), generator=generator) * torch.tensor([2 * down, 2 * right])).tolist()
    wide = F.pad(image[None], (right, right, down, down), mode="replicate")[0]
    return wide[:, top : top + height, left : left + width]


def _flip(image: Float32[Tensor, "c h w"], generator: torch.Generator) -> Float32[Tensor, "c h w"]:
    return image.flip(-1)


CHANGES: dict[str, Change] = {"noise": _noise, "shift": _shift, "flip": _flip}


@dataclass(frozen=True, kw_only=True)
class Neighbours(Metric):
    """The membership test on neighbours of F: changed copies of its images, and retained samples like them.

    Value: the AUC of `membership` with the mean margin of three copies of each image of F and of the controls: with
    noise of a tenth of the image's standard deviation, moved by a sixteenth of its size, and mirrored. The copies are
    drawn from the judge's seed, no method sees them. With reference models the margin expected of each image is taken
    off first, see `calibrate`. A model that never saw F gives 0.5. ``p_value`` is that of the
    value; the AUC of each kind of copy stands beside it.

    ``details["retained"]``: the AUC of the margins of the retained samples nearest to F (Euclidean, same class, in the
    features of the model *before*) against the other retained samples of their classes. Its change from before to
    after tells what the request did to those who stay: far below, they were pulled along; far above, they are now the
    ones that stand out (the onion effect). Retraining moves it as well, so the verdict does not use it.

    Attributes:
        samples: Samples of F, and controls, that are looked at, at most.

    Source: residual knowledge under perturbation, arXiv 2601.22359; onion effect: Carlini et al. 2022, arXiv
    2206.10469. We compare margins with those of unseen data instead of predictions with those of a retrained model.
    """

    samples: int = 2000

    goal = Goal.LIKE_REFERENCE
    title = "Changed copies"
    explanation = (
        "Whether slightly changed copies of the requested pictures (noise, a small shift, mirrored) can be told apart "
        "from such copies of pictures the model never saw: 0.5 means not at all, 1 means always."
    )
    source = "https://arxiv.org/abs/2601.22359; Carlini et al. 2022, https://arxiv.org/abs/2206.10469"

    def measure(self, model: nn.Module, trial: Trial) -> Measurement:
        """Attack `model` with changed copies.

        Args:
            model: The model before, after, or the reference.
            trial: What the judge looks at.

        Returns:
            The AUC of the mean margins; missing when no class of F has enough controls.
        """
        contest = Contest.of(trial, self.samples)
        seen = {name: _changed(contest, name, trial.seed).margins(model, trial) for name in CHANGES}
        main = contest.compare([np.mean(part, axis=0) for part in zip(*seen.values(), strict=True)])
        if main is None:
            return Measurement.missing(NOT_COMPARABLE)
        details = {
            **{name: without_p_value(contest.compare(margins)) for name, margins in seen.items()},
            "p_value": main["p_value"],
            "retained": without_p_value(_retained(model, trial)),
        }
        return Measurement(value=main["value"], low=main["low"], high=main["high"], n=main["n"], details=details)


def nearest_retained(forget: Outputs, retain: Outputs) -> Bool[np.ndarray, " r"]:
    """Mark the retained samples that are nearest to a sample of F of their own class.

    Args:
        forget: Features and labels of F.
        retain: Those of R.

    Returns:
        Which of R are the nearest one of some sample of F.
    """
    near = torch.zeros(len(retain.labels), dtype=torch.bool)
    for label in set(forget.labels.tolist()):
        there = (retain.labels == label).nonzero().flatten()
        for some in torch.split(forget.features[forget.labels == label], 1024):
            if len(there):
                near[there[torch.cdist(some, retain.features[there]).argmin(1)]] = True
    marked: Bool[np.ndarray, " r"] = near.numpy()
    return marked


def _retained(model: nn.Module, trial: Trial) -> dict[str, Any] | None:
    before = trial.outputs(trial.original, "retain")
    near = nearest_retained(trial.outputs(trial.original, "forget"), before)
    margins, labels = trial.outputs(model, "retain").margins.numpy(), before.labels.numpy()
    return compare(margins[near], labels[near], margins[~near], labels[~near])


@dataclass(frozen=True)
class _Changed:
    """Samples whose images are changed; the same row is always changed in the same way."""

    samples: Samples
    change: Change
    seed: int

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        images, labels, _ = self.samples[row]
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + row)
        return self.change(images[0], generator), int(labels[0])


def _changed(contest: Contest, name: str, seed: int) -> Contest:
    def changed(samples: Samples) -> Samples:
        data = ImageData(
            dataset=_Changed(samples, CHANGES[name], seed),
            ids=samples.ids,
            labels=samples.labels,
            classes=samples.data.classes,
            deterministic=False,  # looked at once: not to be kept
        )
        return Samples(data, torch.arange(len(samples)))

    tuning = None if contest.tuning is None else changed(contest.tuning)
    return replace(contest, forget=changed(contest.forget), controls=changed(contest.controls), tuning=tuning)
