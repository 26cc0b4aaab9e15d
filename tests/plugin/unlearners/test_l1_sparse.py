"""l1_sparse: a penalty that fades, on retained data alone."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.plugin.unlearners.small_world import make_world
from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.unlearners.l1_sparse import L1Sparse, l1_norm

SOME = {"batch_size": 16}


def test_the_norm_counts_trainable_parameters_only() -> None:
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0], [3.0, 0.0]]))
        model.bias.fill_(-5.0)
    assert float(l1_norm(model)) == 16.0
    model.bias.requires_grad_(False)
    norm = l1_norm(model)
    assert float(norm) == 6.0
    norm.backward()
    assert model.weight.grad.tolist() == [[1.0, -1.0], [1.0, 0.0]]


def test_a_stronger_penalty_gives_smaller_weights_and_the_facts_say_how_small() -> None:
    world = make_world()
    norms = []
    for gamma in (0.0, 5e-4, 5e-3):
        model = copy.deepcopy(world.original)
        facts = L1Sparse(gamma=gamma, **SOME).unlearn(model, world.evidence)
        assert facts["l1_norm_after"] == pytest.approx(float(l1_norm(model)))
        norms.append(facts["l1_norm_after"])
    assert norms[0] > norms[1] > norms[2]
    assert facts["l1_norm_before"] == pytest.approx(float(l1_norm(world.original)))


def test_the_penalty_fades_linearly_from_step_to_step() -> None:
    """With a head of one weight that nothing else moves, each step shrinks it by rate * gamma * what is left."""
    world = make_world()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.0)
    idle = nn.Parameter(torch.tensor(1.0))
    model.register_parameter("idle", idle)
    evidence = replace(world.evidence, retain=world.evidence.retain.select(torch.arange(64)))
    L1Sparse(
        gamma=0.1, epochs=2, batch_size=16, learning_rate=0.5, momentum=0.0, weight_decay=0.0, schedule="constant"
    ).unlearn(model, evidence)
    assert float(idle.detach()) == pytest.approx(1.0 - 0.5 * 0.1 * sum(1 - t / 8 for t in range(8)), rel=1e-5)


def test_it_moves_forget_accuracy_and_membership_towards_the_retrained_model() -> None:
    world = make_world()
    after = world.forgotten(L1Sparse(batch_size=16, learning_rate=0.1))
    assert world.accuracy(after, world.evidence.forget) < 0.85
    assert abs(world.advantage(after) - 0.5) < 0.12
    assert world.accuracy(after, world.evidence.retain) > 0.9


def test_it_lets_a_class_fade() -> None:
    world = make_world(3)
    after = world.forgotten(L1Sparse(batch_size=16, learning_rate=0.2))
    assert world.accuracy(after, world.evidence.forget) < 0.2
    assert world.accuracy(after, world.evidence.retain) > 0.7


def test_it_never_looks_at_f() -> None:
    world = make_world()
    models = [copy.deepcopy(world.original) for _ in range(2)]
    for model, forget in zip(models, (world.evidence.forget, world.evidence.forget.select([0])), strict=True):
        L1Sparse(epochs=1).unlearn(model, replace(world.evidence, forget=forget))
    assert all(torch.equal(a, b) for a, b in zip(*(model.parameters() for model in models), strict=True))


def test_a_negative_penalty_is_refused() -> None:
    with pytest.raises(UnlearnError, match="gamma=-1.0 is out of range; it must be at least 0"):
        L1Sparse(gamma=-1.0)
