"""A world in which forgetting shows: digits with wrong labels, a net that learnt them by heart, and one retrained."""

import copy
from dataclasses import dataclass, replace
from functools import cache

import torch
from accelerate import Accelerator
from torch import nn

from tests.conftest import digits, fresh_net, image_data
from unlearn_plugin.data import Samples
from unlearn_plugin.outputs import Outputs, compute_outputs
from unlearn_plugin.progress import Progress
from unlearn_plugin.training import Recipe, train
from unlearn_plugin.unlearners._steps import advantage
from unlearn_plugin.unlearners.base import Evidence, Unlearner

TRAINED, HELD_OUT, FORGET = 300, 600, 60
ACCELERATOR, QUIET = Accelerator(cpu=True), Progress(enabled=False)
RECIPE = Recipe(learning_rate=0.1, epochs=20, batch_size=32)


@dataclass(frozen=True)
class SmallWorld:
    """The evidence, the model trained on all data, the model trained without F, and unseen data for the judge."""

    evidence: Evidence
    original: nn.Module
    retrained: nn.Module
    unseen: Samples

    def forgotten(self, method: Unlearner, seed: int = 0) -> nn.Module:
        """A copy of the original after the method."""
        model = copy.deepcopy(self.original)
        method.unlearn(model, replace(self.evidence, seed=seed))
        return model

    def accuracy(self, model: nn.Module, samples: Samples) -> float:
        return float(outputs(model, samples).correct.float().mean())

    def advantage(self, model: nn.Module) -> float:
        """Membership AUC of F, against samples that no method saw."""
        found = advantage(
            outputs(model, self.evidence.forget), outputs(model, self.unseen), self.evidence.forgotten_classes
        )
        assert found is not None
        return found


def outputs(model: nn.Module, samples: Samples) -> Outputs:
    return compute_outputs(model, samples, ACCELERATOR, batch_size=300, progress=QUIET)


@cache
def make_world(forgotten_class: int | None = None) -> SmallWorld:
    """The world of a request for 60 random samples, or for one whole class."""
    images, labels = digits()
    data, heldout = (image_data(images[a:b], labels[a:b]) for a, b in ((0, TRAINED), (TRAINED, TRAINED + HELD_OUT)))
    gone = torch.arange(TRAINED) < FORGET if forgotten_class is None else data.labels == forgotten_class
    forget, retain = (Samples(data, chosen.nonzero().flatten()) for chosen in (gone, ~gone))
    half = torch.arange(HELD_OUT // 2)
    evidence = Evidence(
        forget=forget, retain=retain, tuning=Samples(heldout, half), classes=10,
        forgotten_classes=() if forgotten_class is None else (forgotten_class,),
        fresh=fresh_net, accelerator=ACCELERATOR, progress=QUIET,
    )  # fmt: skip
    original, retrained = fresh_net(1), fresh_net(2)
    for model, samples in ((original, Samples(data, torch.arange(TRAINED))), (retrained, retain)):
        train(model, samples, RECIPE, accelerator=ACCELERATOR, seed=1, progress=QUIET)
        model.eval()
    return SmallWorld(evidence, original, retrained, Samples(heldout, half + HELD_OUT // 2))
