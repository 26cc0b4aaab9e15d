"""matching: reference matching. Teaches the model, sample by sample, what models that never saw F say about it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float16, Float32, Int64
from torch import Tensor, nn

from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.references import recorded_references
from unlearn_plugin.data import Batch, Samples
from unlearn_plugin.outputs import compute_outputs, margin
from unlearn_plugin.splits import Need, Request
from unlearn_plugin.training import OptimizerName, train
from unlearn_plugin.unlearners._steps import (
    ForgetBatch,
    ForgetBatches,
    TrainedUnlearner,
    check_options,
    frozen_copy,
    required,
    statistics_kept,
)
from unlearn_plugin.unlearners.base import Evidence, Facts, Preset
from unlearn_plugin.unlearners.scrub import distillation

__all__ = ["Matching", "average", "complete"]

_LOOKED_AT = 500  # samples of F that decide when its targets are reached
_LOOKS = 2  # per epoch; the divergence has its minimum at the targets, so F runs past them slowly if at all
_SGD_SHARE = 5.0  # of the rate of Adam
_NORMED_SHARE = 0.5  # of the rate for other networks: at the whole a transformer lost much of R


def complete(logits: Float16[Tensor, "m n c"]) -> Float32[Tensor, "m n c"]:
    """Log-probabilities from recorded logits, of which all but the ten largest may be missing.

    The classes that were not kept share evenly as much mass as the smallest kept one has: an upper bound on each of
    them is all that is known, and to give every one of hundreds that much would drown the kept ones.

    Args:
        logits: nan where not kept; a row that is nan throughout gives nan.

    Returns:
        Log-probabilities, in nats.
    """
    missing = logits.isnan()
    least = logits.float().where(~missing, torch.inf).amin(-1, keepdim=True)
    each = least - missing.sum(-1, keepdim=True).clamp_min(1).log()
    return logits.float().where(~missing, each).log_softmax(-1)


def average(logits: Float16[Tensor, "m n c"], without: tuple[int, ...] = ()) -> Float32[Tensor, "n c"]:
    """What models that never saw a sample say about it, on average.

    Formula: o(x) proportional to exp( mean over models of log p_m(x) ), the mean over those that never saw x.
    Log-probabilities are averaged, not probabilities: the log-odds of the average are the average log-odds, so more
    pairs make the target less noisy and no less sure. The mixture of probabilities is less sure than any single model.

    Args:
        logits: What each model says, as recorded; a row is nan throughout where the model saw the sample.
        without: Classes that the average may not name, since they are to be forgotten as a whole.

    Returns:
        Probabilities; rows sum to 1, or are nan where every model saw the sample.
    """
    saw = logits.isnan().all(-1)
    summed = complete(logits).masked_fill(saw[..., None], 0.0).sum(0)
    mean = summed / (~saw).sum(0)[:, None]
    mean[:, list(without)] = -torch.inf
    return mean.softmax(1)


@dataclass(frozen=True, kw_only=True)
class Matching(TrainedUnlearner):
    """Teach the model on F what half-data models of the record say, and keep it as it was on R.

    Formula: L = w KL( o(x) || f(x) ) on F  +  CE(x, y) + d KL( softmax f_orig(x) || f(x) ) on R, means over a batch
    each, sums over classes, in nats; d is `distill`, 0 by default. o(x) is the average over the pairs recorded for
    methods, see `average`: of each pair the model that never saw x. No label of F is read.

    F is left alone once the model is, on average over F, no surer than o of what the original predicted (mean log-odds
    of that class, so no label is needed here either), and again if training on R brings F back: never past its target.
    The half-data models know the classes that a request names as a whole. Their targets leave these classes out and
    spread the mass over the others, and there is no log-odds to stop at.

    BatchNorm layers learn their running statistics from R alone. A batch of F is as large as one of R, so that both are
    normalised by equally many samples; with half as many twice as much of R was lost. Adam moves the weights that F
    needs with less harm to the others: at the same distance from its targets SGD lost more of R on CIFAR-10.

    Source: ours; the idea of matching the outputs of models that never saw F is oracle matching, Georgiev et al. 2024,
    arXiv 2410.23232, which estimates them by data attribution. Half-data models see less than a retrained model would,
    so targets are somewhat less sure than its answers.
    """

    needs: ClassVar[Need] = Need.FORGET | Need.RETAIN | Need.RECORD
    summary: ClassVar[str] = "Teach the model what recorded half-data models, which never saw F, say about it."
    source: ClassVar[str] = "ours, after oracle matching, arXiv 2410.23232"
    presets: ClassVar[Mapping[Request, Preset]] = {
        "sample": Preset(options={"learning_rate": 0.002}, tuned="Fashion-MNIST and CIFAR-10, 1,000 images, two seeds"),
        "class": Preset(options={"learning_rate": 0.002}),
        "subject": Preset(options={"learning_rate": 0.002}),
    }

    epochs: int = field(default=4, metadata={"help": "Passes over the retained data."})
    weight: float = field(
        default=1.0, metadata={"help": "w, weight of the divergence on F.", "search": (0.1, 3.0, "log")}
    )
    distill: float = field(default=0.0, metadata={"help": "Weight of the divergence from the original on R."})
    optimizer: Literal["auto", "sgd", "adam", "adamw"] = field(
        default="auto", metadata={"help": "sgd, adam or adamw; auto: adamw."}
    )
    forget_batch_size: int = field(
        default=64, metadata={"help": "Samples of F beside every batch of R; fewer are cheaper and cost more of R."}
    )
    stop: bool = field(
        default=True, metadata={"help": "Leave F alone while the model is no surer of it than its targets are."}
    )

    def __post_init__(self) -> None:
        check_options(
            self,
            weight=("above 0 and finite", 0 < self.weight < math.inf),
            distill=("at least 0 and finite", 0 <= self.distill < math.inf),
            forget_batch_size=("2 or more", self.forget_batch_size >= 2),
        )
        super().__post_init__()

    def settled(self, request: Request, model: nn.Module) -> "Matching":
        """AdamW at the presets' rate; SGD at five times that, networks with LayerNorm at half. See the base class."""
        optimizer: OptimizerName = "adamw" if self.optimizer == "auto" else self.optimizer
        filled = super(TrainedUnlearner, self).settled(request, model)
        if self.learning_rate is None and filled.learning_rate is not None:
            normed = any(isinstance(layer, nn.LayerNorm) for layer in model.modules())
            share = (_SGD_SHARE if optimizer == "sgd" else 1.0) * (_NORMED_SHARE if normed else 1.0)
            filled = replace(filled, learning_rate=share * filled.learning_rate)
        return replace(filled, optimizer=optimizer)

    def unlearn(self, model: nn.Module, evidence: Evidence) -> Facts:
        """Read the targets, then step through R with F beside it; see `Unlearner.unlearn`."""
        retain, forget = required(evidence.retain, "retained", self), required(evidence.forget, "forget", self)
        targets, models = _targets(forget, evidence)
        recipe = self.settled(evidence.request, model).recipe()
        goal = _Goal(self, model.to(evidence.accelerator.device), forget, targets, evidence)
        teacher, batches = frozen_copy(model), ForgetBatches(evidence, min(self.forget_batch_size, len(forget)))
        taught = _Taught(forget, targets.to(evidence.accelerator.device))

        def loss(network: nn.Module, batch: Batch) -> Tensor:
            found = network(batch[0]).float()
            kept = F.cross_entropy(found, batch[1])
            if self.distill:
                with torch.no_grad():
                    said = teacher(batch[0]).float()
                kept = kept + self.distill * distillation(said, found)
            return kept + self.weight * taught.divergence(network, next(batches)) if goal.ahead else kept

        def stepped(step: int) -> bool:
            if step % apart == 0:
                goal.look(step)
            return False

        apart = math.ceil(len(retain) / self.batch_size / _LOOKS)
        goal.look(0)
        train(
            model, retain, recipe, accelerator=evidence.accelerator, seed=evidence.seed,
            progress=evidence.progress, loss=loss, after_step=stepped,
        )  # fmt: skip
        used = {"optimizer": recipe.optimizer, "learning_rate": recipe.learning_rate, "reference_models": models}
        return {**used, **goal.facts()}


