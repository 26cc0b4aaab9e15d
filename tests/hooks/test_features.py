from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.hooks.small_training import CLASSES, LABELS, Training
from unlearn_hooks import features as module
from unlearn_hooks.collector import Batch, Seen, Step
from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.features import FeaturesCollector, FeatureStatistics, recorded_features
from unlearn_hooks.plan import Plan
from unlearn_hooks.training_record import RecordWriter, Shard


def collecting(folder: Path, **plan: object) -> Training:
    return Training(folder, [FeaturesCollector()], Plan(**plan))


def show(training: Training, number: int, z: Tensor, labels: Tensor | None = None, classes: int | None = None) -> None:
    """Let the collector see one step with these features."""
    collector = training.collectors[0]
    batch = Batch(None, labels)
    collector.batch(batch, Seen(z, None if classes is None else torch.zeros(len(z), classes)))
    collector.step(Step(number, 0, (batch,), (0.1,), False), training.writer)


def check(statistics: FeatureStatistics, z: Tensor, labels: Tensor | None = None, classes: int = CLASSES) -> None:
    """Compare with direct computation in fp64."""
    z = z.double()
    assert statistics.n == len(z)
    assert torch.allclose(statistics.mean, z.mean(0), rtol=1e-5, atol=1e-6)
    assert torch.allclose(statistics.second_moment, z.T @ z / len(z), rtol=1e-5, atol=1e-6)
    if labels is None:
        assert statistics.class_counts is None
        return
    for c in range(classes):
        own = z[labels == c]
        assert statistics.class_counts[c] == len(own)
        assert torch.allclose(statistics.class_sums[c], own.sum(0), rtol=1e-5, atol=1e-4)
        assert torch.allclose(statistics.class_second_sums[c], own.T @ own, rtol=1e-5, atol=1e-4)


def seen_by(training: Training, numbers: range) -> tuple[Tensor, Tensor]:
    """Features and labels of these steps."""
    latest = {truth.step.number: truth for truth in training.truth}
    chosen = [latest[number] for number in numbers]
    z = torch.cat([seen.features for truth in chosen for seen in truth.seen])
    return z, torch.cat([LABELS[batch.rows] for truth in chosen for batch in truth.step.batches])


@pytest.mark.parametrize("micro", [1, 3])
def test_the_statistics_are_those_of_everything_the_head_saw(tmp_path: Path, micro: int) -> None:
    training = Training(tmp_path, [FeaturesCollector()], Plan(window=4), micro=micro)
    statistics = recorded_features(training.run(10))
    check(statistics, *seen_by(training, range(10)))
    assert (statistics.first, statistics.last) == (0, 9)


@pytest.mark.parametrize("enough", [1, 5, 8, 10**6])
def test_how_many_features_are_added_at_once_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enough: int
) -> None:
    monkeypatch.setattr(module, "_ENOUGH", enough)
    training = Training(tmp_path, [FeaturesCollector()], Plan(window=4), micro=3)
    check(recorded_features(training.run(10)), *seen_by(training, range(10)))
    assert [(shard.first, shard.last) for shard in training.record().shards("features")] == [(0, 3), (4, 7), (8, 9)]


def test_steps_with_and_without_labels_share_a_window(tmp_path: Path) -> None:
    training, z = collecting(tmp_path, window=9), torch.randn(12, 4)
    labels = torch.tensor([0, 2, 2, 1])
    training.start()
    show(training, 0, z[:4], labels, CLASSES)
    show(training, 1, z[4:8], None, CLASSES)
    show(training, 2, z[8:], labels, CLASSES)
    training.flush()
    statistics = recorded_features(training.record())
    own = torch.cat([z[:4], z[8:]]).double()
    assert statistics.n == 12
    assert torch.allclose(statistics.second_moment, z.double().T @ z.double() / 12, rtol=1e-5, atol=1e-6)
    for c in range(CLASSES):
        part = own[labels.repeat(2) == c]
        assert statistics.class_counts[c] == len(part)
        assert torch.allclose(statistics.class_second_sums[c], part.T @ part, rtol=1e-5, atol=1e-4)


