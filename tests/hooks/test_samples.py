import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from tests.hooks.small_training import LABELS, ROWS, Training
from unlearn_hooks import samples as module
from unlearn_hooks.collector import Batch, Seen, Step
from unlearn_hooks.samples import SamplesCollector, loss_and_margin, recorded_samples
from unlearn_hooks.training_record import RecordWriter


def train(folder: Path, steps: int = 6, **options: object) -> tuple[Training, list[tuple[int, Tensor, Tensor, Tensor]]]:
    training = Training(folder, [SamplesCollector()], **options)
    return training, recorded_samples(training.run(steps))


def truth(training: Training, epoch: int) -> dict[int, tuple[float, float]]:
    """Loss and margin of each row, sample by sample."""
    found: dict[int, tuple[float, float]] = {}
    for entry in training.truth:
        if entry.step.epoch != epoch or entry.step.skipped:
            continue
        for batch, seen in zip(entry.step.batches, entry.seen, strict=True):
            for row, f in zip(batch.rows.tolist(), seen.logits, strict=True):
                y = int(LABELS[row])
                others = [float(f[j]) for j in range(len(f)) if j != y]
                found[row] = (float(-F.log_softmax(f, 0)[y]), float(f[y]) - max(others))
    return found


def left_out(folder: Path) -> list[tuple[int, int]]:
    lines = (folder / "record" / "rank00000" / "journal.jsonl").read_text().splitlines()
    events = [json.loads(line.split(" ", 1)[1]) for line in lines]
    return [(e["epoch"], e["batches"]) for e in events if e["event"] == "samples_left_out"]


def one_step(training: Training, number: int, epoch: int, batch: Batch, logits: Tensor | None) -> None:
    collector = training.collectors[0]
    collector.batch(batch, Seen(None, logits))
    collector.step(Step(number, epoch, (batch,), (0.1,), False), training.writer)


@pytest.mark.parametrize("micro", [1, 3])
def test_every_sample_has_its_loss_and_margin_once_an_epoch(tmp_path: Path, micro: int) -> None:
    training, epochs = train(tmp_path, micro=micro)
    assert [epoch for epoch, *_ in epochs] == [0, 1]
    for epoch, rows, loss, margin in epochs:
        assert rows.tolist() == list(range(ROWS))
        expected = truth(training, epoch)
        assert torch.allclose(loss, torch.tensor([expected[row][0] for row in range(ROWS)]), rtol=1e-3, atol=1e-4)
        assert torch.allclose(margin, torch.tensor([expected[row][1] for row in range(ROWS)]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("enough", [1, 20, 10**6])
def test_how_many_samples_are_scored_at_once_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enough: int
) -> None:
    monkeypatch.setattr(module, "_ENOUGH", enough)
    training, epochs = train(tmp_path, steps=5, micro=3, skipped=(1,))
    for epoch, rows, loss, _ in epochs:
        expected = truth(training, epoch)
        assert rows.tolist() == sorted(expected)
        assert torch.allclose(loss, torch.tensor([expected[row][0] for row in rows.tolist()]), rtol=1e-3, atol=1e-4)


@given(st.lists(st.lists(st.floats(-80, 80), min_size=3, max_size=3), min_size=1, max_size=5), st.integers(0, 2))
def test_the_margin_is_positive_exactly_for_a_right_prediction(values: list[list[float]], label: int) -> None:
    logits = torch.tensor(values, dtype=torch.float64)
    labels = torch.full((len(values),), label)
    loss, margin = loss_and_margin(logits, labels)
    assert torch.allclose(loss, F.cross_entropy(logits, labels, reduction="none"))
    top = logits.topk(2, dim=1).values
    clear = top[:, 0] > top[:, 1]
    assert torch.equal((margin > 0)[clear], (logits.argmax(1) == labels)[clear])


def test_half_precision_logits_are_scored_in_full_precision() -> None:
    logits = torch.tensor([[10.0, 3.0, 1.0]])
    loss, _ = loss_and_margin(logits.half(), torch.tensor([0]))
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(F.cross_entropy(logits, torch.tensor([0]))), rel=1e-4)


def test_a_label_that_is_no_class_is_left_out_and_does_not_end_the_training(tmp_path: Path) -> None:
    training = Training(tmp_path, [SamplesCollector()])
    training.start()
    one_step(training, 0, 0, Batch(torch.arange(4), torch.tensor([0, -100, 2, 3])), torch.randn(4, 3))
    training.flush()
    (epoch,) = recorded_samples(training.record())
    assert epoch.rows.tolist() == [0, 2]


