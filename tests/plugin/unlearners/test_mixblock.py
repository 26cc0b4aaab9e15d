"""The generator of masks and the features it looks at."""

import pytest
import timm
import torch
from torch import nn

from tests.conftest import fresh_net
from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.unlearners._mixblock import EarlyFeatures, MixBlock, tokens_as_map


def block(channels: int = 3) -> MixBlock:
    torch.manual_seed(0)
    return MixBlock(channels)


def test_tokens_become_rows_and_columns_and_prefix_tokens_are_dropped() -> None:
    pixels = torch.arange(6.0).reshape(1, 6, 1)
    tokens = torch.cat([torch.full((1, 2, 1), 99.0), pixels], 1)
    assert tokens_as_map(tokens, 32, 48).tolist() == [[[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]]]


@pytest.mark.parametrize(("count", "size", "grid"), [(197, (224, 224), (14, 14)), (201, (224, 224), (14, 14)),
                                                     (225, (224, 256), (14, 16)), (65, (32, 32), (8, 8))])  # fmt: skip
def test_the_grid_has_the_proportions_of_the_image(count: int, size: tuple[int, int], grid: tuple[int, int]) -> None:
    assert tuple(tokens_as_map(torch.zeros(2, count, 5), *size).shape) == (2, 5, *grid)


def test_too_few_tokens_for_the_proportions_are_refused() -> None:
    with pytest.raises(UnlearnError, match=r"5 tokens .* 224x32 image; set -o layer"):
        tokens_as_map(torch.zeros(1, 5, 2), 224, 32)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
@pytest.mark.parametrize("size", [(160, 160)])
def test_timm_networks_give_a_map_convolutional_or_not(name: str, size: tuple[int, int]) -> None:
    model = timm.create_model(name, num_classes=4).eval()
    maps = EarlyFeatures(model)(torch.randn(2, 3, *size))
    assert maps.ndim == 4
    assert max(maps.shape[2:]) <= 16
    assert not maps.requires_grad


def test_small_and_oblong_images_pass() -> None:
    model = timm.create_model("test_resnet", num_classes=4, in_chans=1).eval()
    assert EarlyFeatures(model)(torch.randn(2, 1, 16, 48)).shape[2:] == (4, 12)


def test_other_networks_give_their_first_convolution_or_the_named_module() -> None:
    net, images = fresh_net(0).eval(), torch.randn(3, 1, 8, 8)
    wanted = torch.nn.functional.layer_norm(net[0](images), (8, 8, 8))
    assert torch.allclose(EarlyFeatures(net)(images), wanted)
    assert EarlyFeatures(net, layer="3")(images).shape == (3, 16, 4, 4)
    assert not net[0]._forward_hooks
    assert not net[3]._forward_hooks


def test_a_network_without_convolutions_gives_the_image() -> None:
    images = torch.randn(3, 1, 8, 8)
    found = EarlyFeatures(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)))(images)
    assert torch.allclose(found, torch.nn.functional.layer_norm(images, (1, 8, 8)))


def test_an_unknown_module_is_told_with_those_there_are() -> None:
    with pytest.raises(UnlearnError, match="no module 'conv9'; .* 0, 1, 2"):
        EarlyFeatures(fresh_net(0), layer="conv9")


def test_an_untrained_block_is_plain_mixup() -> None:
    first, second = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    for share in (0.001, 0.3, 0.999):
        mask = block()(first, second, share, (16, 20))
        assert torch.allclose(mask, torch.full((2, 1, 16, 20), share), atol=1e-6)


def test_the_mask_is_the_attention_over_the_second_images_values() -> None:
    made = block(1)
    with torch.no_grad():
        for conv in (made.query, made.key):
            conv.weight.zero_(), conv.bias.zero_()  # uniform attention: every position gets the mean value
        made.value.weight.copy_(torch.tensor([2.0, 0.0]).reshape(1, 2, 1, 1))
    second = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])
    mask = made(torch.randn(1, 1, 2, 2), second, 0.5, (2, 2))
    assert torch.allclose(mask, torch.sigmoid(torch.full((1, 1, 2, 2), 6.0)))


def test_the_second_image_is_told_its_own_share() -> None:
    made = block(1)
    with torch.no_grad():
        made.value.weight.copy_(torch.tensor([0.0, 2.0]).reshape(1, 2, 1, 1))  # of the channel that holds 1 - lambda
    mask = made(torch.randn(1, 1, 2, 2), torch.randn(1, 1, 2, 2), 0.25, (2, 2))
    wanted = torch.sigmoid(2.0 * torch.tensor(0.75) + torch.tensor(0.25).logit())
    assert torch.allclose(mask, wanted.expand(1, 1, 2, 2))


def test_the_share_is_seen_by_the_attention() -> None:
    made = block()
    nn.init.normal_(made.value.weight)
    first, second = torch.randn(1, 3, 4, 4), torch.randn(1, 3, 4, 4)
    deviations = [made(first, second, share, (4, 4)).logit() - torch.tensor(share).logit() for share in (0.2, 0.8)]
    assert not torch.allclose(*deviations, atol=1e-3)


def test_all_weights_learn_once_the_values_have_moved() -> None:
    made = block()
    nn.init.normal_(made.value.weight)
    made(torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), 0.4, (8, 8)).square().sum().backward()
    assert all(
        float(parameter.grad.abs().sum()) > 0 for name, parameter in made.named_parameters() if name != "key.bias"
    )


def test_it_has_the_size_of_automixs_block_on_256_channels() -> None:
    """Two projections of 257 to 128 channels and one of 257 to 1: the 66 thousand parameters of the paper."""
    assert sum(parameter.numel() for parameter in MixBlock(256).parameters()) == 66_306
