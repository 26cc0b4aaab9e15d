"""LightningRecorder: one callback records ``Trainer.fit``."""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from torch import nn
from torch.optim import Optimizer

from unlearn_hooks.controls import Holdout
from unlearn_hooks.description import Names
from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.followed_loader import FollowedLoader
from unlearn_hooks.plan import Plan
from unlearn_hooks.recorder import Recorder, record

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise UnlearnError(
        "LightningRecorder needs Lightning, which is not installed; run pip install 'unlearn-plugin[lightning]'."
    ) from error

__all__ = ["LightningRecorder"]


class LightningRecorder(Callback):  # type: ignore[misc]  # mypy does not follow Lightning
    """Records a training: ``Trainer(callbacks=[LightningRecorder("rec")])``.

    The recorder's state is part of every checkpoint, so ``fit(..., ckpt_path=...)`` goes on in the same record.

    Args:
        out: Folder of the record.
        plan: What to record.
        recipe: Anything worth keeping about the run; plain values.
        key: Gives a stable name to a row of the root data set, or lists the names of all rows.
        holdout: What `unlearn_hooks.controls.holdout` set apart.
        model: Name of the classifier in the LightningModule, ``""`` for the LightningModule itself; ``None`` takes the
            only part that has parameters, or the LightningModule if several are trained.

    Attributes:
        recorder: The recorder of the fit that runs or ran last, ``None`` before.
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        *,
        plan: Plan = Plan(),  # noqa: B008  # frozen
        recipe: Mapping[str, Any] | None = None,
        key: Names | None = None,
        holdout: Holdout | None = None,
        model: str | None = None,
    ) -> None:
        self.recorder: Recorder | None = None
        self._settings: dict[str, Any] = {
            "out": out,
            "plan": plan,
            "recipe": recipe,
            "key": key,
            "holdout": holdout,
        }
        self._name = model
        self._loader: FollowedLoader | None = None
        self._saved: Mapping[str, Any] = {}
        self._undo = ExitStack()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look at the training loader as Lightning prepares it: its first iterator begins before the training does."""
        if stage != "fit":
            return
        self._saved = {}  # of an earlier fit, or of a checkpoint that was tested meanwhile
        strategy, process = trainer.strategy, trainer.strategy.process_dataloader

        def process_and_follow(loader: object) -> object:
            processed = process(loader)
            if trainer.training:
                self._follow(processed, pl_module)
            return processed

        strategy.process_dataloader = process_and_follow
        self._undo.callback(delattr, strategy, "process_dataloader")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the recorder, before any forward pass could be compiled."""
        name, model = _classifier(pl_module, trainer.optimizers, self._name)
        optimizer = _optimizer(name or type(pl_module).__name__, model, trainer.optimizers)
        self.recorder = record(model=model, optimizer=optimizer, **self._settings)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on after a checkpoint; some strategies load it only now."""
        recorder = self._running()
        if self._saved:
            recorder.load_state_dict(self._saved)
            self._saved = {}
        recorder.epoch(trainer.current_epoch)
        if self._loader is not None:
            recorder.describe_data(self._loader.dataset)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Expect the pass of the epoch; that of the first one has begun already."""
        self._running().epoch(trainer.current_epoch)
        if self._loader is not None:
            self._loader.expect()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ANN401  # the user's
        """Tell the rows of the batch, which is by now what the user's transfer hooks made of it."""
        if self._loader is not None:
            self._running().arrived(self._loader.arrive(batch), batch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what the epoch left."""
        self._running().epoch(trainer.current_epoch + 1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finish the record."""
        self._end(Recorder.close)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Keep what was recorded of a training that failed."""
        self._end(Recorder.abandon)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave nothing behind, also where there was nothing to train."""
        if stage == "fit":
            self._end(Recorder.abandon)

    def state_dict(self) -> dict[str, Any]:
        """Return where the record stands, for Lightning's checkpoint."""
        if self.recorder is None or self._saved:
            return dict(self._saved)
        return self.recorder.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep what the checkpoint says until training starts."""
        self._saved = state_dict

    def _running(self) -> Recorder:
        if self.recorder is None:
            raise UnlearnError("LightningRecorder joined a fit that had begun; give it to Trainer(callbacks=[...]).")
        return self.recorder

    def _follow(self, loader: object, module: LightningModule) -> None:
        problem = None
        if self._loader is not None:
            problem = "a batch comes from several loaders" if self._loader.expecting else None
            self._loader.close()
        if "dataloader_iter" in inspect.signature(module.training_step).parameters:
            problem = "training_step fetches its batches itself, by dataloader_iter"
        self._loader = FollowedLoader(loader, problem)
        self._loader.expect()

    def _end(self, end: Callable[[Recorder], None]) -> None:
        self._undo.close()
        if self._loader is not None:
            self._loader.close()
            self._loader = None
        if self.recorder is not None and not self._saved:
            self._saved = self.recorder.state_dict()  # Lightning may still save a checkpoint
            end(self.recorder)


def _trained(optimizer: Optimizer) -> set[int]:
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def _classifier(module: LightningModule, optimizers: Sequence[Optimizer], name: str | None) -> tuple[str, nn.Module]:
    """Find the part of a LightningModule that is the classifier: its names are those of an exported checkpoint."""
    if name is not None:
        modules = dict(module.named_modules())
        if name not in modules:
            raise UnlearnError(
                f"{type(module).__name__} has no part {name!r}; LightningRecorder(model=...) can be one of "
                f"{', '.join(part for part, _ in module.named_children())}, or '' for all of it."
            )
        return name, modules[name]
    trained = set().union(*map(_trained, optimizers))
    parts = {part: {id(p) for p in child.parameters()} for part, child in module.named_children()}
    idle = [part for part, own in parts.items() if own and not own & trained]
    learning = [part for part, own in parts.items() if own & trained]
    if idle and learning:  # a frozen backbone belongs to the classifier, an average or a teacher does not
        raise UnlearnError(
            f"{', '.join(idle)} of {type(module).__name__} is not trained, so it may or may not be part of the "
            f"classifier; say LightningRecorder(model={learning[0]!r}), or model='' for all of it."
        )
    whole = len(learning) != 1 or any(True for _ in module.parameters(recurse=False))
    return ("", module) if whole else (learning[0], module.get_submodule(learning[0]))


def _optimizer(name: str, model: nn.Module, optimizers: Sequence[Optimizer]) -> Optimizer:
    own = {id(parameter) for parameter in model.parameters()}
    training = [optimizer for optimizer in optimizers if _trained(optimizer) & own]
    if len(training) != 1:
        raise UnlearnError(
            f"{name} is trained by {len(training)} optimizers, and a record is about one; say which part is the "
            f"classifier: LightningRecorder(model='name of the part')."
        )
    return training[0]
