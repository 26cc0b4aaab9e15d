"""What `unlearn inspect` says of the things a user has lying around."""

import shutil
from pathlib import Path

import pytest

from tests.plugin.reference_world import ReferenceWorld
from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.demo import Scene
from unlearn_plugin.inspection import describe
from unlearn_plugin.pipeline import Outcome


def test_a_record_tells_steps_samples_and_what_is_known(scene: Scene) -> None:
    told = describe(str(scene.record))
    assert told["samples"] == 700
    assert (told["steps"], told["optimizer"]) == (330, "SGD")
    assert told["finished"] is True
    assert told["updates_without_ids"] == 0
    assert told["recorded_updates"] == len(told["at_steps"]) > 0


def test_a_record_tells_what_it_keeps_for_the_judge(scene: Scene, references: ReferenceWorld) -> None:
    told = describe(str(references.record.folder))
    assert (told["holdout"], told["holdout_trained_on"]) == ([350, 350], False)
    assert (told["references_judge"], told["references_method"]) == (1, 0)
    assert describe(str(scene.record))["holdout"] is None


def test_a_checkpoint_tells_its_head_and_size(scene: Scene) -> None:
    told = describe(str(scene.model))
    assert (told["architecture"], told["classes"], told["head"]) == ("test_resnet", 10, "fc")


def test_an_output_folder_tells_its_verdict_and_a_changed_one_is_refused(finetuned: Outcome, tmp_path: Path) -> None:
    assert describe(str(finetuned.folder))["verdict"] == finetuned.verdict.status
    copy = Path(shutil.copytree(finetuned.folder, tmp_path / "copy"))
    (copy / "config.json").write_text("{}")
    with pytest.raises(UnlearnError, match=r"config\.json"):
        describe(str(copy))


def test_a_manifest_tells_how_many_entries_it_has(scene: Scene) -> None:
    assert describe(str(scene.forget))["entries"] == 100


def test_something_else_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("hello")
    with pytest.raises(UnlearnError):
        describe(str(tmp_path / "notes.md"))


def test_a_comparison_names_its_methods_and_their_verdicts() -> None:
    told = describe(Path(__file__).parents[1] / "golden" / "comparison-1")
    assert told["kind"] == "output of unlearn compare"
    assert told["methods"][:2] == ["retrain", "retrain:seed=1"]
    assert told["verdicts"][-1] == "FAILED"
