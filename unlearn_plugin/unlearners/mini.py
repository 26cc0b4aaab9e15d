"""mini: Mini-Unlearning. Corrects the weights by what training without F would have made of the recorded steps."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.data import Batch, Samples
from unlearn_plugin.splits import Need, Request
from unlearn_plugin.training import Recipe, modes_kept, private_randomness, refresh_batchnorm, train
from unlearn_plugin.unlearners._correction import Correction, Settings, correct
from unlearn_plugin.unlearners._history import History
from unlearn_plugin.unlearners._recursion import norm
from unlearn_plugin.unlearners._steps import TUNED_ON_DIGITS
from unlearn_plugin.unlearners.base import Evidence, Preset, Unlearner

__all__ = ["Mini"]

_SAMPLE_ITERATIONS, _CLASS_ITERATIONS = 5, 15  # iterations end early on purpose: full solutions overshoot on samples


@dataclass(frozen=True, kw_only=True)
class Mini(Unlearner):
    """Follow the training run from recorded step to recorded step, and ask how far without F it would have drifted.

    The drift delta = theta' - theta obeys a linear recursion whose input is what F added to each gradient and whose
    memory is the curvature of the loss (see `unlearn_plugin.unlearners._recursion`); the corrected weights are
    theta + delta. Training contracts the drift near a minimum, which is why few recorded steps are enough.

    Two forms, chosen by what the record holds. *Exact*: the steps follow each other without a gap to the end, and all
    samples of their batches are at hand; each step is corrected for its own batch. *Strided*: each recorded step
    stands for all up to the next one, with the impulse expected of a random batch. Steps whose samples are unknown
    are used in the strided form, as any other.

    Adam's preconditioner is held as recorded, which is exact for SGD and rough for Adam.

    BatchNorm normalises by the batch in both, as it did in training, and F is shown to it among retained samples at
    the share it had in training; its running statistics are measured anew at the end.

    Attributes:
        window: Recorded steps to use, the last ones.
        steps: How many of these to use in the strided form.
        curvature: What the drift's memory is made of.
        contraction: rho per step for ``curvature=scalar``.
        iterations: Conjugate-gradient iterations per recorded step.
        curvature_samples: Retained samples per curvature product.
        batch_size: Samples per gradient pass.
        batches: Gradient passes per recorded step in the strided form.
        limit: Largest drift.
        parameters: Which parameters to correct.
        repair: Epochs of training on R afterwards.
        repair_rate: Learning rate of the repair.
        repair_hold: How strongly the repair keeps what the correction says about F.

    Source: Mini-Unlearning, arXiv 2406.16986. Only the abstract was at hand: the principle (a contraction ties
    unlearned and retrained weights, so few historical gradients do) is theirs; the recursion, the strided form and its
    implicit solution with Gauss-Newton curvature are ours.
    """

    needs: ClassVar[Need] = Need.FORGET | Need.RECORD
    summary: ClassVar[str] = "Correct the weights by what a few recorded training steps would have been without F."
    source: ClassVar[str] = "Mini-Unlearning, https://arxiv.org/abs/2406.16986 (derivation ours, from the abstract)"
    presets: ClassVar[Mapping[Request, Preset]] = Preset.table(
        sample={"iterations": _SAMPLE_ITERATIONS}, whole_class={"iterations": _CLASS_ITERATIONS}, tuned=TUNED_ON_DIGITS
    )

    window: int | None = field(default=None, metadata={"help": "Use only this many of the last recorded steps."})
    steps: int = field(
        default=24, metadata={"help": "Most recorded steps to use in the strided form; the cost grows with them."}
    )
    curvature: Literal["hvp", "lbfgs", "diagonal", "scalar", "none"] = field(
        default="hvp",
        metadata={
            "help": "hvp: exact products on retained samples. From the record, cleaner with retained samples: lbfgs: "
            "secants between recorded steps; diagonal: squared gradients, scaled to the curvature along the way; "
            "scalar: that curvature for all weights; none: never pulled back, for short windows only."
        },
    )
    contraction: float | None = field(
        default=None, metadata={"help": "rho per step for curvature=scalar, in (0, 1]; none: measured on the record."}
    )
    iterations: int | None = field(
        default=None,
        metadata={
            "help": "Conjugate-gradient iterations per recorded step for hvp; more forget more. none: 5 for samples, "
            "15 for class requests.",
            "search": (2, 30, "log"),
        },
    )
    curvature_samples: int = field(default=128, metadata={"help": "Retained samples per curvature product."})
    batch_size: int = field(default=256, metadata={"help": "Samples per gradient pass."})
    batches: int = field(default=2, metadata={"help": "Gradient passes per recorded step that stands for several."})
    limit: float = field(
        default=0.5, metadata={"help": "Largest correction, as a share of the norm of the corrected weights."}
    )
    parameters: str = field(default="*", metadata={"help": "Glob patterns of parameters to correct, with commas."})
    repair: int = field(default=0, metadata={"help": "Epochs of training on retained data afterwards."})
    repair_rate: float = field(default=0.01, metadata={"help": "Learning rate of the repair, falling to 0."})
    repair_hold: float = field(
        default=1.0, metadata={"help": "Weight by which the repair keeps the corrected model's answers on F."}
    )

    def __post_init__(self) -> None:
        findings = [
            f"{name}={getattr(self, name)!r} is out of range; it must be {text}."
            for name, text, holds in (
                ("window", "1 or more, or none", self.window is None or self.window >= 1),
                ("steps", "1 or more", self.steps >= 1),
                ("contraction", "above 0 and at most 1, or none",
                 self.contraction is None or 0 < self.contraction <= 1),
                ("iterations", "1 or more, or none", self.iterations is None or self.iterations >= 1),
                ("curvature_samples", "2 or more", self.curvature_samples >= 2),
                ("batch_size", "2 or more", self.batch_size >= 2),
                ("batches", "1 or more", self.batches >= 1),
                ("limit", "above 0 and finite", 0 < self.limit < math.inf),
                ("repair", "0 or more", self.repair >= 0),
                ("repair_rate", "above 0 and finite", 0 < self.repair_rate < math.inf),
                ("repair_hold", "0 or more and finite", 0 <= self.repair_hold < math.inf),
            )
            if not holds
        ]  # fmt: skip
        if findings:
            raise UnlearnError.of(findings)

    def unlearn(self, model: nn.Module, evidence: Evidence) -> Mapping[str, Any]:
        """Add the correction to the weights, and measure BatchNorm's statistics anew; see the base class."""
        if evidence.record is None:
            raise UnlearnError("mini needs the record of the training run; give --record FOLDER.")
        if evidence.retain is None and (self.curvature == "hvp" or self.repair):
            raise UnlearnError("mini needs retained data for curvature=hvp and for repair; or set curvature=lbfgs.")
        history = History.read(evidence.record, window=self.window, parameters=self.parameters)
        model.to(evidence.accelerator.device)
        with modes_kept(model), private_randomness(evidence.accelerator, evidence.seed):
            correction = correct(model, evidence, history, self._settings(evidence))
        shrunk = self._apply(model, correction)
        if evidence.retain is not None:
            refresh_batchnorm(model, evidence.retain, accelerator=evidence.accelerator, seed=evidence.seed)
            self._repair(model, evidence.forget, evidence.retain, evidence)
        return {**correction.facts, "correction_shrunk_to": shrunk}

    def _settings(self, evidence: Evidence) -> Settings:
        usual = _CLASS_ITERATIONS if evidence.forgotten_classes else _SAMPLE_ITERATIONS
        return Settings(
            curvature=self.curvature,
            contraction=self.contraction,
            steps=self.steps,
            iterations=usual if self.iterations is None else self.iterations,
            curvature_samples=self.curvature_samples,
            batch_size=self.batch_size,
            batches=self.batches,
        )

    def _apply(self, model: nn.Module, correction: Correction) -> float:
        """Add the correction to the weights; returns the factor it was made smaller by, to stay within the limit."""
        parameters = dict(model.named_parameters())
        size = norm(correction.delta)
        if not math.isfinite(size):
            raise UnlearnError(
                f"The correction is not finite after {len(correction.delta)} parameters; take curvature=hvp, a shorter "
                f"window, or check that the record is that of this model."
            )
        most = self.limit * norm({name: parameters[name].detach() for name in correction.delta})
        factor = 1.0 if size <= most else most / size
        with torch.no_grad():
            for name, delta in correction.delta.items():
                parameters[name].add_((factor * delta).to(parameters[name]))
        return factor

    def _repair(self, model: nn.Module, forget: Samples, retain: Samples, evidence: Evidence) -> None:
        """Train on R for a few epochs and keep the corrected model's answers on F, which would come back otherwise."""
        if not self.repair:
            return
        recipe = Recipe(learning_rate=self.repair_rate, epochs=self.repair, batch_size=64)
        held = _Held(model, forget, evidence, self.repair_hold)
        train(model, retain, recipe, accelerator=evidence.accelerator, seed=evidence.seed,
              progress=evidence.progress, loss=held)  # fmt: skip


