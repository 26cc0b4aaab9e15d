"""Collector: one kind of evidence. A collector contains no hook code and is tested with plain tensors."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch.optim import Optimizer

from unlearn_hooks.feed import Beginning
from unlearn_hooks.plan import Plan
from unlearn_hooks.training_record import RecordWriter

__all__ = ["Batch", "Collector", "Pass", "Run", "Seen", "Step", "without_autocast"]


@dataclass(frozen=True)
class Batch:
    """One micro-batch, as it left the outermost loader.

    Attributes:
        rows: Row of each sample in the root data set, in batch order; ``None`` when they could not be made
            sure of (then nothing may be claimed about single samples of this batch).
        labels: Class index of each sample, or ``None`` (soft or missing labels).
    """

    rows: Int64[Tensor, " n"] | None
    labels: Int64[Tensor, " n"] | None


@dataclass(frozen=True)
class Seen:
    """What the classifier head showed in the forward pass of one micro-batch; detached, as the model computed it.

    Attributes:
        features: Input of the head, (n, d); ``None`` when it was not seen.
        logits: Output of the model, (n, C); ``None`` when it was not seen.
    """

    features: Tensor | None
    logits: Tensor | None


@dataclass(frozen=True)
class Step:
    """One optimizer step: step t turns the weights theta_t into theta_(t+1) by the gradient g_t.

    Attributes:
        number: t, counted from 0 over the whole run, resumed attempts included.
        epoch: Epoch the step belongs to, counted from 0.
        batches: The micro-batches accumulated into the step, in order.
        learning_rates: Rate of each parameter group that the step was made with.
        skipped: The optimizer did not change the weights (a GradScaler found inf or nan).
    """

    number: int
    epoch: int
    batches: tuple[Batch, ...]
    learning_rates: tuple[float, ...]
    skipped: bool


@dataclass(frozen=True)
class Pass:
    """One pass over the data, when its first batch has arrived and no batch of it was trained on.

    Attributes:
        step: Number of the step to come.
        epoch: Epoch that begins, counted from 0.
        carried: Micro-batches of that step that were trained on in the pass before.
        ahead: How many further batches the loop had read by then.
        beginning: How the randomness of the pass began, or ``None`` if that was not seen.
    """

    step: int
    epoch: int
    carried: int
    ahead: int
    beginning: Beginning | None


@dataclass(frozen=True)
class Run:
    """What a collector may look at: the model and optimizer being trained (read only), and the plan."""

    model: nn.Module
    optimizer: Optimizer
    plan: Plan
    parameters: Mapping[str, nn.Parameter]  # those the optimizer trains, by name in the model


class Collector(ABC):
    """Gathers one kind of evidence and writes it as shards of its own `kind`.

    The recorder calls, in this order: `start` once (with the number of the first step to come); at the first batch of
    every pass over the data `pass_begin`; for every micro-batch of a training forward pass `batch`; after every
    optimizer step, when the weights are already theta_(t+1) and the gradients are still those applied, `step`; at
    epoch ends `epoch_end`; at checkpoints and the end of the run `flush`.
    """

    kind: ClassVar[str]

    def start(self, run: Run, first_step: int) -> None:
        """Get ready; called once before the first step of an attempt (weights are still theta_first_step)."""
        self.run = run

    def pass_begin(self, begun: Pass, out: RecordWriter) -> None:  # noqa: B027  # optional on purpose
        """Take in that a pass over the data begins; the weights are still those the pass before left."""

    def batch(self, batch: Batch, seen: Seen) -> None:  # noqa: B027  # optional on purpose
        """Take in one micro-batch of a training forward pass."""

    @abstractmethod
    def step(self, step: Step, out: RecordWriter) -> None:
        """Take in one optimizer step, after it was made."""

    def epoch_end(self, out: RecordWriter) -> None:
        """Write what must not be lost if the run is continued from here without a state of the recorder."""
        self.flush(out)

    def flush(self, out: RecordWriter) -> None:  # noqa: B027  # optional on purpose
        """Write what is still in memory, so that a resumed run counts nothing twice."""


@contextmanager
def without_autocast() -> Iterator[None]:
    """Let the collectors compute as they are written: some loops end an epoch inside their own autocast.

    Yields:
        Nothing.
    """
    with ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield
