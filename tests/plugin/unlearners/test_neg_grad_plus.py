"""neg_grad_plus on a problem whose retrained answer is known."""

import copy
from dataclasses import replace

import pytest
import torch

from tests.plugin.unlearners.small_world import RECIPE, make_world
from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.training import train
from unlearn_plugin.unlearners.neg_grad_plus import NegGradPlus

GENTLE = {"batch_size": 16}  # the world is small; so are the batches, for enough steps


def test_it_moves_forget_accuracy_and_membership_towards_the_retrained_model() -> None:
    world = make_world()
    after = world.forgotten(NegGradPlus(**GENTLE))
    forget, retain = world.evidence.forget, world.evidence.retain
    gap = abs(world.accuracy(after, forget) - world.accuracy(world.retrained, forget))
    assert gap < 0.5 * (1.0 - world.accuracy(world.retrained, forget))
    assert world.advantage(after) < world.advantage(world.original) - 0.1
    assert abs(world.advantage(after) - 0.5) < 0.12
    assert world.accuracy(after, retain) > 0.95


def test_it_forgets_a_class_and_keeps_the_others() -> None:
    world = make_world(3)
    after = world.forgotten(NegGradPlus(**GENTLE))
    assert world.accuracy(after, world.evidence.forget) < 0.1
    assert world.accuracy(after, world.evidence.retain) > 0.9


def test_with_alpha_one_it_is_finetuning() -> None:
    world = make_world()
    evidence = replace(world.evidence, retain=world.evidence.retain)
    wanted, found = copy.deepcopy(world.original), copy.deepcopy(world.original)
    for layer in (*wanted, *found):
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0  # the batches of F draw random numbers as well
    recipe = replace(RECIPE, learning_rate=0.05, epochs=2, batch_size=16)
    train(wanted, evidence.retain, recipe, accelerator=evidence.accelerator, seed=0, progress=evidence.progress)
    NegGradPlus(alpha=1.0, epochs=2, batch_size=16, learning_rate=0.05, hold=False).unlearn(found, evidence)
    for name, value in wanted.state_dict().items():
        assert torch.allclose(value.float(), found.state_dict()[name].float(), atol=1e-5), name


def test_the_step_is_the_papers_equation() -> None:
    """One step of plain SGD from the original, against the gradient written out by hand."""
    world = make_world()
    some = replace(
        world.evidence,
        retain=world.evidence.retain.select(torch.arange(20)),
        forget=world.evidence.forget.select([0, 1, 2]),
    )
    plain = {"epochs": 1, "batch_size": 20, "momentum": 0.0, "weight_decay": 0.0, "learning_rate": 0.1, "hold": False}
    start, after = copy.deepcopy(world.original), copy.deepcopy(world.original)
    for layer in (*start, *after):
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    NegGradPlus(alpha=0.7, **plain).unlearn(after, some)
    losses = []
    start.train()
    for samples in (some.retain, some.forget):
        images, labels, _ = next(iter(samples.loader(20)))
        losses.append(torch.nn.functional.cross_entropy(start(images), labels))
    (0.7 * losses[0] - 0.3 * losses[1]).backward()
    for parameter, moved in zip(start.parameters(), after.parameters(), strict=True):
        assert torch.allclose(parameter - 0.1 * parameter.grad, moved, atol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 1.5, -1.0])
def test_an_alpha_that_keeps_nothing_is_refused(alpha: float) -> None:
    with pytest.raises(UnlearnError, match="alpha=.* above 0 and at most 1"):
        NegGradPlus(alpha=alpha)
