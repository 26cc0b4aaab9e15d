"""The judge as the product has it, on one model of the zoo: all measurements that count, and the verdict."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tests.benchmarks.trial import make_trial
from tests.benchmarks.zoo.world import CLASSES, Cell, World
from unlearn_plugin.metrics.base import Trial
from unlearn_plugin.probes import PROBES
from unlearn_plugin.registry import metrics
from unlearn_plugin.report.report import rounded
from unlearn_plugin.verdict import Verdict, decide

# what the verdict does not look at; leaving it out saves most of the zoo's time
NOT_JUDGED = {
    "alignment",
    "change",
    "clusters",
    "completeness",
    "conformal",
    "feature_space",
    "suppression",
    "tails",
    "three_way",
}
_RETAINED = 1000
_PROBED = 1000  # samples of each kind that a probe looks at, at most; by itself it takes 2,000


def trial_of(world: World, cell: Cell) -> Trial:
    """What the judge looks at for one request."""
    retained = world.trained[~torch.isin(world.trained, cell.rows)]
    order = torch.randperm(len(retained), generator=torch.Generator().manual_seed(world.seed))[:_RETAINED]
    return make_trial(world, cell.rows, retained[order].sort().values, one_subject=cell.kind == "subject")


def measure(model: nn.Module, trial: Trial) -> dict[str, Any]:
    """Measurements of one model, by metric."""
    family = metrics()
    names = [name for name in family.names() if name not in NOT_JUDGED]
    options = {name: {"samples": str(_PROBED)} if name in PROBES else {} for name in names}
    return {name: family.create(name, options[name]).measure(model, trial).as_dict() for name in names}


def judge(cell: Cell, before: Mapping[str, Any], after: Mapping[str, Any], tier: str) -> Verdict:
    """The verdict on what was measured before and after; tier A does without what the references gave."""
    names = [name for name in before if tier == "B" or not name.startswith("calibrated_")]
    measurements = {name: {"before": before[name], "after": after[name], "reference": None} for name in names}
    return decide(
        rounded({
            "guard": {"reasons": []},
            "procedure": {"exact": False},
            "request": {"kind": "samples", "n_subjects": 1 if cell.kind == "subject" else None},
            "model": {"num_classes": CLASSES, "reference": None},
            "measurements": measurements,
        })
    )
