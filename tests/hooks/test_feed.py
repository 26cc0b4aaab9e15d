import weakref

import torch
from torch.utils.data import DataLoader, Subset, TensorDataset

from unlearn_hooks.feed import Feed, Origin, Tag
from unlearn_hooks.ids import label_checksum

DATA = TensorDataset(torch.arange(10.0), torch.arange(10) % 3)
LOADER = DataLoader(DATA)


def origin(dataset: object = DATA) -> Origin:
    return Origin(weakref.ref(LOADER), dataset)


def batch(*rows: int) -> list[torch.Tensor]:
    return [torch.tensor(rows).float(), torch.tensor(rows) % 3]


def tag(*rows: int) -> Tag:
    return Tag(rows, label_checksum(torch.tensor(rows) % 3))


def fed(*tags: Tag) -> Feed:
    feed, one = Feed(), origin()
    for each in tags:
        feed.push(one, each, None)
    return feed


def rows_of(feed: Feed, *rows: int) -> list[int] | None:
    found = feed.arrive(batch(*rows)).rows
    return None if found is None else found.tolist()


def test_each_batch_meets_its_own_tag_even_if_the_loader_is_ahead() -> None:
    feed = fed(tag(4, 2), tag(7, 0), tag(1))
    assert [rows_of(feed, 4, 2), rows_of(feed, 7, 0), rows_of(feed, 1)] == [[4, 2], [7, 0], [1]]


def test_labels_come_with_the_batch_as_a_copy() -> None:
    images, labels = batch(4, 2)
    arrival = fed(tag(4, 2)).arrive([images, labels])
    labels.zero_()
    assert arrival.labels is not None
    assert arrival.labels.tolist() == [1, 2]


def test_other_labels_close_the_feed_for_the_rest_of_the_pass() -> None:
    feed = fed(tag(0, 1), tag(4, 2), tag(7, 0))
    assert feed.arrive(batch(4, 2)).problem == "the labels changed on the way"
    assert rows_of(feed, 4, 2) is None
    assert rows_of(feed, 7, 0) is None


def test_another_length_closes_the_feed() -> None:
    feed = fed(tag(0, 3), tag(4, 2))
    assert feed.arrive(batch(0)).problem == "the number of samples changed on the way"
    assert rows_of(feed, 4, 2) is None


def test_soft_labels_are_not_compared() -> None:
    arrival = fed(tag(0, 1)).arrive([torch.zeros(2, 1), torch.eye(2)])
    assert arrival.rows is not None
    assert (arrival.rows.tolist(), arrival.labels, arrival.problem) == ([0, 1], None, None)


def test_without_a_tag_nothing_is_known() -> None:
    assert fed().arrive(batch(1)).problem == "no torch DataLoader told its rows"
    assert fed(Tag(None, None)).arrive(batch(1)).problem == "the data set is a stream"


def test_a_problem_known_from_the_start_stays_the_reason() -> None:
    feed = Feed("one process reads for all")
    assert feed.arrive(batch(1)).problem == "one process reads for all"
    feed.push(origin(), tag(4, 2), None)
    arrival = feed.arrive(batch(4, 2))
    assert (arrival.rows, arrival.problem) == (None, "one process reads for all")
    assert arrival.labels is not None


def test_two_loaders_in_one_pass_close_the_feed() -> None:
    feed = fed(tag(0, 1))
    feed.push(origin(), tag(4, 2), None)
    assert feed.arrive(batch(0, 1)).problem == "the batches of several loaders are mixed"


def test_rows_are_those_of_the_root() -> None:
    feed = Feed()
    feed.push(origin(Subset(DATA, [9, 4, 1])), Tag((2, 0), None), None)
    assert rows_of(feed, 1, 9) == [1, 9]


def test_a_closed_feed_takes_nothing_any_more() -> None:
    feed = fed(tag(0, 1))
    feed.close()
    feed.push(origin(), tag(4, 2), None)
    assert rows_of(feed, 4, 2) is None