def test_windows_end_at_multiples_of_their_length_and_at_flushes(tmp_path: Path) -> None:
    training = collecting(tmp_path, window=4)
    training.start()
    training.steps(0, 6).flush()
    training.steps(6, 9).flush()
    training.flush()
    windows = [(shard.first, shard.last) for shard in training.record().shards("features")]
    assert windows == [(0, 3), (4, 5), (6, 7), (8, 8)]


def test_the_latest_windows_can_be_read_alone(tmp_path: Path) -> None:
    training = collecting(tmp_path, window=4)
    record = training.run(14)
    for last, first in ((1, 12), (2, 8), (3, 4), (4, 0), (9, 0)):
        check(recorded_features(record, last=last), *seen_by(training, range(first, 14)))
    with pytest.raises(UnlearnError, match="last=0"):
        recorded_features(record, last=0)


@pytest.mark.parametrize("windows", [1, 3])
def test_older_windows_are_folded_into_one_and_nothing_is_lost(tmp_path: Path, windows: int) -> None:
    training = collecting(tmp_path, window=2, windows=windows)
    training.start()
    for step in range(20):
        training.steps(step, step + 1)
        ends = (step + 1) // 2
        assert len(training.writer.shards("features")) == min(ends, windows + 1)
        if ends:
            check(recorded_features(training.record()), *seen_by(training, range(2 * ends)))
    assert len(list((tmp_path / "record" / "rank00000").glob("features-*"))) == windows + 1


def test_a_folded_shard_is_about_the_pooled_mean(tmp_path: Path) -> None:
    training = collecting(tmp_path, window=1, windows=1)
    training.start()
    z = torch.rand(3, 6, 2) + torch.tensor([0.0, 40.0, 0.0])[:, None, None]
    for step, some in enumerate(z):
        show(training, step, some)
    folded, _ = training.record().shards("features")
    assert torch.allclose(folded.tensors()["shift"], z[:2].flatten(0, 1).double().mean(0), atol=1e-5)


def test_windows_are_folded_only_up_to_the_last_flush_so_that_going_back_to_it_loses_nothing(tmp_path: Path) -> None:
    training = collecting(tmp_path, window=2, windows=2)
    training.start()
    training.steps(0, 13).flush()  # a checkpoint before step 13
    training.steps(13, 40)
    assert len(training.writer.shards("features")) == 4
    training.writer.rewind(13)
    check(recorded_features(training.record()), *seen_by(training, range(13)))
    training.start(13)
    training.steps(13, 20).flush()
    check(recorded_features(training.record()), *seen_by(training, range(20)))


@pytest.mark.parametrize(("crash", "back"), [(9, 6), (11, 5), (4, 4), (3, 0)])
def test_a_resumed_run_counts_nothing_twice(tmp_path: Path, crash: int, back: int) -> None:
    training = collecting(tmp_path, window=4, windows=2)
    training.start()
    training.steps(0, back).flush()
    training.steps(back, crash).flush()
    training.writer.rewind(back)
    training.start(back)
    training.steps(back, 13).flush()
    check(recorded_features(training.record()), *seen_by(training, range(13)))


class CrashAfterFolding(RecordWriter):
    """Dies after the folded shard is on disk and before those in it are dropped."""

    def drop(self, shard: Shard) -> None:
        raise KeyboardInterrupt


