"""Architectures by name; what comes in and goes out as a whole is in test_checkpoint.py."""

import pytest
import timm
import torch
from torch import nn

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.blueprints.named import NamedBlueprint
from unlearn_plugin.blueprints.preprocessing import AskedInput


def build_narrow(num_classes: int = 2) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))


OWN = NamedBlueprint(architecture=f"{__name__}:build_narrow")


def test_sizes_become_arguments_and_the_image_size_only_where_it_is_built_in() -> None:
    sizes = {"num_classes": 4, "in_chans": None, "input_size": 32}
    free = NamedBlueprint(architecture="test_resnet")
    assert free.sized(**sizes).arguments == {"num_classes": 4}
    fixed = NamedBlueprint(architecture="test_vit", config={"fixed_input_size": True}, arguments={"num_classes": 9})
    assert fixed.sized(**sizes).arguments == {"num_classes": 4, "img_size": 32}


@pytest.mark.parametrize("name", ["shvit_s1", "iformer_t"])
def test_the_size_of_a_head_inside_a_declared_block_is_read_off_the_weights(name: str) -> None:
    weights = timm.create_model(name, num_classes=3).state_dict()
    filled = NamedBlueprint(architecture=name).fill(dict(weights), "w.pth")
    assert filled.blueprint.arguments == {"num_classes": 3}
    assert all(torch.equal(value, weights[key]) for key, value in filled.model.state_dict().items())


def test_own_code_is_not_cropped_for_and_says_by_its_weights_how_many_channels_it_takes() -> None:
    config = OWN.input_config(OWN.build(), AskedInput(input_size=8))
    assert (config["input_size"], config["crop_pct"]) == ((1, 8, 8), 1.0)


def test_the_config_of_own_code_names_it() -> None:
    config = OWN.input_config(OWN.build(), AskedInput(input_size=8))
    content = OWN.config_files(config, 2, ("x", "y"))["config.json"]
    assert (content["architecture"], content["label_names"]) == (OWN.architecture, ["x", "y"])


def test_own_code_and_weights_that_differ_are_refused_with_the_names() -> None:
    with pytest.raises(UnlearnError, match=r"in 'w\.pt' are not those of .*'3\.weight' is \(5, 4\)"):
        OWN.fill(dict(build_narrow(5).state_dict()), "w.pt")
