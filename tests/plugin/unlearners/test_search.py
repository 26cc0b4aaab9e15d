"""search=N: a known best setting is found, by what a method may look at alone."""

import copy
import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch
from torch import nn

from tests.conftest import World
from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.training_record import weights_digest
from unlearn_plugin.outputs import Outputs
from unlearn_plugin.registry import unlearners
from unlearn_plugin.splits import Need
from unlearn_plugin.unlearners._search import Reach, objective, reaches, search
from unlearn_plugin.unlearners.base import Evidence, Facts, Unlearner
from unlearn_plugin.unlearners.finetune import Finetune

FORGET = torch.arange(0, 20)


@dataclass(frozen=True, kw_only=True)
class Noisy(Unlearner):
    """Adds noise to the head: none leaves all as it was, much destroys it."""

    needs: ClassVar[Need] = Need.FORGET
    summary: ClassVar[str] = "x"
    source: ClassVar[str] = "x"
    noise: float | None = field(default=None, metadata={"search": (1e-3, 1e3, "factor")})
    rounds: int = field(default=1, metadata={"search": (1, 4, "linear")})

    def unlearn(self, model: nn.Module, evidence: Evidence) -> Facts:
        if self.noise > 100:
            raise UnlearnError("too much")
        generator = torch.Generator().manual_seed(evidence.seed)
        with torch.no_grad():
            for _ in range(self.rounds):
                model[8].weight.add_(self.noise * torch.randn(model[8].weight.shape, generator=generator))
        return {"noise": self.noise}


def outputs_of(predicted: list[int], labels: list[int], sure: float = 2.0) -> Outputs:
    logits = torch.zeros(len(labels), 3).scatter(1, torch.tensor(predicted)[:, None], sure)
    return Outputs(logits, torch.zeros(len(labels), 1), torch.tensor(labels))


def test_the_objective_is_the_formula() -> None:
    """F is surer than 3 of 4 tuning samples and ties with the fourth; one of four retained answers is lost."""
    same = {"retain": outputs_of([0, 0, 1, 1], [0, 0, 1, 1]), "tuning": outputs_of([1, 1, 1, 0], [0, 0, 0, 0])}
    before = {"forget": outputs_of([0], [0]), **same}
    after = {**before, "retain": outputs_of([0, 0, 1, 2], [0, 0, 1, 1])}
    assert objective(before, before, ())["objective"] == pytest.approx(2 * (3.5 / 4 - 0.5))
    found = objective(before, after, ())
    assert found == pytest.approx({
        "objective": 0.75 + 0.25,
        "advantage": 0.875,
        "lost_on_retain": 0.25,
        "lost_on_tuning": 0.0,
    })
    gained = {**after, "retain": before["retain"], "tuning": outputs_of([0, 0, 0, 0], [0, 0, 0, 0])}
    assert objective(before, gained, ())["lost_on_tuning"] == 0.0


def test_f_that_stands_out_on_the_low_side_counts_as_much_as_on_the_high_side() -> None:
    parts = {"retain": outputs_of([0], [0]), "tuning": outputs_of([0, 0], [0, 0])}
    low = {"forget": outputs_of([1], [0]), **parts}
    assert objective(low, low, ())["objective"] == 1.0


def test_a_whole_class_may_look_less_like_itself_than_any_other_class_does() -> None:
    """And its own tuning samples do not count as lost."""
    parts = {"retain": outputs_of([0, 1], [0, 1]), "tuning": outputs_of([0, 1, 2], [0, 1, 2])}
    before = {"forget": outputs_of([2], [2]), **parts}
    after = {**before, "forget": outputs_of([0], [2]), "tuning": outputs_of([0, 1, 0], [0, 1, 2])}
    assert objective(before, before, (2,))["objective"] > 0.5
    assert objective(before, after, (2,))["objective"] == 0.0


@pytest.mark.parametrize(
    ("scale", "usual", "whole", "values"),
    [
        ("linear", None, False, (1.0, 3.0, 4.98)),
        ("log", None, False, (1.0, 2.24, 4.97)),
        ("factor", 0.1, False, (0.1, 0.224, 0.497)),
        ("linear", None, True, (1, 3, 5)),
    ],
)
def test_values_lie_in_their_range_on_their_scale(
    scale: str, usual: float | None, whole: bool, values: tuple[float, ...]
) -> None:
    reach = Reach(option="x", low=1.0, high=5.0, scale=scale, whole=whole)
    assert tuple(reach.at(place, usual) for place in (0.0, 0.5, 0.996)) == pytest.approx(values, rel=2e-3)


