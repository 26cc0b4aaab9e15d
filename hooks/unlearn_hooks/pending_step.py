"""Which micro-batches make up the optimizer step to come."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Int64
from torch import Tensor, nn

from unlearn_hooks.collector import Batch
from unlearn_hooks.errors import UnlearnError

__all__ = ["MicroBatch", "PendingStep", "length"]

_UNSEEN = (
    "The model was not seen at work, so features and losses are not recorded: the loop calls only parts of it, or "
    "a copy. Give record(...) the module that is called."
)


def length(batch: Batch) -> int | None:
    """Return the number of samples in a batch, or ``None`` if nothing is known about them."""
    known = batch.labels if batch.rows is None else batch.rows
    return None if known is None else len(known)


@dataclass
class MicroBatch:
    """A micro-batch, and how far it came: into the model, and back as a gradient."""

    batch: Batch
    forwarded: bool = False
    backwarded: bool = False

    def went_back(self) -> None:
        """Note that the gradient came back from the loss."""
        self.backwarded = True


class PendingStep:
    """Collects micro-batches until the optimizer steps.

    Args:
        parameters: What the optimizer trains; their gradients are looked at.

    Attributes:
        unsure: The loop left a batch out or reads ahead, so that nobody knows which batch enters the model.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters
        self.unsure = False
        self._seen = False  # by now, a training forward pass was seen, or it was said that none is
        self._micro: list[MicroBatch] = []

    @property
    def trained(self) -> int:
        """Number of micro-batches of the step to come that went through the model already."""
        return sum(micro.forwarded for micro in self._micro)

    def begin_pass(self) -> None:
        """Begin a pass over the data: what was left over at the end of the one before is not trained on any more."""
        self._micro = [micro for micro in self._micro if micro.forwarded]
        self.unsure = False

    def arrived(self, batch: Batch) -> None:
        """Take a batch that reached the training loop."""
        self._micro.append(MicroBatch(batch))

    def correct(self, rows: Int64[Tensor, " n"], labels: Int64[Tensor, " n"] | None) -> None:
        """Take what the user says about the batch that arrived last.

        Args:
            rows: Its rows.
            labels: Its labels; ``None`` keeps those found.

        Raises:
            UnlearnError: If it is in the model already.
        """
        if not self._micro or self._micro[-1].forwarded:
            raise UnlearnError("rec.ids(rows) came after the model's forward pass; call it first in the loop's body.")
        found = self._micro[-1].batch
        self._micro[-1] = MicroBatch(Batch(rows, found.labels if labels is None else labels))

    def forwarded(self) -> MicroBatch | None:
        """Say which micro-batch a training forward pass is about.

        When several wait, the loop left some out or reads ahead, and for the rest of the pass nobody knows which.

        Returns:
            The micro-batch, or ``None`` if it is one that went through the model before.
        """
        waiting = [micro for micro in self._micro if not micro.forwarded]
        if not waiting:
            return None
        self.unsure |= len(waiting) > 1
        micro = waiting[-1]
        micro.forwarded = True
        if self.unsure:
            micro.batch = Batch(None, None)
        return micro

    def was_thrown_away(self) -> bool:
        """Tell whether the gradient of all micro-batches so far will never be applied.

        A GradScaler skips a step without calling the optimizer, so the step must be recognised by its gradient: it
        was cleared, or it is inf or nan.
        """
        if not self._micro or not all(micro.backwarded for micro in self._micro):
            return False
        gradients = [_local(p.grad.detach()) for p in self._parameters if p.grad is not None]
        return not 0 < float(nn.utils.get_total_norm(gradients)) < float("inf")

    def take(self) -> tuple[Batch, ...]:
        """Give the micro-batches of the step that was just made, and begin the next one.

        Returns:
            Those that went through the model; all of them if none was seen to, as when it ran compiled before.
        """
        micro, self._micro = self._micro, []
        forwarded = [one for one in micro if one.forwarded]
        if micro and not forwarded and not self._seen:
            warnings.warn(_UNSEEN, RuntimeWarning, stacklevel=2)
        self._seen |= bool(micro)
        self.unsure |= 0 < len(forwarded) < len(micro)
        return tuple(one.batch for one in forwarded or micro)


def _local(gradient: Tensor) -> Tensor:
    """Take this process's part of a sharded gradient: recording never makes processes wait for each other."""
    part = getattr(gradient, "to_local", None)
    return gradient if part is None else part()
