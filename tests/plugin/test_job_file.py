"""Job files: every flag by its own name, paths beside the file, and a run that can be repeated."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.plugin.cli.invoke import invoke
from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.demo import Scene
from unlearn_plugin.job import Job, settings
from unlearn_plugin.job_file import read_job, read_job_file, write_job_file, write_published_job
from unlearn_plugin.pipeline import Outcome

FULL = Job(
    model="resnet18",
    forget="/f.csv",
    method="mini",
    out="/o",
    data_dir="/d",
    class_map="/c.txt",
    data="package.module:function",
    dataset="torch/cifar10",
    train_split="fit",
    val_split="test",
    arch="resnet18",
    num_classes=10,
    in_chans=1,
    input_size=32,
    crop_pct=0.875,
    mean=(0.1, 1e-05),
    std=(0.5,),
    record="/r",
    options={"epochs": "5", "rate": "1e-05", "window": "none", "hold": "true"},
    reference="local-dir:/x",
    retain_fraction=1 / 3,
    seed=7,
    input_key="image",
    target_key="label",
    id_key="row",
    tier="A",
    surrogates=20,
    batch_size=64,
    device="cuda:1",
)


def write(folder: Path, content: str, name: str = "job.yaml") -> Path:
    path = folder / name
    path.write_text(content)
    return path


def finding(path: Path) -> str:
    with pytest.raises(UnlearnError) as caught:
        read_job_file(path)
    assert len(caught.value.findings) == 1
    return str(caught.value)


def test_what_is_written_is_read_again_to_the_last_digit(tmp_path: Path) -> None:
    write_job_file(FULL, tmp_path / "job.yaml")
    assert read_job(tmp_path / "job.yaml") == FULL
    assert set(yaml.safe_load((tmp_path / "job.yaml").read_text())) == {"schema", *settings()}


def test_a_json_file_says_the_same(tmp_path: Path) -> None:
    write_job_file(FULL, tmp_path / "job.yaml")
    content = yaml.safe_load((tmp_path / "job.yaml").read_text())
    assert read_job(write(tmp_path, json.dumps(content), "job.json")) == FULL


def test_hyphens_and_underscores_are_alike_and_values_may_be_plain(tmp_path: Path) -> None:
    path = write(tmp_path, "data-dir: d\nbatch_size: 64\nmean: 0.5\noptions: {epochs: 5, hold: yes, rate: 1e-3}\n")
    assert read_job_file(path) == {
        "data_dir": str(tmp_path / "d"),
        "batch_size": 64,
        "mean": (0.5,),
        "options": {"epochs": "5", "hold": "true", "rate": "1e-3"},
    }


def test_paths_are_relative_to_the_file_and_names_of_models_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobs").mkdir()
    write(tmp_path, "", "net.pth")
    content = "model: ../net.pth\nreference: resnet18\nforget: f.csv\nrecord: /r\nout: ~/o\nclass-map: ../c.txt\n"
    path = write(tmp_path / "jobs", content)
    monkeypatch.chdir(tmp_path)
    assert read_job_file(Path("jobs/job.yaml")) == {
        "model": str(tmp_path / "net.pth"),
        "reference": "resnet18",
        "forget": str(path.parent / "f.csv"),
        "record": "/r",
        "out": str(Path.home() / "o"),
        "class_map": str(tmp_path / "c.txt"),
    }
    assert read_job_file(write(tmp_path, "model: local-dir:m"))["model"] == f"local-dir:{tmp_path / 'm'}"
    assert read_job_file(write(tmp_path, "model: hf-hub:org/name"))["model"] == "hf-hub:org/name"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("datadir: d", "there is no flag 'datadir' (did you mean 'data_dir'?); there are: model, arch,"),
        ("seed: many", "seed is 'many', and it takes a whole number."),
        ("seed: 1.5", "seed is 1.5, and it takes a whole number."),
        ("seed:", "seed is None, and it takes a whole number."),
        ("mean: [a]", "mean is ['a'], and it takes a number, or a list of such."),
        ("device: no", "device is False, and it takes text."),
        ("forget: [a, b]", "forget is ['a', 'b'], and it takes text."),
        ("options: epochs=5", "options is 'epochs=5', and it takes options and their values."),
        ("options: {epochs: [5]}", "options is {'epochs': [5]}, and it takes options and their values."),
        ("schema: urn:unlearn-plugin:job:9", "has the schema 'urn:unlearn-plugin:job:9', and this version reads"),
        ("- a", "must hold flags and their values"),
        ("", "must hold flags and their values"),
        ("a: [", "is no YAML that can be read"),
    ],
)
def test_a_mistake_in_the_file_is_one_sentence(content: str, said: str, tmp_path: Path) -> None:
    message = finding(write(tmp_path, content))
    assert said in message
    assert message.startswith("job.yaml")
    assert "\n" not in message


def test_files_that_are_no_job_files_are_one_sentence(tmp_path: Path) -> None:
    assert "cannot be read" in finding(tmp_path / "job.yaml")
    assert "is no JSON that can be read" in finding(write(tmp_path, "{", "job.json"))
    assert "does not end in .yaml, .yml, .json" in finding(write(tmp_path, "", "job.toml"))
    (tmp_path / "latin.yaml").write_bytes(b"model: \xff")
    assert "cannot be read" in finding(tmp_path / "latin.yaml")


def test_all_mistakes_are_told_at_once_and_what_is_missing_as_well(tmp_path: Path) -> None:
    with pytest.raises(UnlearnError) as caught:
        read_job_file(write(tmp_path, "sed: 1\nseed: x\n"))
    assert len(caught.value.findings) == 2
    with pytest.raises(UnlearnError, match=r"job.yaml lacks forget, out; add what is missing"):
        read_job(write(tmp_path, "model: m\nmethod: mini\n"))


def test_nothing_published_is_a_path_or_a_name_of_data(tmp_path: Path) -> None:
    write_published_job(FULL, tmp_path)
    told = json.loads((tmp_path / "evidence" / "job.json").read_text())
    assert told["options"] == FULL.options
    private = {"model", "arch", "forget", "out", "data_dir", "dataset", "data", "class_map", "record", "reference"}
    assert not private & set(told)
    assert "/" not in json.dumps(told)


def test_the_docs_show_a_job_that_is_read_and_name_what_is_published(tmp_path: Path) -> None:
    section = (
        (Path(__file__).parents[2] / "docs" / "formats.md").read_text().split("\n## job.yaml\n")[1].split("\n## ")[0]
    )
    example = read_job(write(tmp_path, section.split("```yaml\n")[1].split("```")[0]))
    assert (example.out, example.options) == (str(tmp_path / "cleaned"), {"epochs": "5"})
    named = section.rsplit("code of yours:", 1)[1]
    assert re.findall(r"`(\w+)`", named) == [name for name, one in settings().items() if one.flag.public]


@pytest.mark.slow
def test_the_written_job_repeats_the_run_bit_for_bit_from_another_folder(
    finetuned: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = finetuned.folder.with_name(finetuned.folder.name + ".private")
    monkeypatch.chdir(tmp_path)
    done = invoke("apply", "--config", str(private / "job.yaml"), "--out", "again")
    assert done.exit_code in (0, 3), done.output
    weights = [folder / "model.safetensors" for folder in (finetuned.folder, tmp_path / "again")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    jobs = [folder / "evidence" / "job.json" for folder in (finetuned.folder, tmp_path / "again")]
    assert jobs[0].read_bytes() == jobs[1].read_bytes()


def test_flags_go_before_the_file_and_options_are_merged_one_by_one(scene: Scene, tmp_path: Path) -> None:
    shutil.copy(scene.forget, tmp_path / "forget.csv")
    path = write(
        tmp_path,
        f"model: local-dir:{scene.model}\ndata_dir: {os.path.relpath(scene.data, tmp_path)}\nforget: forget.csv\n"
        "method: retrain\noptions: {epochs: 3, batch_size: 32}\nout: out\n",
    )
    done = invoke("apply", "--config", str(path), "--method", "finetune", "-o", "epochs=2", "--dry-run")
    assert done.exit_code == 0, done.output
    assert "finetune: epochs=2, " in done.output
    assert "batch_size=32" in done.output
    assert f"out        {tmp_path / 'out'}" in done.output
