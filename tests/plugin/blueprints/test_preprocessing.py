"""How pictures become the model's input."""

import pytest
import torch
from PIL import Image
from torch import nn

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.blueprints.preprocessing import AskedInput, evaluation_transform, guess_channels, resolve_input


def test_what_was_asked_for_counts_more_than_what_came_with_the_checkpoint() -> None:
    known = {"input_size": (3, 40, 48), "mean": (0.1, 0.2, 0.3), "crop_pct": 0.5}
    assert resolve_input(known, AskedInput(), channels=3)["input_size"] == (3, 40, 48)
    found = resolve_input(known, AskedInput(input_size=8, mean=(0.5,), crop_pct=1.0), channels=3)
    assert (found["input_size"], found["mean"], found["crop_pct"]) == ((3, 8, 8), (0.5, 0.5, 0.5), 1.0)


def test_the_size_an_architecture_is_built_for_stands_between() -> None:
    known = {"input_size": (3, 40, 40)}
    assert resolve_input(known, AskedInput(), channels=3, built_for=16)["input_size"] == (3, 16, 16)
    assert resolve_input(known, AskedInput(), channels=3, built_for=[16, 24])["input_size"] == (3, 16, 24)
    assert resolve_input(known, AskedInput(input_size=8), channels=3, built_for=16)["input_size"] == (3, 8, 8)


def test_nobody_said_how_large_images_are() -> None:
    assert resolve_input({}, AskedInput(), channels=1)["input_size"] is None


def test_a_colour_models_mean_is_averaged_for_a_grey_one() -> None:
    assert resolve_input({"mean": (0.1, 0.2, 0.6)}, AskedInput(), channels=1)["mean"] == pytest.approx((0.3,))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"std": (0.1, 0.2)}, "--std 0.1 0.2 does not suit 3 channels"),
        ({"std": (0.0,)}, "all above 0"),
        ({"input_size": -3}, "--input-size -3 is too small"),
    ],
)
def test_what_cannot_be_is_refused(asked: dict[str, object], words: str) -> None:
    with pytest.raises(UnlearnError, match=words):
        resolve_input({}, AskedInput(**asked), channels=3)


def test_a_picture_is_resized_and_normalised() -> None:
    config = resolve_input({}, AskedInput(input_size=8, mean=(0.5,), std=(0.25,), crop_pct=1.0), channels=3)
    pixels = evaluation_transform(config)(Image.new("RGB", (40, 20), (255, 0, 51)))
    assert pixels.shape == (3, 8, 8)
    assert torch.allclose(pixels[:, 0, 0], torch.tensor([2.0, -2.0, -1.2]), atol=1e-6)


def test_channels_are_those_of_the_first_convolution() -> None:
    assert guess_channels(nn.Sequential(nn.Conv2d(4, 2, 3), nn.Conv2d(2, 5, 3))) == 4
    assert guess_channels(nn.Linear(2, 2)) == 3
