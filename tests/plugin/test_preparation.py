"""A job is checked as a whole before anything is done."""

import os
from pathlib import Path

import pytest
import torch

from tests.plugin.conftest import job_for
from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.demo import Scene
from unlearn_plugin.preparation import make_accelerator, prepare


def test_a_sound_job_is_loaded_with_all_its_parts(scene: Scene, tmp_path: Path) -> None:
    prepared = prepare(job_for(scene, tmp_path / "out"))
    assert len(prepared.splits.forget) == 100
    assert len(prepared.splits.retain) == 600
    assert len(prepared.splits.tuning) + len(prepared.splits.verdict) == 1097
    assert prepared.checkpoint.num_classes == 10
    assert prepared.record is not None


def test_all_findings_come_in_one_error(scene: Scene, tmp_path: Path) -> None:
    job = job_for(scene, tmp_path / "out", method="magic", forget=str(tmp_path / "none.csv"), seed=-1, batch_size=0)
    with pytest.raises(UnlearnError) as caught:
        prepare(job)
    assert len(caught.value.findings) == 4


def test_preparing_changes_neither_the_global_rng_nor_the_disk(scene: Scene, tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    prepare(job_for(scene, tmp_path / "out"))
    assert torch.equal(state, torch.random.get_rng_state())
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_a_finding_only_when_writing(scene: Scene, finetuned: object, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    job = job_for(scene, tmp_path)
    with pytest.raises(UnlearnError, match="exists already"):
        prepare(job)
    assert prepare(job, writing=False).job is job


def test_the_processor_is_always_there_and_an_unknown_device_is_not() -> None:
    assert make_accelerator("cpu").device.type == "cpu"
    with pytest.raises(UnlearnError, match=r"this machine has: cpu"):
        make_accelerator("quantum")


def test_a_numbered_device_is_taken_and_leaves_the_environment_as_it_was() -> None:
    before = dict(os.environ)
    assert str(make_accelerator("cpu:0").device) == "cpu:0"
    assert dict(os.environ) == before


def test_several_processes_are_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert make_accelerator("cpu").num_processes == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    before = dict(os.environ)
    with pytest.raises(UnlearnError, match=r"was started in 2 processes \(WORLD_SIZE\) and runs in one; start it with"):
        make_accelerator("cpu")
    assert dict(os.environ) == before
