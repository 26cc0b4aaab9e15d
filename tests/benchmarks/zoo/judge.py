"""The judge as the product has it, on one model of the zoo: all measurements that count, and the verdict."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from tests.benchmarks.trial import make_trial
from tests.benchmarks.zoo.world import CLASSES, Cell, World
from unlearn_plugin.measurement import Measurement
from unlearn_plugin.metrics.base import Trial
from unlearn_plugin.primary import primary
from unlearn_plugin.probes import PROBES
from unlearn_plugin.registry import metrics
from unlearn_plugin.report.report import rounded
from unlearn_plugin.verdict import Verdict, decide

Measured = dict[str, Any]

NULL_CONTROL = {"A": "null_control", "B": "calibrated_null_control"}
_FIRST = {"A": ("utility", "membership"), "B": ("utility", "calibrated_membership")}
_WITHOUT_REFERENCES = ("utility", "linear_probe")  # the same in both tiers
_RETAINED = 1000
_PROBED = 1000  # samples of each kind that a probe looks at, at most; by itself it takes 2,000
_ALARM: Measured = {
    "value": 1.0, "low": 1.0, "high": 1.0, "details": {"p_value": 0.0, "cramer_von_mises_p_value": 0.0},
}  # fmt: skip
_QUIET: Measured = {
    "value": 0.0, "low": 0.0, "high": 0.0, "details": {"p_value": 1.0, "cramer_von_mises_p_value": 1.0},
}  # fmt: skip


@dataclass(frozen=True)
class Judged:
    """The verdict on one model.

    Attributes:
        verdict: By the whole rule.
        without: What the status were if nothing were known of the request's difficulty, line 13 of the rule.
        difficulty: AUC by which that line decides; ``None`` where it is not known.
    """

    verdict: Verdict
    without: str
    difficulty: float | None

    @property
    def status(self) -> str:
        return self.verdict.status


def trials_of(world: World, cell: Cell) -> dict[str, Trial]:
    """What the judge looks at for one request, by tier; tier A does without what the references give."""
    retained = world.trained[~torch.isin(world.trained, cell.rows)]
    order = torch.randperm(len(retained), generator=torch.Generator().manual_seed(world.seed))[:_RETAINED]
    trial = make_trial(world, cell.rows, retained[order].sort().values, one_subject=cell.kind == "subject")
    return {"A": replace(trial, references={}), "B": trial}


def measure(model: nn.Module, trial: Trial, names: Iterable[str]) -> Measured:
    """Measure a model by some metrics."""
    options = {name: {"samples": str(_PROBED)} if name in PROBES else {} for name in names}
    return {name: metrics().create(name, given).measure(model, trial).as_dict() for name, given in options.items()}


def before(trial: Trial) -> Measured:
    """All that the rule looks at of the model before."""
    return measure(trial.original, trial, _FIRST[_tier(trial)])


def judge(cell: Cell, seen: Mapping[str, Measured], model: nn.Module, trials: Mapping[str, Trial]) -> dict[str, Judged]:
    """The verdict on a model by each tier, with `seen` of the one before.

    The verdict is a pure function, so what is not measured yet can be supposed both ways. Measuring ends when the
    verdict is the same whatever the rest would say: most models of the zoo are found out before the last probe.
    """
    found: dict[str, Judged] = {}
    shared: Measured = {}
    for tier, trial in trials.items():
        after, rest = {}, further(trial)
        wanted = list(_FIRST[tier])
        while tier not in found:
            fresh = [name for name in wanted if name not in shared]
            after |= {name: shared[name] for name in wanted if name in shared} | measure(model, trial, fresh)
            shared |= {name: after[name] for name in _WITHOUT_REFERENCES if name in after}
            possible = [_decide(cell, seen[tier], after | supposed) for supposed in _suppositions(rest)]
            if len({(judged.status, judged.without) for judged in possible}) == 1:
                found[tier] = possible[0]
            wanted = [rest.pop(0)] if rest else []
    return found


def further(trial: Trial) -> list[str]:
    """What the rule looks at in the model after and not before, in the order in which it is measured."""
    tier = _tier(trial)
    return [NULL_CONTROL[tier], *(name for name in PROBES if metrics().get(name).tier <= tier), "tails"]


def _suppositions(rest: Sequence[str]) -> list[Measured]:
    """Everything that what is not measured yet could say to the rule."""
    kinds = (
        ([name for name in rest if name in NULL_CONTROL.values()], (None, _QUIET, _ALARM)),
        ([name for name in rest if name in PROBES], (_QUIET, _ALARM)),
        ([name for name in rest if name == "tails"], (_QUIET, _ALARM)),
    )
    choices = [[dict.fromkeys(names, one) for one in says] for names, says in kinds if names]
    return [dict(itertools.chain.from_iterable(map(dict.items, chosen))) for chosen in itertools.product(*choices)]


def _tier(trial: Trial) -> str:
    return "B" if trial.references else "A"


def oracle(model: nn.Module, retrained: nn.Module, trial: Trial) -> Measurement:
    """What somebody sees who has a model retrained without the request, and calibrates by its margins.

    No judge has that. It tells what a method has left where its verdict cannot: in a model that never saw the request
    it is 0.5, whatever the request is like.
    """
    margins = {split: trial.outputs(retrained, split).margins for split in trial.references}
    return metrics().create("calibrated_membership", {}).measure(model, replace(trial, references=margins))


def _decide(cell: Cell, seen: Measured, after: Measured) -> Judged:
    measurements = {name: {"before": seen.get(name), "after": after[name], "reference": None} for name in after}
    report = rounded({
        "guard": {"reasons": []},
        "procedure": {"exact": False},
        "request": {"kind": "samples", "n_subjects": 1 if cell.kind == "subject" else None},
        "model": {"num_classes": CLASSES, "reference": None},
        "measurements": measurements,
    })
    verdict = decide(report)
    details = (report["measurements"][primary(report)]["after"] or {})["details"]
    difficulty = details.pop("difficulty", None)
    return Judged(verdict, decide(report).status, difficulty)
