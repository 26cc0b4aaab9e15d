"""scrub: a student that disobeys its teacher on F and obeys on R."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unlearn_plugin.data import Batch, Samples
from unlearn_plugin.splits import Need, Request
from unlearn_plugin.training import AfterStep, Loss, Recipe, train
from unlearn_plugin.unlearners._steps import (
    TUNED_ON_DIGITS,
    Pressure,
    SteppedUnlearner,
    check_options,
    frozen_copy,
    required,
    statistics_kept,
)
from unlearn_plugin.unlearners.base import Evidence, Facts, Preset

__all__ = ["Scrub", "distillation"]

_STEPS_BETWEEN_LOOKS = 4


def distillation(
    teacher: Float[Tensor, "n c"], student: Float[Tensor, "n c"], temperature: float = 1.0
) -> Float[Tensor, ""]:
    """How far a student is from its teacher.

    Formula: T^2 KL(softmax(teacher / T) || softmax(student / T)), the mean over samples and the sum over classes, nats.

    Args:
        teacher: Logits.
        student: Logits.
        temperature: T; the factor T^2 keeps gradients on one scale.

    Returns:
        A scalar, at least 0.
    """
    wanted, found = F.log_softmax(teacher / temperature, 1), F.log_softmax(student / temperature, 1)
    return temperature**2 * F.kl_div(found, wanted, reduction="batchmean", log_target=True)


@dataclass(frozen=True, kw_only=True)
class Scrub(SteppedUnlearner):
    """Alternate passes over F that lead away from the original model, and passes over R that keep to it.

    Formula: max passes ascend d(x) = KL(teacher || student) on F; min passes descend alpha d(x) + gamma CE over R.
    The teacher is the frozen original. The first `msteps` epochs begin with a max pass, the others only repair.
    Divergences are means over samples, sums over classes, in nats. BatchNorm statistics come from R alone.

    Source: Kurmanji et al. 2023, arXiv 2302.09880, algorithm 1. We differ in max passes of a rate and a
    number of steps of their own, whatever the size of F, and in `hold`, by which they end as soon as F looks held out:
    their rewinding (SCRUB+R) without keeping checkpoints.
    """

    needs: ClassVar[Need] = Need.FORGET | Need.RETAIN
    summary: ClassVar[str] = "Teach a student to disobey the original on what goes and to obey it on what stays."
    source: ClassVar[str] = "Kurmanji et al. 2023, arXiv 2302.09880"
    presets: ClassVar[Mapping[Request, Preset]] = Preset.table(
        sample={"learning_rate": 0.05}, whole_class={"learning_rate": 0.05}, tuned=TUNED_ON_DIGITS
    )

    alpha: float = field(
        default=0.5, metadata={"help": "Weight of the divergence from the teacher on R.", "search": (0.1, 2.0, "log")}
    )
    gamma: float = field(default=1.0, metadata={"help": "Weight of the cross-entropy on R."})
    msteps: int = field(default=3, metadata={"help": "How many epochs begin with a max pass."})
    temperature: float = field(default=1.0, metadata={"help": "Temperature of both divergences."})
    forget_batch_size: int = field(default=16, metadata={"help": "Samples per step of a max pass."})
    forget_steps: int = field(default=16, metadata={"help": "Steps of a max pass, at most."})
    max_rate: float = field(
        default=0.1,
        metadata={
            "help": "Rate of max passes as a share of that of min passes; nothing bounds what they ascend.",
            "search": (0.02, 0.5, "log"),
        },
    )

    def __post_init__(self) -> None:
        check_options(
            self,
            alpha=("at least 0", self.alpha >= 0),
            gamma=("at least 0", self.gamma >= 0),
            msteps=(f"1 to epochs={self.epochs}", 1 <= self.msteps <= self.epochs),
            temperature=("above 0", self.temperature > 0),
            forget_batch_size=("1 or more", self.forget_batch_size >= 1),
            forget_steps=("1 or more", self.forget_steps >= 1),
            max_rate=("above 0 and finite", 0 < self.max_rate < math.inf),
        )
        super().__post_init__()

    def unlearn(self, model: nn.Module, evidence: Evidence) -> Facts:
        """Alternate max and min passes; see `Unlearner.unlearn`."""
        forget, retain = required(evidence.forget, "forget", self), required(evidence.retain, "retained", self)
        losses = _Losses(self, frozen_copy(model.to(evidence.accelerator.device)))
        pressure = Pressure(evidence, model, self.batch_size, follow=self.hold)
        descend = self.settled(evidence.request, model).recipe()
        rate = self.max_rate * descend.learning_rate
        ascend = replace(descend, batch_size=self.forget_batch_size, learning_rate=rate)

        def enough(step: int) -> bool:
            if step % _STEPS_BETWEEN_LOOKS == 0:
                pressure.look(step)
            return not pressure.on

        def pass_over(samples: Samples, recipe: Recipe, epoch: int, loss: Loss, stop: AfterStep | None = None) -> None:
            rate = recipe.rates_at(epoch, self.epochs)[0]
            once = replace(recipe, epochs=1, schedule="constant", learning_rate=rate)
            train(
                model, samples, once, accelerator=evidence.accelerator, seed=evidence.seed + epoch,
                progress=evidence.progress, loss=loss, after_step=stop,
            )  # fmt: skip

        max_passes = 0
        for epoch in range(self.epochs):
            pressure.look(epoch)
            if epoch < self.msteps and pressure.on:
                pass_over(self._some(forget, evidence.seed + epoch), ascend, epoch, losses.disobey, enough)
                max_passes += 1
            pass_over(retain, descend, epoch, losses.obey)
        pressure.look(self.epochs)
        used = {"optimizer": descend.optimizer, "learning_rate": descend.learning_rate, "max_passes": max_passes}
        return {**used, **pressure.facts()}

    def _some(self, forget: Samples, seed: int) -> Samples:
        """What a max pass goes over: random samples of F, all equally often."""
        wanted, generator = self.forget_steps * self.forget_batch_size, torch.Generator().manual_seed(seed)
        rounds = math.ceil(wanted / len(forget))
        return forget.select(
            torch.cat([torch.randperm(len(forget), generator=generator) for _ in range(rounds)])[:wanted]
        )


class _Losses:
    """What a student minimises on F and on R."""

    def __init__(self, options: Scrub, teacher: nn.Module) -> None:
        self._options, self._teacher = options, teacher

    def _diverge(self, batch: Batch, student: Tensor) -> Tensor:
        with torch.no_grad():
            teacher = self._teacher(batch[0])
        return distillation(teacher.float(), student, self._options.temperature)

    def disobey(self, model: nn.Module, batch: Batch) -> Tensor:
        """-d(x) on F."""
        with statistics_kept(model):
            return -self._diverge(batch, model(batch[0]).float())

    def obey(self, model: nn.Module, batch: Batch) -> Tensor:
        """Alpha d(x) + gamma CE on R."""
        student = model(batch[0]).float()
        kept = self._options.alpha * self._diverge(batch, student)
        return kept + self._options.gamma * F.cross_entropy(student, batch[1])
