"""The command line: what it prints, its exit codes, and every mistake a user can make."""

import io
import json
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from click.testing import Result
from safetensors.torch import load_file, save_file

from tests.plugin.cli.invoke import invoke
from unlearn_plugin.demo import Scene

Flags = dict[str, str | None]
Mistake = Callable[[Scene, Path], Flags]


def apply(scene: Scene, tmp: Path, changes: Flags, *more: str) -> Result:
    """Run `unlearn apply` on the scene with some flags changed; None leaves a flag out."""
    flags: Flags = {
        "--model": f"local-dir:{scene.model}",
        "--data-dir": str(scene.data),
        "--forget": str(scene.forget),
        "--record": str(scene.record),
        "--method": "finetune",
        "--device": "cpu",
        "--out": str(tmp / "out"),
        **changes,
    }
    words = [word for name, value in flags.items() if value is not None for word in (name, value)]
    return invoke("apply", *words, *more)


def text(tmp: Path, content: str | bytes, name: str = "forget.txt") -> Flags:
    path = tmp / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return {"--forget": str(path)}


def some_id(scene: Scene) -> str:
    return scene.forget.read_text().splitlines()[1]


def weights(scene: Scene, tmp: Path, change: Callable[[dict[str, torch.Tensor]], None] = lambda state: None) -> Path:
    state = load_file(scene.model / "model.safetensors")
    change(state)
    save_file(state, tmp / "weights.safetensors")
    return tmp / "weights.safetensors"


def truncated(scene: Scene, tmp: Path) -> Flags:
    path = weights(scene, tmp)
    path.write_bytes(path.read_bytes()[:-1000])
    return {"--model": str(path), "--arch": "test_resnet"}


def garbage(scene: Scene, tmp: Path) -> Flags:
    (tmp / "net.pth").write_bytes(b"not a checkpoint at all")
    return {"--model": str(tmp / "net.pth"), "--arch": "test_resnet"}


class Exploit:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("this must never be printed",))


def pickled_code(scene: Scene, tmp: Path) -> Flags:
    torch.save({"state_dict": Exploit()}, tmp / "net.pth")
    return {"--model": str(tmp / "net.pth"), "--arch": "test_resnet"}


def not_finite(scene: Scene, tmp: Path) -> Flags:
    path = weights(scene, tmp, lambda state: state["fc.weight"].fill_(float("nan")))
    return {"--model": str(path), "--arch": "test_resnet"}


def folder_without_config(scene: Scene, tmp: Path) -> Flags:
    (tmp / "model").mkdir()
    shutil.copy(scene.model / "model.safetensors", tmp / "model")
    return {"--model": f"local-dir:{tmp / 'model'}"}


def one_class_too_many(scene: Scene, tmp: Path) -> Flags:
    shutil.copytree(scene.data, tmp / "data")
    for split in ("train", "validation"):
        shutil.copytree(tmp / "data" / split / "9", tmp / "data" / split / "ten")
    return {"--data-dir": str(tmp / "data")}


def unreadable_image(scene: Scene, tmp: Path) -> Flags:
    shutil.copytree(scene.data, tmp / "data")
    next((tmp / "data" / "train" / "3").iterdir()).write_bytes(b"no picture")
    return {"--data-dir": str(tmp / "data")}


def empty_data(scene: Scene, tmp: Path) -> Flags:
    (tmp / "data").mkdir()
    return {"--data-dir": str(tmp / "data")}


def function(tmp: Path, body: str, name: str = "data") -> Flags:
    module = f"data_of_{tmp.name}"  # a name of its own: Python imports a module once
    (tmp / f"{module}.py").write_text(body)
    return {"--data": f"{module}:{name}", "--data-dir": None}


def held_out_id(scene: Scene, tmp: Path) -> Flags:
    path = next((scene.data / "validation").rglob("*.png"))
    return text(tmp, path.relative_to(scene.data / "validation").as_posix())


def all_ids(scene: Scene, tmp: Path) -> Flags:
    root = scene.data / "train"
    return text(tmp, "\n".join(path.relative_to(root).as_posix() for path in root.rglob("*.png")))


def record_of_another_model(scene: Scene, tmp: Path) -> Flags:
    model = timm.create_model("test_vit", num_classes=10, in_chans=1, img_size=32)
    save_file(model.state_dict(), tmp / "vit.safetensors")
    return {"--model": str(tmp / "vit.safetensors"), "--arch": "test_vit", "--input-size": "32"}


