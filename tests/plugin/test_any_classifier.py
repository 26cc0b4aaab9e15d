"""Load, apply, save, and load again by the library the model came from: over every family of architectures."""

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
import torchvision
import transformers
from huggingface_hub import ModelCard, PyTorchModelHubMixin
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.plugin.pictures import write_digits
from unlearn_hooks.capture import find_head, head_input, watch_training_forward
from unlearn_plugin import judging, pipeline
from unlearn_plugin.checkpoint import Checkpoint
from unlearn_plugin.job import Job
from unlearn_plugin.registry import metrics
from unlearn_plugin.verification import verify

CLASSES = ("a", "b", "c")
HERE = f"{__name__}:"
OPTIONS = {  # one step that changes little: what is tested is the way through, not the method
    "finetune": {"epochs": "1", "learning_rate": "1e-7"},
    "muda": {"rounds": "1", "forget_steps": "1", "recover_steps": "1", "learning_rate": "1e-7"},
    "neg_grad_plus": {"epochs": "1", "learning_rate": "1e-7"},
}

# timm: one architecture of each family, made small where its own arguments allow; the side is what it is run at.
TIMM: dict[str, tuple[int, dict[str, Any]]] = {
    "aimv2_large_patch14_224": (28, {"depth": 1, "embed_dim": 48, "num_heads": 2}),
    "beit_base_patch16_224": (32, {"depth": 2, "embed_dim": 48, "num_heads": 2}),
    "cait_xxs24_224": (32, {"depth": 1, "embed_dim": 48}),
    "convit_tiny": (32, {"depth": 2, "local_up_to_layer": 1}),
    "cs3darknet_focus_s": (32, {}),
    "cspnext_tiny": (32, {}),
    "davit_tiny": (32, {"depths": (1, 1), "embed_dims": (16, 32), "num_heads": (1, 2)}),
    "deit_tiny_patch16_224": (32, {"depth": 2}),
    "densenet121": (32, {"growth_rate": 8, "block_config": (1, 1, 1, 1)}),
    "dla34": (32, {"channels": (8, 8, 16, 16, 32, 32)}),
    "dpn48b": (32, {"k_sec": (1, 1, 1, 1)}),
    "edgenext_xx_small": (64, {}),
    "efficientvit_b0": (32, {}),
    "efficientvit_m0": (64, {}),
    "ese_vovnet19b_slim_dw": (32, {}),
    "fasternet_t0": (32, {}),
    "fastvit_t8": (64, {}),
    "gmlp_ti16_224": (32, {}),
    "hiera_tiny_224": (64, {"embed_dim": 16, "stages": (1, 1, 1, 1)}),
    "iformer_t": (64, {}),
    "inception_next_atto": (32, {}),
    "lcnet_035": (32, {}),
    "mobilevit_xxs": (64, {}),
    "naflexvit_base_patch16_gap": (32, {"depth": 1, "embed_dim": 48, "num_heads": 2}),
    "pit_ti_224": (64, {}),
    "poolformer_s12": (32, {}),
    "pvt_v2_b0": (32, {}),
    "regnetx_002": (32, {}),
    "resnetv2_18": (32, {"channels": (16, 16, 32, 32), "stem_chs": 16}),
    "samvit_base_patch16_224": (64, {"depth": 1, "embed_dim": 48, "num_heads": 2, "global_attn_indexes": (0,)}),
    "sequencer2d_s": (32, {"layers": (1, 1, 1, 1)}),
    "shvit_s1": (64, {}),
    "starnet_s050": (32, {}),
    "swin_tiny_patch4_window7_224": (32, {"depths": (1, 1, 1, 1), "embed_dim": 16, "num_heads": (1, 2, 2, 2)}),
    "swinv2_cr_tiny_224": (64, {"depths": (1, 1), "embed_dim": 16, "num_heads": (1, 2)}),
    "swinv2_tiny_window8_256": (32, {"depths": (1, 1, 1, 1), "embed_dim": 16, "num_heads": (1, 2, 2, 2)}),
    "test_byobnet": (32, {}),
    "test_coatnet": (64, {}),
    "test_convnext": (32, {}),
    "test_efficientnet": (32, {}),
    "test_mambaout": (32, {}),
    "test_nfnet": (32, {}),
    "test_resnet": (32, {}),
    "test_vit": (32, {}),
    "test_vit_relpos": (32, {}),
    "tiny_vit_5m_224": (64, {"depths": (1, 1, 1, 1)}),
    "tnt_s_legacy_patch16_224": (32, {"depth": 1, "embed_dim": 48, "inner_dim": 8}),
    "twins_svt_small": (
        64, {"depths": (1, 1, 1, 1), "embed_dims": (16, 16, 32, 32), "num_heads": (1, 1, 2, 2)},
    ),
    "visformer_tiny": (32, {"init_channels": 8, "embed_dim": 32, "depth": (1, 1, 1), "num_heads": 2}),
    "vit_tiny_patch16_dinov3_qkvb": (32, {"depth": 2}),
    "vit_tiny_r_s16_p8_224": (64, {"depth": 1}),
    "xcit_nano_12_p8_224": (32, {"depth": 2}),
}  # fmt: skip

