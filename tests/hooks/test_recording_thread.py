import errno
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.journal import read_journal, write_json
from unlearn_hooks.recording_thread import BackgroundWriter
from unlearn_hooks.training_record import Shard, TrainingRecord


class SlowDisk(BackgroundWriter):
    """Writes a shard only when it is let."""

    def __init__(self, folder: Path) -> None:
        self.let = threading.Semaphore(0)
        super().__init__(folder)

    def _save(self, shard: Shard, tensors: Mapping[str, Tensor]) -> None:
        self.let.acquire()
        super()._save(shard, tensors)


class FullDisk(BackgroundWriter):
    """Has no room for a shard that is about step 2 or later."""

    def _save(self, shard: Shard, tensors: Mapping[str, Tensor]) -> None:
        if shard.last >= 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        super()._save(shard, tensors)


def append(writer: BackgroundWriter, step: int, kind: str = "updates") -> Shard | None:
    return writer.append(kind, {"x": torch.tensor([step])}, first=step, last=step, meta={})


def read(folder: Path) -> TrainingRecord:
    write_json(folder / "manifest.json", {"schema": 1})
    return TrainingRecord.open(folder)


def test_everything_is_on_disk_after_flush_and_complete_after_close(tmp_path: Path) -> None:
    writer = BackgroundWriter(tmp_path)
    shards = [append(writer, step) for step in range(2)]
    writer.flush()
    assert [shard.first for shard in read(tmp_path).shards("updates")] == [0, 1]
    assert shards[0] is not None
    writer.drop(shards[0])
    writer.close()
    assert read(tmp_path).complete
    assert [shard.first for shard in read(tmp_path).shards("updates")] == [1]


def test_an_abandoned_record_is_readable_and_not_complete(tmp_path: Path) -> None:
    writer = BackgroundWriter(tmp_path)
    append(writer, 0)
    writer.abandon()
    assert not read(tmp_path).complete
    assert len(read(tmp_path).shards("updates")) == 1


def test_a_third_waiting_shard_of_a_kind_is_skipped_without_waiting_and_the_journal_says_so(tmp_path: Path) -> None:
    writer = SlowDisk(tmp_path)
    taken = [append(writer, step) is not None for step in range(4)]
    other = append(writer, 3, "features")
    assert taken == [True, True, False, False]
    assert other is not None
    writer.let.release(10)
    writer.flush()
    assert append(writer, 9) is not None
    writer.close()
    events, _ = read_journal(tmp_path / "rank00000" / "journal.jsonl")
    assert [event["first"] for event in events if event["event"] == "skip"] == [2, 3]
    assert [shard.first for shard in read(tmp_path).shards("updates")] == [0, 1, 9]


def test_with_patience_nothing_is_skipped(tmp_path: Path) -> None:
    writer = SlowDisk(tmp_path)
    writer.let.release(10)
    with writer.patience():
        assert all(append(writer, step) is not None for step in range(6))
    writer.close()
    assert len(read(tmp_path).shards("updates")) == 6


def test_a_shard_that_was_just_handed_over_can_be_read(tmp_path: Path) -> None:
    writer = SlowDisk(tmp_path)
    shard = append(writer, 5)
    assert shard is not None
    threading.Timer(0.05, writer.let.release).start()
    assert shard.tensors()["x"].tolist() == [5]
    writer.close()
    assert shard.tensors()["x"].tolist() == [5]


def test_a_full_disk_ends_the_writing_without_an_exception_and_leaves_a_readable_record(tmp_path: Path) -> None:
    writer = FullDisk(tmp_path)
    shards = []
    for step in range(5):
        shards.append(append(writer, step))
        writer.flush()
    assert writer.failure is not None
    assert writer.failure.errno == errno.ENOSPC
    assert shards[3] is not None
    with pytest.raises(UnlearnError, match="cannot be read"):
        shards[3].tensors()
    writer.close()
    assert [shard.first for shard in read(tmp_path).shards("updates")] == [0, 1]
    assert not read(tmp_path).complete
