"""The correction `mini` makes: the recursion, fed with gradients and curvature of the model at the recorded weights."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from unlearn_hooks.updates import Update
from unlearn_plugin.data import Samples
from unlearn_plugin.unlearners._adam import AdamState, adam_step
from unlearn_plugin.unlearners._curvature import (
    Point,
    curvature_along,
    moment_scale,
    pairs_of,
    secant_curvature,
)
from unlearn_plugin.unlearners._derivatives import Derivatives
from unlearn_plugin.unlearners._history import History
from unlearn_plugin.unlearners._recursion import (
    Product,
    Rule,
    Tensors,
    along,
    exact_step,
    implicit_stride,
    norm,
    scaled,
    spectral_radius,
    stride,
    tail_bound,
)
from unlearn_plugin.unlearners.base import Evidence, Facts

__all__ = ["Correction", "Curvature", "Settings", "correct"]

Curvature = Literal["hvp", "lbfgs", "diagonal", "scalar", "none"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of the method that the correction depends on; each is the field of `Mini` of the same name."""

    curvature: Curvature
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
        ``bytes_read``, ``curvature`` (h along the correction at the end), ``contraction`` (rho of one step: the
        geometric mean over the window, along the correction as it was at each step), ``tail_bound`` (what steps before
        the window may have contributed, faded through the window; ``None`` when rho >= 1), ``tail_bound_missing`` (why
        it is), and ``correction_norm``.
    """
    return _Walk(model, evidence, history, settings).run()


class _Fading:
    """How a deviation fades over the window, as it is met from step to step."""

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        self._rules = rules
        self.largest = 0.0  # max ||rate gain c|| of a step
        self._steps, self._log = 0, 0.0

    def push(self, per_step: Mapping[str, float], impulse: Tensors, preconditioner: Tensors | None) -> None:
        """Take in the impulse of a step, with rate x gain of each parameter."""
        moved = {name: per_step[name] * value for name, value in impulse.items()}
        if preconditioner is not None:
            moved = {name: value / preconditioner[name] for name, value in moved.items()}
        self.largest = max(self.largest, norm(moved))

    def meet(self, curvature: float, rates: Mapping[str, float], steps: int) -> None:
        """Take in the curvature along the deviation, for so many steps of these mean rates; the worst group counts."""
        kinds = {(rates[name], rule) for name, rule in self._rules.items()}
        rho = max(spectral_radius(rate, curvature, rule) for rate, rule in kinds)
        self._log += steps * math.log(max(rho, 1e-300))
        self._steps += steps

    def facts(self, first: int, window: int) -> Facts:
        """Contraction and tail bound of a window of so many steps that begins with step `first`."""
        rho = math.exp(self._log / max(1, self._steps))
        bound = tail_bound(rho, window, self.largest) if first > 0 else 0.0
        missing = "the mean step does not contract: contraction is 1 or more" if bound is None else None
        return {"contraction": rho, "contracts": rho < 1.0, "tail_bound": bound, "tail_bound_missing": missing}


class _Remembered:
    """A product that is asked for the same vector twice and computed once."""

    def __init__(self, product: Product) -> None:
        self._product = product
        self._last: tuple[Tensors, Tensors] | None = None

    def __call__(self, vector: Tensors) -> Tensors:
        if self._last is None or self._last[0] is not vector:
            self._last = (vector, self._product(vector))
        return self._last[1]


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
        self.velocity, self.adam = dict(self.delta), AdamState.start(self.delta)
        self.generator = torch.Generator().manual_seed(evidence.seed)
        self.share = len(evidence.forget) / (history.samples_trained - _gone(evidence, history))
        self.fading = _Fading(history.rules)
        self.bend: float | Tensors = 0.0  # of `scalar`, in the space that P stretches, or of `diagonal`
        self.secants: Product | None = None
        self.preconditioner: Tensors | None = None
        self.product: Product | None = None  # of the step at hand; None: no curvature

    def run(self) -> Correction:
        """Walk from the first recorded step to the end of the run."""
        batches = self._known_batches()
        if batches is None:
            self.history = self.history.settled().thinned(self.settings.steps)
        self._curvature_of_the_way()
        history = self.history
        for number, update in enumerate(self.evidence.progress(history.updates, "walking through the record")):
            self.derivatives.place(update.weights())
            roots = update.preconditioner()
            self.preconditioner = None if roots is None else self._here(roots)
            if batches is not None:
                self._step(update, *batches[number])
            else:
                self._stride(update, history.stops[number])
        form = "strided" if batches is None else "exact"
        return Correction(self.delta, {"form": form, **self._facts()})

    def _known_batches(self) -> list[tuple[Samples, Samples]] | None:
        """Forget and retained part of every batch, if the exact form is possible."""
        if self.evidence.retain is None or not self.history.consecutive:
            return None
        if any(rule.bias_corrected and rule.second is None for rule in self.history.rules.values()):
            self.history = self.history.settled()
        return self.history.batches(self.evidence.forget, self.evidence.retain, self.evidence.earlier)

    def _here(self, tensors: Mapping[str, Tensor]) -> Tensors:
        """The chosen ones among recorded tensors, on the device, in the weights' dtype; an absent one is zero."""
        return {
            name: tensors[name].to(self.delta[name]) if name in tensors else torch.zeros_like(self.delta[name])
            for name in self.names
        }

    def _step(self, update: Update, forget: Samples, retain: Samples) -> None:
        """One recorded step, corrected for its own batch."""
        history, roots = self.history, self.preconditioner
        if self.settings.curvature == "hvp":
            self.product = _Remembered(self.derivatives.hessian(retain)) if len(retain) else None
        else:
            self.product = self._product_of_the_way()
        impulse = self.derivatives.impulse(forget, retain) if len(forget) else scaled(self.delta, 0.0)
        rates = history.rates(update.step)
        self.fading.push({name: rate * history.rules[name].gain for name, rate in rates.items()}, impulse, roots)
        self._meet(rates, 1)
        if roots is not None and all(rule.second is not None for rule in history.rules.values()):
            self.delta, self.adam = adam_step(
                self.delta, self.adam, impulse, weights=self._here(update.weights()),
                gradient=self._here(update.gradient()), preconditioner=roots, rules=history.rules, rates=rates,
                curvature=self.product, step=update.step,
            )  # fmt: skip
        else:
            self.delta, self.velocity = exact_step(
                self.delta, self.velocity, impulse, rules=history.rules, rates=rates, curvature=self.product,
                preconditioner=roots, step=update.step,
            )  # fmt: skip

    def _stride(self, update: Update, stop: int) -> None:
        """One recorded step that stands for all up to `stop`, with the impulse expected of a random batch."""
        impulse, rules, steps = self._expected_impulse(update), self.history.rules, stop - update.step
        times = self.history.times(update.step, stop)
        per_step = {name: time / steps for name, time in times.items()}
        self.fading.push(per_step, impulse, self.preconditioner)
        iterations = self.settings.iterations
        if self.settings.curvature == "hvp" and self.evidence.retain is not None:
            some = self._some(self.evidence.retain, self.settings.curvature_samples)
            self.product = _Remembered(self.derivatives.gauss_newton(some))
        else:
            self.product = self._product_of_the_way()
            iterations = 2 * self.settings.steps  # more than there are secants; products with these cost nothing
        self._meet({name: per_step[name] / rules[name].gain for name in per_step}, steps)
        if self.product is not None and self.settings.curvature in ("hvp", "lbfgs"):
            self.delta = implicit_stride(
                self.delta, impulse, times=times, rules=rules, curvature=self.product,
                preconditioner=self.preconditioner, iterations=iterations,
            )  # fmt: skip
        else:
            self.delta = stride(
                self.delta, impulse, times=times, rules=rules, curvature=self.bend, preconditioner=self.preconditioner
            )

    def _meet(self, rates: Mapping[str, float], steps: int) -> None:
        """Note how the deviation fades from here; at the first step there is none yet."""
        if norm(self.delta) > 0:
            bend = 0.0 if self.product is None else along(self.delta, self.product, self.preconditioner)
            self.fading.meet(bend, rates, steps)

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

    def _curvature_of_the_way(self) -> None:
        """Measure what `scalar`, `diagonal` and `lbfgs` need of the record."""
        kind, rules = self.settings.curvature, self.history.rules
        if kind == "scalar":
            asked = self._asked_for()
            self.bend = (curvature_along(list(pairs_of(self._points(), rules))) or 0.0) if asked is None else asked
        elif kind == "diagonal":
            count = len(self._seen.updates)
            moments = scaled(self.delta, 0.0)
            for update in self._seen.updates:
                root = self._here(update.preconditioner() or update.gradient())
                moments = {name: value + root[name].square() / count for name, value in moments.items()}
            self.bend = scaled(moments, moment_scale(list(pairs_of(self._points(), rules)), moments) or 0.0)
        elif kind == "lbfgs":
            self.secants = secant_curvature(list(pairs_of(self._points(), rules)))

    @property
    def _seen(self) -> History:
        """The recorded steps that the way is seen through."""
        return self.history.settled().thinned(self.settings.steps)

    def _points(self) -> Iterator[Point]:
        """Weights and gradients of recorded steps; the gradients from the same retained samples, if there are any.

        Yields:
            The points, ascending.
        """
        samples = None
        if self.evidence.retain is not None:
            samples = self._some(self.evidence.retain, self.settings.batch_size)
        for update in self._seen.updates:
            roots = update.preconditioner()
            if samples is not None:
                self.derivatives.place(update.weights())
            yield Point(
                step=update.step,
                rates=self.history.rates(update.step),
                weights=self._here(update.weights()),
                gradient=self._here(update.gradient())
                if samples is None
                else self.derivatives.gradient(samples, self.settings.batch_size),
                preconditioner=None if roots is None else self._here(roots),
                same_samples=samples is not None,
            )

    def _product_of_the_way(self) -> Product | None:
        """The curvature of the record as a product, at the step at hand."""
        if self.secants is not None:
            return self.secants
        if isinstance(self.bend, dict):
            bends = self.bend
            return lambda vector: {name: bends[name] * value for name, value in vector.items()}
        if not self.bend:
            return None
        roots = self.preconditioner
        if roots is None:
            return partial(scaled, factor=self.bend)
        bend = self.bend
        return lambda vector: {name: bend * roots[name] * value for name, value in vector.items()}

    def _asked_for(self) -> float | None:
        """H of the contraction that was asked for: a long stride fades by e^(-(h + lambda) gain rate) a step."""
        if self.settings.contraction is None:
            return None
        rule = self.history.rules[self.names[0]]
        fading = -math.log(self.settings.contraction) / (self._mean_rate() * rule.gain)
        return max(0.0, fading - rule.weight_decay)

    def _mean_rate(self) -> float:
        first, end = self.history.updates[0].step, self.history.schedule.steps
        time = self.history.times(first, end)[self.names[0]]
        return time / (end - first) / self.history.rules[self.names[0]].gain

    def _facts(self) -> Facts:
        history, first, steps = self.history, self.history.updates[0].step, self.history.schedule.steps
        bend = 0.0 if self.product is None else along(self.delta, self.product, self.preconditioner)
        if len(history.updates) == 1:  # the one step began without a deviation: the one it left has to do
            rates = {name: time / history.rules[name].gain / (steps - first)
                     for name, time in history.times(first, steps).items()}  # fmt: skip
            self.fading.meet(bend, rates, steps - first)
        return {
            "recorded_steps": len(history.updates),
            "share_of_history": len(history.updates) / steps,
            "bytes_read": history.bytes_read,
            "curvature": bend,
            **self.fading.facts(first, steps - first),
            "correction_norm": norm(self.delta),
        }


def _gone(evidence: Evidence, history: History) -> int:
    """How many of the samples trained on went with earlier requests; the run without them is what is corrected."""
    if evidence.earlier is None:
        return 0
    deleted = max(0, history.samples_trained - len(evidence.forget.data))
    return deleted + len(evidence.earlier)
