"""The numbers of one model on one request, and how far they are from those of retrained models."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from tests.benchmarks.suite.world import Request, World
from tests.benchmarks.trial import make_trial
from unlearn_plugin.data import Samples
from unlearn_plugin.guard import inspect_change
from unlearn_plugin.metrics.base import Trial
from unlearn_plugin.probes import PROBES
from unlearn_plugin.registry import metrics
from unlearn_plugin.report.report import rounded
from unlearn_plugin.verdict import decide

COMPARED = ("RA", "FA", "TA", "AUC")
_SHOWN = ("utility", "membership", "calibrated_membership", "alignment", "linear_probe", "clusters")
_JUDGED = ("utility", "membership", "calibrated_membership", "null_control", "calibrated_null_control", *PROBES)

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
        trial = make_trial(
            world, request.rows, world.retained(request), one_subject=request.kind == "subject", classes=request.classes
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
