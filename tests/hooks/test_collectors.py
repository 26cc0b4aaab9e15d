import pytest

from unlearn_hooks.collectors import planned_collectors
from unlearn_hooks.plan import Plan

KINDS = {"update": "updates", "features": "features", "samples": "samples", "schedule": "schedule"}


def kinds(plan: Plan) -> list[str]:
    return [collector.kind for collector in planned_collectors(plan)]


def test_everything_is_collected_by_default() -> None:
    assert kinds(Plan()) == [*KINDS, "snapshot"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_plan_leaves_out_is_not_collected(kind: str) -> None:
    assert kind not in kinds(Plan(**{KINDS[kind]: False}))
    assert len(kinds(Plan(**{KINDS[kind]: False}))) == len(KINDS)


def test_no_snapshots_means_no_collector_of_them() -> None:
    assert kinds(Plan(snapshots=0)) == [*KINDS]
