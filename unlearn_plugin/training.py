"""Ordinary training of a classifier, on top of Accelerate: a recipe, the recipe of a recorded run, and the loop."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from unlearn_hooks.controls import recorded_holdout
from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.schedule import Group, Schedule, recorded_schedule
from unlearn_hooks.training_record import TrainingRecord
from unlearn_plugin.data import Batch, Samples
from unlearn_plugin.progress import Progress

__all__ = [
    "AfterStep", "Loss", "OptimizerName", "Recipe", "ScheduleName", "cross_entropy", "modes_kept", "private_randomness",
    "refresh_batchnorm", "train",
]  # fmt: skip

OptimizerName = Literal["sgd", "adam", "adamw"]
ScheduleName = Literal["constant", "cosine", "recorded"]
Loss = Callable[[nn.Module, Batch], Tensor]  # (model, (images, labels, rows) on the device) -> scalar
AfterStep = Callable[[int], bool]  # number of steps made so far -> whether training ends here

_LARGE_BATCH = 65_536


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train.

    Attributes:
        optimizer: ``sgd``, ``adam`` or ``adamw``.
        learning_rate: Rate of the first step, unless `schedule` is ``recorded``.
        momentum: mu of SGD.
        dampening: Dampening of SGD's momentum.
        nesterov: Nesterov's momentum in SGD.
        weight_decay: L2 penalty added to the gradient, or decoupled for ``adamw``.
        betas: Decay rates of Adam's moments.
        eps: What Adam adds to the root of its second moment.
        epochs: Passes over the samples.
        batch_size: Samples per step and process.
        schedule: ``constant``; ``cosine`` from the rate down to zero; ``recorded``: the rate of the recorded step at
            the same share of the run, which is the same step if the numbers of steps agree.
        recorded: The run that groups of parameters and recorded rates are taken from, or ``None``.
    """

    optimizer: OptimizerName = "sgd"
    learning_rate: float = 0.01
    momentum: float = 0.9
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    epochs: int = 5
    batch_size: int = 64
    schedule: ScheduleName = "cosine"
    recorded: Schedule | None = None

    def __post_init__(self) -> None:
        findings = [
            f"{name}={getattr(self, name)!r} is out of range; it must be {text}."
            for name, text, holds in (
                ("learning_rate", "above 0 and finite", 0 < self.learning_rate < math.inf),
                ("momentum", "at least 0 and below 1", 0 <= self.momentum < 1),
                ("dampening", "at least 0 and at most 1", 0 <= self.dampening <= 1),
                ("weight_decay", "at least 0 and finite", 0 <= self.weight_decay < math.inf),
                ("betas", "two numbers, at least 0 and below 1", all(0 <= beta < 1 for beta in self.betas)),
                ("eps", "at least 0 and finite", 0 <= self.eps < math.inf),
                ("epochs", "1 or more", self.epochs >= 1),
                ("batch_size", f"1 to {_LARGE_BATCH}", 1 <= self.batch_size <= _LARGE_BATCH),
                ("optimizer", " or ".join(get_args(OptimizerName)), self.optimizer in get_args(OptimizerName)),
                ("schedule", " or ".join(get_args(ScheduleName)), self.schedule in get_args(ScheduleName)),
                ("nesterov", "false without momentum or with dampening",
                 not self.nesterov or (self.momentum > 0 and self.dampening == 0)),
            )
            if not holds
        ]  # fmt: skip
        if self.schedule == "recorded" and self.recorded is None:
            findings.append("schedule='recorded' needs the record of the training; give it, or take another schedule.")
        if findings:
            raise UnlearnError.of(findings)

    @classmethod
    def of(cls, record: TrainingRecord) -> "Recipe":
        """The recipe that a recorded run was trained by: optimizer, parameter groups, rates, epochs and batch size.

        The number of epochs is that of the samples seen over the size of the training set: the recorded data without
        the holdout that was set apart. The loss is not recorded; it is taken to be the cross-entropy.

        Args:
            record: What training left behind.

        Returns:
            The recipe.

        Raises:
            UnlearnError: If the record holds no schedule, or its optimizer is none of those known here.
        """
        schedule = recorded_schedule(record)
        name = next((known for known in get_args(OptimizerName) if known == schedule.optimizer.lower()), None)
        group = schedule.groups[0]
        if name is None:
            raise UnlearnError(
                f"The record was made with the optimizer {schedule.optimizer}, and known are "
                f"{', '.join(get_args(OptimizerName))}; set -o optimizer=... and the other options yourself."
            )
        sizes = schedule.batch_sizes[schedule.batch_sizes > 0]
        rates = schedule.learning_rates[:, 0]
        first = rates[rates > 0]
        if not len(sizes) or not len(first):
            raise UnlearnError(
                "The record knows no batch size or no learning rate; set -o optimizer=... and the others yourself."
            )
        return cls(
            optimizer=name,
            learning_rate=float(first[0]),
            momentum=group.momentum,
            dampening=group.dampening,
            nesterov=group.nesterov,
            weight_decay=group.weight_decay,
            betas=(group.betas[0], group.betas[1]) if group.betas else cls.betas,
            eps=cls.eps if group.eps is None else group.eps,
            epochs=max(1, round(float(sizes.double().mean()) * schedule.steps / _trained(record))),
            batch_size=int(sizes.max()),
            schedule="recorded",
            recorded=schedule,
        )

    def as_facts(self) -> dict[str, Any]:
        """The recipe as plain values for the report."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "recorded"}
        return {**values, "betas": list(self.betas)}

    def rates_at(self, step: int, steps: int) -> tuple[float, ...]:
        """Learning rate of every parameter group.

        Args:
            step: Number of the step, from 0.
            steps: How many there will be.

        Returns:
            One rate per group.
        """
        if self.schedule == "recorded" and self.recorded is not None:
            place = min(self.recorded.steps - 1, int((step + 0.5) * self.recorded.steps / steps))
            rates: list[float] = self.recorded.learning_rates[place].nan_to_num(0.0).tolist()
            return tuple(rates)
        share = 0.5 * (1.0 + math.cos(math.pi * step / steps)) if self.schedule == "cosine" else 1.0
        return (self.learning_rate * share,) * max(1, len(self.recorded.groups) if self.recorded else 1)

    def make_optimizer(self, model: nn.Module) -> Optimizer:
        """Make the optimizer for the trainable parameters of a model.

        Args:
            model: Its parameters may be frozen, all but one.

        Returns:
            The optimizer, with one group per recorded group, or one in all; parameters of no recorded group were
            not trained then and are not trained now.
        """
        trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        groups = self.recorded.groups if self.recorded is not None else (self._single_group(tuple(trainable)),)
        settings: list[dict[str, Any]] = [
            {
                "params": [trainable[name] for name in group.names if name in trainable],
                "weight_decay": group.weight_decay,
                **({"momentum": group.momentum, "dampening": group.dampening, "nesterov": group.nesterov}
                   if self.optimizer == "sgd" else {"betas": group.betas, "eps": group.eps}),
            }
            for group in groups
        ]  # fmt: skip
        kind: type[Optimizer] = {"sgd": SGD, "adam": Adam, "adamw": AdamW}[self.optimizer]
        return kind(settings, lr=self.learning_rate)  # type: ignore[call-arg]  # all three take it

    def _single_group(self, names: tuple[str, ...]) -> Group:
        return Group(
            names=names, momentum=self.momentum, dampening=self.dampening, nesterov=self.nesterov,
            weight_decay=self.weight_decay, betas=self.betas, eps=self.eps,
        )  # fmt: skip


def _trained(record: TrainingRecord) -> int:
    """Samples that training went through in an epoch."""
    held = recorded_holdout(record)
    return int(record.data["n"]) - (0 if held is None else len(held.tuning) + len(held.verdict))


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy of a batch, in nats.

    Args:
        model: A classifier.
        batch: Images, labels and rows on the model's device.

    Returns:
        A scalar, in fp32.
    """
    images, labels, _ = batch
    return F.cross_entropy(model(images).float(), labels)


