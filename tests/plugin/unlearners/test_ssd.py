"""ssd: importances by definition, dampening by the formula, and silence where it can do nothing."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.conftest import fresh_net, image_data
from tests.plugin.unlearners.small_world import make_world
from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.training_record import weights_digest
from unlearn_plugin.data import Samples
from unlearn_plugin.unlearners.ssd import SSD, dampening, importance


def test_the_importance_is_the_mean_of_squared_gradients_of_single_samples() -> None:
    world, model = make_world(), fresh_net(4)
    some = world.evidence.forget.select(torch.arange(7))
    total = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    model.eval()
    for images, labels, _ in some.loader(1):
        model.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        for name, value in model.named_parameters():
            total[name] += value.grad.square() / 7
    found = importance(model, some, world.evidence, batch_size=4)
    assert found.keys() == total.keys()
    assert all(torch.allclose(found[name], value, rtol=1e-4, atol=1e-10) for name, value in total.items())


def test_neither_the_batch_size_nor_the_order_matters() -> None:
    world, model = make_world(), fresh_net(4)
    some = world.evidence.forget.select(torch.arange(20))
    shuffled = some.select(torch.randperm(20, generator=torch.Generator().manual_seed(1)))
    one, many = (
        importance(model, some, world.evidence, batch_size=1),
        importance(model, shuffled, world.evidence, batch_size=20),
    )
    assert all(torch.allclose(one[name], many[name], rtol=1e-3, atol=1e-10) for name in one)


def test_modes_and_batchnorm_statistics_are_left_alone_and_frozen_parameters_left_out() -> None:
    world, model = make_world(), fresh_net(4).train()
    model[0].weight.requires_grad_(False)
    before = weights_digest(model.state_dict())
    found = importance(model, world.evidence.forget, world.evidence, batch_size=16)
    assert "0.weight" not in found
    assert model.training
    assert weights_digest(model.state_dict()) == before


def test_dampening_follows_the_formula() -> None:
    everywhere, forget = {"w": torch.tensor([1.0, 1.0, 1.0, 0.0])}, {"w": torch.tensor([1.9, 2.1, 8.0, 0.0])}
    assert torch.allclose(
        dampening(everywhere, forget, alpha=2.0, dampening_constant=1.0)["w"], torch.tensor([1.0, 1 / 2.1, 1 / 8, 1.0])
    )
    assert dampening(everywhere, forget, alpha=2.0, dampening_constant=4.0)["w"].tolist() == [1.0, 1.0, 0.5, 1.0]


def test_one_weight_of_f_alone_is_dampened_to_the_share_of_f() -> None:
    """Two inputs, each with a weight of its own; only F uses the second: I_D = |F| / |D| I_F there."""
    images = torch.zeros(4, 1, 1, 2)
    images[:3, ..., 0] = 1.0
    images[3, ..., 1] = 1.0
    data = image_data(images, torch.tensor([0, 0, 0, 1]), 2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    start = model[1].weight.detach().clone()
    evidence = replace(
        make_world().evidence, forget=Samples(data, torch.tensor([3])), retain=Samples(data, torch.arange(3))
    )
    facts = SSD(alpha=2.0).unlearn(model, evidence)
    assert torch.allclose(model[1].weight[:, 1], start[:, 1] / 4)
    assert torch.equal(model[1].weight[:, 0], start[:, 0])
    assert (facts["selected_weights"], facts["largest_possible_ratio"]) == (2, 4.0)


def test_it_forgets_a_class_and_keeps_the_others() -> None:
    world = make_world(3)
    after = world.forgotten(SSD(alpha=1.2, dampening_constant=0.3))
    assert world.accuracy(after, world.evidence.forget) < 0.1
    assert world.accuracy(after, world.evidence.retain) > 0.9
    assert world.advantage(after) < world.advantage(world.original)


def test_on_random_samples_it_hardly_changes_membership_and_says_so() -> None:
    world = make_world()
    model = copy.deepcopy(world.original)
    facts = SSD().unlearn(model, world.evidence)
    assert world.advantage(model) > world.advantage(world.original) - 0.08
    assert "expect little forgetting" in facts["outcome"]


def test_an_alpha_no_weight_can_reach_changes_not_one_bit_and_says_why() -> None:
    world = make_world()
    model = copy.deepcopy(world.original)
    facts = SSD(alpha=10.0).unlearn(model, world.evidence)  # 60 of 300 samples: no ratio above 5
    assert weights_digest(model.state_dict()) == weights_digest(world.original.state_dict())
    assert facts["selected_weights"] == 0
    assert facts["outcome"].startswith("Nothing was done")
    assert "impossible above 5.0" in facts["outcome"]


def test_the_usual_alpha_is_within_reach() -> None:
    world = make_world()
    assert SSD().unlearn(copy.deepcopy(world.original), world.evidence)["alpha"] == pytest.approx(10 / 3)
    rare = replace(world.evidence, forget=world.evidence.forget.select([0]))
    whole = make_world(3)
    share = len(whole.evidence.forget) / 300
    facts = SSD().unlearn(copy.deepcopy(whole.original), whole.evidence)
    assert facts["alpha"] == pytest.approx(1 / 3 / share)
    assert SSD().unlearn(copy.deepcopy(world.original), rare)["alpha"] == 10.0


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(UnlearnError) as caught:
        SSD(alpha=0.5, dampening_constant=-1.0, batch_size=0)
    assert len(caught.value.findings) == 3
