"""Where checkpoints come from, with the real Hub client against a Hub on the loopback."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers

from tests.plugin.hub_server import serve
from tests.plugin.test_any_classifier import HubNetwork
from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.origin import Origin, find_origin

ROOT = Path(__file__).parents[2]
# What the new process prints for each name: what it found, or why it did not.
SCRIPT = """
import json, sys
from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.checkpoint import Checkpoint
for name in sys.argv[1:]:
    try:
        name, _, arch = name.partition(" ")
        found = Checkpoint.load(name, arch=arch or None)
        print(json.dumps([found.architecture, found.source, found.num_classes, found.label_names, found.digest]))
    except UnlearnError as error:
        print(json.dumps(str(error)))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model folders as timm itself writes them, one with a pickle, one not of timm, and one without weights."""
    place = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    for name, classes in (("few", 3), ("full", 1000)):
        model = timm.create_model("test_resnet", num_classes=classes)
        config = {"label_names": ["a", "b", "c"]} if classes == 3 else {}
        timm.models.save_for_hf(model, place / name, model_config=config, safe_serialization=True)
    timm.models.save_for_hf(model, place / "pickled", safe_serialization=False)
    names = {0: "a", 1: "b", 2: "c"}
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    config = transformers.ViTConfig(id2label=names, label2id={name: key for key, name in names.items()}, **small)
    transformers.ViTForImageClassification(config).save_pretrained(place / "vit")
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(place / "vit")
    HubNetwork(outputs=4).save_pretrained(place / "mixin")
    for name in ("other", "config"):
        (place / name).mkdir()
    shutil.copy(place / "few" / "config.json", place / "config")
    (place / "other" / "config.json").write_text('{"architectures": ["ViTForImageClassification"]}')
    return place


@dataclass(frozen=True)
class Answers:
    """What one process said about every name, and what it asked the Hub for; one process, since it starts slowly."""

    by_name: dict[str, Any]
    revision: str
    requests: list[tuple[str, str, int]]


FOUND = ("hf-hub:someone/few", "test_resnet", "hf-hub:someone/pickled")
OF_OTHERS = ("hf-hub:someone/vit", f"hf-hub:someone/mixin {HubNetwork.__module__}:HubNetwork")
MISSING = {
    "hf-hub:someone/mixin": "give --arch package.module:Class",
    "hf-hub:someone/none": "The Hub has no model 'someone/none'",
    "hf-hub:someone/few@v9": "has no revision 'v9'",
    "hf-hub:someone/other": "names neither a timm architecture nor a model_type of transformers",
    "hf-hub:someone/config": "holds no weights; it should have model.safetensors or pytorch_model.bin",
    "hf-hub:a/b/c": "write hf-hub:owner/name",
    "test_vit": "The Hub has no model 'timm/test_vit.r160_in1k'",
    "resnet18.none": "the weights it has are resnet18.a1_in1k",
}


@pytest.fixture(scope="module")
def answers(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    with serve() as hub:
        revision = hub.put("someone/few", models / "few")
        hub.put("someone/few", models / "other")  # main moved on
        hub.put("someone/few", models / "few")
        hub.put("timm/test_resnet.r160_in1k", models / "full")
        for name in ("pickled", "other", "config", "vit", "mixin"):
            hub.put(f"someone/{name}", models / name)
        names = [*FOUND, *OF_OTHERS, f"hf-hub:someone/few@{revision}", *MISSING]
        home = tmp_path_factory.mktemp("home")
        environment = {**os.environ, **hub.environment(home), "PYTHONPATH": f"{ROOT}:{ROOT / 'hooks'}"}
        command = [sys.executable, "-W", "ignore", "-c", SCRIPT, *names]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()]
    return Answers(dict(zip(names, said, strict=True)), revision, hub.requests)


def test_models_on_the_hub_are_found_by_id_revision_and_timm_name(answers: Answers) -> None:
    few, bare, pickled = (answers.by_name[name] for name in FOUND)
    pinned = f"hf-hub:someone/few@{answers.revision}"
    assert few[:4] == ["test_resnet", "hf-hub:someone/few", 3, ["a", "b", "c"]]
    assert answers.by_name[pinned] == ["test_resnet", pinned, *few[2:]]
    assert bare[:3] == ["test_resnet", "hf-hub:timm/test_resnet.r160_in1k", 1000]
    assert pickled[2:] == bare[2:]


def test_models_of_transformers_and_of_the_mixin_are_found_on_the_hub(answers: Answers) -> None:
    vit, mixin = (answers.by_name[name] for name in OF_OTHERS)
    assert vit[:4] == ["transformers:ViTForImageClassification", "hf-hub:someone/vit", 3, ["a", "b", "c"]]
    assert mixin[1:4] == ["hf-hub:someone/mixin", 4, None]
    asked = {path for method, path, _ in answers.requests if method in ("HEAD", "GET")}
    assert "/someone/vit/resolve/main/preprocessor_config.json" in asked


def test_a_pinned_revision_is_asked_for_by_its_id(answers: Answers) -> None:
    asked = {path for method, path, _ in answers.requests if method in ("HEAD", "GET")}
    assert f"/someone/few/resolve/{answers.revision}/config.json" in asked
    assert "/someone/few/resolve/main/model.safetensors" in asked


@pytest.mark.parametrize("name", MISSING)
def test_what_the_hub_does_not_have_is_said_in_one_sentence(answers: Answers, name: str) -> None:
    assert MISSING[name] in answers.by_name[name]
    assert "\n" not in answers.by_name[name]


def test_a_hub_out_of_reach_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UnlearnError, match="cannot be had from the Hub .* give it as local-dir:FOLDER"):
        find_origin("hf-hub:someone/that-was-never-downloaded", None)


def test_a_folder_is_found_with_and_without_its_prefix(models: Path) -> None:
    for name in (f"local-dir:{models / 'few'}", str(models / "few")):
        origin = find_origin(name, None)
        assert (origin.blueprint.architecture, origin.words) == ("test_resnet", "local folder")
        assert origin.weights == models / "few" / "model.safetensors"
        assert origin.blueprint.config["label_names"] == ["a", "b", "c"]


def test_a_config_of_one_level_is_read_like_one_of_two(models: Path, tmp_path: Path) -> None:
    new = json.loads((models / "few" / "config.json").read_text())
    old = {"architecture": "test_resnet", "labels": ["a", "b", "c"], **new["pretrained_cfg"]}
    (tmp_path / "config.json").write_text(json.dumps(old))
    (tmp_path / "model.safetensors").touch()
    found, expected = find_origin(str(tmp_path), None), find_origin(str(models / "few"), None)
    assert found.blueprint.config == expected.blueprint.config
    assert found.blueprint.arguments == {"num_classes": 3}


def test_no_place_of_weights_is_taken_over_from_a_config(models: Path) -> None:
    config = find_origin(str(models / "few"), None).blueprint.config
    assert not {"url", "file", "hf_hub_id", "source", "state_dict", "custom_load"} & set(config)


def test_a_file_takes_from_the_registry_only_what_holds_for_other_weights(tmp_path: Path) -> None:
    (tmp_path / "w.pth").touch()
    origin = find_origin(str(tmp_path / "w.pth"), "resnet18.a1_in1k")
    assert origin.blueprint.architecture == "resnet18"
    assert origin.words == ".pth file"
    assert origin.blueprint.config["classifier"] == "fc"
    assert not {"license", "tag", "num_classes", "label_names", "hf_hub_id"} & set(origin.blueprint.config)


@pytest.mark.parametrize(
    ("name", "arch", "words"),
    [
        ("w.pth", None, "does not say of which architecture; give --arch"),
        ("w.pth", "resent18", "no architecture of timm .* the nearest names are resnet18"),
        ("w.pth", "resnet18.none", "no architecture of timm"),
        ("none.safetensors", "resnet18", "There is no weights file"),
        ("resent50", None, "nor a model known to timm; the nearest names are resnet50"),
        ("timm/resnet18", None, "write hf-hub:timm/resnet18"),
        ("local-dir:.", None, "has no config.json"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, arch: str | None, words: str
) -> None:
    (tmp_path / "w.pth").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnlearnError, match=words):
        find_origin(name, arch)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{", "no valid JSON"),
        ("[" * 100_000, "no valid JSON"),
        ("[]", "names neither a timm architecture nor"),
        ('{"architecture": 3}', "names neither a timm architecture nor"),
        ('{"architecture": "resnet181"}', "knows no architecture 'resnet181'; the nearest names are resnet18"),
        ('{"architecture": "os:system"}', "if you trust it, give --arch os:system"),
    ],
)
def test_a_hostile_config_is_refused(tmp_path: Path, config: str, words: str) -> None:
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UnlearnError, match=words):
        find_origin(f"local-dir:{tmp_path}", None)


def test_code_named_by_a_config_is_taken_only_if_the_user_names_it_too(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architecture": "package.module:build", "model_args": {"width": 2}}')
    (tmp_path / "model.safetensors").touch()
    origin: Origin = find_origin(str(tmp_path), "package.module:build")
    assert (origin.blueprint.architecture, origin.blueprint.arguments) == ("package.module:build", {"width": 2})
    with pytest.raises(UnlearnError, match=r"'package\.module:build' and --arch says 'other:build'"):
        find_origin(str(tmp_path), "other:build")


def test_another_architecture_than_the_folders_is_refused(models: Path) -> None:
    with pytest.raises(UnlearnError, match="'test_resnet' and --arch says 'resnet18'"):
        find_origin(str(models / "few"), "resnet18")


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architecture": "resnet18"}')
    with pytest.raises(UnlearnError, match=r"should have model\.safetensors or pytorch_model\.bin"):
        find_origin(str(tmp_path), None)
