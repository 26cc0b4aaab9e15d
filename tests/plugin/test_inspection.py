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
    told = dict(describe(str(scene.record)))
    assert told["samples"] == "700"
    assert told["steps"] == "330 of SGD"
    assert told["finished"] == "yes"
    assert told["sample ids"] == "known in every recorded update"


def test_a_record_tells_what_it_keeps_for_the_judge(scene: Scene, references: ReferenceWorld) -> None:
    told = dict(describe(str(references.record.folder)))
    assert told["holdout"] == "350 + 350 samples, sealed before training"
    assert (told["references, judge"], told["references, method"]) == ("1 pairs of models", "none")
    assert dict(describe(str(scene.record)))["holdout"] == "none was set apart"


def test_a_checkpoint_tells_its_head_and_size(scene: Scene) -> None:
    told = dict(describe(str(scene.model)))
    assert (told["architecture"], told["classes"], told["head"]) == ("test_resnet", "10", "fc")


def test_an_output_folder_tells_its_verdict_and_a_changed_one_is_refused(finetuned: Outcome, tmp_path: Path) -> None:
    assert dict(describe(str(finetuned.folder)))["verdict"] == finetuned.verdict.status
    copy = Path(shutil.copytree(finetuned.folder, tmp_path / "copy"))
    (copy / "config.json").write_text("{}")
    with pytest.raises(UnlearnError, match=r"config\.json"):
        dict(describe(str(copy)))


def test_a_manifest_tells_how_many_entries_it_has(scene: Scene) -> None:
    assert dict(describe(str(scene.forget)))["entries"] == "100"


def test_something_else_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("hello")
    with pytest.raises(UnlearnError):
        dict(describe(str(tmp_path / "notes.md")))
