"""What methods share that step on F and R by turns: options, batches of F, a frozen teacher, when to let go of F."""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.data import Batch, Samples
from unlearn_plugin.outputs import Outputs, compute_outputs, margin
from unlearn_plugin.splits import Request
from unlearn_plugin.training import Loss, OptimizerName, Recipe, ScheduleName, cross_entropy, train
from unlearn_plugin.unlearners.base import Evidence, Facts, Unlearner

__all__ = [
    "TUNED_ON_DIGITS",
    "ForgetBatch",
    "ForgetBatches",
    "PairLoss",
    "Pressure",
    "SteppedUnlearner",
    "TrainedUnlearner",
    "advantage",
    "check_options",
    "forget_cross_entropy",
    "frozen_copy",
    "looks_apart",
    "required",
    "statistics_kept",
]  # fmt: skip

ForgetBatch = tuple[Float32[Tensor, "f c h w"], Int64[Tensor, " f"], Int64[Tensor, " f"]]  # not as long as Batch
PairLoss = Callable[[nn.Module, Batch, ForgetBatch], Tensor]  # (model, batch of R, batch of F) -> scalar

TUNED_ON_DIGITS = "700 digits with wrong labels, a small ResNet"

_LOOKED_AT = 1_000  # samples of F, and twice as many held-out ones, that decide when to let go
_ADAM_SHARE = 0.01  # of the rate of SGD
_LOOKS = 8  # per epoch


def check_options(method: Unlearner, **allowed: tuple[str, bool]) -> None:
    """Refuse a method whose options are out of range.

    Args:
        method: Holds the options.
        **allowed: For each option, what is allowed in words, and whether the value is.

    Raises:
        UnlearnError: With every option that is out of range.
    """
    findings = [
        f"{name}={getattr(method, name)!r} is out of range; it must be {text}."
        for name, (text, holds) in allowed.items()
        if not holds
    ]
    if findings:
        raise UnlearnError.of(findings)