@contextmanager
def private_randomness(accelerator: Accelerator, seed: int) -> Iterator[None]:
    """Make what happens inside depend on `seed` alone, and put the random states back afterwards.

    Args:
        accelerator: Whose device counts besides the CPU.
        seed: Of torch's generators.

    Yields:
        Nothing.
    """
    device = accelerator.device
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices, device_type="cuda" if device.type == "cpu" else device.type):
        torch.manual_seed(seed)
        yield


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Put every module back into the mode it was in, and clear the gradients, whatever happens inside.

    Args:
        model: May be switched between training and evaluation inside.

    Yields:
        Nothing.
    """
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        model.zero_grad(set_to_none=True)


def train(
    model: nn.Module,
    samples: Samples,
    recipe: Recipe,
    *,
    accelerator: Accelerator,
    seed: int,
    progress: Progress,
    loss: Loss = cross_entropy,
    after_step: AfterStep | None = None,
) -> float:
    """Train a model in place.

    BatchNorm layers are in training mode, so that their running statistics follow the weights. A last batch of a
    single sample is left out: BatchNorm cannot normalise by one.

    Args:
        model: Ends on the accelerator's device, in the modes it came in, without gradients.
        samples: What to train on.
        recipe: How.
        accelerator: Device, precision and distribution.
        seed: Order of the samples and dropout; the global random state is left as it was.
        progress: Wraps the steps in a bar.
        loss: What to minimise.
        after_step: Called after every step with the number of steps made; it may change the weights, and training
            ends where it returns true.

    Returns:
        Mean loss of the last epoch.

    Raises:
        UnlearnError: If there is nothing to train on, or the loss stops being a finite number.
    """
    if not len(samples):
        raise UnlearnError("There are no samples to train on; keep some retained data.")
    with modes_kept(model), private_randomness(accelerator, seed):
        model.to(accelerator.device).train()
        single = len(samples) > recipe.batch_size and len(samples) % recipe.batch_size == 1
        loader = samples.loader(recipe.batch_size, shuffle=True, seed=seed, drop_last=single)
        prepared, optimizer, batches = accelerator.prepare(model, recipe.make_optimizer(model), loader)
        try:
            steps = recipe.epochs * len(batches)
            last = 0.0
            for number, batch in enumerate(progress(_repeat(batches, recipe.epochs), "training", steps)):
                for group, rate in zip(optimizer.param_groups, recipe.rates_at(number, steps), strict=True):
                    group["lr"] = rate
                with accelerator.autocast():
                    value = loss(prepared, batch)
                accelerator.backward(value)
                optimizer.step()
                optimizer.zero_grad()
                last = _mean_so_far(last, float(value.detach()), number % len(batches), recipe)
                if after_step is not None and after_step(number + 1):
                    break
        finally:
            accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
            accelerator.free_memory()
    return last


def _repeat(batches: Iterable[Batch], epochs: int) -> Iterator[Batch]:
    for _ in range(epochs):
        yield from batches


def _mean_so_far(mean: float, value: float, place: int, recipe: Recipe) -> float:
    """Mean loss of the epoch up to `place`; the loss has to stay a number."""
    if not math.isfinite(value):
        raise UnlearnError(
            f"Training diverged: the loss became {value}. Take a smaller learning rate than {recipe.learning_rate:g}."
        )
    return value if place == 0 else mean + (value - mean) / (place + 1)


@torch.no_grad()
def refresh_batchnorm(
    model: nn.Module, samples: Samples, *, accelerator: Accelerator, seed: int, batch_size: int = 256
) -> bool:
    """Measure the running statistics of BatchNorm layers anew, for weights that did not come from training steps.

    Every layer that keeps running statistics gets the mean over the batches of `samples`, in training mode.

    Args:
        model: Changed in place in its BatchNorm buffers only; other layers run in evaluation mode.
        samples: What to measure on: retained data. Nothing happens if there are fewer than two.
        accelerator: Device and precision.
        seed: Order of the samples.
        batch_size: Samples per batch.

    Returns:
        Whether there was anything to measure.
    """
    layers = [
        layer for layer in model.modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.track_running_stats
    ]  # fmt: skip
    if not layers or len(samples) < 2:
        return False
    momenta = [layer.momentum for layer in layers]
    counts = [layer.num_batches_tracked.clone() if layer.num_batches_tracked is not None else None for layer in layers]
    single = len(samples) > batch_size and len(samples) % batch_size == 1
    loader = samples.loader(batch_size, shuffle=True, seed=seed, drop_last=single)
    with modes_kept(model), private_randomness(accelerator, seed):
        model.to(accelerator.device).eval()
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # the plain mean over all batches
            layer.train()
        try:
            for images, _, _ in loader:
                with accelerator.autocast():
                    model(images.to(accelerator.device))
        finally:
            for layer, momentum, count in zip(layers, momenta, counts, strict=True):
                layer.momentum = momentum
                if count is not None and layer.num_batches_tracked is not None:
                    layer.num_batches_tracked.copy_(count)
    return True
