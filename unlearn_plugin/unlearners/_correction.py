"""The correction `mini` makes: the recursion, fed with gradients and curvature of the model at the recorded weights."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from unlearn_hooks.updates import Update
from unlearn_plugin.data import Samples
from unlearn_plugin.unlearners._derivatives import Derivatives
from unlearn_plugin.unlearners._history import History
from unlearn_plugin.unlearners._recursion import (
    Product,
    Tensors,
    along,
    curvature_along,
    exact_step,
    implicit_stride,
    norm,
    scaled,
    spectral_radius,
    stride,
    tail_bound,
)
from unlearn_plugin.unlearners.base import Evidence, Facts

__all__ = ["Correction", "Settings", "correct"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of the method that the correction depends on; each is the field of `Mini` of the same name."""

    curvature: Literal["hvp", "scalar", "none"]
    contraction: float | None
    steps: int
    iterations: int
    curvature_samples: int
    batch_size: int
    batches: int


@dataclass(frozen=True)
class Correction:
    """What to add to the weights.

    Attributes:
        delta: theta' - theta by parameter name.
        facts: What was measured on the way.
    """

    delta: Tensors
    facts: Facts


def correct(model: nn.Module, evidence: Evidence, history: History, settings: Settings) -> Correction:
    """Run the recursion over the recorded steps.

    Args:
        model: The trained model; not changed.
        evidence: What the method may look at.
        history: What the record holds.
        settings: Options of the method.

    Returns:
        The correction with its facts: ``form``, ``recorded_steps``, ``share_of_history`` (recorded steps over all),
        ``bytes_read``, ``curvature`` (h along the correction), ``contraction`` (rho of one step at the mean rate),
        ``tail_bound`` (what steps before the window may have contributed; ``None`` when rho >= 1), and
        ``correction_norm``.
    """
    return _Walk(model, evidence, history, settings).run()


