"""Models that would go wrong without a word are refused in one sentence; sound ones pass and stay as they are."""

import json
from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
import transformers
from torch import Tensor, nn

from tests.plugin.test_any_classifier import OwnNetwork
from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.blueprints.transformers_model import TransformersBlueprint
from unlearn_plugin.head_check import check_head


class TwoHeads(OwnNetwork):
    """The second head looks at the image by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.aside = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3))
        self.head = self._modules.pop("head")  # the last module again

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.aside(x)


class Probabilities(OwnNetwork):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


class WithFeatures(OwnNetwork):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(x), x.mean((2, 3))


class Unused(OwnNetwork):
    """The last layer is not the one that makes the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Linear(8, 3)


def of_transformers(kind: str, **arguments: object) -> nn.Module:
    config = transformers.AutoConfig.for_model(kind, num_labels=3, **arguments)
    return TransformersBlueprint.of(json.loads(config.to_json_string(use_diff=False)), None).build()


SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
REFUSED = {
    "a second head": (TwoHeads, 16, "do not come through the head 'head.1' alone"),
    "another head": (Unused, 16, "do not come through the head 'projection' alone"),
    "probabilities": (Probabilities, 16, "gives probabilities; it must give logits"),
    "a tuple": (WithFeatures, 16, "gives a tuple for 2 images in evaluation mode"),
    "one output": (lambda: OwnNetwork(1), 16, "has one output"),
    "googlenet": (lambda: torchvision.models.googlenet(init_weights=False, num_classes=3), 64, "in training mode"),
    "volo": (lambda: timm.create_model("volo_d1_224", img_size=64, num_classes=3), 64, "head 'head' alone"),
    "repvit": (lambda: timm.create_model("repvit_m0_9", num_classes=3), 64, "head 'head.head_dist.l' alone"),
    "levit": (lambda: timm.create_model("levit_128s", num_classes=3), 224, "has 2 classifier heads"),
    "crossvit": (lambda: timm.create_model("crossvit_tiny_240", num_classes=3), 240, "has 2 classifier heads"),
    "efficientvim": (lambda: timm.create_model("efficientvim_m1", num_classes=3), 64, "has 4 classifier heads"),
    "imagegpt": (
        lambda: of_transformers("imagegpt", architectures=["ImageGPTForImageClassification"], n_layer=1, n_embd=16), 32,
        "ImageGPT",
    ),
    "efficientformer": (lambda: timm.create_model("efficientformerv2_s0", num_classes=3), 64, "2 classifier heads"),
    "no head": (lambda: timm.create_model("test_resnet", num_classes=0), 64, "No classifier head"),
    "another size": (lambda: timm.create_model("deit_tiny_patch16_224", depth=1), 64, "cannot look at images of size"),
    "distilled deit": (
        lambda: of_transformers("deit", architectures=["DeiTForImageClassificationWithTeacher"], **SMALL), 16,
        "DeiTForImageClassificationWithTeacher do not come through the head 'distillation_classifier' alone",
    ),
    "swiftformer": (
        lambda: of_transformers(
            "swiftformer", architectures=["SwiftFormerForImageClassification"], depths=[1] * 4,
            embed_dims=[8, 8, 16, 16],
        ), 64, "head 'dist_head' alone",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_go_wrong_is_refused_in_one_sentence(name: str) -> None:
    make, side, words = REFUSED[name]
    torch.manual_seed(0)
    with pytest.raises(UnlearnError, match=words) as caught:
        check_head(make(), (3, side, side))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: timm.create_model("repvit_m0_9", num_classes=3, distillation=False),
        lambda: torchvision.models.googlenet(init_weights=False, num_classes=3, aux_logits=False),
    ],
)
def test_what_has_a_second_head_by_default_can_be_built_without(make: Callable[[], nn.Module]) -> None:
    check_head(make(), (3, 64, 64))


def test_a_sound_model_is_left_as_it_was_with_its_modes_and_the_random_state() -> None:
    model = OwnNetwork().train()
    model.norm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    check_head(model, (3, 16, 16))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (model.training, model.norm.training) == (True, False)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_stands_behind_the_head_is_no_second_head() -> None:
    class LogProbabilities(OwnNetwork):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).log_softmax(1)

    check_head(LogProbabilities(), (3, 16, 16))
    check_head(torchvision.models.squeezenet1_1(num_classes=3), (3, 64, 64))
