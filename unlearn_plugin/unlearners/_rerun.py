"""A recorded training, run again: the same batches, rates and random numbers, with some samples left out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from jaxtyping import Int64
from torch import Tensor, nn
from torch.optim import Optimizer

from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.schedule import Group, Schedule, recorded_schedule
from unlearn_hooks.snapshots import RecordedPass, Snapshot, recorded_passes, recorded_snapshots
from unlearn_hooks.training_record import TrainingRecord
from unlearn_plugin.progress import Progress
from unlearn_plugin.unlearners._training_data import TrainingData
from unlearn_plugin.user_code import load_function

__all__ = ["BatchLoss", "Counts", "Recipe", "RecordedRun", "Rerun", "find_optimizer", "plain_loss"]

BatchLoss = Callable[[nn.Module, Tensor, Tensor], Tensor]  # (model, images, labels) -> scalar, a mean over the batch


def plain_loss(label_smoothing: float = 0.0) -> BatchLoss:
    """Cross-entropy of a micro-batch, in nats, as most loops compute it: the mean over its samples.

    Args:
        label_smoothing: Share of the target that is spread over all classes.

    Returns:
        The loss.
    """

    def loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(model(images), labels, label_smoothing=label_smoothing)

    return loss


def find_optimizer(recorded: str, given: str | None) -> type[Optimizer]:
    """Find the class of the optimizer; a record never makes code be imported that is not torch's.

    Args:
        recorded: Module and name of the class.
        given: ``package.module:Class``, what the user says it is.

    Returns:
        The class.

    Raises:
        UnlearnError: If it is none of torch's and none was given, or it needs a closure.
    """
    module, _, name = recorded.rpartition(".")
    found: Any = getattr(torch.optim, name, None) if module.startswith("torch.optim.") else None
    if given is not None:
        found = load_function(given, "-o optimizer")
    if not isinstance(found, type) or not issubclass(found, Optimizer):
        raise UnlearnError(
            f"The record was made with the optimizer {recorded}, which is none of torch's own; name its class with "
            f"-o optimizer={module}:{name} if that is to be imported."
        )
    if issubclass(found, torch.optim.LBFGS):
        raise UnlearnError("LBFGS evaluates each batch several times, which replay does not; take retrain.")
    return found


@dataclass(frozen=True)
class MicroBatch:
    """What is left of one micro-batch.

    Attributes:
        step: The step it belongs to.
        rows: Its samples, in order.
        last: The step is made after it.
    """

    step: int
    rows: Int64[Tensor, " n"]
    last: bool


@dataclass(frozen=True)
class RecordedRun:
    """Everything about the order of a recorded training.

    Attributes:
        schedule: Rows, rates and settings of all steps.
        passes: How the passes over the data began.
        snapshots: States to begin from.
    """

    schedule: Schedule
    passes: tuple[RecordedPass, ...]
    snapshots: tuple[Snapshot, ...]

    @classmethod
    def read(cls, record: TrainingRecord) -> "RecordedRun":
        """Read a record.

        Args:
            record: What training left behind.

        Returns:
            The run.

        Raises:
            UnlearnError: If training cannot be run again from what was recorded; with all reasons.
        """
        run = cls(recorded_schedule(record), tuple(recorded_passes(record)), tuple(recorded_snapshots(record)))
        findings = []
        if not run.snapshots or run.snapshots[0].step:
            limited = record.noted("snapshots_limited")
            findings.append(
                f"The record {record.folder} holds no state of the training to begin from"
                f"{' (the byte budget was too small)' if limited else ''}; record training with Plan(snapshots=2), "
                f"which is the default{', and a larger budget' if limited else ''}, or take retrain."
            )
        if record.noted("began_late"):
            findings.append("The recording began after the first steps of the training, which may have seen anything.")
        unknown = sum(run.schedule.micro_batches(step) is None for step in range(run.schedule.steps))
        if unknown:
            findings.append(
                f"The samples of {unknown} of {run.schedule.steps} steps are not known, so nothing can be left out of "
                f"them; record with Plan(ids='all') and batches whose rows are known, see status().unknown."
            )
        if findings:
            raise UnlearnError.of(findings)
        return run

    def micro_batches(self, step: int) -> tuple[Int64[Tensor, " _"], ...]:
        """Rows of each micro-batch of a step."""
        return self.schedule.micro_batches(step) or ()

    def rows(self) -> set[int]:
        """All rows that were trained on."""
        return {
            row for step in range(self.schedule.steps) for part in self.micro_batches(step) for row in part.tolist()
        }

    def first_seen(self, rows: Int64[Tensor, " k"]) -> int | None:
        """The first step that saw any of some rows; ``None`` if none did."""
        steps = range(self.schedule.steps)
        return next((t for t in steps if any(bool(torch.isin(b, rows).any()) for b in self.micro_batches(t))), None)

    def samples(self, first: int, stop: int, without: Int64[Tensor, " k"]) -> int:
        """How many samples go through the model in some steps, with multiplicity."""
        return sum(len(rows) for step in range(first, stop) for rows in self._kept(step, without))

    def _kept(self, step: int, without: Int64[Tensor, " k"]) -> list[Tensor]:
        return [rows[~torch.isin(rows, without)] for rows in self.micro_batches(step)]

    def passes_from(self, first: int, without: Int64[Tensor, " k"]) -> Iterator[tuple[RecordedPass, list[MicroBatch]]]:
        """Go through the passes with what is left of their micro-batches.

        Args:
            first: Step with which a pass begins.
            without: Rows to leave out; what has none left is left out itself.

        Yields:
            How each pass began, and its micro-batches.
        """
        passes = [begun for begun in self.passes if begun.step >= first]
        ends = [(begun.step, begun.carried) for begun in passes[1:]] + [(self.schedule.steps, 0)]
        for begun, (end, carried) in zip(passes, ends, strict=True):
            batches = []
            for step in range(begun.step, min(end + 1, self.schedule.steps)):
                kept = self._kept(step, without)
                last = max((place for place, rows in enumerate(kept) if len(rows)), default=-1)
                start = begun.carried if step == begun.step else 0
                stop = carried if step == end else len(kept)
                batches += [MicroBatch(step, kept[at], at == last) for at in range(start, stop) if len(kept[at])]
            yield begun, batches


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What the record does not say about a training, or is told to be otherwise.

    Attributes:
        optimizer: Its class.
        loss: Of a micro-batch.
        divisor: What the loss is divided by before its gradient is taken: micro-batches per step in most loops.
        clip_norm: Largest norm of the gradient of a step; ``None`` leaves it as it is.
    """

    optimizer: type[Optimizer]
    loss: BatchLoss
    divisor: int
    clip_norm: float | None = None


