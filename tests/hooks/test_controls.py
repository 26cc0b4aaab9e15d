"""What is kept apart before training: the draw, the seal, and what happens when training does not keep to it."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from unlearn_hooks import TrainingRecord, UnlearnError, halves, holdout, record
from unlearn_hooks.controls import Holdout, recorded_holdout

N, CLASSES = 120, 3
LABELS = torch.arange(N) % CLASSES
DATA = TensorDataset(torch.randn(N, 4, generator=torch.Generator().manual_seed(0)), LABELS)


class Silent:
    """Does not tell its labels."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        raise AssertionError("no image may be loaded")


def train(folder: Path, dataset: object, held: Holdout | None = None, *, close: bool = True) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = record(folder, model, optimizer, holdout=held)
    for images, labels in recorder.batches(DataLoader(dataset, 16, shuffle=True)):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    if close:
        recorder.close()
    else:
        recorder.abandon()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_sample_is_in_one_part_and_every_class_gives_its_share(data: st.DataObject) -> None:
    counts = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=5))
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    if len(labels) < 3:
        return
    n = data.draw(st.integers(2, len(labels) - 1))
    held = holdout(range(len(labels)), n, data.draw(st.integers(0, 99)), labels=labels)
    parts = [held.train.indices, held.tuning.indices, held.verdict.indices]
    assert sorted(row for part in parts for row in part) == list(range(len(labels)))
    assert len(held.tuning) + len(held.verdict) == n
    assert abs(len(held.tuning) - len(held.verdict)) <= 1
    drawn = torch.bincount(torch.tensor(labels)[parts[1] + parts[2]], minlength=len(counts))
    for got, count in zip(drawn.tolist(), counts, strict=True):
        assert abs(got - n * count / len(labels)) < 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=60), st.integers(0, 5), st.integers(0, 99))
def test_two_halves_hold_every_row_exactly_once_and_split_every_class(labels: list[int], pair: int, seed: int) -> None:
    first, second = halves(range(len(labels)), pair, seed, labels=labels)
    assert sorted([*first.indices, *second.indices]) == list(range(len(labels)))
    counted = [torch.bincount(torch.tensor(labels)[part.indices], minlength=5) for part in (first, second)]
    assert int((counted[0] - counted[1]).abs().max()) <= 2
    assert abs(len(first) - len(second)) <= 1
    assert [(half.pair, half.side, half.seed) for half in (first, second)] == [(pair, 0, seed), (pair, 1, seed)]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=12, max_size=80), st.integers(0, 99))
def test_all_samples_of_a_subject_stay_together(subjects: list[int], seed: int) -> None:
    people = len(set(subjects))
    labels = [person % 3 for person in subjects]
    first, second = halves(range(len(subjects)), 0, seed, labels=labels, subjects=subjects)
    parts = [[first.indices, second.indices]]
    if people > 2:
        held = holdout(range(len(subjects)), 4, seed, labels=labels, subjects=[f"p{person}" for person in subjects])
        parts.append([held.train.indices, held.tuning.indices, held.verdict.indices])
    for split in parts:
        assert sorted(row for part in split for row in part) == list(range(len(subjects)))
        owners = [{subjects[row] for row in part} for part in split]
        assert sum(map(len, owners)) == people, "nobody is in two parts"
        assert people < len(split) or all(owners)


def test_subjects_come_one_for_each_sample_and_there_are_enough() -> None:
    with pytest.raises(UnlearnError, match="2 subjects for 120 samples"):
        halves(DATA, 0, 0, subjects=["a", "b"])
    with pytest.raises(UnlearnError, match="2 data subjects cannot be parted"):
        holdout(DATA, 30, 0, subjects=["a", "b"] * 60)


def test_a_subject_for_each_sample_is_no_subject() -> None:
    alone = [f"{row:03}" for row in range(N)]
    assert holdout(DATA, 30, 1, subjects=alone).tuning.indices == holdout(DATA, 30, 1).tuning.indices


def test_each_row_is_held_out_as_often_as_any_other() -> None:
    drawn = torch.zeros(N)
    for seed in range(300):
        held = holdout(DATA, 30, seed)
        drawn[held.tuning.indices + held.verdict.indices] += 1
    assert float(drawn.min()) > 75 - 5 * 7.5  # binomial, 300 draws of a quarter
    assert float(drawn.max()) < 75 + 5 * 7.5


def test_the_seed_decides_and_pairs_are_different_splits() -> None:
    assert holdout(DATA, 30, 1).tuning.indices == holdout(DATA, 30, 1).tuning.indices
    assert holdout(DATA, 30, 1).tuning.indices != holdout(DATA, 30, 2).tuning.indices
    splits = [tuple(halves(DATA, pair, seed)[0].indices) for pair, seed in ((0, 0), (0, 0), (1, 0), (0, 1))]
    assert splits[0] == splits[1]
    assert len(set(splits)) == 3