def _targets(forget: Samples, evidence: Evidence) -> tuple[Float32[Tensor, "n c"], int]:
    """o(x) for every sample of F, and the number of models it comes from."""
    if evidence.record is None:
        raise UnlearnError("matching needs the record of the training run; give --record FOLDER.")
    found = recorded_references(evidence.record, "method")
    if found is None:
        raise UnlearnError(
            f"matching needs a pair of half-data models in the record, and {evidence.record.folder} holds none for "
            f"methods. Make one: train a model on each half of halves(data, pair=..., seed=...), as the real one was "
            f'trained, and give both to add_reference(..., purpose="method"); see hooks/README.md. A pair of the judge '
            f"cannot be used."
        )
    targets = average(found.logits(forget.record_rows(evidence.record.row_of)), evidence.forgotten_classes)
    if missing := int(targets.isnan().any(1).sum()):
        raise UnlearnError(
            f"matching: for {missing} of {len(forget)} requested samples the record's pairs for methods say nothing; "
            f"give add_reference all of the training data."
        )
    return targets, len(found.models)


class _Taught:
    """The divergence from the targets on batches of F."""

    def __init__(self, forget: Samples, targets: Float32[Tensor, "n c"]) -> None:
        self._targets = targets
        place = torch.full((len(forget.data),), -1).index_copy(0, forget.rows, torch.arange(len(forget)))
        self._place: Int64[Tensor, " rows"] = place.to(targets.device)

    def divergence(self, model: nn.Module, batch: ForgetBatch) -> Tensor:
        """KL(o || f), the mean over the batch in nats; BatchNorm statistics stay those of R."""
        images, _, rows = batch
        with statistics_kept(model):
            said = model(images).float().log_softmax(1)
        return F.kl_div(said, self._targets[self._place[rows]], reduction="batchmean")


