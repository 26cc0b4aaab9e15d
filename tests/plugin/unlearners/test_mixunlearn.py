"""mixunlearn: its losses in numbers, its generator at work, and what is left without each part."""

import copy
import math
from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

from tests.conftest import image_data
from tests.plugin.unlearners.small_world import make_world
from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.training_record import weights_digest
from unlearn_plugin.data import Samples
from unlearn_plugin.unlearners.mixunlearn import MixUnlearn, _Game, contrast, sharpen, sim_loss

SOME = {"batch_size": 32}


def test_sim_loss_is_one_minus_the_cosine() -> None:
    first = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    second = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.2, 0.3, 0.5]])
    assert sim_loss(first, second).tolist() == pytest.approx([1.0, 1.0 - 0.5**0.5, 0.0], abs=1e-6)
    assert sim_loss(first[:, None], second).shape == (3, 3)


def test_sharpening_raises_to_the_inverse_temperature() -> None:
    given = torch.tensor([[0.6, 0.3, 0.1]])
    powers = given ** (1 / 0.3)
    assert torch.allclose(sharpen(given, 0.3), powers / powers.sum())
    assert torch.allclose(sharpen(given, 1.0), given)
    assert sharpen(torch.tensor([[1.0, 0.0]]), 0.3).tolist() == [[1.0, 0.0]]


def test_the_contrast_is_the_published_sum() -> None:
    kept, gone = torch.tensor([0.2, 0.6]), torch.tensor([[0.1, 0.9, 0.4], [0.3, 0.3, 0.8]])
    share, tau = 0.3, 0.5
    by_hand = [
        math.log(math.exp((1 - share) * k) / sum(math.exp(share * g / tau) for g in row))
        for k, row in zip(kept.tolist(), gone.tolist(), strict=True)
    ]
    assert float(contrast(kept, gone, share=share, tau=tau)) == pytest.approx(sum(by_hand) / 2, rel=1e-5)


def test_minimising_the_contrast_goes_towards_r_and_away_from_f() -> None:
    kept, gone = torch.tensor([0.5], requires_grad=True), torch.tensor([[0.5, 0.2]], requires_grad=True)
    contrast(kept, gone, share=0.5, tau=0.2).backward()
    assert float(kept.grad) > 0
    assert bool((gone.grad < 0).all())
    assert gone.grad[0, 0] < gone.grad[0, 1]  # the one that is furthest counts most


def game(**options: object) -> tuple[_Game, nn.Module]:
    world = make_world()
    model = copy.deepcopy(world.original)
    return _Game(MixUnlearn(**options), model, world.evidence), model


def batches() -> tuple[object, object]:
    evidence = make_world().evidence
    return next(iter(evidence.retain.loader(16))), next(iter(evidence.forget.loader(8)))


def test_the_generator_learns_to_make_the_unlearner_fail() -> None:
    """On fixed batches and a fixed share, its loss falls: the mixed samples get harder."""
    made, model = game(generator_rate=0.02)
    retain, forget = batches()
    kept, gone = made._targets(retain), made._targets(forget)
    pairs = retain[0], forget[0][made._partners(16, 8)]

    def hardness() -> float:
        with torch.no_grad():
            mask = made._mask(*pairs, 0.5)
            return float(made._mixed_loss(model.eval(), *pairs, mask, kept, gone, 0.5, 1.0))

    before = hardness()
    for _ in range(40):
        made._train_generator(*pairs, kept, gone)
    assert hardness() > before + 1e-3
    assert made.generator_steps == 40


def test_only_the_generator_moves_in_its_own_step() -> None:
    made, model = game(generator_momentum=1.0)
    before = weights_digest(model.state_dict())
    retain, forget = batches()
    made._train_generator(retain[0], forget[0].repeat(2, 1, 1, 1), made._targets(retain), made._targets(forget))
    assert weights_digest(model.state_dict()) == before
    assert weights_digest(made._original.state_dict()) == before
    assert all(parameter.grad is None for parameter in model.parameters())
    assert float(made._block.value.weight.detach().abs().sum()) > 0


def test_the_copy_follows_slowly() -> None:
    made, model = game(generator_momentum=0.9)
    start = model[0].weight.detach().clone()
    with torch.no_grad():
        model[0].weight += 1.0
    made._follow()
    assert torch.allclose(made._follower[0].weight, start + 0.1, atol=1e-6)


def test_targets_are_labels_or_the_originals_sharpened_predictions() -> None:
    retain, _ = batches()
    aware, _ = game()
    blind, model = game(label_aware=False)
    assert torch.equal(aware._targets(retain).argmax(1), retain[1])
    wanted = sharpen(model.eval()(retain[0]).softmax(1), 0.3)
    assert torch.allclose(blind._targets(retain), wanted, atol=1e-6)


