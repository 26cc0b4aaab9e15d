"""The commands from Python, with the same words; models and data also from memory."""

import ast
import doctest
import inspect as python_inspect
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, Grayscale, Normalize, Resize, ToTensor

import unlearn_plugin
from tests.plugin.hub_server import WRITER, serve
from tests.plugin.release_folder import make_folder
from unlearn_hooks.errors import UnlearnError
from unlearn_plugin import api
from unlearn_plugin.comparison import Comparison
from unlearn_plugin.demo import Scene
from unlearn_plugin.job import Job
from unlearn_plugin.job_file import read_job
from unlearn_plugin.pipeline import Outcome


@pytest.fixture
def here(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which the examples of the docstrings work."""
    for name, place in (("model", scene.model), ("data", scene.data), ("record", scene.record)):
        (tmp_path / name).symlink_to(place)
    shutil.copy(scene.forget, tmp_path / "forget.csv")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_examples_of_the_docstrings_do_what_they_say(here: Path) -> None:
    finder = doctest.DocTestFinder(recurse=False)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    examples = [test for name in api.__all__ for test in finder.find(getattr(api, name), name, globs={})]
    for test in examples:  # in order: verify looks at what apply wrote
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0
    assert sum(bool(test.examples) for test in examples) == 4


def test_the_readme_and_the_docstring_call_apply_alike() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    code = next(block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "unlearn_plugin" in block)
    (test,) = doctest.DocTestFinder(recurse=False).find(api.apply, "apply", globs={})
    told = [ast.dump(ast.parse(text).body[-1]) for text in (test.examples[1].source, code.split("outcome.verdict")[0])]
    assert told[0] == told[1]


@pytest.mark.slow
def test_python_and_the_command_line_write_the_same_weights_and_the_same_job(
    finetuned: Outcome, scene: Scene, tmp_path: Path
) -> None:
    outcome = unlearn_plugin.apply(
        model=f"local-dir:{scene.model}", data_dir=scene.data, forget=scene.forget, record=str(scene.record),
        method="finetune", options={"epochs": 1}, device="cpu", out=tmp_path / "out", progress=False,
    )  # fmt: skip
    for name in ("model.safetensors", "evidence/job.json"):
        assert (outcome.folder / name).read_bytes() == (finetuned.folder / name).read_bytes()
    assert outcome.verdict.status in outcome._repr_html_()


def test_compare_takes_the_words_of_the_command_line_and_goes_on_where_that_was(
    compared: tuple[Job, Comparison],
) -> None:
    job = compared[0]
    words = ("model", "arch", "data", "forget", "record", "device", "input_size", "mean", "std", "out")
    found = unlearn_plugin.compare(
        method=[*job.method.split(",")], options={"retrain.epochs": 3}, progress=False,
        **{name: getattr(job, name) for name in words},
    )  # fmt: skip
    assert found.skipped == ("retrain", "retrain:seed=1", "finetune:epochs=1")
    assert found.reports["retrain"] == compared[1].reports["retrain"]


def test_a_wrong_word_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnlearnError, match=r"There is no flag 'datadir' \(did you mean 'data_dir'\?\)"):
        unlearn_plugin.apply(model="m", forget="f", method="finetune", out=tmp_path / "out", datadir="d")


def memory(scene: Scene) -> tuple[nn.Module, tuple[ImageFolder, ImageFolder]]:
    model = timm.create_model(f"local-dir:{scene.model}", pretrained=True)
    transform = Compose([Grayscale(), Resize((32, 32)), ToTensor(), Normalize(0.5, 0.5)])
    train, heldout = (ImageFolder(str(scene.data / split), transform) for split in ("train", "validation"))
    return model, (train, heldout)


@pytest.mark.slow
def test_a_model_and_data_in_memory_are_enough_and_stay_as_they_were(scene: Scene, tmp_path: Path) -> None:
    model, data = memory(scene)
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    outcome = unlearn_plugin.apply(
        model=model, data=data, forget=scene.forget, method="finetune", options={"epochs": 1}, out=tmp_path / "out"
    )
    assert outcome.report["data"]["n_train"] == 700
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    job = read_job(tmp_path / "out.private" / "job.yaml")
    assert (job.model, job.data) == (f"local-dir:{tmp_path / 'out.private' / 'model'}", None)
    alone = unlearn_plugin.verify(tmp_path / "out")
    assert alone.findings == []
    assert any("the data were in memory" in line for line in alone.skipped)
    full = unlearn_plugin.verify(tmp_path / "out", data=data)
    assert full.findings == []
    assert [line.split(":")[0] for line in full.skipped] == ["signature"]


def test_a_module_of_ones_own_needs_the_name_of_its_architecture(scene: Scene, tmp_path: Path) -> None:
    class Own(nn.Sequential):
        pass

    with pytest.raises(UnlearnError, match="give arch='package.module:function'"):
        unlearn_plugin.apply(model=Own(nn.Linear(2, 2)), forget="f", method="finetune", out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_refused_job_leaves_no_copy_of_the_model(scene: Scene, tmp_path: Path) -> None:
    model, data = memory(scene)
    with pytest.raises(UnlearnError, match="no unlearner called"):
        unlearn_plugin.apply(model=model, data=data, forget=scene.forget, method="magic", out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_push_publishes_and_keeps_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", WRITER)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with serve() as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.address)
        pushed = unlearn_plugin.push(make_folder(tmp_path / "out"), "clinic/new", private=True)
        assert server.repositories["clinic/new"].private
    events = json.loads((tmp_path / "out.private" / "hub.json").read_text())["events"]
    assert [event["commit"] for event in events] == [pushed.commit]


def test_methods_and_inspect_say_what_the_command_line_says_in_json(scene: Scene) -> None:
    assert unlearn_plugin.methods()["mini"]["needs"] == ["forget", "record"]
    assert unlearn_plugin.inspect(scene.model)["architecture"] == "test_resnet"


def test_the_root_gives_every_public_name_and_loads_none_before_it_is_asked_for() -> None:
    assert all(callable(getattr(unlearn_plugin, name)) for name in unlearn_plugin.__all__)
    assert set(unlearn_plugin.__all__) < set(dir(unlearn_plugin))
    assert python_inspect.signature(unlearn_plugin.apply).return_annotation is Outcome
    code = "import sys, unlearn_plugin; dir(unlearn_plugin); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0