class _Goal:
    """Whether the model is still surer of F than its targets are: mean log-odds of what the original predicted."""

    def __init__(
        self, options: Matching, model: nn.Module, forget: Samples, targets: Float32[Tensor, "n c"], evidence: Evidence
    ) -> None:
        self._model, self._evidence, self._batch_size = model, evidence, options.batch_size
        some = torch.randperm(len(forget), generator=torch.Generator().manual_seed(evidence.seed))[:_LOOKED_AT]
        self._forget = forget.select(some)
        self._predicted = self._logits().argmax(1)
        aim = margin(targets[some].clamp_min(torch.finfo(torch.float32).tiny).log(), self._predicted)
        self._aim = None if evidence.forgotten_classes else float(aim.mean())
        self._follow = options.stop and self._aim is not None
        self._first: float | None = None
        self._last: float | None = None
        self._reached: int | None = None
        self.ahead = True

    def _logits(self) -> Float32[Tensor, "n c"]:
        return compute_outputs(
            self._model, self._forget, self._evidence.accelerator, batch_size=self._batch_size,
            progress=self._evidence.progress,
        ).logits  # fmt: skip

    def look(self, step: int) -> None:
        """Decide again, after so many steps."""
        if not self._follow or self._aim is None:
            return
        self._last = float(margin(self._logits(), self._predicted).mean())
        self._first = self._last if self._first is None else self._first
        self.ahead = self._last > self._aim
        self._reached = step if self._reached is None and not self.ahead else self._reached

    def facts(self) -> Facts:
        """How sure the model was of F, is, and should be; in nats."""
        return {
            "confidence_on_forget_before": self._first,
            "confidence_on_forget_after": self._last,
            "confidence_of_targets": self._aim,
            "steps_until_targets_were_reached": self._reached,
        }
