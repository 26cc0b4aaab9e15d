"""salun: what may not move does not move by a bit."""

import copy

import pytest
import torch
from torch.nn import functional as F

from tests.plugin.unlearners.small_world import make_world
from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.unlearners.salun import SalUn, saliency_masks


def test_the_largest_gradients_of_all_weights_together_are_salient() -> None:
    masks = saliency_masks({"a": torch.tensor([[0.1, -5.0], [0.3, 2.0]]), "b": torch.tensor([-4.0, 0.2])}, 0.5)
    assert masks["a"].tolist() == [[False, True], [False, True]]
    assert masks["b"].tolist() == [True, False]


def test_weights_without_gradient_stay_whatever_the_quantile() -> None:
    masks = saliency_masks({"a": torch.tensor([0.0, 0.0, 0.0, 1.0])}, 0.5)
    assert masks["a"].tolist() == [False, False, False, True]


def test_nothing_is_masked_at_sparsity_zero() -> None:
    assert bool(saliency_masks({"a": torch.tensor([0.0, 1.0])}, 0.0)["a"].all())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_weights_outside_the_mask_stay_bit_identical_with_momentum_and_weight_decay(optimizer: str) -> None:
    world = make_world()
    method = SalUn(sparsity=0.8, epochs=2, batch_size=32, momentum=0.9, weight_decay=0.1, optimizer=optimizer)
    after = world.forgotten(method)
    reference = copy.deepcopy(world.original).eval()
    images, labels, _ = next(iter(world.evidence.forget.loader(60)))
    F.cross_entropy(reference(images), labels).backward()
    masks = saliency_masks({name: value.grad for name, value in reference.named_parameters()}, 0.8)
    inside = []
    for name, value in after.named_parameters():
        moved = value != reference.get_parameter(name)
        assert not (moved & ~masks[name]).any(), name
        inside.append(moved[masks[name]])
    assert float(torch.cat(inside).float().mean()) > 0.99
    assert sum(len(each) for each in inside) == pytest.approx(0.2 * sum(m.numel() for m in masks.values()), abs=1)


def test_batchnorm_statistics_follow_r_though_weights_are_masked() -> None:
    world = make_world()
    after = world.forgotten(SalUn(sparsity=0.9, epochs=1, batch_size=32))
    assert not torch.equal(after[1].running_mean, world.original[1].running_mean)


def test_it_moves_forget_accuracy_and_membership_towards_the_retrained_model() -> None:
    world = make_world()
    after = world.forgotten(SalUn(batch_size=16))
    assert world.accuracy(after, world.evidence.forget) < 0.85
    assert abs(world.advantage(after) - 0.5) < 0.12
    assert world.accuracy(after, world.evidence.retain) > 0.8


def test_it_forgets_a_class_and_keeps_the_others() -> None:
    world = make_world(3)
    after = world.forgotten(SalUn(batch_size=16))
    assert world.accuracy(after, world.evidence.forget) < 0.1
    assert world.accuracy(after, world.evidence.retain) > 0.85


def test_the_share_of_salient_weights_is_reported() -> None:
    world = make_world()
    facts = SalUn(sparsity=0.75, epochs=1).unlearn(copy.deepcopy(world.original), world.evidence)
    assert facts["salient_share"] == pytest.approx(0.25, abs=0.001)


@pytest.mark.parametrize("sparsity", [1.0, -0.1])
def test_a_sparsity_that_leaves_nothing_is_refused(sparsity: float) -> None:
    with pytest.raises(UnlearnError, match="sparsity=.* at least 0 and below 1"):
        SalUn(sparsity=sparsity)