def test_a_crash_while_folding_neither_loses_nor_doubles(tmp_path: Path) -> None:
    training = collecting(tmp_path, window=2, windows=1)
    training.writer = CrashAfterFolding(tmp_path / "record")
    training.start()
    with pytest.raises(KeyboardInterrupt):
        training.steps(0, 6)
    record = training.record()
    assert sorted((s.first, s.last) for s in record.shards("features")) == [(0, 1), (0, 3), (2, 3), (4, 5)]
    check(recorded_features(record), *seen_by(training, range(6)))
    training.writer = RecordWriter(tmp_path / "record")
    training.start(6)
    training.steps(6, 8).flush()
    assert [(s.first, s.last) for s in training.record().shards("features")] == [(0, 5), (6, 7)]
    check(recorded_features(training.record()), *seen_by(training, range(8)))


def test_a_window_that_the_disk_did_not_take_stays_open(tmp_path: Path) -> None:
    class Busy(RecordWriter):
        busy = True

        def append(self, *args: object, **options: object) -> Shard | None:
            return None if self.busy else super().append(*args, **options)

    training = collecting(tmp_path, window=2)
    training.writer = Busy(tmp_path / "record")
    training.start()
    training.steps(0, 3)
    training.writer.busy = False
    training.steps(3, 4)
    assert [(shard.first, shard.last) for shard in training.record().shards("features")] == [(0, 3)]
    check(recorded_features(training.record()), *seen_by(training, range(4)))


def test_a_skipped_step_leaves_no_features_even_if_they_are_not_finite(tmp_path: Path) -> None:
    training = collecting(tmp_path)
    training.start()
    show(training, 0, torch.ones(4, 2))
    collector = training.collectors[0]
    collector.batch(Batch(None, None), Seen(torch.full((4, 2), torch.inf), None))
    collector.step(Step(1, 0, (), (0.1,), True), training.writer)
    training.flush()
    check(recorded_features(training.record()), torch.ones(4, 2))


def test_samples_without_a_class_count_overall_only(tmp_path: Path) -> None:
    training = collecting(tmp_path)
    training.start()
    z = torch.randn(12, 2)
    show(training, 0, z[:4], torch.tensor([0, 1, -100, 7]), classes=2)
    show(training, 1, z[4:8], None, classes=2)
    show(training, 2, z[8:], torch.tensor([1, 1]), classes=2)  # not as many labels as features
    training.flush()
    statistics = recorded_features(training.record())
    check(statistics, z, torch.tensor([0, 1] + [9] * 10), classes=2)


def test_without_logits_or_labels_there_are_no_class_statistics(tmp_path: Path) -> None:
    training = collecting(tmp_path)
    training.start()
    z = torch.randn(8, 3)
    show(training, 0, z, torch.zeros(8).long())
    training.flush()
    check(recorded_features(training.record()), z)


def test_a_head_that_is_not_seen_records_nothing_and_the_error_names_the_way(tmp_path: Path) -> None:
    training = collecting(tmp_path)
    training.start()
    training.collectors[0].batch(Batch(None, None), Seen(None, torch.zeros(2, 2)))
    training.collectors[0].step(Step(0, 0, (), (0.1,), False), training.writer)
    training.flush()
    with pytest.raises(UnlearnError, match=r"Plan\(features=True\).*Plan\(head='name'\)"):
        recorded_features(training.record())


def test_second_moments_of_classes_are_left_out_when_they_would_be_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit, kept in ((3 * 4 * 4, True), (3 * 4 * 4 - 1, False)):
        monkeypatch.setattr(module, "_MOST_CLASS_ENTRIES", limit)
        training = collecting(tmp_path / str(kept), window=1, windows=1)
        training.start()
        z, labels = torch.randn(15, 4), torch.arange(15) % 3
        for step in range(3):
            show(training, step, z[5 * step : 5 * step + 5], labels[5 * step : 5 * step + 5], classes=3)
        statistics = recorded_features(training.record())
        assert (statistics.class_second_sums is not None) == kept
        assert torch.allclose(statistics.class_sums[2], z[labels == 2].sum(0).double(), atol=1e-5)


def stretched(n: int, d: int, mean: float, spread: float) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    basis = torch.linalg.qr(torch.randn(d, d, generator=generator)).Q * spread * torch.logspace(0, -2, d)
    return mean * torch.rand(d, generator=generator) + torch.randn(n, d, generator=generator) @ basis