def test_options_that_were_given_are_not_searched() -> None:
    assert [reach.option for reach in reaches(Noisy)] == ["noise", "rounds"]
    assert [reach.option for reach in reaches(Noisy, ("noise",))] == ["rounds"]
    assert [reach.whole for reach in reaches(Noisy())] == [False, True]


def test_the_best_trial_is_kept_and_every_trial_starts_from_the_original(world: World) -> None:
    """The usual noise ruins the model; less is better, and a trial above 100 fails and is passed over."""
    evidence, model, original = world.evidence(FORGET), world.model(), copy.deepcopy(world.model())
    method, facts = search(Noisy(noise=3.0), model, evidence, 8)
    tried = facts["search"]["tried"]
    assert len(tried) == facts["search"]["trials"] == 8
    assert tried[0]["options"] == {"noise": 3.0, "rounds": 1}
    finished = [one["objective"] for one in tried if one["objective"] is not None]
    assert {one["failed"] for one in tried if one["objective"] is None} == {"the method stopped with an error"}
    assert min(finished) < tried[0]["objective"]
    assert tried[facts["search"]["chosen"] - 1]["objective"] == min(finished)
    assert facts["noise"] == method.noise < 1.0
    method.unlearn(original, evidence)  # alone, without a search, from the original
    assert weights_digest(original.state_dict()) == weights_digest(model.state_dict())


def test_a_search_never_ends_worse_than_the_preset_by_its_own_objective(world: World) -> None:
    _, facts = search(Noisy(noise=1e-6), world.model(), world.evidence(FORGET), 3, fixed=("noise",))
    tried = facts["search"]["tried"]
    assert tried[facts["search"]["chosen"] - 1]["objective"] <= tried[0]["objective"]
    assert all(set(one["options"]) == {"rounds"} for one in tried)


def test_the_same_seed_tries_the_same_and_another_seed_other_settings(world: World) -> None:
    options = []
    for seed in (1, 1, 2):
        _, facts = search(Noisy(noise=0.1), world.model(), world.evidence(FORGET, seed=seed), 4)
        options.append([one["options"] for one in facts["search"]["tried"]])
    assert options[0] == options[1] != options[2]


def test_a_real_method_is_searched_and_its_model_is_that_of_its_settings(world: World) -> None:
    evidence, model, alone = world.evidence(FORGET), world.model(), world.model()
    settled = Finetune(epochs=1).settled(evidence.request, model)
    method, facts = search(settled, model, evidence, 2, fixed=("epochs",))
    assert facts["search"]["tried"][0]["options"] == {"learning_rate": 0.05}
    assert facts["learning_rate"] == method.learning_rate
    method.unlearn(alone, evidence)
    assert weights_digest(alone.state_dict()) == weights_digest(model.state_dict())


@pytest.mark.parametrize("part", ["retain", "tuning"])
def test_a_search_needs_something_to_search_by(world: World, part: str) -> None:
    evidence = dataclasses.replace(world.evidence(FORGET), **{part: None})
    with pytest.raises(UnlearnError, match="search=N needs retained data and held-out data"):
        search(Noisy(noise=0.1), world.model(), evidence, 2)


def test_a_search_needs_something_to_search_and_a_trial_that_works(world: World) -> None:
    with pytest.raises(UnlearnError, match="every option that has a range was given"):
        search(Noisy(noise=0.1), world.model(), world.evidence(FORGET), 2, fixed=("noise", "rounds"))
    with pytest.raises(UnlearnError, match="No trial of the search came to an end; the first: too much"):
        search(Noisy(noise=200.0), world.model(), world.evidence(FORGET), 2, fixed=("noise",))


@pytest.mark.parametrize("name", unlearners().names())
def test_every_declared_range_holds_values_the_method_takes(name: str, world: World) -> None:
    method = unlearners().create(name, {}).settled("sample", world.trained)
    for reach in reaches(method):
        usual = getattr(method, reach.option)
        assert reach.scale in ("linear", "log", "factor")
        assert reach.low < reach.high
        for place in (0.0, 0.999):
            dataclasses.replace(method, **{reach.option: reach.at(place, usual)})
