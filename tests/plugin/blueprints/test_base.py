"""What all forms have in common."""

import pytest

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.blueprints.base import Blueprint
from unlearn_plugin.blueprints.hub_mixin import MixinBlueprint
from unlearn_plugin.blueprints.transformers_model import TransformersBlueprint

SETTLED = [
    MixinBlueprint(architecture="package.module:Class", config={}),
    TransformersBlueprint.of({"architectures": ["ViTForImageClassification"]}, None),
]


@pytest.mark.parametrize("blueprint", SETTLED, ids=lambda blueprint: type(blueprint).__name__)
def test_sizes_that_config_json_settles_cannot_be_given(blueprint: Blueprint) -> None:
    assert blueprint.sized(num_classes=None, in_chans=None, input_size=32) is blueprint
    with pytest.raises(UnlearnError, match=f"--in-chans 1 cannot be set for {blueprint.architecture!r}"):
        blueprint.sized(num_classes=None, in_chans=1, input_size=None)
    with pytest.raises(UnlearnError, match=r"--num-classes 4 .* leave the flag out"):
        blueprint.sized(num_classes=4, in_chans=None, input_size=None)