_PLAIN = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
_SWIN = {
    "image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4,
}  # fmt: skip
_STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1]}
_PYRAMID = {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2]}

# transformers: a tiny configuration and the image processor that belongs to it.
TRANSFORMERS: dict[str, tuple[dict[str, Any], str]] = {
    "beit": (_PLAIN, "BeitImageProcessor"),
    "bit": ({"embedding_size": 32, "hidden_sizes": [32, 64], "depths": [1, 1], "num_groups": 4}, "BitImageProcessor"),
    "convnext": ({**_STAGES, "num_stages": 2}, "ConvNextImageProcessor"),
    "convnextv2": ({**_STAGES, "num_stages": 2}, "ConvNextImageProcessor"),
    "deit": ({**_PLAIN, "architectures": ["DeiTForImageClassification"]}, "DeiTImageProcessor"),
    "dinov2": (_PLAIN, "BitImageProcessor"),
    "efficientnet": (
        {"image_size": 32, "width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": 128},
        "EfficientNetImageProcessor",
    ),
    "levit": (
        {
            "image_size": 32, "hidden_sizes": [16, 32, 48], "num_attention_heads": [2, 2, 2], "depths": [1, 1, 1],
            "key_dim": [8, 8, 8], "architectures": ["LevitForImageClassification"],
        },
        "LevitImageProcessor",
    ),
    "mobilenet_v2": (
        {"depth_multiplier": 0.25, "finegrained_output": False, "image_size": 32},
        "MobileNetV2ImageProcessor",
    ),
    "mobilevit": (
        {
            "image_size": 32, "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 8, 16, 16, 16, 32],
            "num_attention_heads": 2,
        },
        "MobileViTImageProcessor",
    ),
    "poolformer": ({"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1]}, "PoolFormerImageProcessor"),
    "pvt": ({**_PYRAMID, "image_size": 32}, "PvtImageProcessor"),
    "regnet": ({**_STAGES, "embedding_size": 8, "groups_width": 4}, "ConvNextImageProcessor"),
    "resnet": ({**_STAGES, "embedding_size": 8}, "ConvNextImageProcessor"),
    "segformer": ({**_PYRAMID, "decoder_hidden_size": 16}, "SegformerImageProcessor"),
    "swin": (_SWIN, "ViTImageProcessor"),
    "swinv2": (_SWIN, "ViTImageProcessor"),
    "timm_wrapper": ({"architecture": "test_resnet"}, ""),
    "vit": (_PLAIN, "ViTImageProcessor"),
}  # fmt: skip

TORCHVISION = {
    "mobilenet_v3_small": 32, "regnet_y_400mf": 32, "resnet18": 32,
    "shufflenet_v2_x0_5": 32, "squeezenet1_1": 64,
}  # fmt: skip


class OwnNetwork(nn.Module):
    """A class of the user's own, with a head that is not the last layer it makes."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Sequential(nn.Dropout(0.1), nn.Linear(8, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


class HubNetwork(OwnNetwork, PyTorchModelHubMixin):
    """The same with the mixin, and an argument without which it has another size."""

    def __init__(self, outputs: int = 5, scale: float = 1.0) -> None:
        super().__init__(outputs)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * self.scale)


@dataclass(frozen=True)
class Case:
    """One classifier: how its library makes, saves and loads it, and how the job names it."""

    make: Callable[[], nn.Module]
    save: Callable[[nn.Module, Path], str]  # (model, folder) -> what --model gets
    load: Callable[[Path], nn.Module]
    side: int
    flags: dict[str, Any] = field(default_factory=dict)
    method: str = "finetune"


def timm_case(name: str, **changes: Any) -> Case:
    side, arguments = TIMM[name]
    known = timm.get_pretrained_cfg(name)
    if known is not None and known.fixed_input_size:
        arguments = {**arguments, "img_size": side}
    overlay = {"input_size": (3, side, side)}

    def save(model: nn.Module, folder: Path) -> str:
        timm.models.save_for_hf(model, folder, model_args=arguments, safe_serialization=True)
        return f"local-dir:{folder}"

    return Case(
        make=partial(timm.create_model, name, num_classes=3, pretrained_cfg_overlay=overlay, **arguments),
        save=save,
        load=lambda folder: timm.create_model(f"local-dir:{folder}", pretrained=True),
        side=side,
        **changes,
    )


def transformers_case(kind: str, **changes: Any) -> Case:
    arguments, processor = TRANSFORMERS[kind]
    config = transformers.AutoConfig.for_model(kind, num_labels=3, **arguments)
    auto = transformers.AutoModelForImageClassification

    def save(model: nn.Module, folder: Path) -> str:
        model.save_pretrained(folder)
        if processor:
            size = {"size": {"height": 32, "width": 32}, "crop_size": {"height": 32, "width": 32}}
            if processor == "ConvNextImageProcessor":
                size = {"size": {"shortest_edge": 32}}
            if processor == "LevitImageProcessor":
                size["size"] = {"shortest_edge": 32}
            getattr(transformers, processor)(**size).save_pretrained(folder)
        return f"local-dir:{folder}"

    changes.setdefault("flags", {} if processor else {"input_size": 32})
    return Case(
        make=partial(auto.from_config, config), save=save, load=lambda folder: auto.from_pretrained(folder), side=32,
        **changes,
    )  # fmt: skip


def file_case(name: str, make: Callable[..., nn.Module], side: int, **flags: Any) -> Case:
    """A model whose library keeps a file of weights and no more."""

    def save(model: nn.Module, folder: Path) -> str:
        folder.mkdir()
        save_file(model.state_dict(), folder / "weights.safetensors")
        return str(folder / "weights.safetensors")

    def load(folder: Path) -> nn.Module:
        model = make()
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return model

    return Case(make=make, save=save, load=load, side=side, flags={"arch": name, "input_size": side, **flags})


def mixin_save(model: nn.Module, folder: Path) -> str:
    model.save_pretrained(folder)
    return f"local-dir:{folder}"


CASES = {
    **{f"timm-{name}": timm_case(name) for name in TIMM},
    "timm-test_vit-muda": timm_case("test_vit", method="muda"),
    "timm-test_convnext-muda": timm_case("test_convnext", method="muda"),
    "timm-dla34-neg_grad_plus": timm_case("dla34", method="neg_grad_plus"),
    **{f"transformers-{kind}": transformers_case(kind) for kind in TRANSFORMERS},
    "transformers-swin-muda": transformers_case("swin", method="muda"),
    "transformers-resnet-neg_grad_plus": transformers_case("resnet", method="neg_grad_plus"),
    **{
        f"torchvision-{name}": file_case(
            f"torchvision.models:{name}", partial(getattr(torchvision.models, name), num_classes=3), side, num_classes=3
        )
        for name, side in TORCHVISION.items()
    },
    "mixin": Case(
        make=partial(HubNetwork, outputs=3, scale=0.5), save=mixin_save, load=HubNetwork.from_pretrained, side=16,
        flags={"arch": f"{HERE}HubNetwork", "input_size": 16}, method="muda",
    ),
    "own": file_case(f"{HERE}OwnNetwork", OwnNetwork, 16),
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of six pictures to train on and four held out, and a request for two of them."""
    folder = tmp_path_factory.mktemp("data")
    write_digits(folder / "train", CLASSES, 6)
    write_digits(folder / "validation", CLASSES, 4, skip=6)
    (folder / "forget.txt").write_text("a/0.png\nb/1.png\n")
    return folder


@pytest.fixture(scope="module", autouse=True)
def quick_collection() -> Iterator[None]:
    """Accelerate collects garbage after every training; without this it walks through all of torch each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def learn(model: nn.Module, checkpoint: Checkpoint, data: Path) -> None:
    """Settle the BatchNorm statistics and fit the head by least squares: a classifier that is right, in one pass."""
    for parameter in model.parameters():  # so many start out near zero that all pictures look the same behind them
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5)
        elif parameter.detach().abs().max() < 0.1 and parameter.detach().abs().min() > 0:  # layer scale
            nn.init.ones_(parameter)
    pictures = [Image.open(path).convert("RGB") for path in sorted((data / "train").rglob("*.png"))]
    inputs = torch.stack([checkpoint.transform(picture) for picture in pictures])
    labels = torch.arange(3).repeat_interleave(len(inputs) // 3)
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0
        model.train()(inputs)
        for norm in norms:
            norm.momentum = 0.1
        with head_input(model.eval()) as seen:
            model(inputs)
            features = torch.cat([seen.features, torch.ones(len(inputs), 1)], 1).double()
        solution = torch.linalg.pinv(features, rtol=1e-5) @ nn.functional.one_hot(labels, 3).double()
        head = find_head(model)[1]
        head.weight.copy_(solution[:-1].T.reshape(head.weight.shape))
        if head.bias is not None:
            head.bias.copy_(solution[-1])


def leave_out_what_is_the_same_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two thirds of the time: the page, and all but one metric each that looks at logits, features and weights."""
    family = metrics()
    few = SimpleNamespace(names=lambda: ["change", "linear_probe", "utility"], get=family.get, create=family.create)
    monkeypatch.setattr(judging, "metrics", lambda: few)
    monkeypatch.setattr(pipeline, "render_html", lambda report: "")


def images(side: int) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def logits_of(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits


@pytest.mark.parametrize("name", CASES)
def test_a_classifier_is_loaded_changed_saved_and_loaded_again_by_its_own_library(
    name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_out_what_is_the_same_for_all(monkeypatch)
    case = CASES[name]
    torch.manual_seed(0)
    model = case.make()
    learn(model, Checkpoint.load(case.save(model, tmp_path / "random"), **case.flags), data)
    job = Job(
        model=case.save(model, tmp_path / "in"), data_dir=str(data), forget=str(data / "forget.txt"),
        method=case.method, options=OPTIONS[case.method], device="cpu", out=str(tmp_path / "out"), **case.flags,
    )  # fmt: skip
    report = pipeline.run(job).report
    assert report["guard"]["reasons"] == []
    again = Checkpoint.load(f"local-dir:{tmp_path / 'out'}", **case.flags)
    assert again.digest == report["model"]["after"]["digest"] != report["model"]["before"]["digest"]
    library = case.load(tmp_path / "out").eval()
    with torch.no_grad():
        seen, ours = logits_of(library(images(case.side))), again.model(images(case.side))
        assert torch.equal(seen, ours)
        assert not torch.equal(seen, logits_of(model.eval()(images(case.side))))
    _same_files(tmp_path / "in", tmp_path / "out")


def test_a_model_of_transformers_can_be_verified_from_its_folder_alone(data: Path, tmp_path: Path) -> None:
    case = CASES["transformers-vit"]
    torch.manual_seed(0)
    model = case.make()
    learn(model, Checkpoint.load(case.save(model, tmp_path / "random")), data)
    out = tmp_path / "out"
    job = Job(
        model=case.save(model, tmp_path / "in"), data_dir=str(data), forget=str(data / "forget.txt"),
        method="finetune", options=OPTIONS["finetune"], device="cpu", out=str(out),
    )  # fmt: skip
    pipeline.run(job)
    assert verify(out).findings == []
    card = ModelCard.load(out / "README.md")
    assert card.data.library_name == "transformers"
    assert transformers.AutoImageProcessor.from_pretrained(out).size == {"height": 32, "width": 32}


def test_what_torchvision_asks_for_beyond_the_weights_is_there(tmp_path: Path) -> None:
    case = file_case("torchvision.models:mnasnet0_5", partial(torchvision.models.mnasnet0_5, num_classes=3), 32)
    model = case.make()
    found = Checkpoint.load(case.save(model, tmp_path / "in"), **case.flags, num_classes=3)
    assert torch.equal(found.model(images(32)), model.eval()(images(32)))


def _same_files(before: Path, after: Path) -> None:
    """Names, shapes and types of the tensors are those that came in."""
    one, two = (load_file(next(folder.glob("*.safetensors"))) for folder in (before, after))
    assert {k: (v.shape, v.dtype) for k, v in one.items()} == {k: (v.shape, v.dtype) for k, v in two.items()}


@pytest.mark.parametrize("name", [name for name in CASES if name.count("-") < 2])
def test_the_recorder_sees_the_features_and_logits_of_the_librarys_own_model(name: str) -> None:
    case, told = CASES[name], []
    model = case.make().train()
    key, head = find_head(model)
    width = head.weight.shape[1]
    with watch_training_forward(model, head, lambda features, logits: told.append((features, logits))):
        output = model(images(case.side))
    (features, logits), classes = told[0], len(head.weight)
    assert features.shape == (2, width)
    assert torch.equal(logits, logits_of(output))
    assert logits.shape == (2, classes) == (2, 3)
    with head_input(model.eval()) as seen, torch.no_grad():
        logits = logits_of(model(images(case.side)))
        computed = seen.features @ head.weight.flatten(1).T + (0 if head.bias is None else head.bias)
    if "squeezenet" not in name:  # a ReLU stands behind its head
        assert torch.allclose(computed, logits, atol=1e-4), key