class _Walk:
    """One pass over the recorded steps."""

    def __init__(self, model: nn.Module, evidence: Evidence, history: History, settings: Settings) -> None:
        self.evidence, self.history, self.settings = evidence, history, settings
        self.names = tuple(history.rules)
        # A batch of a forgotten class alone would be normalised by that class's own statistics.
        by_batch = evidence.retain is not None or not evidence.forgotten_classes
        self.derivatives = Derivatives(model, self.names, evidence.accelerator, by_batch=by_batch)
        parameters = dict(model.named_parameters())
        self.delta = {name: torch.zeros_like(parameters[name]) for name in self.names}
        self.velocity = dict(self.delta)
        self.generator = torch.Generator().manual_seed(evidence.seed)
        self.share = len(evidence.forget) / history.samples_trained
        self.largest = 0.0  # max ||rate gain c|| of a step
        self.scalar = self._scalar_curvature() if settings.curvature == "scalar" else 0.0
        self.product: Product | None = None

    def run(self) -> Correction:
        """Walk from the first recorded step to the end of the run."""
        batches = self._known_batches()
        if batches is None:
            self.history = self.history.thinned(self.settings.steps)
        history = self.history
        preconditioner: Tensors | None = None
        for number, update in enumerate(self.evidence.progress(history.updates, "walking through the record")):
            self.derivatives.place(update.weights())
            roots = update.preconditioner()
            preconditioner = None if roots is None else self._here(roots)
            if batches is not None:
                self._step(update, *batches[number], preconditioner)
            else:
                self._stride(update, history.stops[number], preconditioner)
        form = "strided" if batches is None else "exact"
        return Correction(self.delta, {"form": form, **self._facts(preconditioner)})

    def _known_batches(self) -> list[tuple[Samples, Samples]] | None:
        """Forget and retained part of every batch, if the exact form is possible."""
        if self.evidence.retain is None or not self.history.consecutive:
            return None
        return self.history.batches(self.evidence.forget, self.evidence.retain)

    def _here(self, tensors: Mapping[str, Tensor]) -> Tensors:
        """The chosen ones among recorded tensors, on the device, in the weights' dtype; an absent one is zero."""
        return {
            name: tensors[name].to(self.delta[name]) if name in tensors else torch.zeros_like(self.delta[name])
            for name in self.names
        }

    def _step(self, update: Update, forget: Samples, retain: Samples, preconditioner: Tensors | None) -> None:
        """One recorded step, corrected for its own batch."""
        history = self.history
        curvature: Product | None = None
        if self.settings.curvature == "hvp" and len(retain):
            self.product = curvature = self.derivatives.hessian(retain)
        elif self.scalar:
            curvature = partial(scaled, factor=self.scalar)
        impulse = self.derivatives.impulse(forget, retain) if len(forget) else scaled(self.delta, 0.0)
        rates = history.rates(update.step)
        self._note({name: rate * history.rules[name].gain for name, rate in rates.items()}, impulse, preconditioner)
        self.delta, self.velocity = exact_step(
            self.delta, self.velocity, impulse, rules=history.rules, rates=rates, curvature=curvature,
            preconditioner=preconditioner, step=update.step,
        )  # fmt: skip

    def _stride(self, update: Update, stop: int, preconditioner: Tensors | None) -> None:
        """One recorded step that stands for all up to `stop`, with the impulse expected of a random batch."""
        impulse = self._expected_impulse(update)
        times = self.history.times(update.step, stop)
        per_step = {name: time / (stop - update.step) for name, time in times.items()}
        self._note(per_step, impulse, preconditioner)
        if self.settings.curvature == "hvp" and self.evidence.retain is not None:
            some = self._some(self.evidence.retain, self.settings.curvature_samples)
            self.product = self.derivatives.gauss_newton(some)
            self.delta = implicit_stride(
                self.delta, impulse, times=times, rules=self.history.rules, curvature=self.product,
                preconditioner=preconditioner, iterations=self.settings.iterations,
            )  # fmt: skip
        else:
            self.delta = stride(
                self.delta, impulse, times=times, rules=self.history.rules, curvature=self.scalar,
                preconditioner=preconditioner,
            )  # fmt: skip

    def _expected_impulse(self, update: Update) -> Tensors:
        """Expected impulse of a random batch.

        With R: r (gradient on R - gradient on F), both from the same passes. Without: r / (1 - r) (recorded gradient -
        gradient on F). The two are equal on average, r being the share of F in training.
        """
        forget, retain, share, size = self.evidence.forget, self.evidence.retain, self.share, self.settings.batch_size
        if retain is None:
            own = self.derivatives.gradient(forget, size)
            recorded = self._here(update.gradient())
            return {name: share / (1.0 - share) * (recorded[name] - own[name]) for name in self.names}
        count = max(1, round(size * share))
        total = scaled(self.delta, 0.0)
        for _ in range(self.settings.batches):
            part = self.derivatives.contrast(self._some(forget, count), self._some(retain, size - count))
            total = {name: value + share / self.settings.batches * part[name] for name, value in total.items()}
        return total

    def _some(self, samples: Samples, count: int) -> Samples:
        return samples.select(torch.randperm(len(samples), generator=self.generator)[: max(1, count)])

    def _note(self, per_step: Mapping[str, float], impulse: Tensors, preconditioner: Tensors | None) -> None:
        moved = {name: per_step[name] * value for name, value in impulse.items()}
        if preconditioner is not None:
            moved = {name: value / preconditioner[name] for name, value in moved.items()}
        self.largest = max(self.largest, norm(moved))

    def _scalar_curvature(self) -> float:
        """Take h from the contraction that was asked for, or measure it along the way that training took."""
        history, rule = self.history, self.history.rules[self.names[0]]
        if self.settings.contraction is not None:  # a long stride fades by e^(-(h + lambda) gain rate) a step
            fading = -math.log(self.settings.contraction) / (self._mean_rate() * rule.gain)
            return max(0.0, fading - rule.weight_decay)
        found = curvature_along(
            [update.step for update in history.updates],
            [history.rates(update.step)[self.names[0]] for update in history.updates],
            [self._here(update.weights()) for update in history.updates],
            [self._here(update.gradient()) for update in history.updates],
            rule,
        )
        return found or 0.0

    def _mean_rate(self) -> float:
        first, end = self.history.updates[0].step, self.history.schedule.steps
        time = self.history.times(first, end)[self.names[0]]
        return time / (end - first) / self.history.rules[self.names[0]].gain

    def _facts(self, preconditioner: Tensors | None) -> Facts:
        history, first = self.history, self.history.updates[0].step
        steps = history.schedule.steps
        bend = self.scalar if self.product is None else along(self.delta, self.product, preconditioner)
        rho = spectral_radius(self._mean_rate(), bend, history.rules[self.names[0]])
        return {
            "recorded_steps": len(history.updates),
            "share_of_history": len(history.updates) / steps,
            "bytes_read": history.bytes_read,
            "curvature": bend,
            "contraction": rho,
            "contracts": rho < 1.0,
            "tail_bound": tail_bound(rho, steps - first, self.largest) if first > 0 else 0.0,
            "correction_norm": norm(self.delta),
        }
