"""muda: dimensional alignment. Leads the features of F into the main directions of retained features."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unlearn_hooks.capture import find_head, head_input
from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.features import FeatureStatistics, recorded_features
from unlearn_hooks.training_record import TrainingRecord
from unlearn_plugin.data import Batch, Samples
from unlearn_plugin.outputs import compute_outputs
from unlearn_plugin.splits import Need
from unlearn_plugin.training import Recipe, refresh_batchnorm, train
from unlearn_plugin.unlearners._subspace import Subspace, apply_head, masked_divergence
from unlearn_plugin.unlearners.base import Evidence, Facts, Unlearner

__all__ = ["Muda"]

Teacher = Literal["auto", "masked", "projected", "original"]
Origin = Literal["auto", "record", "retain"]

_BASIS_SAMPLES = 2_000  # retained samples that the main directions are measured on between rounds


@dataclass(frozen=True, kw_only=True)
class Muda(Unlearner):
    """Alternate a forget phase, in which features of F move into the subspace of retained features, and a recovery.

    Forget: align L_DA + alpha L_SD on batches of F with L_DA = 1 - DA(F, R), DA = sum ||U^T z||^2 / sum ||z||^2, U the
    main directions of E_R[z z^T]; L_SD = KL(teacher || model), the teacher being the original model without what ties
    it to F: for a class request its scores of the forgotten classes are masked, for samples its head is applied to
    U U^T z. F is shown among as many retained samples, so that BatchNorm sees a mixed batch: with frozen statistics
    this phase diverged on a ResNet. Recover: cross-entropy plus distillation from the original, on R; then the running
    statistics are measured anew on R.

    Attributes:
        rounds: How often both phases are done.
        forget_steps: Steps on F per round.
        recover_steps: Steps on R per round.
        learning_rate: Rate of both phases.
        align: Weight of L_DA.
        alpha: Weight of L_SD.
        teacher: Of L_SD. auto is masked for samples of classes that are requested as a whole, projected for others.
        energy: Share of the energy that the main directions hold.
        directions: Number of main directions, instead of `energy`.
        centred: Whether moments and alignment are about the mean of R.
        directions_from: Where the first directions come from. auto is the record if it holds features.
        refresh: Whether directions are measured anew on R after each round.
        mixed: Whether F is shown among retained samples.
        distill: Weight of the distillation in the recovery.
        batch_size: Samples per step.
        stop: Whether to stop early on tuning data.

    Source: MUDA, arXiv 2407.17710 (WACV 2025). Only the abstract was at hand: the alignment, its alternation with
    recovery and the self-distillation are theirs. Ours are the uncentred second moment, the number of directions by
    energy, both teachers, the distillation in the recovery, the refreshed directions after each round, and F among
    retained samples; each has its option.
    """

    needs: ClassVar[Need] = Need.FORGET | Need.RETAIN
    summary: ClassVar[str] = "Lead the features of F into the main directions of retained features, and recover."
    source: ClassVar[str] = "MUDA, https://arxiv.org/abs/2407.17710 (details ours, from the abstract)"

    rounds: int = field(default=4, metadata={"help": "Rounds of a forget and a recovery phase."})
    forget_steps: int = field(default=6, metadata={"help": "Steps on forget data per round."})
    recover_steps: int = field(default=60, metadata={"help": "Steps on retained data per round."})
    learning_rate: float = field(
        default=0.03, metadata={"help": "Learning rate of both phases.", "search": (0.2, 5.0, "factor")}
    )
    align: float = field(default=1.0, metadata={"help": "Weight of the alignment."})
    alpha: float = field(
        default=3.0, metadata={"help": "Weight of the distillation on forget data.", "search": (0.3, 10.0, "log")}
    )
    teacher: Teacher = field(
        default="auto",
        metadata={
            "help": "masked: the original without scores of requested classes; projected: its head on features "
            "projected to the main directions; original: as it is; auto: masked for class requests, else projected."
        },
    )
    energy: float = field(default=0.8, metadata={"help": "Share of the energy that the main directions hold."})
    directions: int | None = field(default=None, metadata={"help": "Number of main directions; none: by energy."})
    centred: bool = field(default=False, metadata={"help": "Take moments and alignment about the mean of R."})
    directions_from: Origin = field(
        default="auto",
        metadata={"help": "First directions: record, retain; auto: the record where it has features."},
    )
    refresh: bool = field(default=True, metadata={"help": "Measure the directions anew on R after each round."})
    mixed: bool = field(default=True, metadata={"help": "Show forget data among as many retained samples."})
    distill: float = field(default=1.0, metadata={"help": "Weight of the original's answers in the recovery."})
    batch_size: int = field(default=64, metadata={"help": "Samples per step."})
    stop: bool = field(
        default=True, metadata={"help": "For sample requests: stop when F looks like tuning data, never trained on."}
    )

    def __post_init__(self) -> None:
        findings = [
            f"{name}={getattr(self, name)!r} is out of range; it must be {text}."
            for name, text, holds in (
                ("rounds", "1 or more", self.rounds >= 1),
                ("forget_steps", "1 or more", self.forget_steps >= 1),
                ("recover_steps", "1 or more", self.recover_steps >= 1),
                ("learning_rate", "above 0 and finite", 0 < self.learning_rate < math.inf),
                (
                    "align",
                    "0 or more and finite, and above 0 with alpha=0",
                    0 <= self.align < math.inf and (self.align > 0 or self.alpha > 0),
                ),
                ("alpha", "0 or more and finite", 0 <= self.alpha < math.inf),
                ("directions", "1 or more, or none", self.directions is None or self.directions >= 1),
                ("energy", "above 0 and at most 1", 0 < self.energy <= 1),
                ("distill", "0 or more and finite", 0 <= self.distill < math.inf),
                ("batch_size", "2 or more", self.batch_size >= 2),
            )  # fmt: skip
            if not holds
        ]
        if findings:
            raise UnlearnError.of(findings)

    def unlearn(self, model: nn.Module, evidence: Evidence) -> Mapping[str, Any]:
        """Alternate both phases on `model`; see the base class."""
        if evidence.retain is None or not len(evidence.retain):
            raise UnlearnError("muda needs retained data to recover on; give the training data.")
        if self.teacher == "masked" and not evidence.forgotten_classes:
            raise UnlearnError(
                "muda: teacher=masked masks classes that are requested as a whole, and this request has none; take "
                "teacher=projected."
            )
        return _Rounds(self, model, evidence, evidence.retain).run()


class _Rounds:
    """One run: the model, its frozen original, and the main directions as they are now."""

    def __init__(self, options: Muda, model: nn.Module, evidence: Evidence, retain: Samples) -> None:
        self.options, self.model, self.evidence, self.retain = options, model, evidence, retain
        model.to(evidence.accelerator.device)
        self.original = copy.deepcopy(model).eval().requires_grad_(False)
        self.original_head = find_head(self.original)[1]
        self.generator = torch.Generator().manual_seed(evidence.seed)
        self.subspace: Subspace

    def run(self) -> Facts:
        self.subspace, origin = self._first_subspace()
        before = self._alignment_of_forget()
        made = 0
        for _ in self.evidence.progress(range(self.options.rounds), "aligning", self.options.rounds):
            self._phase(self.evidence.forget, self.options.forget_steps, self._forget_loss)
            self._phase(self.retain, self.options.recover_steps, self._recover_loss)
            refresh_batchnorm(
                self.model, self.retain, accelerator=self.evidence.accelerator, seed=self.evidence.seed
            )  # the forget phase showed F to the running statistics
            made += 1
            if self.options.refresh:
                self.subspace = self._measured_subspace()
            if self._looks_unseen():
                break
        return {
            "rounds": made,
            "directions": self.subspace.basis.shape[1],
            "features": self.subspace.basis.shape[0],
            "first_directions_from": origin,
            "alignment_before": before,
            "alignment_after": self._alignment_of_forget(),
        }

    def _phase(self, samples: Samples, steps: int, loss: Any) -> None:  # noqa: ANN401  # a bound method
        """Some training steps on random samples, with repeats only where there are too few."""
        wanted = steps * self.options.batch_size
        rounds = -(-wanted // len(samples))
        chosen = torch.cat([torch.randperm(len(samples), generator=self.generator) for _ in range(rounds)])[:wanted]
        recipe = Recipe(
            learning_rate=self.options.learning_rate, epochs=1, batch_size=self.options.batch_size, schedule="constant"
        )
        train(
            self.model, samples.select(chosen), recipe, accelerator=self.evidence.accelerator,
            seed=self.evidence.seed, progress=self.evidence.progress, loss=loss,
        )  # fmt: skip

    def _forget_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        images, labels, _ = batch
        shown = images
        if self.options.mixed:  # among retained samples, so that BatchNorm sees a batch as in training
            company, _, _ = next(iter(self._some_retained(len(labels)).loader(len(labels))))
            shown = torch.cat([images, company.to(images.device)])
        with head_input(model) as seen:
            logits = model(shown)[: len(labels)].float()
            features = seen.features[: len(labels)].float()
        loss = self.options.align * (1.0 - self.subspace.alignment(features))
        if self.options.alpha:
            distilled = masked_divergence(logits, self._teacher(images, labels), self._masked())
            loss = loss + self.options.alpha * distilled
        return loss

    @torch.no_grad()
    def _teacher(self, images: Tensor, labels: Tensor) -> Float[Tensor, "n c"]:
        """Logits of the original without what ties it to F."""
        with head_input(self.original) as known:
            plain: Tensor = self.original(images).float()
            features = known.features.float()
        if self.options.teacher in ("masked", "original"):
            return plain
        projected = apply_head(self.original_head, self.subspace.project(features)).float()
        if self.options.teacher == "projected":
            return projected
        by_class = torch.isin(labels, torch.tensor(self._masked(), dtype=labels.dtype, device=labels.device))
        return torch.where(by_class[:, None], plain, projected)

    def _masked(self) -> tuple[int, ...]:
        """Classes that the teacher of the forget phase gives nothing."""
        return self.evidence.forgotten_classes if self.options.teacher in ("auto", "masked") else ()

    def _recover_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        images, labels, _ = batch
        logits = model(images).float()
        loss = F.cross_entropy(logits, labels)
        if self.options.distill:
            with torch.no_grad():
                teacher = self.original(images).float()
            loss = loss + self.options.distill * masked_divergence(logits, teacher, self.evidence.forgotten_classes)
        return loss

    def _first_subspace(self) -> tuple[Subspace, Literal["record", "retained data"]]:
        """Main directions at the start: from the record if it holds features of this head, else from retained data.

        A model that was cleaned before is not the one whose features were recorded.
        """
        record, wanted = self.evidence.record, self.options.directions_from
        cleaned = self.evidence.earlier is not None
        if wanted == "retain" or cleaned or record is None or not record.shards("features"):
            if wanted == "record":
                raise UnlearnError("muda: directions_from=record needs a record with features; take auto or retain.")
            return self._measured_subspace(), "retained data"
        outputs = self._outputs(self.evidence.forget)
        statistics = _one_pass(record)
        rest = statistics.without(outputs, passes=statistics.n / float(record.data["n"]))
        return self._subspace(rest.mean.float(), rest.second_moment.float()), "record"

    def _measured_subspace(self) -> Subspace:
        features = self._outputs(self._some_retained(_BASIS_SAMPLES))
        return self._subspace(features.mean(0), features.T @ features / len(features))

    def _subspace(self, mean: Float[Tensor, " d"], second_moment: Float[Tensor, "d d"]) -> Subspace:
        options = self.options
        found = Subspace.of(
            mean, second_moment, centred=options.centred, energy=options.energy, count=options.directions
        )
        return found.to(self.evidence.accelerator.device)

    def _some_retained(self, count: int) -> Samples:
        return self.retain.select(torch.randperm(len(self.retain), generator=self.generator)[:count])

    def _outputs(self, samples: Samples) -> Float[Tensor, "n d"]:
        found = compute_outputs(
            self.model, samples, self.evidence.accelerator, batch_size=256, progress=self.evidence.progress
        )
        return found.features

    def _alignment_of_forget(self) -> float:
        return float(self.subspace.to(torch.device("cpu")).alignment(self._outputs(self.evidence.forget)))

    def _looks_unseen(self) -> bool:
        """Whether the mean margin of F is down to that of tuning data; asked for sample requests only."""
        tuning = self.evidence.tuning
        if not self.options.stop or self.evidence.forgotten_classes or tuning is None or not len(tuning):
            return False
        margins = [
            compute_outputs(
                self.model, samples, self.evidence.accelerator, batch_size=256, progress=self.evidence.progress
            ).margins.mean()
            for samples in (self.evidence.forget, tuning)
        ]
        return bool(margins[0] <= margins[1])


def _one_pass(record: TrainingRecord) -> FeatureStatistics:
    """Statistics of the latest windows that together saw as many samples as one epoch does."""
    wanted, last = float(record.data["n"]), 1
    found = recorded_features(record, last)
    while found.n < wanted:
        last += 1
        longer = recorded_features(record, last)
        if longer.n == found.n:  # that was everything
            break
        found = longer
    return found