class _Held:
    """Cross-entropy on a retained batch, plus the divergence from earlier answers on a batch of F.

    L = CE(R) + w KL(softmax before || softmax now) on F, batch means in nats. F goes through the model in evaluation
    mode, so that BatchNorm learns its statistics from R alone.
    """

    def __init__(self, model: nn.Module, forget: Samples, evidence: Evidence, weight: float) -> None:
        self._model = model
        self._forget = forget
        self._device = evidence.accelerator.device
        self._weight = weight
        self._generator = torch.Generator().manual_seed(evidence.seed)
        with modes_kept(model), torch.no_grad():
            model.eval()
            images = (images for images, _, _ in forget.loader(256))
            self._before = torch.cat([model(part.to(self._device)).float().log_softmax(1) for part in images])

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        images, labels, _ = batch
        loss = F.cross_entropy(model(images).float(), labels)
        if not self._weight:
            return loss
        chosen = torch.randperm(len(self._forget), generator=self._generator)[: len(labels)]
        held, _, _ = next(iter(self._forget.select(chosen).loader(len(chosen))))
        model.eval()
        now = model(held.to(self._device)).float().log_softmax(1)
        model.train()
        before = self._before[chosen.to(self._device)]
        return loss + self._weight * F.kl_div(now, before, reduction="batchmean", log_target=True)