def record_of_other_data(scene: Scene, tmp: Path) -> Flags:
    shutil.copytree(scene.data, tmp / "data")
    next((tmp / "data" / "train" / "3").iterdir()).unlink()
    return {"--data-dir": str(tmp / "data"), **text(tmp, "class=4")}


def record_with_other_labels(scene: Scene, tmp: Path) -> Flags:
    shutil.copytree(scene.data, tmp / "data")
    moved = next((tmp / "data" / "train" / "3").iterdir())
    moved.rename(tmp / "data" / "train" / "4" / moved.name)
    return {"--data-dir": str(tmp / "data"), **text(tmp, "class=5")}


def other_classes(scene: Scene, tmp: Path) -> Flags:
    model = timm.create_model("test_resnet", num_classes=7, in_chans=1)
    timm.models.save_for_hf(model, tmp / "seven", model_args={"in_chans": 1}, safe_serialization=True)
    return {"--reference": f"local-dir:{tmp / 'seven'}"}


def damaged_record(scene: Scene, tmp: Path) -> Flags:
    shutil.copytree(scene.record, tmp / "record")
    shard = min((tmp / "record").rglob("update-*.safetensors"))  # the first step, which is always read
    shard.write_bytes(shard.read_bytes()[:100])
    return {"--record": str(tmp / "record"), "--method": "mini"}


def existing_out(scene: Scene, tmp: Path) -> Flags:
    (tmp / "full").mkdir()
    (tmp / "full" / "thesis.txt").write_text("precious")
    return {"--out": str(tmp / "full")}


def tables(scene: Scene, tmp: Path, change: Callable[[list[list[str]]], None], **flags: str) -> Flags:
    """The scene's data as tables; the one to train on is changed."""
    (tmp / "data").symlink_to(scene.data)
    for split in ("train", "validation"):
        files = sorted((scene.data / split).rglob("*.png"))
        rows = [[f"data/{path.relative_to(scene.data).as_posix()}", path.parent.name] for path in files]
        if split == "train":
            change(rows)
        (tmp / f"{split}.csv").write_text("\n".join(",".join(row) for row in [["path", "label"], *rows]))
    (tmp / "names.txt").write_text("\n".join("0123456789"))
    return {"--data-dir": str(tmp), "--dataset": "csv", "--record": None, **text(tmp, "class=3"), **flags}


def shards(scene: Scene, tmp: Path, names: list[str], **flags: str) -> Flags:
    for split, inside in (("train", names), ("validation", ["a.png", "a.cls"])):
        with tarfile.open(tmp / f"{split}-0000.tar", "w") as archive:
            for name in inside:
                member = tarfile.TarInfo(name)
                member.size = 1
                archive.addfile(member, io.BytesIO(b"3"))
    return {"--data-dir": str(tmp), "--dataset": "wds", **flags}


