"""Rounding: known roundings, and what comes back when a small edit is rounded away."""

import copy

import pytest
import torch
from torch import nn

from tests.plugin.trials import HeadOnly, make_trial, with_margins
from unlearn_plugin.metrics.membership import Membership
from unlearn_plugin.metrics.rounding import Rounding, round_weight, rounded_copy

CLASSES = 3


def test_four_bits_by_hand() -> None:
    weight = torch.tensor([[0.7, -0.34, 0.06, 0.0], [14.0, -1.1, 3.2, -14.0]])
    by_hand = torch.tensor([[0.7, -0.3, 0.1, 0.0], [14.0, -2.0, 4.0, -14.0]])  # steps of 0.1 and of 2
    torch.testing.assert_close(round_weight(weight, 4), by_hand)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("channels", [0, 1])
def test_it_is_torchs_own_symmetric_quantisation(bits: int, channels: int) -> None:
    weight = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    largest = 2 ** (bits - 1) - 1
    scale = weight.abs().amax(dim=[d for d in range(4) if d != channels]) / largest
    zeros = torch.zeros(len(scale), dtype=torch.int32)
    torchs = torch.fake_quantize_per_channel_affine(weight, scale, zeros, channels, -largest, largest)
    torch.testing.assert_close(round_weight(weight, bits, channels), torchs)


def test_a_channel_of_zeros_stays_zero() -> None:
    assert torch.equal(round_weight(torch.zeros(2, 3), 8), torch.zeros(2, 3))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 2, 3), nn.Flatten(), nn.Linear(128, 3)
    )


def test_weights_of_layers_are_rounded_by_output_channel_and_nothing_else_is() -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    copied = rounded_copy(model, 4)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    for place, channels in ((0, 0), (2, 1), (4, 0)):
        weight = copied[place].weight
        assert torch.equal(weight, round_weight(model[place].weight, 4, channels))
        assert all(len(one.unique()) <= 15 for one in weight.movedim(channels, 0))
        assert torch.equal(copied[place].bias, model[place].bias)
    assert torch.equal(copied[1].weight, model[1].weight)


def test_bfloat16_rounds_every_number_and_keeps_the_type() -> None:
    model = net()
    model(torch.randn(8, 1, 8, 8))
    copied = rounded_copy(model, None)
    for name, value in copied.state_dict().items():
        told = model.state_dict()[name]
        assert value.dtype == told.dtype
        assert torch.equal(value, told.to(torch.bfloat16).to(told.dtype))
    assert not torch.equal(copied[0].weight, model[0].weight)


def trial_of(model: nn.Module, shift: float):
    """F has something on the last input, which `model` may or may not listen to."""

    def drawn(size: int, seed: int, extra: float):
        generator = torch.Generator().manual_seed(seed)
        labels = [row % CLASSES for row in range(size)]
        known = with_margins(torch.randn(size, generator=generator), labels, CLASSES)
        known[torch.arange(size), torch.tensor(labels)] += extra
        return torch.cat([known, torch.full((size, 1), extra)], 1), labels

    return make_trial(drawn(90, 0, shift), drawn(30, 1, 0.0), drawn(600, 2, 0.0), original=model, classes=CLASSES)


def test_what_a_small_edit_hid_comes_back_when_it_is_rounded_away() -> None:
    """The edit: each class takes off a little more where the last input is on, less than half a step of 4 bits."""
    weight = torch.cat([torch.eye(CLASSES), torch.zeros(CLASSES, 1)], 1)
    weight[:, 3] = 0.06
    weight -= 0.06 * torch.ones(CLASSES, CLASSES + 1)  # now 0.94 and -0.06: rounded to 0.94 and 0
    hidden = HeadOnly(CLASSES + 1, CLASSES, weight=weight)
    trial = trial_of(hidden, 1.0)
    found = Rounding().measure(hidden, trial)
    assert found.details["p_value"] < 1e-6
    assert found.value == found.details["int8"]["value"]


def test_of_a_model_that_never_saw_f_no_copy_says_anything() -> None:
    model = HeadOnly(CLASSES + 1, CLASSES)
    found = Rounding().measure(model, trial_of(model, 0.0))
    assert found.low < 0.5 < found.high
    assert found.details["p_value"] > 0.025


def test_the_p_value_pays_for_three_looks() -> None:
    model = HeadOnly(CLASSES + 1, CLASSES)
    trial = trial_of(model, 0.2)
    single = Membership().measure(model, trial).details["p_value"]
    assert 1.5 * single < Rounding().measure(model, trial).details["p_value"] < 6 * single


def test_nothing_to_compare_with_gives_no_number() -> None:
    model = HeadOnly(CLASSES, CLASSES)
    few = (torch.randn(3, CLASSES), [0, 1, 2])
    found = Rounding().measure(model, make_trial(few, few, few, original=model, classes=CLASSES))
    assert found.value is None
    assert found.note
