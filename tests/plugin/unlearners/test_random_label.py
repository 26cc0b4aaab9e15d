"""random_label on a problem whose retrained answer is known."""

import copy
from dataclasses import replace

import pytest
import torch

from tests.plugin.unlearners.small_world import make_world
from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.unlearners.random_label import RandomLabel, draw_other_labels


def test_wrong_labels_are_uniform_among_the_other_classes_that_stay() -> None:
    torch.manual_seed(0)
    labels = torch.tensor([0, 1, 2, 3]).repeat(6000)
    drawn = draw_other_labels(labels, 4, (3,))
    counts = torch.zeros(4, 4)
    counts.index_put_((labels, drawn), torch.ones(len(labels)), accumulate=True)
    wanted = torch.tensor([[0, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 0]]) / 2
    assert torch.allclose(counts[:3] / 6000, wanted, atol=0.03)
    assert torch.allclose(counts[3] / 6000, torch.tensor([1, 1, 1, 0]) / 3, atol=0.03)


def test_where_no_other_class_stays_it_says_so() -> None:
    with pytest.raises(UnlearnError, match="needs? two classes|no other class"):
        draw_other_labels(torch.tensor([0]), 2, (1,))


def test_it_moves_forget_accuracy_and_membership_towards_the_retrained_model() -> None:
    world = make_world()
    after = world.forgotten(RandomLabel(batch_size=16))
    assert (
        abs(world.accuracy(after, world.evidence.forget) - world.accuracy(world.retrained, world.evidence.forget)) < 0.2
    )
    assert abs(world.advantage(after) - 0.5) < 0.12
    assert world.accuracy(after, world.evidence.retain) > 0.85


def test_it_forgets_a_class_and_keeps_the_others() -> None:
    world = make_world(3)
    after = world.forgotten(RandomLabel(batch_size=16))
    assert world.accuracy(after, world.evidence.forget) < 0.1
    assert world.accuracy(after, world.evidence.retain) > 0.85


def test_no_wrong_label_is_learnt_by_heart() -> None:
    """Labels are drawn afresh, so that predictions on F do not settle on confident nonsense."""
    world = make_world()
    after = world.forgotten(RandomLabel(batch_size=16, epochs=8, learning_rate=0.02, hold=False))
    images, labels, _ = next(iter(world.evidence.forget.loader(60)))
    probabilities = after(images).softmax(1)
    probabilities[torch.arange(len(labels)), labels] = 0.0
    assert float((probabilities.max(1).values > 0.8).float().mean()) < 0.2


def test_the_weight_of_r_counts() -> None:
    world = make_world()
    one_step = replace(world.evidence, retain=world.evidence.retain.select(torch.arange(30)))
    options = {"epochs": 1, "batch_size": 30, "momentum": 0.0, "weight_decay": 0.0, "learning_rate": 0.1, "hold": False}
    steps = []
    for alpha in (0.0, 1.0, 3.0):
        model = copy.deepcopy(world.original)
        model[7].p = 0.0
        RandomLabel(alpha=alpha, **options).unlearn(model, one_step)
        steps.append(model[-1].weight.detach())
    assert torch.allclose(steps[2] - steps[0], 3 * (steps[1] - steps[0]), atol=1e-5)
    with pytest.raises(UnlearnError, match="alpha"):
        RandomLabel(alpha=-0.1)