MISTAKES: dict[str, tuple[Mistake, str]] = {
    "a model name that does not exist": (lambda s, t: {"--model": "test_resent"}, "test_resnet"),
    "a weights file that is not there": (lambda s, t: {"--model": "no.pth", "--arch": "test_resnet"}, "no.pth"),
    "a weights file without --arch": (lambda s, t: {"--model": str(weights(s, t))}, "--arch"),
    "weights of another architecture": (
        lambda s, t: {"--model": str(weights(s, t)), "--arch": "resnet18"},
        "resnet18",
    ),
    "an architecture that does not exist": (
        lambda s, t: {"--model": str(weights(s, t)), "--arch": "resnet19"},
        "resnet19",
    ),
    "the wrong number of classes": (
        lambda s, t: {"--model": str(weights(s, t)), "--arch": "test_resnet", "--num-classes": "5"},
        "fc",
    ),
    "truncated safetensors": (truncated, "weights.safetensors"),
    "a file that is no checkpoint": (garbage, "net.pth"),
    "a checkpoint with code in it": (pickled_code, "net.pth"),
    "weights that are not finite": (not_finite, "fc.weight"),
    "a model folder that is not there": (lambda s, t: {"--model": "local-dir:nowhere"}, "nowhere"),
    "a model folder without config.json": (folder_without_config, "config.json"),
    "a source that does not exist": (lambda s, t: {"--model": "ftp:model"}, "ftp"),
    "a name that could be anything": (lambda s, t: {"--model": "someone/model"}, "hf-hub:someone/model"),
    "no data at all": (lambda s, t: {"--data-dir": None}, "--data-dir"),
    "a data folder that is not there": (lambda s, t: {"--data-dir": "nowhere"}, "nowhere"),
    "an empty data folder": (empty_data, "data"),
    "a data set that does not exist": (lambda s, t: {"--dataset": "torch/cifer10"}, "cifer10"),
    "a split that is not there": (lambda s, t: {"--val-split": "holdout"}, "holdout"),
    "more classes in the data than in the head": (one_class_too_many, "11"),
    "an image that cannot be read": (unreadable_image, "3/"),
    "a kind of data whose package is not installed": (lambda s, t: {"--dataset": "hfds"}, "unlearn-plugin[datasets]"),
    "a key of a column where there are none": (lambda s, t: {"--id-key": "uid"}, "--id-key goes with"),
    "a column that is not there": (lambda s, t: tables(s, t, list, **{"--id-key": "uid"}), "no column 'uid'"),
    "a label that is not in the class map": (
        lambda s, t: tables(s, t, lambda rows: rows[5].__setitem__(1, "33"), **{"--class-map": str(t / "names.txt")}),
        "The label '33'",
    ),
    "a line with too many cells": (lambda s, t: tables(s, t, lambda rows: rows[5].append("")), "3 cells"),
    "a label that the model does not know": (
        lambda s, t: tables(s, t, lambda rows: rows[5].__setitem__(1, "thre")),
        "'thre'",
    ),
    "an image named twice": (lambda s, t: tables(s, t, lambda rows: rows.append(rows[0])), "stands for 2 samples"),
    "an image that is not there": (
        lambda s, t: tables(s, t, lambda rows: rows.append(["data/3.png", "3"])),
        "data/3.png",
    ),
    "a table without a line": (lambda s, t: tables(s, t, list.clear), "The split 'train' is empty"),
    "a shard without a key": (lambda s, t: shards(s, t, ["README"]), "KEY.EXTENSION"),
    "a sample without an image in a shard": (lambda s, t: shards(s, t, ["a.cls"]), "'a' has 0 images"),
    "a sample without a label in a shard": (lambda s, t: shards(s, t, ["a.png"]), "'a' has no file 'cls'"),
    "shards that are not there": (
        lambda s, t: shards(s, t, ["a.png", "a.cls"], **{"--train-split": "t-{0..1}.tar"}),
        "2 shards",
    ),
    "a data function that is not of the form": (lambda s, t: {"--data": "data", "--data-dir": None}, "package.module"),
    "a data module that is not there": (lambda s, t: {"--data": "nowhere:data", "--data-dir": None}, "nowhere"),
    "a data function that is not there": (lambda s, t: function(t, "", "data"), "data"),
    "a data function that returns one thing": (lambda s, t: function(t, "def data(): return 1"), "held-out"),
    "a manifest that is not there": (lambda s, t: {"--forget": "nowhere.csv"}, "nowhere.csv"),
    "an empty manifest": (lambda s, t: text(t, ""), "empty"),
    "a manifest that is not UTF-8": (lambda s, t: text(t, b"\xff\xfe\x00"), "UTF-8"),
    "an unknown id": (lambda s, t: text(t, some_id(s) + "\n3/nobody.png"), "3/nobody.png"),
    "an id twice": (lambda s, t: text(t, f"{some_id(s)}\n{some_id(s)}"), some_id),
    "all of the data": (all_ids, "all"),
    "an id of the held-out data": (held_out_id, "held"),
    "a class that does not exist": (lambda s, t: text(t, "class=eleven"), "eleven"),
    "a table without an id column": (lambda s, t: text(t, "name,age\na,1\n", "f.csv"), "id"),
    "a line that is no JSON": (lambda s, t: text(t, '{"id": "a"}\n{id}\n', "f.jsonl"), "line 2"),
    "a date that is none": (lambda s, t: text(t, f"received=2026-02-30\n{some_id(s)}"), "2026-02-30"),
    "a method that does not exist": (lambda s, t: {"--method": "fintune"}, "finetune"),
    "an option that does not exist": (lambda s, t: {"-o": "epoch=1"}, "epochs"),
    "an option of the wrong type": (lambda s, t: {"-o": "epochs=many"}, "many"),
    "an option out of range": (lambda s, t: {"-o": "epochs=-1"}, "-1"),
    "an option that is no pair": (lambda s, t: {"-o": "epochs"}, "KEY=VALUE"),
    "a record that is not there": (lambda s, t: {"--record": "nowhere"}, "nowhere"),
    "a record that is none": (lambda s, t: {"--record": str(s.model)}, "record"),
    "a record of another model": (record_of_another_model, "another model"),
    "a record of other data": (record_of_other_data, "other data"),
    "a record with other labels": (record_with_other_labels, "other data"),
    "a record with a damaged shard": (damaged_record, "update-"),
    "a method that needs a record without one": (lambda s, t: {"--record": None, "--method": "mini"}, "--record"),
    "a reference that is not there": (lambda s, t: {"--reference": "local-dir:nowhere"}, "nowhere"),
    "a reference with the same weights": (lambda s, t: {"--reference": f"local-dir:{s.model}"}, "same weights"),
    "a reference with other classes": (other_classes, "7"),
    "an output folder that is not empty": (existing_out, "exists already"),
    "an output folder in a folder that is not there": (lambda s, t: {"--out": str(t / "a" / "b")}, "does not exist"),
    "no retained data": (lambda s, t: {"--retain-fraction": "0"}, "retain fraction"),
    "a negative seed": (lambda s, t: {"--seed": "-1"}, "--seed"),
    "an empty batch": (lambda s, t: {"--batch-size": "0"}, "--batch-size"),
    "a device that does not exist": (lambda s, t: {"--device": "tpu"}, "tpu"),
}


