"""`unlearn inspect`."""

from tests.plugin.cli.invoke import invoke
from unlearn_plugin.demo import Scene
from unlearn_plugin.pipeline import Outcome


def test_inspect_tells_the_kinds_apart(scene: Scene, finetuned: Outcome) -> None:
    kinds = {
        scene.record: "record of a training run",
        scene.model: "checkpoint",
        scene.forget: "forget manifest",
        finetuned.folder: "output of unlearn apply",
    }
    for path, kind in kinds.items():
        done = invoke("inspect", str(path))
        assert done.exit_code == 0, done.output
        assert kind in done.output