def test_rows_are_those_of_the_root_data_set() -> None:
    view = Subset(DATA, list(range(N - 1, 19, -1)))
    held = holdout(view, 20, 0)
    sealed = held.sealed()
    assert sealed.n == N
    assert sealed.tuning.tolist() == sorted(view.indices[place] for place in held.tuning.indices)
    first, second = halves(held.train, 0, 0)
    rows = [*first.rows().tolist(), *second.rows().tolist()]
    assert sorted([*rows, *sealed.tuning.tolist(), *sealed.verdict.tolist()]) == list(range(20, N))
    assert sealed.contains(torch.tensor([*sealed.verdict.tolist(), rows[0], N, -1])).tolist() == [
        *[True] * len(sealed.verdict), False, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize("n", [0, 1, N, N + 1])
def test_a_holdout_leaves_something_on_both_sides(n: int) -> None:
    with pytest.raises(UnlearnError, match=f"2 to {N - 1}"):
        holdout(DATA, n, 0)


def test_classes_that_are_not_told_are_asked_for() -> None:
    with pytest.raises(UnlearnError, match="labels="):
        holdout(Silent(), 10, 0)
    with pytest.raises(UnlearnError, match="3 labels for 120"):
        halves(Silent(), 0, 0, labels=[1, 2, 3])
    with pytest.raises(UnlearnError, match="numbered from 0"):
        halves(DATA, -1, 0)
    assert holdout(Silent(), 30, 5, labels=LABELS).tuning.indices == holdout(DATA, 30, 5).tuning.indices


def test_the_holdout_is_sealed_before_the_first_step_and_survives_a_crash(tmp_path: Path) -> None:
    held = holdout(DATA, 30, 3)
    train(tmp_path / "r", held.train, held, close=False)
    found = recorded_holdout(TrainingRecord.open(tmp_path / "r"))
    assert found is not None
    assert (found.seed, found.trained_on) == (3, False)
    assert torch.equal(found.tuning, held.sealed().tuning)
    assert torch.equal(found.verdict, held.sealed().verdict)
    train(tmp_path / "r", held.train, held)  # again from the start: the same holdout is welcome
    assert not recorded_holdout(TrainingRecord.open(tmp_path / "r")).trained_on
    assert (tmp_path / "r" / "holdout.json").stat().st_mode & 0o777 == 0o600


def test_a_record_without_a_holdout_has_none(tmp_path: Path) -> None:
    train(tmp_path / "r", DATA)
    assert recorded_holdout(TrainingRecord.open(tmp_path / "r")) is None
    assert not (tmp_path / "r" / "holdout.json").exists()


def test_another_holdout_cannot_take_the_place_of_a_sealed_one(tmp_path: Path) -> None:
    held, other = holdout(DATA, 30, 0), holdout(DATA, 30, 1)
    train(tmp_path / "r", held.train, held, close=False)
    with pytest.raises(UnlearnError, match="another holdout"):
        train(tmp_path / "r", other.train, other)


def test_a_holdout_of_other_data_is_refused(tmp_path: Path) -> None:
    held = holdout(TensorDataset(torch.zeros(90, 4), torch.arange(90) % 3), 30, 0)
    with pytest.raises(UnlearnError, match="drawn from 90 samples, and the training data have 120"):
        train(tmp_path / "r", DATA, held)


def test_training_on_the_holdout_is_told_at_once_and_stays_in_the_record(tmp_path: Path) -> None:
    held = holdout(DATA, 30, 0)
    with pytest.warns(RuntimeWarning, match="cannot serve as control") as told:
        train(tmp_path / "r", DATA, held)
    assert len(told) == 1
    assert recorded_holdout(TrainingRecord.open(tmp_path / "r")).trained_on


def test_who_resumes_without_naming_the_holdout_is_still_held_to_it(tmp_path: Path) -> None:
    held = holdout(DATA, 30, 0)
    train(tmp_path / "r", held.train, held, close=False)
    with pytest.warns(RuntimeWarning, match="holdout"):
        train(tmp_path / "r", DATA)
    assert recorded_holdout(TrainingRecord.open(tmp_path / "r")).trained_on


@pytest.mark.parametrize("damage", ["swap", "remove", "garble"])
def test_a_changed_holdout_file_is_found_out(tmp_path: Path, damage: str) -> None:
    held = holdout(DATA, 30, 0)
    train(tmp_path / "r", held.train, held)
    path = tmp_path / "r" / "holdout.json"
    content = json.loads(path.read_text())
    content["tuning"], content["verdict"] = content["verdict"], content["tuning"]
    if damage == "remove":
        path.unlink()
    else:
        path.write_text(json.dumps(content) if damage == "swap" else "{}")
    with pytest.raises(UnlearnError, match=r"holdout\.json"):
        recorded_holdout(TrainingRecord.open(tmp_path / "r"))


def test_recording_with_a_holdout_leaves_the_weights_alone(tmp_path: Path) -> None:
    held = holdout(DATA, 30, 0)
    train(tmp_path / "a", held.train, held)
    train(tmp_path / "b", held.train)
    first, second = (TrainingRecord.open(tmp_path / name).manifest["final_weights"] for name in "ab")
    assert first == second
