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


def test_open_options_are_settled_by_the_kind_of_request_and_a_given_one_wins(scene: Scene, tmp_path: Path) -> None:
    request = tmp_path / "class.txt"
    request.write_text("class=3")
    jobs = [
        job_for(scene, tmp_path / "out", method="random_label", options={}),
        job_for(scene, tmp_path / "out", method="random_label", options={}, forget=str(request)),
        job_for(scene, tmp_path / "out", method="random_label", options={"learning_rate": "0.3"}, forget=str(request)),
    ]
    methods = [prepare(job).method for job in jobs]
    assert [method.learning_rate for method in methods] == [0.005, 0.02, 0.3]
    assert {method.optimizer for method in methods} == {"sgd"}


@pytest.mark.parametrize(
    ("method", "trials", "words"),
    [
        ("finetune", "many", r"search='many' is not valid; it takes 2 to 1000 trials, or 0 for none"),
        ("finetune", "1", "search='1' is not valid"),
        ("retrain", "8", "The method 'retrain' has no option to search"),
    ],
)
def test_a_search_that_cannot_be_is_a_finding(
    scene: Scene, tmp_path: Path, method: str, trials: str, words: str
) -> None:
    with pytest.raises(UnlearnError, match=words):
        prepare(job_for(scene, tmp_path / "out", method=method, options={"search": trials}))


def test_the_trials_of_a_search_are_no_option_of_the_method(scene: Scene, tmp_path: Path) -> None:
    prepared = prepare(job_for(scene, tmp_path / "out", options={"search": "4", "epochs": "1"}))
    assert (prepared.trials, prepared.method.epochs) == (4, 1)
    assert prepare(job_for(scene, tmp_path / "out", options={"search": "0"})).trials == 0


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
