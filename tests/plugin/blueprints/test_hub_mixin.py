"""Classes with PyTorchModelHubMixin; the whole way in and out is in test_any_classifier.py."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import PyTorchModelHubMixin
from safetensors.torch import load_file
from torch import nn

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.blueprints.hub_mixin import MixinBlueprint, is_mixin_class
from unlearn_plugin.checkpoint import Checkpoint


class Small(nn.Module, PyTorchModelHubMixin):
    """Has an argument of the name under which timm keeps its architecture."""

    def __init__(self, width: int = 4, architecture: str = "plain") -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, 2)
        self.architecture = architecture

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.norm(self.conv(x)).mean((2, 3)))


class Bare(Small):
    def __init__(self) -> None:
        super().__init__()


def no_class() -> nn.Module:
    return Small()


SMALL, BARE = f"{__name__}:Small", f"{__name__}:Bare"


def test_only_classes_with_the_mixin_are_taken_for_such() -> None:
    assert is_mixin_class(SMALL)
    assert not any(is_mixin_class(name) for name in (None, "resnet18", f"{__name__}:no_class", "torch.nn:Linear"))
    with pytest.raises(UnlearnError, match="cannot be imported"):
        is_mixin_class("no_such_package:Class")


def test_the_arguments_in_config_json_build_the_model_and_go_out_as_they_came(tmp_path: Path) -> None:
    torch.manual_seed(0)
    Small(width=6, architecture="resnet18").save_pretrained(tmp_path / "in")
    found = Checkpoint.load(str(tmp_path / "in"), arch=SMALL, input_size=8)
    assert (found.model.fc.in_features, found.model.architecture, found.num_classes) == (6, "resnet18", 2)
    assert (found.data_config["input_size"], found.architecture) == ((1, 8, 8), SMALL)
    fresh = found.fresh(1)
    assert (fresh.fc.in_features, fresh.training) == (6, True)
    found.save(found.model, tmp_path / "out")
    config = [json.loads((tmp_path / folder / "config.json").read_text()) for folder in ("in", "out")]
    assert config[0] == config[1] == {"width": 6, "architecture": "resnet18"}
    loaded = Small.from_pretrained(tmp_path / "out")
    assert all(torch.equal(value, found.model.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_a_class_without_arguments_needs_no_config(tmp_path: Path) -> None:
    Bare().save_pretrained(tmp_path / "in")
    (tmp_path / "in" / "config.json").unlink(missing_ok=True)
    found = Checkpoint.load(str(tmp_path / "in"), arch=BARE)
    found.save(found.model, tmp_path / "out")
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == found.model.state_dict().keys()
    Bare.from_pretrained(tmp_path / "out")


def test_nothing_is_printed_while_building(capsys: pytest.CaptureFixture[str]) -> None:
    MixinBlueprint(architecture=SMALL, config={}).build()
    assert capsys.readouterr().out == ""


def test_the_class_has_to_be_named(tmp_path: Path) -> None:
    Small().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"width": 4}')
    with pytest.raises(UnlearnError, match=r"saved by a class with PyTorchModelHubMixin, give --arch"):
        Checkpoint.load(str(tmp_path))


@pytest.mark.parametrize(
    ("config", "words"),
    [({"width": 5}, r"'conv\.bias' is \(4,\) in the file and \(5,\)"), ({"width": "x"}, "cannot be built from")],
)
def test_a_config_of_another_model_is_refused(config: dict[str, object], words: str) -> None:
    with pytest.raises(UnlearnError, match=words):
        MixinBlueprint(architecture=SMALL, config=config).fill(dict(Small().state_dict()), "model.safetensors")
