import pytest
import torch
from torch import nn

from unlearn_hooks.collector import Batch
from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.pending_step import MicroBatch, PendingStep, length


def batch(*rows: int) -> Batch:
    return Batch(torch.tensor(rows), None)


def rows_of(batches: tuple[Batch, ...]) -> list[list[int] | None]:
    return [None if each.rows is None else each.rows.tolist() for each in batches]


def pending(gradient: float | None = 1.0) -> PendingStep:
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = None if gradient is None else torch.full((2,), gradient)
    return PendingStep([parameter])


def train(step: PendingStep, *rows: int) -> None:
    step.arrived(batch(*rows))
    micro = step.forwarded()
    assert isinstance(micro, MicroBatch)
    micro.went_back()


def test_the_step_holds_what_went_through_the_model_since_the_last_one() -> None:
    step = pending()
    train(step, 1, 2)
    train(step, 3)
    assert rows_of(step.take()) == [[1, 2], [3]]
    train(step, 4)
    assert rows_of(step.take()) == [[4]]
    assert step.take() == ()


def test_a_second_pass_of_the_same_batch_is_no_batch() -> None:
    step = pending()
    train(step, 1)
    assert step.forwarded() is None
    assert rows_of(step.take()) == [[1]]


def test_without_any_forward_pass_seen_all_that_arrived_is_the_step_and_it_says_so_once() -> None:
    step = pending()
    step.arrived(batch(1))
    step.arrived(batch(2))
    with pytest.warns(RuntimeWarning, match="the loop calls only parts of it, or a copy"):
        assert rows_of(step.take()) == [[1], [2]]
    step.arrived(batch(3))
    assert rows_of(step.take()) == [[3]]


def test_a_loop_that_leaves_batches_out_is_not_believed_for_the_rest_of_the_pass() -> None:
    step = pending()
    step.arrived(batch(1))
    train(step, 2)
    assert step.unsure
    assert rows_of(step.take()) == [None]
    train(step, 3)
    assert rows_of(step.take()) == [None]
    step.begin_pass()
    train(step, 4)
    assert rows_of(step.take()) == [[4]]


def test_a_loop_that_reads_ahead_is_not_believed() -> None:
    step = pending()
    train(step, 1)
    step.arrived(batch(2))
    assert rows_of(step.take()) == [[1]]
    step.arrived(batch(3))
    assert step.forwarded() is not None
    assert rows_of(step.take()) == [None]


def test_a_batch_left_over_at_the_end_of_a_pass_does_not_spoil_the_next_and_accumulated_ones_stay() -> None:
    step = pending()
    train(step, 1)
    step.arrived(batch(2))
    step.begin_pass()
    train(step, 3)
    assert rows_of(step.take()) == [[1], [3]]


def test_told_rows_replace_those_found_and_labels_stay() -> None:
    step = pending()
    step.arrived(Batch(torch.tensor([1]), torch.tensor([7])))
    step.correct(torch.tensor([5]), None)
    assert step.forwarded() is not None
    with pytest.raises(UnlearnError, match=r"rec\.ids\(rows\) came after"):
        step.correct(torch.tensor([6]), None)
    (found,) = step.take()
    assert found.rows is not None
    assert found.labels is not None
    assert (found.rows.tolist(), found.labels.tolist()) == ([5], [7])


@pytest.mark.parametrize(
    ("gradient", "gone"),
    [(1.0, False), (None, True), (0.0, True), (float("inf"), True), (float("nan"), True)],
)
def test_a_gradient_that_was_cleared_or_is_not_finite_is_thrown_away(gradient: float | None, gone: bool) -> None:
    step = pending(gradient)
    assert not step.was_thrown_away()
    train(step, 1)
    assert step.was_thrown_away() == gone


def test_before_the_gradient_came_back_nothing_is_thrown_away() -> None:
    step = pending(None)
    step.arrived(batch(1))
    step.forwarded()
    assert not step.was_thrown_away()


def test_the_length_of_a_batch_is_that_of_rows_or_labels() -> None:
    assert length(batch(1, 2)) == 2
    assert length(Batch(None, torch.tensor([1]))) == 1
    assert length(Batch(None, None)) is None


def test_those_that_went_through_the_model_are_counted() -> None:
    pending = PendingStep([])
    assert pending.trained == 0
    pending.arrived(Batch(torch.tensor([0]), None))
    assert pending.trained == 0
    pending.forwarded()
    pending.arrived(Batch(torch.tensor([1]), None))
    assert pending.trained == 1
    pending.take()
    assert pending.trained == 0
