import hashlib
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.journal import read_journal, write_json
from unlearn_hooks.training_record import RecordWriter, TrainingRecord, weights_digest

HOOKS = Path(__file__).parents[2] / "hooks"


def finish(folder: Path, **manifest: object) -> TrainingRecord:
    write_json(folder / "manifest.json", {"schema": 1, **manifest})
    return TrainingRecord.open(folder)


def window(first: int, last: int) -> dict[str, torch.Tensor]:
    return {"rows": torch.arange(first, last + 1)}


def covered(record: TrainingRecord) -> list[int]:
    return [row for shard in record.shards("order") for row in shard.tensors()["rows"].tolist()]


def write_run(writer: RecordWriter, start: int, stop: int, width: int = 10) -> None:
    for first in range(start, stop, width):
        last = min(first + width, stop) - 1
        writer.append("order", window(first, last), first=first, last=last, meta={"width": width})


def test_what_was_appended_is_read_back_with_its_steps_and_meta(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path / "record")
    half = torch.randn(3, 2).to(torch.bfloat16)
    writer.append("updates", {"weights": half, "t": torch.ones(2, 3).t()}, first=4, last=4, meta={"epoch": 1})
    writer.append("updates", {"weights": half + 1}, first=2, last=3, meta={})
    writer.close()
    record = finish(tmp_path / "record")
    early, late = record.shards("updates")
    assert (early.first, early.last, late.first, late.last) == (2, 3, 4, 4)
    assert dict(late.meta) == {"epoch": 1}
    assert torch.equal(late.tensors()["weights"], half)
    assert late.tensors()["weights"].dtype == torch.bfloat16
    assert late.tensors()["t"].shape == (3, 2)
    assert record.shards("features") == []


