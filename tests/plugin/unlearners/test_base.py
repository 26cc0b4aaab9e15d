import dataclasses

import pytest
import torch
from torch import nn

from tests.conftest import World
from unlearn_plugin.registry import unlearners
from unlearn_plugin.splits import Need
from unlearn_plugin.unlearners.base import Evidence, Preset, Unlearner


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
        "forget", "retain", "tuning", "record", "classes", "forgotten_classes", "one_subject", "earlier", "fresh",
        "accelerator", "seed", "progress",
    }  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuned(Unlearner):
    """Two options, one of them left to the presets."""

    needs = Need.FORGET
    presets = {
        "sample": Preset(options={"rate": 0.1}, tuned="digits"),
        "class": Preset(options={"rate": 0.2}),
    }
    rate: float | None = None
    rounds: int = 3

    def unlearn(self, model: nn.Module, evidence: Evidence) -> dict[str, object]:
        return {}


def test_an_option_left_open_takes_the_preset_of_the_request_and_a_given_one_stays() -> None:
    model = nn.Linear(1, 1)
    assert Tuned().settled("sample", model) == Tuned(rate=0.1)
    assert Tuned().settled("class", model) == Tuned(rate=0.2)
    assert Tuned(rate=0.7).settled("class", model) == Tuned(rate=0.7)
    assert Tuned().settled("subject", model) == Tuned()  # no preset, nothing to take


def test_the_kind_of_request_is_read_from_the_evidence(world: World) -> None:
    evidence = world.evidence(torch.arange(5))
    assert evidence.request == "sample"
    assert dataclasses.replace(evidence, one_subject=True).request == "subject"
    assert dataclasses.replace(evidence, forgotten_classes=(3,), one_subject=True).request == "class"


@pytest.mark.parametrize("name", unlearners().names())
def test_presets_are_for_options_that_can_be_left_open_and_are_valid_values(name: str) -> None:
    cls = unlearners().get(name)
    defaults = {field.name: field.default for field in dataclasses.fields(cls)}
    for preset in cls.presets.values():
        assert preset.options.keys() <= defaults.keys()
        assert all(defaults[option] is None for option in preset.options)
        cls(**preset.options)
    assert not cls.presets or cls.presets.keys() == {"sample", "class", "subject"}
