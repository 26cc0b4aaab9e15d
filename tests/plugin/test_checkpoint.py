"""Checkpoints: in from every kind of source, out as a folder that timm itself loads."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.training_record import weights_digest
from unlearn_plugin.checkpoint import Checkpoint

ARCHITECTURES = {
    "test_resnet": {"num_classes": 7},
    "test_vit": {"num_classes": 7, "img_size": 64},
    "test_convnext": {"num_classes": 2, "in_chans": 1},
    "test_efficientnet": {"num_classes": 5, "in_chans": 4},
}
HERE = f"{__name__}:"


class OwnNetwork(nn.Module):
    """A network timm does not know."""

    def __init__(self, num_classes: int = 4, in_chans: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chans, 3, 3)
        self.fc = nn.Linear(3, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(images).mean((2, 3)))


class CifarBlock(nn.Module):
    """Two 3x3 convolutions; the shortcut has no weights."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.stride = channels // channels_in
        self.conv1 = nn.Conv2d(channels_in, channels, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.stride == 2:
            half = (out.shape[1] - x.shape[1]) // 2
            x = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, half, half))
        return torch.relu(out + x)


class CifarResNet20(nn.Module):
    """ResNet-20 for CIFAR-10 (He et al. 2016, section 4.2), with the names of akamaster/pytorch_resnet_cifar10."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        for number, (before, channels) in enumerate(((16, 16), (16, 32), (32, 64)), start=1):
            blocks = [CifarBlock(before, channels), CifarBlock(channels, channels), CifarBlock(channels, channels)]
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def no_model() -> str:
    return "nothing"


def make(architecture: str, **arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(architecture, **arguments)
    return model.eval()


def write(path: Path, state: Mapping[str, torch.Tensor]) -> str:
    if path.suffix == ".safetensors":
        save_file(dict(state), path)
    else:
        torch.save(dict(state), path)
    return str(path)


def equal(one: nn.Module, other: nn.Module, size: tuple[int, int, int]) -> bool:
    images = torch.randn(2, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return torch.equal(one.eval()(images), other.eval()(images))


def no_pickle_in(folder: Path) -> bool:
    return {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_head_channels_and_image_size_are_read_off_the_weights(tmp_path: Path, architecture: str) -> None:
    arguments = ARCHITECTURES[architecture]
    model = make(architecture, **arguments)
    found = Checkpoint.load(write(tmp_path / "w.safetensors", model.state_dict()), arch=architecture)
    size = found.data_config["input_size"]
    assert found.blueprint.arguments.items() >= arguments.items()
    assert found.num_classes == arguments["num_classes"]
    assert size[0] == arguments.get("in_chans", 3) == len(found.data_config["mean"]) == len(found.data_config["std"])
    assert size[1:] == (arguments.get("img_size", 160),) * 2
    assert equal(found.model, model, size)
    assert not found.model.training


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_saved_folder_loads_in_timm_with_the_same_keys_precision_and_outputs(
    tmp_path: Path, architecture: str, dtype: torch.dtype
) -> None:
    state = make(architecture, **ARCHITECTURES[architecture]).to(dtype).state_dict()
    found = Checkpoint.load(write(tmp_path / "w.safetensors", state), arch=architecture)
    found.save(found.model, tmp_path / "out")
    again = load_file(tmp_path / "out" / "model.safetensors")
    assert {name: (value.shape, value.dtype) for name, value in again.items()} == {
        name: (value.shape, value.dtype) for name, value in state.items()
    }
    assert all(torch.equal(again[name], value) for name, value in state.items())
    timms = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    assert equal(timms, found.model, found.data_config["input_size"])
    assert no_pickle_in(tmp_path / "out")


def test_what_was_saved_is_loaded_again_as_it_was(tmp_path: Path) -> None:
    model = make("test_vit", num_classes=3, img_size=32, in_chans=1)
    path = write(tmp_path / "w.pt", model.state_dict())
    first = Checkpoint.load(path, arch="test_vit", mean=[0.2], std=[0.3], crop_pct=1.0)
    first.save(first.model, tmp_path / "out")
    again = Checkpoint.load(f"local-dir:{tmp_path / 'out'}")
    assert again.data_config == first.data_config
    assert again.data_config["mean"] == (0.2,)
    assert (again.digest, again.num_classes, again.architecture) == (first.digest, 3, "test_vit")
    assert (first.source, again.source) == (".pt file", "local folder")
    again.save(again.model, tmp_path / "second")
    one, two = (json.loads((tmp_path / folder / "config.json").read_text()) for folder in ("out", "second"))
    assert one == two


def test_label_names_and_preprocessing_travel_through(tmp_path: Path) -> None:
    model = make("test_resnet", num_classes=3)
    timm.models.save_for_hf(model, tmp_path / "in", {"label_names": ["x", "y", "z"]}, safe_serialization=True)
    config = json.loads((tmp_path / "in" / "config.json").read_text())
    config["pretrained_cfg"].update(interpolation="nearest", crop_mode="border", crop_pct=0.5, input_size=[3, 48, 40])
    (tmp_path / "in" / "config.json").write_text(json.dumps(config))
    found = Checkpoint.load(f"local-dir:{tmp_path / 'in'}")
    assert found.label_names == ("x", "y", "z")
    assert found.data_config["input_size"] == (3, 48, 40)
    found.save(found.model, tmp_path / "out")
    assert Checkpoint.load(str(tmp_path / "out")).label_names == ("x", "y", "z")
    timms = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    timms_config = timm.data.resolve_model_data_config(timms)
    assert {**timms_config, "mean": (0.5,) * 3, "std": (0.5,) * 3} == found.data_config
    assert (list(timms_config["mean"]), list(timms_config["std"])) == ([0.5] * 3, [0.5] * 3)
    assert list(timms.pretrained_cfg["label_names"]) == ["x", "y", "z"]


def test_label_names_as_a_table_are_put_in_order_and_wrong_ones_are_left_out(tmp_path: Path) -> None:
    model = make("test_resnet", num_classes=2)
    for names, expected in (({"1": "b", "0": "a"}, ("a", "b")), ({"0": "a"}, None), (["a"], None)):
        timm.models.save_for_hf(model, tmp_path, {"label_names": names}, safe_serialization=True)
        assert Checkpoint.load(str(tmp_path)).label_names == expected


def test_weights_in_wrappers_of_other_frameworks_are_loaded(tmp_path: Path) -> None:
    model = make("test_resnet", num_classes=3)
    wrapped = {f"module._orig_mod.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": wrapped, "epoch": 1}, tmp_path / "w.pth")
    found = Checkpoint.load(str(tmp_path / "w.pth"), arch="test_resnet")
    assert equal(found.model, model, (3, 64, 64))
    assert found.digest == weights_digest(model.state_dict())


def test_old_files_without_counters_of_batch_normalisation_come_out_without_them(tmp_path: Path) -> None:
    state = {k: v for k, v in make("test_resnet").state_dict().items() if not k.endswith("num_batches_tracked")}
    found = Checkpoint.load(write(tmp_path / "w.pt", state), arch="test_resnet")
    found.save(found.model, tmp_path / "out")
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == state.keys()


def test_weights_in_the_layout_of_another_library_are_renamed_by_timm(tmp_path: Path) -> None:
    model = make("convnext_atto", num_classes=4)
    names = {"stem.": "downsample_layers.0.", "head.norm.": "norm.", "head.fc.": "head."}  # Meta's first release
    state = model.state_dict()
    foreign = {}
    for name, value in state.items():
        new = next((new + name.removeprefix(old) for old, new in names.items() if name.startswith(old)), name)
        new = new.replace("blocks.", "").replace("mlp.fc", "pwconv").replace("conv_dw", "dwconv")
        foreign[new] = value
    foreign = {
        (f"downsample_layers.{k[7]}.{k[20:]}" if ".downsample." in k else k): v for k, v in foreign.items()
    }  # fmt: skip
    found = Checkpoint.load(write(tmp_path / "w.pt", foreign), arch="convnext_atto", num_classes=4)
    assert equal(found.model, model, (3, 64, 64))
    found.save(found.model, tmp_path / "out")
    assert equal(timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True), model, (3, 64, 64))


@pytest.mark.parametrize(
    ("architecture", "options", "words"),
    [
        ("test_resnet", {"num_classes": 9}, r"'fc\.weight' is \(7, 96\) in the file and \(9, 96\) in the model"),
        ("test_resnet", {"in_chans": 1}, r"'conv1\.0\.weight' is .*--in-chans"),
        ("test_vit", {"input_size": 160}, r"'pos_embed' is \(1, 17, 64\) in the file and \(1, 101, 64\) in the model"),
        ("test_vit", {"arch": "test_resnet"}, "missing .* not part of the model .*--arch is probably wrong"),
        ("test_resnet", {"arch": "resnet18"}, "of another shape .*and 45 more"),
    ],
)
def test_weights_that_do_not_fit_are_refused_with_names_and_sizes(
    tmp_path: Path, architecture: str, options: dict[str, Any], words: str
) -> None:
    path = write(tmp_path / "w.safetensors", make(architecture, **ARCHITECTURES[architecture]).state_dict())
    with pytest.raises(UnlearnError, match=words):
        Checkpoint.load(path, **{"arch": architecture, **options})


def test_a_folder_whose_config_and_weights_differ_is_refused(tmp_path: Path) -> None:
    timm.models.save_for_hf(make("test_resnet", num_classes=3), tmp_path, safe_serialization=True)
    write(tmp_path / "model.safetensors", make("test_resnet", num_classes=4).state_dict())
    with pytest.raises(UnlearnError, match="'fc.weight' is .4, 96. in the file and .3, 96. in the model"):
        Checkpoint.load(str(tmp_path))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mean": (0.1, 0.2)}, "--mean 0.1 0.2 does not suit 3 channels; give one number or 3"),
        ({"std": (0.1, 0.0, 0.1)}, "--std .* all above 0"),
        ({"input_size": -1}, "--input-size -1 is too small"),
    ],
)
def test_preprocessing_that_cannot_be_is_refused(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    path = write(tmp_path / "w.pt", make("test_resnet").state_dict())
    with pytest.raises(UnlearnError, match=words):
        Checkpoint.load(path, arch="test_resnet", **options)


def test_one_number_stands_for_all_channels(tmp_path: Path) -> None:
    path = write(tmp_path / "w.pt", make("test_resnet").state_dict())
    config = Checkpoint.load(path, arch="test_resnet", mean=(0.25,), std=(0.5,), input_size=32).data_config
    assert (config["mean"], config["std"], config["input_size"]) == ((0.25,) * 3, (0.5,) * 3, (3, 32, 32))


def test_a_network_of_ones_own_goes_in_and_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, arch = OwnNetwork().eval(), f"{HERE}OwnNetwork"
    found = Checkpoint.load(write(tmp_path / "w.pt", model.state_dict()), arch=arch, input_size=8)
    assert (found.num_classes, found.data_config["input_size"], found.data_config["crop_pct"]) == (4, (1, 8, 8), 1.0)
    found.save(found.model, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architecture"] == arch
    again = Checkpoint.load(f"local-dir:{tmp_path / 'out'}", arch=arch)
    assert equal(again.model, model, (1, 8, 8))
    assert (again.data_config, again.digest) == (found.data_config, found.digest)


def test_a_network_of_ones_own_without_a_given_size_has_none(tmp_path: Path) -> None:
    path = write(tmp_path / "w.pt", OwnNetwork().state_dict())
    found = Checkpoint.load(path, arch=f"{HERE}OwnNetwork")
    assert found.data_config["input_size"] is None
    found.save(found.model, tmp_path / "out")
    assert Checkpoint.load(str(tmp_path / "out"), arch=f"{HERE}OwnNetwork").data_config == found.data_config


def test_arguments_for_ones_own_network_are_passed_kept_and_checked(tmp_path: Path) -> None:
    path = write(tmp_path / "w.pt", OwnNetwork(num_classes=6, in_chans=3).state_dict())
    with pytest.raises(UnlearnError, match=r"'fc\.weight' is \(6, 3\) in the file and \(4, 3\) in the model"):
        Checkpoint.load(path, arch=f"{HERE}OwnNetwork")
    found = Checkpoint.load(path, arch=f"{HERE}OwnNetwork", num_classes=6, in_chans=3)
    found.save(found.model, tmp_path / "out")
    assert Checkpoint.load(str(tmp_path / "out"), arch=f"{HERE}OwnNetwork").num_classes == 6
    with pytest.raises(UnlearnError, match="unexpected keyword argument 'num_classes'"):
        Checkpoint.load(path, arch=f"{HERE}CifarResNet20", num_classes=6)
    with pytest.raises(UnlearnError, match=r"gave a str; it must give a torch\.nn\.Module"):
        Checkpoint.load(path, arch=f"{HERE}no_model")


def test_a_copy_may_be_changed_and_the_original_stays(tmp_path: Path) -> None:
    found = Checkpoint.load(write(tmp_path / "w.pt", make("test_resnet").state_dict()), arch="test_resnet")
    changed = found.copy()
    with torch.no_grad():
        changed.fc.bias.add_(1)
    assert found.digest_of(changed) != found.digest == found.digest_of(found.model)
    found.save(changed, tmp_path / "out")
    assert Checkpoint.load(str(tmp_path / "out")).digest == found.digest_of(changed)


def test_a_fresh_model_depends_on_the_seed_alone_and_leaves_the_random_state(tmp_path: Path) -> None:
    path = write(tmp_path / "w.pt", make("test_vit", num_classes=3, img_size=32).state_dict())
    found = Checkpoint.load(path, arch="test_vit")
    state = torch.get_rng_state()
    one, two, other = (found.digest_of(found.fresh(seed)) for seed in (1, 1, 2))
    assert one == two
    assert len({one, other, found.digest}) == 3
    assert torch.equal(torch.get_rng_state(), state)
    assert found.fresh(0).training


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_settling_rounds_to_what_is_stored(tmp_path: Path, dtype: torch.dtype) -> None:
    state = make("test_resnet").to(dtype).state_dict()
    found = Checkpoint.load(write(tmp_path / "w.safetensors", state), arch="test_resnet")
    model = found.copy()
    with torch.no_grad():
        model.fc.weight.copy_(torch.linspace(0.1, 0.9, model.fc.weight.numel()).reshape(model.fc.weight.shape))
    exact = model.fc.weight.clone()
    found.settle(model)
    assert torch.equal(model.fc.weight, exact.to(dtype).float())
    found.save(model, tmp_path / "out")
    assert equal(Checkpoint.load(str(tmp_path / "out")).model, model, (3, 64, 64))


def test_tied_weights_are_written_under_both_names(tmp_path: Path) -> None:
    found = Checkpoint.load(write(tmp_path / "w.pt", make("test_resnet").state_dict()), arch="test_resnet")
    model = found.copy()
    model.bn1.bias = model.bn1.weight
    found.save(model, tmp_path / "out")
    again = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(again["bn1.bias"], again["bn1.weight"])


def test_a_failed_save_leaves_the_old_folder_whole(tmp_path: Path) -> None:
    found = Checkpoint.load(write(tmp_path / "w.pt", make("test_resnet").state_dict()), arch="test_resnet")
    found.save(found.model, tmp_path / "out")
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    (tmp_path / "out" / "model.safetensors.partial").mkdir()
    with pytest.raises(Exception, match="directory"):
        found.save(found.fresh(1), tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before


def test_a_real_checkpoint_of_an_unknown_network_loads_by_the_users_own_class(tmp_path: Path) -> None:
    path = Path(os.environ.get("UNLEARN_SHARED_DATA", "nowhere")).parent / "checkpoints" / "resnet20-12fca82f.th"
    if not path.exists():
        pytest.skip("the real checkpoint is not here")
    assert hashlib.sha256(path.read_bytes()).hexdigest().startswith("12fca82f")
    found = Checkpoint.load(str(path), arch=f"{HERE}CifarResNet20", input_size=32)
    assert sum(parameter.numel() for parameter in found.model.parameters()) == 269_722
    assert (found.num_classes, found.data_config["mean"]) == (10, (0.485, 0.456, 0.406))
    found.save(found.model, tmp_path / "out")
    again = Checkpoint.load(str(tmp_path / "out"), arch=f"{HERE}CifarResNet20")
    assert again.digest == found.digest