@dataclass
class Counts:
    """What a rerun did.

    Attributes:
        steps: Steps made.
        emptied: Steps that had no sample left and were not made.
    """

    steps: int = 0
    emptied: int = 0


class Rerun:
    """Runs a recorded training again.

    Args:
        model: Is trained in place; every weight and buffer is overwritten first.
        run: The order.
        data: What to read.
        recipe: The rest.
        accelerator: Device and precision.
        progress: Wraps the steps in a bar.
    """

    def __init__(
        self,
        model: nn.Module,
        run: RecordedRun,
        data: TrainingData,
        recipe: Recipe,
        *,
        accelerator: Accelerator,
        progress: Progress,
    ) -> None:
        self.model = model
        self._run, self._data, self._recipe = run, data, recipe
        self._accelerator, self._progress = accelerator, progress

    def go(self, snapshot: Snapshot, stop: int, without: Int64[Tensor, " k"]) -> Counts:
        """Train from a snapshot on.

        Args:
            snapshot: Where to begin.
            stop: First step that is not made any more.
            without: Rows to leave out.

        Returns:
            What was done.
        """
        _restore(self.model, snapshot, self._accelerator.device)
        optimizer = _make_optimizer(self._recipe.optimizer, self.model, snapshot)
        made = 0
        for batch, images, labels in self._progress(
            self._batches(snapshot.step, stop, without), "replay", total=stop - snapshot.step
        ):
            with self._accelerator.autocast():
                loss = self._recipe.loss(self.model, self._placed(images), labels.to(self._accelerator.device))
            torch.autograd.backward(loss / self._recipe.divisor if self._recipe.divisor > 1 else loss)
            if batch.last:
                self._step(optimizer, batch.step, snapshot.step)
                made += 1
        self.model.zero_grad(set_to_none=True)
        return Counts(made, stop - snapshot.step - made)

    def _batches(self, first: int, stop: int, without: Tensor) -> Iterator[tuple[MicroBatch, Tensor, Tensor]]:
        for begun, batches in self._run.passes_from(first, without):
            if begun.step >= stop:
                return
            read = self._data.batches(begun, [batch.rows.tolist() for batch in batches])
            for batch, (images, labels) in zip(batches, read, strict=True):
                if batch.step >= stop:
                    return
                yield batch, images, labels

    def _placed(self, images: Tensor) -> Tensor:
        """Images on the device, in the type of the weights."""
        dtype = next(self.model.parameters()).dtype
        return images.to(self._accelerator.device, dtype if images.is_floating_point() else None)

    def _step(self, optimizer: Optimizer, step: int, first: int) -> None:
        schedule = self._run.schedule
        _follow_settings(optimizer, self.model, [groups for at, groups in schedule.history if first < at <= step])
        for group, rate in zip(optimizer.param_groups, schedule.learning_rates[step].tolist(), strict=False):
            group["lr"] = rate
        if not schedule.skipped[step]:
            if self._recipe.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), self._recipe.clip_norm)
            optimizer.step()
        optimizer.zero_grad()


