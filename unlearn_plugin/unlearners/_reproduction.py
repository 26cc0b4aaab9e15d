"""Whether a rerun with nothing left out arrives where the recorded training was."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearn_hooks.snapshots import Snapshot
from unlearn_hooks.updates import Update

__all__ = ["Reproduction", "compare", "next_state"]


@dataclass(frozen=True)
class Reproduction:
    """How near a rerun came to a recorded state.

    Attributes:
        identical: Bit by bit the same, as far as it was recorded.
        deviation: Norm of the difference over the norm of what the recorded training had changed by then, over all
            recorded tensors; infinite if it is not finite, 0 where both stayed as they were.
    """

    identical: bool
    deviation: float


def next_state(
    start: Snapshot, near: int, far: int, snapshots: Sequence[Snapshot], updates: Sequence[Update]
) -> Snapshot | Update | None:
    """Choose the recorded state that a rerun is compared with.

    Args:
        start: Where the rerun begins.
        near: The last state within so many steps is taken, since more can differ by then.
        far: If there is none, the first one within so many steps.
        snapshots: Whole states.
        updates: Weights at the beginning of recorded steps.

    Returns:
        The state; ``None`` if there is none. A snapshot goes before an update of the same step.
    """
    states: list[Snapshot | Update] = [*snapshots, *updates]
    later = [state for state in states if start.step < state.step <= start.step + max(near, far)]
    last = max((state for state in later if state.step <= start.step + near), key=lambda s: s.step, default=None)
    return last or min(later, key=lambda state: state.step, default=None)


def compare(model: nn.Module, recorded: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> Reproduction:
    """Compare a model with a recorded state.

    Args:
        model: After the rerun.
        recorded: Parameters and buffers by name, perhaps some of them, perhaps rounded to another type.
        before: Where the rerun began.

    Returns:
        What was found.
    """
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    identical, gap, way = True, 0.0, 0.0
    for name, value in recorded.items():
        mine = own[name].detach().to("cpu", value.dtype)
        identical &= torch.equal(mine, value)
        if value.is_floating_point():
            gap += float((mine.double() - value.double()).square().sum())
            way += float((value.double() - before[name].to(value.dtype).double()).square().sum())
    deviation = math.sqrt(gap / way) if way else (0.0 if identical else math.inf)
    return Reproduction(identical, deviation if math.isfinite(deviation) else math.inf)