def test_without_labels_the_labels_are_never_used() -> None:
    made, model = game(label_aware=False, mixing="mixup")
    retain, forget = batches()
    losses = []
    for shift in (0, 1):
        torch.manual_seed(0)
        made._random.manual_seed(0)
        swapped = [(images, (labels + shift) % 10, rows) for images, labels, rows in (retain, forget)]
        losses.append(float(made.loss(model.eval(), *swapped)))
    assert losses[0] == losses[1]


def test_mixup_is_a_mask_of_lambda_and_none_leaves_the_mixed_term_out() -> None:
    made, _ = game(mixing="mixup")
    images = torch.zeros(2, 1, 8, 8)
    assert torch.equal(made._mask(images, images, 0.25), torch.full((2, 1, 8, 8), 0.25))
    real, model = game(mixing="none", omega=2.0)
    retain, forget = batches()
    kept, gone = (real._targets(batch) for batch in (retain, forget))
    likes, unlikes = (
        sim_loss(model.eval()(batch[0]).softmax(1), target) for batch, target in ((retain, kept), (forget, gone))
    )
    wanted = 2.0 * (likes - unlikes.logsumexp(0)).mean()
    assert float(real.loss(model, retain, forget)) == pytest.approx(float(wanted), rel=1e-5)


@pytest.mark.parametrize("label_aware", [True, False])
def test_it_moves_forget_accuracy_and_membership_towards_the_retrained_model(label_aware: bool) -> None:
    world = make_world()
    after = world.forgotten(MixUnlearn(label_aware=label_aware, batch_size=16, epochs=6))
    assert world.accuracy(after, world.evidence.forget) < 0.9
    assert world.advantage(after) < world.advantage(world.original) - 0.1
    assert world.accuracy(after, world.evidence.retain) > 0.75


@pytest.mark.parametrize("label_aware", [True, False])
def test_it_forgets_a_class_and_keeps_the_others(label_aware: bool) -> None:
    world = make_world(3)
    after = world.forgotten(MixUnlearn(label_aware=label_aware, learning_rate=0.01, batch_size=16))
    assert world.accuracy(after, world.evidence.forget) < 0.1
    assert world.accuracy(after, world.evidence.retain) > 0.7


def test_a_single_forget_sample_is_enough() -> None:
    world = make_world()
    one = replace(world.evidence, forget=world.evidence.forget.select([3]))
    facts = MixUnlearn(epochs=1, **SOME).unlearn(copy.deepcopy(world.original), one)
    assert facts["learning_rate"] == 0.02


def test_the_generator_steps_every_few_steps() -> None:
    world = make_world()
    counts = [
        MixUnlearn(epochs=1, batch_size=24, hold=False, generator_interval=every)
        .unlearn(copy.deepcopy(world.original), world.evidence)["generator_steps"]
        for every in (2, 4)
    ]  # fmt: skip
    assert counts == [5, 3]  # of 10 steps


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(UnlearnError, match="omega=0.0 .* above 0 with mixing=none"):
        MixUnlearn(omega=0.0, mixing="none")
    with pytest.raises(UnlearnError) as caught:
        MixUnlearn(tau_mix=0.0, beta=-1.0, generator_interval=0, generator_momentum=2.0)
    assert len(caught.value.findings) == 4
    with pytest.raises(UnlearnError, match="no module 'nowhere'"):
        make_world().forgotten(MixUnlearn(layer="nowhere"))


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [("test_resnet", (16, 16), {}), ("test_resnet", (16, 48), {}), ("test_convnext", (32, 32), {}),
     ("test_vit", (16, 24), {"patch_size": 8}), ("test_vit", (32, 32), {"patch_size": 8})],
)  # fmt: skip
def test_networks_of_every_kind_learn_from_small_and_oblong_images(
    name: str, size: tuple[int, int], options: dict[str, int]
) -> None:
    sizes = {"img_size": size} if options else {}
    model = timm.create_model(name, num_classes=10, in_chans=1, **sizes, **options)
    labels = torch.arange(12) % 10
    data = image_data(torch.randn(12, 1, *size, generator=torch.Generator().manual_seed(0)), labels)
    evidence = replace(
        make_world().evidence, forget=Samples(data, torch.arange(4)), retain=Samples(data, torch.arange(4, 12)),
        tuning=None, fresh=lambda seed: copy.deepcopy(model),
    )  # fmt: skip
    made = _Game(MixUnlearn(label_aware=False), model, evidence)
    mask = made._mask(data.images(torch.arange(4)), data.images(torch.arange(4, 8)), 0.3)
    assert mask.shape == (4, 1, *size)
    facts = MixUnlearn(epochs=1, batch_size=4).unlearn(model, evidence)
    assert facts["generator_steps"] == 1
    assert facts["optimizer"] == ("sgd" if name == "test_resnet" else "adamw")
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())
