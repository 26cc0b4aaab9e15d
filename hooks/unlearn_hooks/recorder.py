"""record(...): watches a training run and hands what it sees to the collectors."""

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from unlearn_hooks.capture import (
    find_head,
    innermost_model,
    innermost_optimizer,
    watch_optimizer,
    watch_training_forward,
)
from unlearn_hooks.collector import Batch, Collector, Pass, Run, Seen, Step, without_autocast
from unlearn_hooks.collectors import planned_collectors
from unlearn_hooks.controls import Holdout
from unlearn_hooks.description import DataDescription, Names, describe_model, describe_recipe, process_rank, run_id
from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.feed import Arrival, Feed
from unlearn_hooks.journal import write_json
from unlearn_hooks.loader_tags import LoaderTap, Passes, dispatch_problem, training_data
from unlearn_hooks.pending_step import PendingStep, length
from unlearn_hooks.plan import Plan
from unlearn_hooks.recording_thread import BackgroundWriter
from unlearn_hooks.training_record import SCHEMA, final_digest

__all__ = ["Recorder", "Status", "record"]


def record(
    out: str | os.PathLike[str],
    model: nn.Module,
    optimizer: Optimizer,
    loader: Iterable[Any] | None = None,
    *,
    plan: Plan = Plan(),  # noqa: B008  # frozen
    recipe: Mapping[str, Any] | None = None,
    key: Names | None = None,
    holdout: Holdout | None = None,
) -> "Recorder":
    """Record a training run, without changing it: same weights, same random numbers.

    ::

        with record("runs/a/record", model, optimizer) as rec:
            for epoch in range(epochs):
                for images, labels in rec.batches(loader):
                    ...                                     # the loop as it was
                checkpoint["recorder"] = rec.state_dict()

    A folder that holds an unfinished record is continued after `Recorder.load_state_dict`; without it, what it holds is
    forgotten and the run counts from step 0, unless the optimizer comes from a checkpoint. A finished record is never
    overwritten.

    Args:
        out: Folder of the record; made if it is missing, readable by its owner only, since it is personal data.
        model: The model being trained, wrapped or not. If it ran compiled before, features and logits are not seen.
        optimizer: Its optimizer.
        loader: The training loader, if batches are not taken from `Recorder.batches` of the same loader.
        plan: What to record.
        recipe: Anything worth keeping about the run, such as the augmentation; plain values.
        key: Gives a stable name to a row of the root data set, or lists the names of all rows; ``None`` takes paths
            or row numbers. For a stream it must be a list, and batches must hold the names of their samples.
        holdout: What `unlearn_hooks.controls.holdout` set apart; it is sealed in the record.

    Returns:
        The recorder, a context manager; leaving it finishes the record.

    Raises:
        UnlearnError: If the folder cannot be written, the head is not found, or the optimizer trains nothing of the
            model.
    """
    model, optimizer = innermost_model(model), innermost_optimizer(optimizer)
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    parameters = {name: parameter for name, parameter in model.named_parameters() if id(parameter) in trained}
    if not parameters:
        raise UnlearnError(
            f"The {type(optimizer).__name__} trains no parameter of the {type(model).__name__}; make the optimizer "
            f"from the parameters of the model that you record."
        )
    data = DataDescription(None, key, None if holdout is None else holdout.sealed())
    recorder = Recorder(Path(out), Run(model, optimizer, plan, parameters), data, recipe=recipe)
    recorder.describe_data(training_data(loader))
    return recorder


@dataclass(frozen=True)
class Status:
    """What was recorded so far, and what was not and why.

    Attributes:
        step: Number of optimizer steps made.
        epoch: Epoch of the step to come.
        batches: Micro-batches trained on.
        unknown: Of these, how many have no rows, by reason.
        failure: Why recording ended early, or ``None``.
    """

    step: int
    epoch: int
    batches: int
    unknown: Mapping[str, int]
    failure: str | None


