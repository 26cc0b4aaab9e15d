"""The demo's scene, made once: real digits, a network trained with the hook on, its record and a request."""

from pathlib import Path

import pytest

from tests.conftest import World
from tests.plugin.reference_world import ReferenceWorld, make_reference_world
from tests.plugin.small_job import small_job
from unlearn_plugin.comparison import Comparison, compare
from unlearn_plugin.demo import Scene, make_scene
from unlearn_plugin.job import Job
from unlearn_plugin.pipeline import Outcome, run
from unlearn_plugin.progress import Progress


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("scene") / "digits")


def job_for(scene: Scene, out: Path, **changes: object) -> Job:
    """A sound job on the scene, with some fields changed."""
    fields = {
        "model": f"local-dir:{scene.model}",
        "data_dir": str(scene.data),
        "forget": str(scene.forget),
        "record": str(scene.record),
        "method": "finetune",
        "options": {"epochs": "1"},
        "device": "cpu",
        "out": str(out),
    }
    return Job(**{**fields, **changes})


@pytest.fixture(scope="session")
def finetuned(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The outcome of a short finetune on the scene."""
    return run(job_for(scene, tmp_path_factory.mktemp("finetuned") / "out"))


@pytest.fixture(scope="session")
def references(tmp_path_factory: pytest.TempPathFactory) -> ReferenceWorld:
    """Real trainings with a sealed holdout and a pair of reference models."""
    return make_reference_world(tmp_path_factory.mktemp("references") / "record")


@pytest.fixture(scope="session")
def compared(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Comparison]:
    """Two retrained models and a short finetune side by side on the tiny world, and a method that fails."""
    methods = "finetune:epochs=1,mini:parameters=none*,retrain,retrain:seed=1"
    folder = tmp_path_factory.mktemp("compared")
    job = small_job(world, folder, [str(row) for row in range(24)], method=methods, options={"retrain.epochs": "3"})
    return job, compare(job, progress=Progress(enabled=False))
