"""The demo: its scene is real, and its commands are the ones a user would type."""

import shlex
from pathlib import Path

import pytest
import timm
import torch
from click.testing import CliRunner

from unlearn_hooks import UnlearnError
from unlearn_plugin.cli import main
from unlearn_plugin.demo import Scene, as_command, make_scene, play
from unlearn_plugin.job import Job


def test_the_scene_is_a_model_that_remembers_its_data(scene: Scene) -> None:
    assert scene.train_accuracy > 0.95
    assert sum(1 for _ in (scene.data / "train").rglob("*.png")) == 700
    assert sum(1 for _ in (scene.data / "validation").rglob("*.png")) == 1097
    assert len(scene.forget.read_text().splitlines()) == 101
    model = timm.create_model(f"local-dir:{scene.model}", pretrained=True)
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 10)


@pytest.mark.slow
def test_the_scene_is_the_same_every_time(scene: Scene, tmp_path: Path) -> None:
    again = make_scene(tmp_path / "again")
    assert (again.model / "model.safetensors").read_bytes() == (scene.model / "model.safetensors").read_bytes()
    assert again.forget.read_text() == scene.forget.read_text()


def test_the_printed_command_is_one_the_command_line_accepts(scene: Scene, tmp_path: Path) -> None:
    job = Job(
        model=f"local-dir:{scene.model}",
        data_dir=str(scene.data),
        forget=str(scene.forget),
        method="retrain",
        record=str(scene.record),
        out=str(tmp_path / "out with spaces"),
    )
    words = shlex.split(as_command(job))
    assert words[0] == "unlearn"
    done = CliRunner().invoke(main, [*words[1:], "--dry-run"])
    assert done.exit_code == 0, done.output


def test_the_demo_refuses_to_write_into_an_existing_folder(tmp_path: Path) -> None:
    with pytest.raises(UnlearnError, match="exists already"):
        list(play(tmp_path, lambda line: None))
