"""The numbers of one model on one request, and how far they are from those of retrained models."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from tests.benchmarks.suite.world import Request, World
from unlearn_hooks.controls import recorded_holdout
from unlearn_hooks.references import recorded_references
from unlearn_plugin.data import Samples
from unlearn_plugin.guard import inspect_change
from unlearn_plugin.metrics.base import Trial
from unlearn_plugin.probes import PROBES
from unlearn_plugin.progress import Progress
from unlearn_plugin.registry import metrics
from unlearn_plugin.report.report import rounded
from unlearn_plugin.verdict import decide

COMPARED = ("RA", "FA", "TA", "AUC")
_SHOWN = ("utility", "membership", "calibrated_membership", "alignment", "linear_probe", "clusters")
_JUDGED = ("utility", "membership", "calibrated_membership", "null_control", "calibrated_null_control", *PROBES)
_LARGE_PART = 0.1  # of a class; as in `unlearn_plugin.splits`

Numbers = dict[str, float | None]


@dataclass(frozen=True)
class Judge:
    """What is looked at for one request of one world.

    Attributes:
        trial: As the product makes it.
        seen: The same with controls on which accuracy means something, where those of the trial are persons never met.
    """

    world: World
    request: Request
    trial: Trial
    seen: Trial
    _before: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, world: World, request: Request) -> "Judge":
        held, references = recorded_holdout(world.record), recorded_references(world.record, "judge")
        rows = {
            "forget": request.rows,
            "retain": world.retained(request),
            "controls": held.verdict,
            "tuning": held.tuning,
        }
        trial = Trial(
            **{split: Samples(world.data, chosen) for split, chosen in rows.items()},
            subjects=torch.zeros(len(request.rows), dtype=torch.int64) if request.kind == "subject" else None,
            forgotten_classes=request.classes,
            largely_requested=_largely_requested(world, request),
            classes=world.data.classes,
            original=world.original,
            accelerator=Accelerator(cpu=True),
            seed=world.seed,
            batch_size=500,
            progress=Progress(enabled=False),
            references={
                split: references.one_of_each_pair(rows[split], world.seed)
                for split in ("forget", "controls", "tuning")
            },
        )
        unseen = world.validation(request)
        seen = trial if unseen is None else replace(trial, controls=Samples(world.data, unseen), _outputs={})
        return cls(world, request, trial, seen)

    def measure(self, model: nn.Module, *, exact: bool = False, verdict: bool = True) -> dict[str, Any]:
        """The numbers of a model, and the verdict if wanted: that of the product with references (tier B)."""
        found = self._measured(
            model, (*_SHOWN, *(name for name in _JUDGED if name not in _SHOWN)) if verdict else _SHOWN
        )
        utility = metrics().create("utility", {}).measure(model, self.seen).as_dict()["details"]
        row = {
            "RA": utility["retain"]["value"],
            "FA": utility["forget"]["value"],
            "TA": utility["controls"]["value"],
            "AUC": found["membership"]["value"],
            "AUC, calibrated": found["calibrated_membership"]["value"],
            "DA": found["alignment"]["value"],
            "LP": found["linear_probe"]["value"],
            "NMI": found["clusters"]["details"]["nmi"],
        }
        if verdict and model is not self.world.original:
            row |= self._verdict(model, found, exact)
        if model is not self.world.original:
            self.trial.release(model)
            self.seen.release(model)
        return row

    def _measured(self, model: nn.Module, names: Iterable[str]) -> dict[str, Any]:
        family = metrics()
        return {name: family.create(name, {}).measure(model, self.trial).as_dict() for name in names}

    def _verdict(self, model: nn.Module, after: Mapping[str, Any], exact: bool) -> dict[str, Any]:
        if not self._before:
            self._before.update(self._measured(self.world.original, _JUDGED))
        request = self.request
        verdict = decide(
            rounded({
                "guard": inspect_change(self.world.original, model, self.trial),
                "procedure": {"exact": exact},
                "request": {
                    "kind": "classes" if request.classes else "samples",
                    "n_subjects": 1 if request.kind == "subject" else None,
                },
                "model": {"num_classes": self.world.task.classes, "reference": None},
                "measurements": {
                    name: {"before": self._before[name], "after": after[name], "reference": None} for name in _JUDGED
                },
            })
        )
        return {"verdict": verdict.status, "outcome": verdict.outcome, "reason": verdict.reasons[0]}


def gap(row: Mapping[str, Any], references: Sequence[Mapping[str, Any]]) -> float:
    """Average gap: mean over RA, FA, TA and AUC of the distance to the mean of the retrained models."""
    return statistics.mean(abs(_difference(row, references, name)) for name in COMPARED)


def tug_of_war(row: Mapping[str, Any], references: Sequence[Mapping[str, Any]]) -> float:
    """ToW = (1 - |dFA|) (1 - |dRA|) (1 - |dTA|) against the mean of the retrained models; 1 is best.

    Source: Zhao et al. 2024, arXiv 2406.01257, equation 2.
    """
    product = 1.0
    for name in ("FA", "RA", "TA"):
        product *= 1 - abs(_difference(row, references, name))
    return product


def _difference(row: Mapping[str, Any], references: Sequence[Mapping[str, Any]], name: str) -> float:
    return float(row[name]) - statistics.mean(float(one[name]) for one in references)


def _largely_requested(world: World, request: Request) -> tuple[int, ...]:
    requested, there = (
        torch.bincount(world.data.labels[rows], minlength=world.task.classes) for rows in (request.rows, world.trained)
    )
    found = ((requested > 0) & (requested >= _LARGE_PART * there)).nonzero().flatten().tolist()
    return tuple(label for label in found if label not in request.classes)
