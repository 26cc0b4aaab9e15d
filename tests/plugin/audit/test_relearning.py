"""Relearning: a model that knows F needs no step, one that half knows it few, a new one many."""

import copy

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from tests.plugin.trials import samples_of
from unlearn_plugin.audit.relearning import MOST_STEPS, relearning_steps
from unlearn_plugin.data import Samples


@pytest.fixture(scope="module")
def forget() -> Samples:
    generator = torch.Generator().manual_seed(0)
    return samples_of(torch.randn(96, 120, generator=generator), [row % 3 for row in range(96)], 3)


def head(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(120, 3))


def taught(forget: Samples, steps: int) -> nn.Module:
    model = head()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(forget.data.images(forget.rows)), forget.labels).backward()
        optimizer.step()
    return model


def steps_of(model: nn.Module, forget: Samples, accuracy: float = 1.0) -> int:
    return relearning_steps(model, forget, accuracy, Accelerator(cpu=True), seed=0, rate=0.05)


def test_who_remembers_needs_fewer_steps(forget: Samples) -> None:
    knows, half_knows, new = (steps_of(taught(forget, steps), forget) for steps in (200, 1, 0))
    assert knows == 0
    assert 0 < half_knows < new <= MOST_STEPS


def test_what_cannot_be_learned_ends(forget: Samples) -> None:
    blind = nn.Sequential(nn.Flatten(), nn.Linear(120, 3))
    nn.init.zeros_(blind[1].weight)
    frozen = copy.deepcopy(blind)
    frozen[1].weight.requires_grad_(False)
    assert steps_of(frozen, forget) == MOST_STEPS


def test_the_model_is_left_as_it_was_and_the_same_seed_gives_the_same_number(forget: Samples) -> None:
    model = head(1)
    before = copy.deepcopy(model.state_dict())
    state = torch.random.get_rng_state()
    assert steps_of(model, forget) == steps_of(model, forget)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training
    assert torch.equal(state, torch.random.get_rng_state())
