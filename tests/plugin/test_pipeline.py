"""One job from the manifest to the folder; what is published and what is not."""

import getpass
import json
import os
import shutil
import socket
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from tests.plugin.conftest import job_for
from unlearn_plugin import pipeline
from unlearn_plugin.checkpoint import Checkpoint
from unlearn_plugin.demo import Scene
from unlearn_plugin.evidence import private_folder
from unlearn_plugin.job_file import read_job
from unlearn_plugin.pipeline import Outcome, run
from unlearn_plugin.registry import metrics
from unlearn_plugin.unlearners.finetune import Finetune


def test_the_output_is_a_folder_timm_loads_with_the_same_keys_shapes_and_types(
    scene: Scene, finetuned: Outcome
) -> None:
    before, after = (load_file(folder / "model.safetensors") for folder in (scene.model, finetuned.folder))
    assert {name: (t.shape, t.dtype) for name, t in before.items()} == {n: (t.shape, t.dtype) for n, t in after.items()}
    loaded = timm.create_model(f"local-dir:{finetuned.folder}", pretrained=True).eval()
    ours = Checkpoint.load(f"local-dir:{finetuned.folder}").model.eval()
    images = torch.randn(3, 1, 32, 32)
    assert torch.equal(loaded(images), ours(images))
    assert not torch.equal(loaded.fc.weight, before["fc.weight"])


def test_the_report_holds_every_metric_of_its_tier_for_before_and_after(finetuned: Outcome) -> None:
    report = json.loads((finetuned.folder / "report.json").read_text())
    assert set(report["measurements"]) == {name for name in metrics().names() if metrics().get(name).tier == "A"}
    for measurement in report["measurements"].values():
        assert measurement["before"] is not None
        assert measurement["after"] is not None
        assert measurement["reference"] is None
    assert report["request"]["n_samples"] == 100
    assert report["procedure"]["options"]["epochs"] == 1


def test_the_model_before_is_untouched(scene: Scene, finetuned: Outcome) -> None:
    report = json.loads((finetuned.folder / "report.json").read_text())
    assert report["model"]["before"]["digest"] == Checkpoint.load(f"local-dir:{scene.model}").digest


def test_no_published_file_names_a_sample_a_path_the_user_or_the_machine(scene: Scene, finetuned: Outcome) -> None:
    ids = scene.forget.read_text().split()[1:]
    names = {Path(name).name for name in ids} | {str(scene.data), str(scene.model), str(Path.home())}
    names |= {name for name in (getpass.getuser(), socket.gethostname()) if len(name) > 4}
    for path in finetuned.folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert [name for name in names if name.encode() in content] == [], path.name


def test_the_private_folder_is_for_its_owner_only(finetuned: Outcome) -> None:
    folder = private_folder(finetuned.folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "job.yaml").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "commitment.json").stat().st_mode) == 0o600


def test_what_is_known_of_single_samples_lies_in_the_private_folder_alone(scene: Scene, finetuned: Outcome) -> None:
    path = private_folder(finetuned.folder) / "annex.json"
    samples = json.loads(path.read_text())["samples"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(sample["id"] for sample in samples) == sorted(scene.forget.read_text().split()[1:])
    assert all(0 < sample[who]["p"] <= 1 for sample in samples for who in ("before", "after"))
    told = finetuned.report["measurements"]["conformal"]
    for who in ("before", "after"):
        assert told[who]["details"]["found"] == sum(sample[who]["found"] for sample in samples)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(scene: Scene, tmp_path: Path) -> None:
    digests = []
    for number, seed in enumerate((0, 0, 1)):
        outcome = run(job_for(scene, tmp_path / str(number), seed=seed))
        digests.append(outcome.report["model"]["after"]["digest"])
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.slow
def test_after_a_search_report_and_job_name_the_chosen_options_and_repeat_the_weights(
    scene: Scene, tmp_path: Path
) -> None:
    outcome = run(job_for(scene, tmp_path / "out", options={"epochs": "1", "search": "3"}))
    procedure = outcome.report["procedure"]
    found = procedure["facts"]["search"]
    chosen = found["tried"][found["chosen"] - 1]
    assert len(found["tried"]) == found["trials"] == 3
    assert chosen["objective"] == min(one["objective"] for one in found["tried"])
    assert procedure["options"]["learning_rate"] == pytest.approx(chosen["options"]["learning_rate"])
    again = replace(read_job(private_folder(outcome.folder) / "job.yaml"), out=str(tmp_path / "again"))
    assert "search" not in again.options
    digests = [one.report["model"]["after"]["digest"] for one in (outcome, run(again))]
    assert digests[0] == digests[1]
    assert "trials" in (outcome.folder / "report.html").read_text()


@pytest.mark.slow
def test_a_failure_while_writing_leaves_nothing(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(report: object) -> str:
        raise OSError("no space left on device")

    monkeypatch.setattr(pipeline, "render_html", fail)
    with pytest.raises(OSError, match="no space"):
        run(job_for(scene, tmp_path / "out"))
    assert os.listdir(tmp_path) == []


def test_weights_that_are_not_numbers_are_refused_and_never_written(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(self: Finetune, model: torch.nn.Module, evidence: object) -> dict[str, object]:
        with torch.no_grad():
            next(model.parameters()).fill_(float("nan"))
        return {}

    monkeypatch.setattr(Finetune, "unlearn", spoil)
    outcome = run(job_for(scene, tmp_path / "out"))
    assert outcome.verdict.status == "REFUSED"
    assert not outcome.verdict.released
    assert outcome.report["guard"]["finite"] is False
    assert outcome.report["model"]["after"] is None
    assert not list(outcome.folder.rglob("*.safetensors"))
    assert (outcome.folder / "report.html").exists()


@pytest.mark.slow
def test_retained_copies_of_a_forgotten_picture_are_counted(scene: Scene, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(scene.data, data)
    name = scene.forget.read_text().splitlines()[1]
    shutil.copy(data / "train" / name, data / "train" / "8" / "a-copy.png")
    outcome = run(job_for(scene, tmp_path / "out", data_dir=str(data), record=None))
    assert outcome.report["data"]["n_copies"] == 1


@pytest.mark.slow
def test_the_reference_is_measured_beside_the_model(scene: Scene, finetuned: Outcome, tmp_path: Path) -> None:
    outcome = run(job_for(scene, tmp_path / "out", reference=f"local-dir:{finetuned.folder}", seed=5))
    for measurement in outcome.report["measurements"].values():
        assert measurement["reference"] is not None
    told, again = (o.report["measurements"]["membership"] for o in (finetuned, outcome))
    assert again["reference"]["n"] == told["after"]["n"]
