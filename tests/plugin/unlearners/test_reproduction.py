from pathlib import Path

import pytest
import torch
from torch import nn

from unlearn_hooks.snapshots import Snapshot
from unlearn_hooks.training_record import Shard
from unlearn_hooks.updates import Update, _Latest
from unlearn_plugin.unlearners._reproduction import compare, next_state


def snapshot(step: int) -> Snapshot:
    return Snapshot(step, 0, 0, "", (), None, (), _shard=Shard("snapshot", step, step, {}, Path()))


def update(step: int) -> Update:
    return Update(step, 0, (), (), _Latest())


def model() -> nn.Module:
    made = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with torch.no_grad():
        for value in made.state_dict().values():
            value.fill_(3)
    return made


@pytest.mark.parametrize(
    ("start", "near", "far", "expected"),
    [(0, 10, 50, 9), (0, 8, 50, 6), (0, 2, 50, 3), (0, 2, 2, None), (9, 5, 50, 40), (40, 9, 9, None)],
)
def test_the_last_state_within_an_epoch_or_else_the_next_one_is_taken(
    start: int, near: int, far: int, expected: int | None
) -> None:
    updates, snapshots = [update(step) for step in (0, 3, 6, 9)], [snapshot(0), snapshot(40)]
    found = next_state(snapshot(start), near, far, snapshots, updates)
    assert (None if found is None else found.step) == expected


def test_a_snapshot_goes_before_an_update_since_it_holds_everything() -> None:
    whole = snapshot(5)
    assert next_state(snapshot(0), 5, 5, [whole], [update(5)]) is whole


def test_what_is_equal_is_identical() -> None:
    recorded = {name: value.clone() for name, value in model().state_dict().items()}
    found = compare(model(), recorded, {name: torch.zeros_like(value) for name, value in recorded.items()})
    assert (found.identical, found.deviation) == (True, 0.0)


def test_the_deviation_is_a_share_of_the_way() -> None:
    """Recorded: 3 + 4 in one of 14 numbers; the way from 0 is sqrt(13 * 9 + 49)."""
    recorded = {name: value.clone() for name, value in model().state_dict().items()}
    recorded["0.weight"][0, 0] += 4
    found = compare(model(), recorded, {name: torch.zeros_like(value) for name, value in recorded.items()})
    assert not found.identical
    assert found.deviation == pytest.approx(4 / (13 * 9 + 49) ** 0.5)


def test_a_count_that_differs_is_seen_and_is_no_deviation() -> None:
    recorded = {name: value.clone() for name, value in model().state_dict().items()}
    recorded["1.num_batches_tracked"] += 1
    found = compare(model(), recorded, {name: torch.zeros_like(value) for name, value in recorded.items()})
    assert (found.identical, found.deviation) == (False, 0.0)


def test_rounded_records_are_compared_as_they_were_rounded() -> None:
    made = model()
    with torch.no_grad():
        made[0].weight.fill_(1.00001)
    recorded = {"0.weight": made[0].weight.detach().bfloat16()}
    assert compare(made, recorded, {"0.weight": torch.zeros(2, 2)}).identical


def test_nothing_moved_and_something_differs_is_no_small_deviation() -> None:
    recorded = {"0.weight": torch.zeros(2, 2)}
    found = compare(model(), recorded, recorded)
    assert (found.identical, found.deviation) == (False, float("inf"))