TOLD_FOR_BOTH_SPLITS = ("an empty data folder", "a data set that does not exist")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_costs_one_sentence_and_leaves_nothing_behind(
    mistake: str, scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    if "not installed" in mistake:
        monkeypatch.setitem(sys.modules, "datasets", None)
    make, expected = MISTAKES[mistake]
    changes = make(scene, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    done = apply(scene, tmp_path, changes)
    assert done.exit_code == 1, done.output + repr(done.exception)
    message = done.output.removeprefix("Error: ").rstrip("\n")
    assert (expected(scene) if callable(expected) else expected) in message, repr(done.exception)
    sentences = message.splitlines()[1:] or [message]
    assert len(sentences) <= (2 if mistake in TOLD_FOR_BOTH_SPLITS else 1), message
    assert "Traceback" not in message
    assert max(map(len, sentences)) < 600
    after = [path for path in sorted(tmp_path.rglob("*")) if "__pycache__" not in path.parts]
    assert after == before


def test_several_mistakes_are_told_at_once(scene: Scene, tmp_path: Path) -> None:
    changes = {"--seed": "-1", "--method": "magic", "--record": "nowhere", **text(tmp_path, "3/nobody.png\nclass=x")}
    done = apply(scene, tmp_path, changes)
    assert done.exit_code == 1
    for part in ("--seed", "magic", "nowhere", "3/nobody.png", "class", "5 things to mend"):
        assert part in done.output


def test_a_dry_run_checks_everything_and_writes_nothing(scene: Scene, tmp_path: Path) -> None:
    done = apply(scene, tmp_path, {}, "--dry-run")
    assert done.exit_code == 0
    assert "forget     100 samples" in done.output
    assert list(tmp_path.iterdir()) == []


def test_a_verdict_that_refuses_release_ends_with_exit_code_3_and_keeps_the_report(
    scene: Scene, tmp_path: Path
) -> None:
    done = apply(scene, tmp_path, {"-o": "learning_rate=20"})
    assert done.exit_code == 3, done.output
    assert "REFUSED" in done.output
    assert (tmp_path / "out" / "report.html").exists()
    assert not list((tmp_path / "out").rglob("*.safetensors"))
    assert json.loads((tmp_path / "out" / "report.json").read_text())["model"]["after"] is None


def test_with_json_apply_answers_with_the_report_and_no_sample_is_named(scene: Scene, tmp_path: Path) -> None:
    done = apply(scene, tmp_path, {"-o": "epochs=1"}, "--json")
    document = json.loads(done.stdout)
    assert (document["schema"], document["folder"]) == ("urn:unlearn-plugin:apply:1", str(tmp_path / "out"))
    assert document["report"] == json.loads((tmp_path / "out" / "report.json").read_text())
    assert document["released"] == (done.exit_code == 0)
    assert document["status"] in done.stderr
    ids = [Path(line).name for line in scene.forget.read_text().split()[1:]]
    assert [name for name in ids if name in done.output] == []


def test_with_json_a_dry_run_answers_with_the_plan_and_a_mistake_with_a_count(scene: Scene, tmp_path: Path) -> None:
    plan = json.loads(apply(scene, tmp_path, {}, "--dry-run", "--json").stdout)
    assert (plan["schema"], plan["data"]["n_forget"]) == ("urn:unlearn-plugin:plan:1", 100)
    done = apply(scene, tmp_path, text(tmp_path, "3/nobody.png"), "--json")
    assert json.loads(done.stdout) == {"schema": "urn:unlearn-plugin:error:1", "command": "apply", "findings": 1}
    assert "3/nobody.png" in done.stderr