def _restore(model: nn.Module, snapshot: Snapshot, device: torch.device) -> None:
    """Make the model what it was: weights, buffers, and which parameters and modules were in training."""
    weights = snapshot.weights()
    persistent = model.state_dict().keys()
    own = {**dict(model.named_parameters()), **{n: b for n, b in model.named_buffers() if n in persistent}}
    misfits = [name for name in own.keys() | weights.keys() if _misfit(own.get(name), weights.get(name))]
    if misfits:
        raise UnlearnError(
            f"{len(misfits)} of the recorded tensors do not fit the model, such as {min(misfits)!r}; give the "
            f"checkpoint that the record was made with."
        )
    model.to(device).train()
    for name, module in model.named_modules():
        if name in (snapshot.evaluating or ()):
            module.training = False
    trained = {name for group in snapshot.groups for name in group["names"]}
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name in weights:
                tensor.copy_(weights[name])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
        parameter.grad = None


def _misfit(own: Tensor | None, recorded: Tensor | None) -> bool:
    return own is None or recorded is None or own.shape != recorded.shape or own.dtype != recorded.dtype


def _make_optimizer(kind: type[Optimizer], model: nn.Module, snapshot: Snapshot) -> Optimizer:
    parameters = dict(model.named_parameters())
    groups = [
        {"params": [parameters[name] for name in group["names"]]}
        | {key: tuple(value) if isinstance(value, list) else value for key, value in group.items() if key != "names"}
        for group in snapshot.groups
    ]
    try:
        optimizer = kind(groups)  # type: ignore[call-arg]  # all of torch's have a default rate
    except (TypeError, ValueError) as error:
        raise UnlearnError(
            f"{kind.__name__} cannot be made with the recorded settings ({error}); name another with -o optimizer."
        ) from error
    for name, state in snapshot.optimizer_state().items():
        optimizer.state[parameters[name]] = {
            key: _placed_state(key, value, parameters[name]) for key, value in state.items()
        }
    return optimizer


def _placed_state(key: str, value: Any, parameter: Tensor) -> Any:  # noqa: ANN401  # a tensor or a plain value
    """Put a state beside its parameter; the count of steps stays on the CPU, where torch's optimizers keep it."""
    return value.to(parameter.device) if isinstance(value, Tensor) and key != "step" else value


def _follow_settings(optimizer: Optimizer, model: nn.Module, changes: Sequence[Sequence[Group]]) -> None:
    """Take over settings, and groups, that were changed in the course of the run."""
    if not changes:
        return
    parameters = dict(model.named_parameters())
    for group in changes[-1][len(optimizer.param_groups) :]:
        added = [parameters[name].requires_grad_() for name in group.names]
        optimizer.add_param_group({"params": added})
    for own, group in zip(optimizer.param_groups, changes[-1], strict=False):
        told: Mapping[str, Any] = {
            name: getattr(group, name) for name in ("momentum", "dampening", "nesterov", "weight_decay", "betas", "eps")
        }
        own.update({name: value for name, value in told.items() if name in own and value is not None})