def test_the_json_files_ids_and_completeness_are_read(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    writer.note("skip", kind="updates", step=3)
    assert not finish(tmp_path, run_id="a").complete
    writer.close()
    write_json(tmp_path / "recipe.json", {"schema": 1, "optimizer": "SGD"})
    write_json(tmp_path / "data.json", {"schema": 1, "n": 2})
    write_json(tmp_path / "ids.json", {"schema": 1, "ids": ["a/1.png", "b/2.png"]})
    record = TrainingRecord.open(tmp_path)
    assert record.complete
    assert record.manifest["run_id"] == "a"
    assert record.recipe["optimizer"] == "SGD"
    assert record.data["n"] == 2
    assert record.ids == ("a/1.png", "b/2.png")
    assert record.row_of == {"a/1.png": 0, "b/2.png": 1}


def test_a_record_that_lacks_a_process_is_not_complete_and_ranks_are_merged(tmp_path: Path) -> None:
    for rank in (0, 1):
        writer = RecordWriter(tmp_path, rank=rank)
        writer.append("order", window(0, 1), first=0, last=1, meta={})
        writer.close()
    record = finish(tmp_path, world=2)
    assert record.complete
    assert [shard.rank for shard in record.shards("order")] == [0, 1]
    assert not finish(tmp_path, world=3).complete


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        writer = RecordWriter(tmp_path / "record")
        writer.append("order", window(0, 1), first=0, last=1, meta={})
        write_json(tmp_path / "record" / "data.json", {})
    finally:
        os.umask(old)
    for path in [tmp_path / "record", *(tmp_path / "record").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_dropped_shard_is_gone_from_the_journal_and_from_the_disk(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    shards = [writer.append("updates", window(step, step), first=step, last=step, meta={}) for step in range(3)]
    assert shards[1] is not None
    writer.drop(shards[1])
    assert [shard.first for shard in writer.shards("updates")] == [0, 2]
    assert [shard.first for shard in finish(tmp_path).shards("updates")] == [0, 2]
    assert not shards[1].path.exists()


def test_a_drop_that_was_journaled_but_not_carried_out_still_counts(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    shard = writer.append("updates", window(0, 0), first=0, last=0, meta={})
    assert shard is not None
    writer.note("drop", file=shard.path.name)
    assert finish(tmp_path).shards("updates") == []


@pytest.mark.parametrize(
    "plan",
    [
        [(0, 80)],
        [(0, 63), (50, 80)],
        [(0, 33), (30, 63), (50, 80)],
        [(0, 60), (50, 55), (30, 80)],
        [(0, 63), (0, 80)],
        [(0, 60), (60, 80)],
    ],
    ids=["straight", "crash at 63, resume at 50", "two crashes", "rollback", "from scratch", "crash on a boundary"],
)
def test_resuming_counts_every_step_once(tmp_path: Path, plan: list[tuple[int, int]]) -> None:
    for start, stop in plan:
        writer = RecordWriter(tmp_path)
        writer.rewind(start)
        write_run(writer, start, stop)
    assert covered(finish(tmp_path)) == list(range(80))
    assert [shard.path for shard in writer.shards("order")] == [s.path for s in finish(tmp_path).shards("order")]


def test_rewinding_drops_a_window_that_straddles_the_step_and_its_file(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    write_run(writer, 0, 30)
    RecordWriter(tmp_path).rewind(15)
    assert covered(finish(tmp_path)) == list(range(10))
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1


def test_a_record_that_is_opened_for_writing_and_left_alone_stays_complete(tmp_path: Path) -> None:
    first = RecordWriter(tmp_path)
    first.note("started")
    first.close()
    again = RecordWriter(tmp_path)
    assert (again.finished, again.attempt) == (True, 1)
    assert finish(tmp_path).complete
    again.note("started")
    assert not finish(tmp_path).complete


@pytest.mark.parametrize("torn", [b"1234", b'00000000 {"event":"shard"}\n', b"0" * 5000])
def test_a_torn_last_line_is_ignored_and_cut_off_by_the_next_attempt(tmp_path: Path, torn: bytes) -> None:
    write_run(RecordWriter(tmp_path), 0, 20)
    with (tmp_path / "rank00000" / "journal.jsonl").open("ab") as journal:
        journal.write(torn)
    assert covered(finish(tmp_path)) == list(range(20))
    write_run(RecordWriter(tmp_path), 20, 40)
    assert covered(finish(tmp_path)) == list(range(40))
    journal_path = tmp_path / "rank00000" / "journal.jsonl"
    assert read_journal(journal_path)[1] == journal_path.stat().st_size


def test_a_damaged_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    write_run(RecordWriter(tmp_path), 0, 30)
    journal = tmp_path / "rank00000" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b'"first":10', b'"first":11'))
    with pytest.raises(UnlearnError, match=r"damaged at line 3"):
        finish(tmp_path)


def test_a_changed_byte_in_a_shard_is_an_error_when_it_is_read(tmp_path: Path) -> None:
    shard = RecordWriter(tmp_path).append("order", window(0, 9), first=0, last=9, meta={})
    assert shard is not None
    data = bytearray(shard.path.read_bytes())
    data[-1] ^= 1
    shard.path.write_bytes(data)
    with pytest.raises(UnlearnError, match="is damaged"):
        finish(tmp_path).shards("order")[0].tensors()


def test_a_missing_shard_is_an_error(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    write_run(writer, 0, 20)
    writer.shards("order")[0].path.unlink()
    with pytest.raises(UnlearnError, match="lacks 1 file"):
        finish(tmp_path)


def test_a_shard_file_that_no_line_names_does_not_exist(tmp_path: Path) -> None:
    write_run(RecordWriter(tmp_path), 0, 10)
    (tmp_path / "rank00000" / "order-a000-000000099-000009.safetensors").write_bytes(b"left by a crash")
    assert covered(finish(tmp_path)) == list(range(10))


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_text("x")])
def test_something_that_is_no_record_is_named(tmp_path: Path, make: object) -> None:
    make(tmp_path / "thing")  # type: ignore[operator]
    with pytest.raises(UnlearnError, match=r"thing is not a training record .*manifest\.json"):
        TrainingRecord.open(tmp_path / "thing")


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "manifest.json", {"schema": 2})
    with pytest.raises(UnlearnError, match="has schema 2, and this version reads schema 1"):
        TrainingRecord.open(tmp_path)


def test_broken_json_is_named(tmp_path: Path) -> None:
    finish(tmp_path)
    (tmp_path / "recipe.json").write_text("{")
    with pytest.raises(UnlearnError, match=r"recipe\.json of the record cannot be read"):
        TrainingRecord.open(tmp_path)


def test_recording_over_someones_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UnlearnError, match="is not empty and holds no record"):
        RecordWriter(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UnlearnError, match=r"cannot be written to .*file.record"):
        RecordWriter(tmp_path / "file" / "record")


def test_the_digest_changes_with_anything_that_was_recorded(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    write_run(writer, 0, 10)
    first = finish(tmp_path).digest()
    assert first == TrainingRecord.open(tmp_path).digest()
    write_run(writer, 10, 20)
    second = TrainingRecord.open(tmp_path).digest()
    assert len({first, second, finish(tmp_path, run_id="b").digest()}) == 3


def test_the_digest_of_weights_follows_its_published_definition() -> None:
    weights = {"b": torch.tensor([1.0, 2.0]), "a": torch.tensor(3, dtype=torch.int64)}
    a = b"a\0torch.int64\0[]\0" + (3).to_bytes(8, "little")
    b = b"b\0torch.float32\0[2]\0" + weights["b"].numpy().tobytes()
    assert weights_digest(weights) == hashlib.sha256(a + b).hexdigest()


def test_the_digest_of_weights_sees_values_names_and_dtypes_but_not_order_or_layout() -> None:
    weights = {name: tensor.clone() for name, tensor in nn.Linear(3, 2).state_dict().items()}
    same = {"bias": weights["bias"], "weight": weights["weight"].t().contiguous().t()}
    assert weights_digest(weights) == weights_digest(same)
    other = [
        {**weights, "bias": weights["bias"] + 1e-7},
        {**weights, "bias": weights["bias"].to(torch.bfloat16)},
        {"weight": weights["weight"], "offset": weights["bias"]},
        {**weights, "weight": weights["weight"].reshape(3, 2)},
    ]
    assert len({weights_digest(weights), *map(weights_digest, other)}) == 5


WRITE_FOREVER = """
import sys, torch
sys.path.insert(0, {hooks!r})
from unlearn_hooks.journal import write_json
from unlearn_hooks.training_record import RecordWriter
write_json(__import__("pathlib").Path({folder!r}) / "manifest.json", {{"schema": 1}})
writer = RecordWriter({folder!r})
for step in range(10**9):
    if step == 1:
        print("ready", flush=True)
    writer.append("updates", {{"w": torch.full((50_000,), float(step))}}, first=step, last=step, meta={{}})
    if step >= 8:
        writer.drop(writer.shards("updates")[0])
"""


@pytest.mark.parametrize("seconds", [0.0, 0.013, 0.047, 0.11])
def test_a_record_is_readable_after_kill_9_at_any_moment(tmp_path: Path, seconds: float) -> None:
    code = WRITE_FOREVER.format(hooks=str(HOOKS), folder=str(tmp_path))
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    time.sleep(seconds)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    record = TrainingRecord.open(tmp_path)
    shards = record.shards("updates")
    assert shards
    assert [shard.first for shard in shards] == list(range(shards[0].first, shards[0].first + len(shards)))
    assert all(torch.equal(shard.tensors()["w"], torch.full((50_000,), float(shard.first))) for shard in shards)
    following = RecordWriter(tmp_path)
    assert following.attempt == 1
    write_run(following, 10**6, 10**6 + 10)
    assert covered(TrainingRecord.open(tmp_path)) == list(range(10**6, 10**6 + 10))