@contextmanager
def statistics_kept(model: nn.Module) -> Iterator[None]:
    """Keep the running statistics of BatchNorm layers as they are; in training mode they normalise by the batch still.

    Batches of F go through the model like this, so that the running statistics come from retained data alone.

    Args:
        model: In any mode.

    Yields:
        Nothing.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    following = [layer.track_running_stats for layer in layers]
    for layer in layers:
        layer.track_running_stats = layer.track_running_stats and not layer.training
    try:
        yield
    finally:
        for layer, follows in zip(layers, following, strict=True):
            layer.track_running_stats = follows


def frozen_copy(model: nn.Module) -> nn.Module:
    """A teacher: the model as it is now, in evaluation mode and without gradients, sharing no storage with it.

    Args:
        model: What is copied.

    Returns:
        The copy.
    """
    return copy.deepcopy(model).eval().requires_grad_(False)


def forget_cross_entropy(model: nn.Module, batch: ForgetBatch) -> Tensor:
    """Mean cross-entropy of a batch of F in nats, with the BatchNorm statistics of R."""
    with statistics_kept(model):
        return cross_entropy(model, batch)


def required(samples: Samples | None, what: str, method: Unlearner) -> Samples:
    """The samples, of which there must be some.

    Args:
        samples: May be missing or empty.
        what: What they are called.
        method: Who needs them.

    Returns:
        The samples.

    Raises:
        UnlearnError: If there are none.
    """
    if samples is None or not len(samples):
        name = type(method).__module__.rpartition(".")[2]
        raise UnlearnError(f"{name} needs {what} data, and there are none; give the training data.")
    return samples


def looks_apart(n: int, batch_size: int) -> int:
    """Steps between two looks, for an epoch of `n` samples."""
    return max(1, math.ceil(n / batch_size / _LOOKS))


class ForgetBatches:
    """Batches of F on the device, without end; every pass in a new order.

    Args:
        evidence: Whose F, device and seed.
        batch_size: Samples per batch.
    """

    def __init__(self, evidence: Evidence, batch_size: int) -> None:
        self._loader = evidence.forget.loader(batch_size, shuffle=True, seed=evidence.seed)
        self._device = evidence.accelerator.device
        self._pass: Iterator[Batch] = iter(())

    def __next__(self) -> ForgetBatch:
        batch = next(self._pass, None)
        if batch is None:
            self._pass = iter(self._loader)
            batch = next(self._pass)
        images, labels, rows = batch
        return images.to(self._device), labels.to(self._device), rows.to(self._device)


def advantage(forget: Outputs, heldout: Outputs, forgotten_classes: tuple[int, ...]) -> float | None:
    """How often a model is surer of a sample of F than it should be: AUC of margins, 0.5 is no advantage.

    A sample of F is compared with held-out samples of its own class. A sample of a class that is to be forgotten as a
    whole is compared with what the model makes of wrong classes: a model that never saw the class finds it in its own
    images no more than it finds any other class where it is not.

    Args:
        forget: Outputs on F.
        heldout: Outputs on held-out data.
        forgotten_classes: Classes that are requested as a whole.

    Returns:
        Mean over F, ties counting half; ``None`` if there is nothing to compare with.
    """
    wins, compared = 0.0, 0
    for label in sorted(set(forget.labels.tolist())):
        own = forget.margins[forget.labels == label]
        same = heldout.margins[heldout.labels == label]
        others = _wrong_margins(heldout, forgotten_classes) if label in forgotten_classes else same
        if len(others):
            above = (own[:, None] > others).double() + 0.5 * (own[:, None] == others).double()
            wins += float(above.mean(1).sum())
            compared += len(own)
    return wins / compared if compared else None


def _wrong_margins(heldout: Outputs, forgotten_classes: tuple[int, ...]) -> Tensor:
    """Margins of every class that stays on held-out samples of the others that stay."""
    found = []
    for label in set(range(heldout.logits.shape[1])) - set(forgotten_classes):
        other = ~torch.isin(heldout.labels, torch.tensor([label, *forgotten_classes]))
        found.append(margin(heldout.logits[other], torch.full((int(other.sum()),), label)))
    return torch.cat(found)


class Pressure:
    """Whether F is still to be pushed away: until the model is no surer of F than of held-out data.

    Pushing further would make F stand out again, on the other side. A method that goes on training on R may find that
    F comes back; then pushing starts again at the next look.

    Args:
        evidence: Without tuning data, the pressure stays on.
        model: The model being changed.
        batch_size: Samples per forward pass.
        follow: Look at all; otherwise the pressure stays on.

    Attributes:
        on: Whether to push.
    """

    def __init__(self, evidence: Evidence, model: nn.Module, batch_size: int, *, follow: bool) -> None:
        self.on = True
        self._evidence = evidence
        self._model = model
        self._batch_size = batch_size
        self._forget = self._some(evidence.forget, _LOOKED_AT)
        self._tuning = self._comparable() if follow else None
        self._last: float | None = None
        self._let_go: int | None = None

    def _some(self, samples: Samples, most: int) -> Samples:
        generator = torch.Generator().manual_seed(self._evidence.seed)
        return samples.select(torch.randperm(len(samples), generator=generator)[:most].sort().values)

    def _comparable(self) -> Samples | None:
        """Held-out samples that F can be compared with; not many more than there are of F, since looks cost time."""
        tuning, forgotten = self._evidence.tuning, torch.tensor(self._evidence.forgotten_classes, dtype=torch.int64)
        if tuning is None or not len(self._forget):
            return None
        labels = self._forget.labels
        useful = torch.isin(tuning.labels, labels[~torch.isin(labels, forgotten)])
        if torch.isin(labels, forgotten).any():
            useful |= ~torch.isin(tuning.labels, forgotten)
        return self._some(tuning.select(useful.nonzero().flatten()), 2 * max(len(labels), 100))

    def look(self, step: int) -> None:
        """Decide again.

        Args:
            step: Number of steps made, for the facts.
        """
        if self._tuning is None or not len(self._tuning):
            return
        forget, heldout = (
            compute_outputs(
                self._model, samples, self._evidence.accelerator, batch_size=self._batch_size,
                progress=self._evidence.progress,
            )
            for samples in (self._forget, self._tuning)
        )  # fmt: skip
        self._last = advantage(forget, heldout, self._evidence.forgotten_classes)
        self.on = self._last is None or self._last > 0.5
        self._let_go = self._let_go if self.on or self._let_go is not None else step

    def facts(self) -> Facts:
        """What the report should know: when F first looked held out, and how it looked at last."""
        return {"steps_until_forget_looked_heldout": self._let_go, "forget_advantage_on_tuning": self._last}


Trained = TypeVar("Trained", bound="TrainedUnlearner")


@dataclass(frozen=True, kw_only=True)
class TrainedUnlearner(Unlearner):
    """A method that trains on R; its options are those of a recipe.

    The presets name the first learning rate of SGD. Samples need small steps, since what was learnt from one is shared
    by many; a class is worth large ones. Adam takes a hundredth of that.
    """

    epochs: int = field(default=5, metadata={"help": "Passes over the retained data."})
    learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "First rate; none: what suits the request and the optimizer.",
            "search": (0.2, 5.0, "factor"),
        },
    )
    batch_size: int = field(default=64, metadata={"help": "Samples per step."})
    optimizer: Literal["auto", "sgd", "adam", "adamw"] = field(
        default="auto", metadata={"help": "sgd, adam or adamw; auto: adamw for networks with LayerNorm, else sgd."}
    )
    momentum: float = field(default=0.9, metadata={"help": "Momentum of SGD."})
    weight_decay: float = field(default=5e-4, metadata={"help": "L2 penalty; decoupled for adamw."})
    schedule: ScheduleName = field(default="cosine", metadata={"help": "constant or cosine."})

    def __post_init__(self) -> None:
        self.recipe()

    def settled(self: Trained, request: Request, model: nn.Module) -> Trained:
        """Choose the optimizer by the model as well; see the base class.

        Transformers and their like fall apart under rates of SGD that others need.
        """
        normed = any(isinstance(layer, nn.LayerNorm) for layer in model.modules())
        optimizer: OptimizerName = ("adamw" if normed else "sgd") if self.optimizer == "auto" else self.optimizer
        filled = super().settled(request, model)
        rate = filled.learning_rate
        if self.learning_rate is None:
            usual = Recipe.learning_rate if rate is None else rate
            rate = usual if optimizer == "sgd" else float(f"{_ADAM_SHARE * usual:.6g}")
        return replace(filled, optimizer=optimizer, learning_rate=rate)

    def recipe(self) -> Recipe:
        """How the steps are made, once all options are settled.

        Returns:
            The recipe.

        Raises:
            UnlearnError: If an option is out of range.
        """
        return Recipe(
            optimizer="sgd" if self.optimizer == "auto" else self.optimizer,
            learning_rate=Recipe.learning_rate if self.learning_rate is None else self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            epochs=self.epochs,
            batch_size=self.batch_size,
            schedule=self.schedule,
        )


@dataclass(frozen=True, kw_only=True)
class SteppedUnlearner(TrainedUnlearner):
    """A method that trains on R and has something to say about F in each step.

    BatchNorm layers learn their running statistics from R alone.
    """

    hold: bool = field(
        default=True,
        metadata={"help": "Push F away only while the model is surer of it than of tuning data; otherwise always."},
    )

    def step_through(
        self,
        model: nn.Module,
        evidence: Evidence,
        loss: PairLoss,
        *,
        relaxed: Loss = cross_entropy,
        after_step: Callable[[], None] | None = None,
    ) -> Facts:
        """Go through R for some epochs, with a batch of F beside every batch of R.

        Args:
            model: Trained in place.
            evidence: Needs F and R.
            loss: Of a batch of R and a batch of F, while F is pushed.
            relaxed: Of a batch of R, while F is left alone.
            after_step: Called after every step; may put weights back.

        Returns:
            When F looked held out.

        Raises:
            UnlearnError: If there is no F or no R, or the loss stops being a finite number.
        """
        retain = required(evidence.retain, "retained", self)
        batches = ForgetBatches(evidence, min(self.batch_size, len(required(evidence.forget, "forget", self))))
        pressure = Pressure(evidence, model, self.batch_size, follow=self.hold)

        def step_loss(network: nn.Module, batch: Batch) -> Tensor:
            return loss(network, batch, next(batches)) if pressure.on else relaxed(network, batch)

        def stepped(step: int) -> bool:
            if after_step is not None:
                after_step()
            if step % looks_apart(len(retain), self.batch_size) == 0:
                pressure.look(step)
            return False

        recipe = self.settled(evidence.request, model).recipe()
        pressure.look(0)
        train(
            model, retain, recipe, accelerator=evidence.accelerator, seed=evidence.seed,
            progress=evidence.progress, loss=step_loss, after_step=stepped,
        )  # fmt: skip
        return {"optimizer": recipe.optimizer, "learning_rate": recipe.learning_rate, **pressure.facts()}
