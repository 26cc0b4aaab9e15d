from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from unlearn_hooks.followed_loader import FollowedLoader


class Rows(Dataset[tuple[Tensor, int]]):
    def __len__(self) -> int:
        return 10

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return torch.full((2,), float(row)), row % 3


def loader(data: Rows, **settings: Any) -> DataLoader[Any]:
    return DataLoader(data, 4, shuffle=True, **settings)


def rows_in(batch: list[Tensor]) -> list[int]:
    return [int(value) for value in batch[0][:, 0].tolist()]


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (2, True)])
@pytest.mark.parametrize("ahead", [0, 2])
def test_every_batch_has_its_rows_however_far_the_framework_reads_ahead(
    workers: int, persistent: bool, ahead: int
) -> None:
    training = loader(Rows(), num_workers=workers, persistent_workers=persistent)
    followed = FollowedLoader(training)
    for _ in range(2):
        followed.expect()
        iterator = iter(training)
        read = [next(iterator) for _ in range(ahead)]
        for batch in [*read, *iterator] if ahead else iterator:
            arrival = followed.arrive(batch)
            assert arrival.problem is None
            assert arrival.rows is not None
            assert arrival.labels is not None
            assert arrival.rows.tolist() == rows_in(batch)
            assert arrival.labels.tolist() == [row % 3 for row in rows_in(batch)]


def test_other_loaders_over_the_same_data_are_not_taken_for_the_pass() -> None:
    data = Rows()
    training, evaluation = loader(data), loader(data)
    followed = FollowedLoader(training)
    followed.expect()
    early = [rows_in(batch) for batch in evaluation]  # before the pass: replaced by it
    for batch in training:
        arrival = followed.arrive(batch)
        assert arrival.rows is not None
        assert arrival.rows.tolist() == rows_in(batch)
        early += [rows_in(batch) for batch in evaluation]
    assert len(early) == 12


def test_loaders_over_other_data_are_never_the_pass() -> None:
    followed = FollowedLoader(loader(Rows()))
    followed.expect()
    batch = next(iter(loader(Rows())))
    assert followed.arrive(batch).problem == "no torch DataLoader told its rows"


def test_a_batch_that_nobody_saw_has_the_labels_the_loader_gave() -> None:
    training = loader(Rows())
    followed = FollowedLoader(training)
    followed.expect()
    iterator = iter(training)
    batch = next(iterator)
    expected = batch[1].tolist()
    batch[1].zero_()
    arrival = followed.arrive()
    assert arrival.rows is not None
    assert arrival.labels is not None
    assert (arrival.rows.tolist(), arrival.labels.tolist()) == (rows_in(batch), expected)


def test_other_labels_or_another_length_give_no_rows() -> None:
    training = loader(Rows())
    followed = FollowedLoader(training)
    followed.expect()
    images, labels = next(iter(training))
    assert followed.arrive([images, labels + 1]).problem == "the labels changed on the way"
    followed.expect()
    images, labels = next(iter(training))
    assert followed.arrive([images[:2], labels[:2]]).problem == "the number of samples changed on the way"
    followed.expect()
    assert followed.arrive(next(iter(training))).problem is None  # a new pass begins without it


def test_a_known_problem_is_told_for_each_batch_with_its_labels() -> None:
    followed = FollowedLoader(loader(Rows()), "a batch comes from several loaders")
    assert followed.dataset is None
    arrival = followed.arrive([torch.zeros(2, 2), torch.tensor([1, 2])])
    assert (arrival.rows, arrival.problem) == (None, "a batch comes from several loaders")
    assert arrival.labels is not None
    assert arrival.labels.tolist() == [1, 2]


def test_torch_is_touched_only_until_the_first_batch_arrives() -> None:
    before = DataLoader._get_iterator
    training = loader(Rows())
    followed = FollowedLoader(training)
    followed.expect()
    followed.expect()  # a pass that was announced and did not begin
    iterator = iter(training)
    batch = next(iterator)
    assert followed.expecting
    assert DataLoader._get_iterator is not before
    followed.arrive(batch)
    assert not followed.expecting
    assert DataLoader._get_iterator is before
    followed.expect()
    followed.close()
    assert DataLoader._get_iterator is before
    arrival = followed.arrive(next(iterator))  # the pass goes on all the same
    assert arrival.rows is not None
