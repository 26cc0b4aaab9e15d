import dataclasses

import pytest
import torch
from torch import nn

from tests.conftest import World
from unlearn_plugin.splits import Need
from unlearn_plugin.unlearners.base import Evidence, Unlearner


def test_a_method_without_unlearn_cannot_be_made() -> None:
    class Half(Unlearner):
        needs = Need.FORGET

    with pytest.raises(TypeError, match="unlearn"):
        Half()


def test_a_method_is_not_exact_unless_it_says_so() -> None:
    class Whole(Unlearner):
        needs = Need.FORGET

        def unlearn(self, model: nn.Module, evidence: Evidence) -> dict[str, object]:
            return {}

    assert not Whole().exact


def test_evidence_is_what_was_given_and_stays_so(world: World) -> None:
    evidence = world.evidence(torch.arange(5))
    assert len(evidence.forget) + len(evidence.retain) == len(world.train)
    with pytest.raises(dataclasses.FrozenInstanceError):
        evidence.seed = 3


def test_evidence_holds_no_controls_of_the_judge() -> None:
    """What a method can see, it can game."""
    names = {field.name for field in dataclasses.fields(Evidence)}
    assert names == {
        "forget", "retain", "tuning", "record", "classes", "forgotten_classes", "fresh", "accelerator", "seed",
        "progress",
    }  # fmt: skip
