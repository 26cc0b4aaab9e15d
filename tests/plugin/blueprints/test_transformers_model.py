"""Models of transformers; the whole way in and out is in test_any_classifier.py."""

import copy
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.training_record import weights_digest
from unlearn_plugin.blueprints.transformers_model import TransformersBlueprint
from unlearn_plugin.checkpoint import Checkpoint

CONFIG = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
PROCESSORS: dict[str, dict[str, Any]] = {
    "BitImageProcessor": {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}},
    "ConvNextImageProcessor": {"size": {"shortest_edge": 32}},
    "DeiTImageProcessor": {"size": {"height": 37, "width": 37}, "crop_size": {"height": 32, "width": 32}},
    "EfficientNetImageProcessor": {"size": {"height": 32, "width": 32}, "do_center_crop": False},
    "LevitImageProcessor": {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
    "MobileViTImageProcessor": {"size": {"shortest_edge": 35}, "crop_size": {"height": 32, "width": 32}},
    "PvtImageProcessor": {"size": {"height": 32, "width": 32}},
    "ViTImageProcessor": {"size": {"height": 32, "width": 32}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5] * 3},
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as transformers writes it, with names of its own for the classes."""
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    names = {0: "ant", 1: "bee", 2: "cat"}
    transformers.ViTForImageClassification(
        transformers.ViTConfig(id2label=names, label2id={name: key for key, name in names.items()}, **CONFIG)
    ).save_pretrained(folder)
    transformers.ViTImageProcessor(**PROCESSORS["ViTImageProcessor"]).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(saved, tmp_path / "in"))


def change(folder: Path, **content: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **content}))


def picture(mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (45, 61, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_picture_becomes_exactly_what_the_models_own_processor_makes_of_it(folder: Path, name: str) -> None:
    getattr(transformers, name)(**PROCESSORS[name]).save_pretrained(folder)
    found = Checkpoint.load(str(folder))
    real = transformers.AutoImageProcessor.from_pretrained(folder)
    expected = real(picture(), return_tensors="pt")["pixel_values"][0]
    assert torch.equal(found.transform(picture()), expected)
    assert found.data_config["input_size"] == tuple(expected.shape)
    assert found.data_config["processor"] == type(real).__name__


def test_the_processors_mean_and_deviation_are_known_answers(saved: Path) -> None:
    found = Checkpoint.load(str(saved))
    pixels = found.transform(Image.new("RGB", (50, 20), (255, 0, 51)))
    assert pixels.shape == (3, 32, 32)
    assert torch.allclose(pixels[:, 0, 0], torch.tensor([1.8, -0.4, -0.2]), atol=1e-6)
    assert found.data_config["mean"] == (0.1, 0.2, 0.3)


def test_the_model_takes_images_gives_logits_and_keeps_its_class_name_and_names(saved: Path) -> None:
    real = transformers.AutoModelForImageClassification.from_pretrained(saved)
    found = Checkpoint.load(str(saved))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(found.model(images), real(pixel_values=images).logits)
        assert torch.equal(copy.deepcopy(found.model)(images), found.model(images))
    assert type(found.model).__name__ == "ViTForImageClassification"
    assert isinstance(found.model, transformers.ViTForImageClassification)
    assert list(found.model.state_dict()) == list(real.state_dict())
    assert found.architecture == "transformers:ViTForImageClassification"
    assert found.label_names == ("ant", "bee", "cat")


def test_the_digest_is_that_of_the_tensors_in_the_file(saved: Path, tmp_path: Path) -> None:
    found = Checkpoint.load(str(saved))
    assert found.digest == weights_digest(load_file(saved / "model.safetensors"))
    found.save(found.model, tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == load_file(saved / "model.safetensors").keys()


def test_weights_in_half_precision_are_stored_in_it_again(folder: Path, tmp_path: Path) -> None:
    transformers.ViTForImageClassification.from_pretrained(folder).to(torch.bfloat16).save_pretrained(folder)
    found = Checkpoint.load(str(folder))
    changed = found.copy()
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.add_(torch.rand_like(parameter))
    found.settle(changed)
    found.save(changed, tmp_path / "out")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.bfloat16}
    again = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out", dtype=torch.float32)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(images).logits, changed(images))


def test_names_that_are_transformers_filling_are_none_at_all(folder: Path) -> None:
    change(folder, id2label={"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"})
    assert Checkpoint.load(str(folder)).label_names is None


def test_no_path_of_the_machine_goes_out(folder: Path, tmp_path: Path) -> None:
    change(folder, _name_or_path="/home/someone/secret")
    found = Checkpoint.load(str(folder))
    found.save(found.model, tmp_path / "out")
    told = (tmp_path / "out" / "config.json").read_text()
    assert "secret" not in told
    assert (tmp_path / "out" / "preprocessor_config.json").exists()


def test_without_a_processor_the_user_says_how_pictures_become_input(folder: Path, tmp_path: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    found = Checkpoint.load(str(folder), input_size=32, mean=(0.5,), std=(0.25,))
    assert (found.data_config["input_size"], found.data_config["std"]) == ((3, 32, 32), (0.25,) * 3)
    assert found.transform(picture()).shape == (3, 32, 32)
    found.save(found.model, tmp_path / "out")
    assert not (tmp_path / "out" / "preprocessor_config.json").exists()
    assert Checkpoint.load(str(folder)).data_config["input_size"] is None


def test_a_processor_of_ones_own_is_not_mixed_with_flags(saved: Path) -> None:
    with pytest.raises(UnlearnError, match=r"--input-size, --mean cannot be set: the model brings its own"):
        Checkpoint.load(str(saved), input_size=64, mean=(0.5,))


def test_new_random_weights_depend_on_the_seed_alone(saved: Path) -> None:
    found = Checkpoint.load(str(saved))
    one, two, other = (found.digest_of(found.fresh(seed)) for seed in (1, 1, 2))
    assert one == two != other
    assert found.fresh(0).training
    assert found.fresh(0)(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_bars_of_the_user_stay_as_they_are(saved: Path, capfd: pytest.CaptureFixture[str]) -> None:
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    Checkpoint.load(str(saved))
    assert logging.is_progress_bar_enabled() is shown
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"architectures": None}, "names no class under 'architectures'"),
        ({"architectures": ["ViTModel"]}, "'transformers:ViTModel', which is no image classifier"),
        ({"model_type": "of_nobody"}, "cannot build .* code that comes with a model is never run"),
        ({"model_type": "bert", "architectures": ["BertModel"]}, "as an image classifier"),
        ({"problem_type": "multi_label_classification"}, "only models that choose one class"),
        ({"intermediate_size": 32}, r"are not those that config\.json describes: \d+ are missing, left over or of"),
        ({"num_hidden_layers": 2}, r"are not those that config\.json describes"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_sentence(folder: Path, content: dict[str, Any], words: str) -> None:
    change(folder, **content)
    with pytest.raises(UnlearnError, match=words) as caught:
        Checkpoint.load(str(folder))
    assert "\n" not in str(caught.value)


def test_code_in_the_repository_is_never_run(folder: Path) -> None:
    (folder / "modeling_evil.py").write_text("raise SystemExit('it ran')")
    change(folder, model_type="evil", auto_map={"AutoConfig": "modeling_evil.C", "AutoModel": "modeling_evil.M"})
    with pytest.raises(UnlearnError, match="never run"):
        Checkpoint.load(str(folder))


def test_weights_of_several_precisions_and_pieces_are_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["classifier.weight"] = weights["classifier.weight"].half()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UnlearnError, match=r"several precisions \(torch.float16, torch.float32\)"):
        Checkpoint.load(str(folder))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UnlearnError, match="spread over several files"):
        Checkpoint.load(str(folder))


def test_a_processor_nobody_knows_is_refused(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text('{"image_processor_type": "OfNobody"}')
    with pytest.raises(UnlearnError, match=r"preprocessor_config\.json of the model is of no image processor"):
        Checkpoint.load(str(folder))


def test_without_transformers_one_sentence_says_what_to_install(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UnlearnError, match=r"pip install 'unlearn-plugin\[transformers\]'"):
        TransformersBlueprint.of(json.loads((saved / "config.json").read_text()), None).build()
