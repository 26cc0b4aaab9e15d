"""Which kinds of evidence a plan asks for."""

from unlearn_hooks.collector import Collector
from unlearn_hooks.features import FeaturesCollector
from unlearn_hooks.plan import Plan
from unlearn_hooks.samples import SamplesCollector
from unlearn_hooks.schedule import ScheduleCollector
from unlearn_hooks.snapshots import SnapshotsCollector
from unlearn_hooks.updates import UpdatesCollector

__all__ = ["planned_collectors"]


def planned_collectors(plan: Plan) -> list[Collector]:
    """Make the collectors of a plan.

    Args:
        plan: What to record.

    Returns:
        One collector for each kind of evidence that the plan asks for.
    """
    chosen: list[tuple[bool, Collector]] = [
        (plan.updates, UpdatesCollector()),
        (plan.features, FeaturesCollector()),
        (plan.samples, SamplesCollector()),
        (plan.schedule, ScheduleCollector()),
        (plan.snapshots > 0, SnapshotsCollector()),
    ]
    return [collector for wanted, collector in chosen if wanted]