class Recorder:
    """Watches one training run; made by `record`.

    Args:
        out: Folder of the record.
        run: Model, optimizer, plan and parameters.
        data: What is known of the training data.
        recipe: What the user wants to be kept about the run.
    """

    def __init__(self, out: Path, run: Run, data: DataDescription, *, recipe: Mapping[str, Any] | None = None) -> None:
        self._run = run
        self._head = find_head(run.model, run.plan.head)
        self._writer = BackgroundWriter(out, rank=process_rank())
        self._id = run_id(out)
        self._recipe = recipe
        self._data = data
        self._collectors = planned_collectors(run.plan)
        self._tap: LoaderTap | None = None
        self._pending = PendingStep(list(run.parameters.values()))
        self._step = self._epoch = self._next_epoch = self._epochs = self._batches = self._batch_size = 0
        self._unknown: Counter[str] = Counter()
        self._in_pass = self._epoch_told = self._started = self._loaded = self._closed = False
        self._pass_due = True  # the next batch is the first one of a pass
        self._failure: str | None = None
        self._hooks = ExitStack()
        self._hooks.enter_context(watch_training_forward(run.model, self._head[1], self._saw))
        self._hooks.enter_context(watch_optimizer(run.optimizer, lambda _: self._start(), lambda _: self._stepped()))

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def batches(self, loader: Iterable[Any]) -> Iterable[Any]:
        """Iterate over the outermost training loader; each iteration is an epoch unless `epoch` is told.

        Args:
            loader: What the loop iterated over before.

        Returns:
            An iterable of the same length that gives the same batches.
        """
        return Passes(loader, self._pass)

    def ids(self, rows: Sequence[int] | Tensor, labels: Tensor | None = None) -> None:
        """Tell the rows of the current micro-batch, before it enters the model; this replaces what `batches` found.

        Args:
            rows: Row of each sample in the root data set, in batch order.
            labels: Class of each sample.

        Raises:
            UnlearnError: If the micro-batch has entered the model already.
        """
        told = torch.as_tensor(rows, dtype=torch.int64).detach().cpu().reshape(-1)
        classes = None if labels is None else labels.detach().to("cpu", torch.int64, copy=True)
        if not self._in_pass:
            self.arrived(Arrival(told, classes, None))
        elif self._failure is None:
            self._pending.correct(told, classes)
            self._data.saw(told, classes, self._writer)

    def epoch(self, number: int) -> None:
        """Tell the number of the epoch that begins, counted from 0, where it is not the number of passes."""
        self._write_out(lambda collector: collector.epoch_end(self._writer))
        if not self._in_pass:
            self._pending.begin_pass()
            self._pass_due = True
        self._epoch = self._next_epoch = number
        self._epoch_told = True

    def flush(self) -> None:
        """Write what is in memory, and wait until it is on disk."""
        self._write_out(lambda collector: collector.flush(self._writer))
        with self._failing():
            self._writer.flush()

    def state_dict(self) -> dict[str, Any]:
        """Return where the run stands, for the training checkpoint; what came before is then on disk."""
        self.flush()
        epoch = self._epoch if self._in_pass else self._next_epoch
        return {"run_id": self._id, "step": self._step, "epoch": epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after a checkpoint: what was recorded after it, by a run that was lost, is forgotten.

        Args:
            state: What `state_dict` returned.

        Raises:
            UnlearnError: If training has begun, or the state belongs to another record.
        """
        if self._started:
            raise UnlearnError("load_state_dict comes too late: training has begun; load before the first batch.")
        if state["run_id"] != self._id:
            raise UnlearnError(
                f"The checkpoint belongs to run {state['run_id']}, and {self._writer.folder} holds the record of run "
                f"{self._id}; give record() the folder that it was given when the checkpoint was made."
            )
        self._writer.rewind(state["step"])
        self._step, self._loaded = state["step"], True
        self._next_epoch = self._epochs = state["epoch"]

    def status(self) -> Status:
        """Say what was recorded so far, and what was not."""
        return Status(self._step, self._epoch, self._batches, dict(self._unknown), self._failure)

    def close(self) -> None:
        """Finish the record: names of the samples, digest of the trained weights, and the end of the journal."""
        self._end(finished=True)

    def abandon(self) -> None:
        """Stop recording a run that failed; what was recorded can be read, and says that it is not complete."""
        self._end(finished=False)

    def arrived(self, arrival: Arrival, batch: Any = None) -> None:  # noqa: ANN401  # whatever the user's loader gives
        """Take in a micro-batch that reached the training loop; `batches` and `ids` call this.

        Args:
            arrival: Its rows and labels, as far as they are known.
            batch: The batch itself, if there is one: the names in it tell the rows of a stream.
        """
        if self._failure is not None:
            return
        arrival = self._data.find_by_name(batch, arrival)
        self._start()
        if self._pending.was_thrown_away():
            self._stepped(skipped=True)
        if self._pass_due:
            self._begin_pass(arrival)
        self._pending.arrived(Batch(arrival.rows, arrival.labels))
        self._batches += 1
        self._unknown.update([arrival.problem] if arrival.problem else [])
        if arrival.rows is not None:
            self._data.saw(arrival.rows, arrival.labels, self._writer)

    def describe_data(self, dataset: Any) -> None:  # noqa: ANN401  # the user's
        """Learn what there is to know about the training data; the first data set told is the one."""
        if self._data.dataset is None:
            self._data = DataDescription(dataset, self._data.key, self._data.holdout)

    def _pass(self, loader: Iterable[Any]) -> Iterator[Any]:
        self.describe_data(training_data(loader))
        self._start()
        if self._tap is None or self._tap.loader is not loader:
            self._tap = LoaderTap(loader)
        feed = Feed(dispatch_problem(loader))
        self._pending.begin_pass()
        self._in_pass, self._pass_due, self._epoch = True, True, self._next_epoch
        batches, steps = self._batches, self._step
        try:
            for batch in self._tap.batches(feed):
                self.arrived(feed.arrive(batch), batch)
                yield batch
        finally:
            if self._batches > batches and self._step == steps:
                self._unknown["no step of the optimizer was seen, was it made anew?"] += self._batches - batches
            self._in_pass = False
            self._next_epoch = self._epoch + (not self._epoch_told)
            self._write_out(lambda collector: collector.epoch_end(self._writer))

    @torch.no_grad()
    def _begin_pass(self, arrival: Arrival) -> None:
        begun = Pass(self._step, self._epoch, self._pending.trained, arrival.ahead, arrival.beginning)
        self._pass_due = False
        self._tell(lambda collector: collector.pass_begin(begun, self._writer))

    def _start(self) -> None:
        """Begin the attempt, at the last moment at which the weights are still those of the first step."""
        if self._started or self._failure is not None:
            return
        went_on = bool(self._run.optimizer.state)
        if not self._loaded and self._writer.attempt:
            if self._writer.finished or went_on:
                raise UnlearnError(
                    f"{self._writer.folder} holds the record of {'a finished' if self._writer.finished else 'this'} "
                    f"training; record to another folder, or continue it with "
                    f"rec.load_state_dict(checkpoint['recorder'])."
                )
            self._writer.rewind(0)
        elif went_on and not self._loaded:
            self._writer.note("began_late")  # the optimizer has made steps that no one recorded
        self._started = True
        with self._failing():
            self._data.seal(self._writer)
        self._describe()
        for collector in self._collectors:
            collector.start(self._run, self._step)

    def _describe(self, **final: Any) -> None:  # noqa: ANN401  # plain values
        """Write the JSON files, those that are known only at the end with the others then."""
        if self._writer.rank:
            return
        run, folder = self._run, self._writer.folder
        model = describe_model(run.model, self._head, run.parameters, run.plan)
        recipe = describe_recipe(run.optimizer, run.parameters, self._recipe)
        recipe |= {"batch_size": self._batch_size, "steps": self._step, "epochs": self._epochs}
        with self._failing():
            write_json(folder / "manifest.json", {"schema": SCHEMA, "run_id": self._id} | model | final)
            write_json(folder / "recipe.json", {"schema": SCHEMA} | recipe)
            self._data.write(folder, ids=bool(final))

    def _saw(self, features: Tensor | None, logits: Tensor | None) -> Callable[[], None] | None:
        """Match a training forward pass with the micro-batch that waits for one."""
        if not self._batches:  # nobody tells the batches of this loop
            self._start()
            self._pending.arrived(Batch(None, None))
        micro = self._pending.forwarded()
        if micro is None:
            return None
        self._unknown.update(["the loop left a batch out, or reads ahead"] if self._pending.unsure else [])
        n = length(micro.batch)
        seen = Seen(*(part if part is None or n in (None, len(part)) else None for part in (features, logits)))
        self._tell(lambda collector: collector.batch(micro.batch, seen))
        return micro.went_back

    @torch.no_grad()
    def _stepped(self, *, skipped: bool = False) -> None:
        """Tell the collectors about a step; with a fused optimizer, found_inf says that it changed nothing."""
        if not self._started or self._failure is not None:
            return
        found_inf = getattr(self._run.optimizer, "found_inf", None)
        batches = self._pending.take()
        step = Step(
            number=self._step,
            epoch=self._epoch,
            batches=batches,
            learning_rates=tuple(float(group["lr"]) for group in self._run.optimizer.param_groups),
            skipped=skipped or bool(found_inf),
        )
        self._step += 1
        self._epochs = self._epoch + 1
        self._batch_size = max(self._batch_size, sum(length(batch) or 0 for batch in batches))
        self._tell(lambda collector: collector.step(step, self._writer))

    def _write_out(self, what: Callable[[Collector], None]) -> None:
        if self._started and not self._closed:
            with self._writer.patience():
                self._tell(what)

    def _tell(self, what: Callable[[Collector], None]) -> None:
        if self._failure is None:
            with self._failing(), without_autocast():
                for collector in self._collectors:
                    what(collector)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """End the recording, and not the training, when the disk fails."""
        error: Exception | None = None
        try:
            yield
        except OSError as caught:
            error = caught
        except UnlearnError:  # a collector may read what the disk lost
            if self._writer.failure is None:
                raise
        error = error or self._writer.failure
        if error is not None and self._failure is None:
            self._failure = f"The record {self._writer.folder} could not be written ({error}); recording has ended."
            self._hooks.close()
            warnings.warn(self._failure + " Training goes on.", RuntimeWarning, stacklevel=2)

    def _end(self, *, finished: bool) -> None:
        if self._closed:
            return
        if finished and self._pending.trained:  # no step followed, but BatchNorm has seen them
            self._stepped(skipped=True)
        self.flush()
        self._hooks.close()
        if finished and self._started and self._failure is None:
            self._describe(final_weights=final_digest(self._run.model.state_dict()))
        self._closed = True
        with self._failing():
            if finished and self._started and self._failure is None:
                self._writer.close()
            else:
                self._writer.abandon()
