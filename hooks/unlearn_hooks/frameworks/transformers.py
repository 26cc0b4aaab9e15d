"""TrainerRecorder: one callback records ``transformers.Trainer.train``."""

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from torch import nn
from torch.optim import Optimizer

from unlearn_hooks.capture import watch_training_entry
from unlearn_hooks.controls import Holdout
from unlearn_hooks.description import Names
from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.followed_loader import FollowedLoader
from unlearn_hooks.plan import Plan
from unlearn_hooks.recorder import Recorder, record

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
    from transformers.trainer_callback import ExportableState
except ImportError as error:
    raise UnlearnError(
        "TrainerRecorder needs transformers, which is not installed; run pip install 'unlearn-plugin[transformers]'."
    ) from error

__all__ = ["TrainerRecorder"]


class TrainerRecorder(TrainerCallback, ExportableState):  # type: ignore[misc]  # mypy does not follow transformers
    """Records a training: ``Trainer(..., callbacks=[TrainerRecorder("rec")])``.

    The recorder's state is part of every Trainer checkpoint, so ``train(resume_from_checkpoint=...)`` goes on in the
    same record. The Trainer tells no one when a training fails; then `stop` ends the recording, or the next `train`.

    Args:
        out: Folder of the record.
        plan: What to record.
        recipe: Anything worth keeping about the run; plain values.
        key: Gives a stable name to a row of the root data set, or lists the names of all rows.
        holdout: What `unlearn_hooks.controls.holdout` set apart.

    Attributes:
        recorder: The recorder of the training that runs or ran last, ``None`` before.
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        *,
        plan: Plan = Plan(),  # noqa: B008  # frozen
        recipe: Mapping[str, Any] | None = None,
        key: Names | None = None,
        holdout: Holdout | None = None,
    ) -> None:
        self.recorder: Recorder | None = None
        self._settings: dict[str, Any] = {
            "out": out,
            "plan": plan,
            "recipe": recipe,
            "key": key,
            "holdout": holdout,
        }
        self._loader: FollowedLoader | None = None
        self._epoch = 0
        self._due = False  # a micro-batch is about to enter the model
        self._hooks = ExitStack()

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: nn.Module,
        optimizer: Optimizer,
        train_dataloader: Any,  # noqa: ANN401  # Accelerate's
        **others: Any,  # noqa: ANN401  # the Trainer's
    ) -> None:
        """Make the recorder, and go on after the checkpoint if there is one."""
        self.stop()
        if args.restore_callback_states_from_checkpoint:
            raise UnlearnError(
                "TrainingArguments(restore_callback_states_from_checkpoint=True) makes TrainerRecorder anew, without "
                "its plan; leave it at False, the record goes on after a checkpoint all the same."
            )
        self.recorder = record(model=model, optimizer=optimizer, loader=train_dataloader, **self._settings)
        # a checkpoint that was saved without this callback has no place for it, and the Trainer would not make one
        saved = state.stateful_callbacks.setdefault(type(self).__name__, _state(self._settings["out"], {}))
        if state.global_step and saved["attributes"]:
            self.recorder.load_state_dict(saved["attributes"])
        self._loader = FollowedLoader(train_dataloader)
        self._epoch, self._due = int(state.epoch or 0), False
        self._hooks.enter_context(watch_training_entry(self._entered, model))

    def on_epoch_begin(self, *event: Any, **others: Any) -> None:  # noqa: ANN401  # the Trainer's
        """Expect the pass of the epoch."""
        recorder, loader = self._running()
        recorder.epoch(self._epoch)
        loader.expect()

    def on_step_begin(self, *event: Any, **others: Any) -> None:  # noqa: ANN401  # the Trainer's
        """Expect the first micro-batch of a step; those of the whole step were read already."""
        self._due = True

    def on_substep_end(self, *event: Any, **others: Any) -> None:  # noqa: ANN401  # the Trainer's
        """Expect the next micro-batch."""
        self._passed()
        self._due = True

    def on_pre_optimizer_step(self, *event: Any, **others: Any) -> None:  # noqa: ANN401  # the Trainer's
        """Make sure of the last micro-batch."""
        self._passed()

    def on_epoch_end(self, *event: Any, **others: Any) -> None:  # noqa: ANN401  # the Trainer's
        """Write what the epoch left."""
        self._epoch += 1
        self._running()[0].epoch(self._epoch)

    def on_save(self, *event: Any, **others: Any) -> None:  # noqa: ANN401  # the Trainer's
        """Write in all processes; the Trainer asks only the first one for its state."""
        self._running()[0].flush()

    def on_train_end(self, *event: Any, **others: Any) -> None:  # noqa: ANN401  # the Trainer's
        """Finish the record."""
        self._end(Recorder.close)

    def stop(self) -> None:
        """End the recording of a training that failed; what was recorded can be read."""
        self._end(Recorder.abandon)

    def state(self) -> dict[str, Any]:
        """Return where the record stands, for the Trainer's checkpoint."""
        return _state(self._settings["out"], self._running()[0].state_dict() if self._loader is not None else {})

    def _running(self) -> tuple[Recorder, FollowedLoader]:
        if self.recorder is None or self._loader is None:
            raise UnlearnError("TrainerRecorder joined a training that had begun; give it to Trainer(callbacks=[...]).")
        return self.recorder, self._loader

    def _entered(self, model: nn.Module, arguments: tuple[Any, ...]) -> None:
        """Take the first training pass of a micro-batch; there may be more, such as those of R-Drop."""
        given = arguments[-1] if arguments else None
        if self._due:
            # without its labels, which a loss of the user's may have taken out, its turn says which batch it is
            self._arrive(given if isinstance(given, Mapping) and "labels" in given else None)

    def _passed(self) -> None:
        if self._due:  # a model with replicas, or one that was compiled before, was not seen
            self._arrive(None)

    def _arrive(self, batch: Mapping[str, Any] | None) -> None:
        recorder, loader = self._running()
        self._due = False
        recorder.arrived(loader.arrive(batch))

    def _end(self, end: Callable[[Recorder], None]) -> None:
        self._hooks.close()
        if self.recorder is not None and self._loader is not None:
            self._loader.close()
            self._loader = None
            end(self.recorder)


def _state(out: str | os.PathLike[str], recorder: Mapping[str, Any]) -> dict[str, Any]:
    """Put a recorder's state into the form in which the Trainer keeps that of a callback."""
    return {"args": {"out": os.fspath(out)}, "attributes": dict(recorder)}