@pytest.mark.parametrize("tf32", [False, True])
def test_the_covariance_is_right_when_the_mean_is_much_larger_than_the_spread(tmp_path: Path, tf32: bool) -> None:
    z = stretched(64_000, 48, mean=50.0, spread=0.1)
    training = collecting(tmp_path, window=100, windows=2)
    training.start()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if tf32 else before)  # bf16 products, where the CPU has them
    try:
        with torch.autocast("cpu", torch.bfloat16, enabled=tf32):
            for step, batch in enumerate(z.split(128)):
                show(training, step, batch)
        assert torch.get_float32_matmul_precision() == ("medium" if tf32 else before)
    finally:
        torch.set_float32_matmul_precision(before)
    statistics = recorded_features(training.record())
    covariance = statistics.second_moment - torch.outer(statistics.mean, statistics.mean)
    truth = z.double().T.cov(correction=0)
    assert float((covariance - truth).norm() / truth.norm()) <= 1e-5
    smallest, right = torch.linalg.eigvalsh(covariance)[0], torch.linalg.eigvalsh(truth)[0]
    assert smallest > 0
    assert float(abs(smallest - right) / right) < 0.01


def test_the_settings_of_matrix_products_are_those_of_the_user_afterwards() -> None:
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "tf32"
        with module._full_precision(torch.device("cpu")):
            assert matmul.fp32_precision == "ieee"
            assert not torch.is_autocast_enabled("cpu")
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12), windows=st.integers(1, 4), seed=st.integers(0, 99))
def test_windows_with_different_shifts_merge_into_the_pooled_statistics(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], windows: int, seed: int
) -> None:
    training = collecting(tmp_path_factory.mktemp("merge"), window=1, windows=windows)
    training.start()
    generator = torch.Generator().manual_seed(seed)
    z = [torch.randn(n, 3, generator=generator).double() + 100 * torch.rand(3, generator=generator) for n in sizes]
    labels = [torch.randint(0, 2, (n,), generator=generator) for n in sizes]
    for step, (some, classes) in enumerate(zip(z, labels, strict=True)):
        show(training, step, some, classes, classes=2)
    check(recorded_features(training.record()), torch.cat(z), torch.cat(labels), classes=2)


def test_taking_samples_out_leaves_the_statistics_of_the_rest(tmp_path: Path) -> None:
    training = collecting(tmp_path)
    training.start()
    z, labels = torch.randn(20, 3) + 2, torch.arange(20) % CLASSES
    for step in range(4):
        show(training, step, z, labels, classes=CLASSES)
    training.flush()
    statistics = recorded_features(training.record())
    rest = statistics.without(z[:5], labels[:5], passes=4.0)
    check(rest, z[5:].repeat(4, 1), labels[5:].repeat(4))
    plain = statistics.without(z[:5])
    check(plain, torch.cat([z[5:], z, z, z]))
    assert plain.class_sums is None
    assert (rest.first, rest.last) == (statistics.first, statistics.last)


def test_taking_everything_out_is_refused(tmp_path: Path) -> None:
    training = collecting(tmp_path)
    training.start()
    show(training, 0, torch.randn(4, 2))
    training.flush()
    with pytest.raises(UnlearnError, match="cannot be taken out"):
        recorded_features(training.record()).without(torch.randn(4, 2))


def test_processes_that_saw_different_samples_are_pooled(tmp_path: Path) -> None:
    z = torch.randn(2, 6, 3) + torch.tensor([0.0, 5.0])[:, None, None]
    for rank in (1, 0):
        training = collecting(tmp_path)
        training.writer = RecordWriter(tmp_path / "record", rank=rank)
        training.start()
        show(training, 0, z[rank])
        training.flush()
    check(recorded_features(training.record()), z.flatten(0, 1))