def test_scores_beyond_fp16_are_clamped_and_stay_finite(tmp_path: Path) -> None:
    training = Training(tmp_path, [SamplesCollector()])
    training.start()
    logits = torch.tensor([[-1e5, 1e5, 0], [1e5, -1e5, 0]])
    one_step(training, 0, 0, Batch(torch.arange(2), torch.zeros(2).long()), logits)
    training.flush()
    (epoch,) = recorded_samples(training.record())
    assert epoch.loss[0] == pytest.approx(6e4, rel=1e-3)
    assert epoch.loss[1] == 0
    assert epoch.margin.tolist() == pytest.approx([-6e4, 6e4], rel=1e-3)


@pytest.mark.parametrize("unseen", [{"rows_known": False}, {"labels_known": False}])
def test_batches_with_unknown_rows_or_soft_labels_are_left_out_and_counted(
    tmp_path: Path, unseen: dict[str, bool]
) -> None:
    _, epochs = train(tmp_path, micro=2, **unseen)
    assert epochs == []
    assert left_out(tmp_path) == [(0, 6), (1, 6)]


def test_batches_without_logits_or_with_another_number_of_them_are_left_out(tmp_path: Path) -> None:
    training = Training(tmp_path, [SamplesCollector()])
    training.start()
    batch = Batch(torch.arange(4), torch.zeros(4).long())
    one_step(training, 0, 0, batch, None)
    one_step(training, 1, 0, batch, torch.randn(8, 3))
    training.flush()
    assert recorded_samples(training.record()) == []
    assert left_out(tmp_path) == [(0, 2)]


def test_a_row_seen_twice_in_an_epoch_keeps_its_first_score_also_across_a_flush(tmp_path: Path) -> None:
    training = Training(tmp_path, [SamplesCollector()])
    training.start()
    y = torch.zeros(2).long()
    one_step(training, 0, 0, Batch(torch.tensor([5, 3]), y), torch.tensor([[1.0, 0], [2.0, 0]]))
    one_step(training, 1, 0, Batch(torch.tensor([3, 7]), y), torch.tensor([[3.0, 0], [4.0, 0]]))
    training.flush()
    one_step(training, 2, 0, Batch(torch.tensor([7, 1]), y), torch.tensor([[5.0, 0], [6.0, 0]]))
    training.flush()
    (epoch,) = recorded_samples(training.record())
    assert epoch.rows.tolist() == [1, 3, 5, 7]
    assert epoch.margin.tolist() == [6, 2, 1, 4]


class Busy(RecordWriter):
    busy = True

    def append(self, *args: object, **options: object) -> object:
        return None if self.busy else super().append(*args, **options)


def test_scores_that_the_disk_did_not_take_are_never_counted_to_the_next_epoch(tmp_path: Path) -> None:
    training = Training(tmp_path, [SamplesCollector()])
    training.writer = Busy(tmp_path / "record")
    training.start()
    training.steps(0, 2).flush()
    training.steps(2, 5)  # epoch 1 begins at step 3
    training.writer.busy = False
    training.steps(5, 6).flush()
    (epoch,) = recorded_samples(training.record())
    assert (epoch.epoch, len(epoch.rows)) == (1, ROWS)
    expected = truth(training, 1)
    assert torch.allclose(epoch.loss, torch.tensor([expected[row][0] for row in range(ROWS)]), rtol=1e-3, atol=1e-4)


def test_a_skipped_step_leaves_no_scores(tmp_path: Path) -> None:
    training, epochs = train(tmp_path, 3, skipped=(1,))
    assert epochs[0].rows.tolist() == sorted(truth(training, 0))
    assert len(epochs[0].rows) == 16


@pytest.mark.parametrize(("crash", "back"), [(5, 4), (8, 3), (4, 4), (2, 0)])
def test_a_resumed_run_has_every_sample_once(tmp_path: Path, crash: int, back: int) -> None:
    training = Training(tmp_path, [SamplesCollector()])
    training.start()
    training.steps(0, back).flush()
    training.steps(back, crash).flush()
    training.writer.rewind(back)
    training.start(back)
    training.steps(back, 9).flush()
    epochs = recorded_samples(training.record())
    assert [(epoch.epoch, len(epoch.rows)) for epoch in epochs] == [(0, ROWS), (1, ROWS), (2, ROWS)]
    stored = sum(len(shard.tensors()["rows"]) for shard in training.record().shards("samples"))
    assert stored == 3 * ROWS


def test_an_epoch_takes_8_bytes_a_sample(tmp_path: Path) -> None:
    training, _ = train(tmp_path, 3)
    (shard,) = training.record().shards("samples")
    assert sum(tensor.nbytes for tensor in shard.tensors().values()) == 8 * ROWS
