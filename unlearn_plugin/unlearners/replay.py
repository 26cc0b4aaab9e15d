"""replay: run the recorded training again, from before it met F, without F."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.randomness import random_states_kept
from unlearn_hooks.snapshots import Snapshot
from unlearn_hooks.training_record import TrainingRecord
from unlearn_hooks.updates import recorded_updates
from unlearn_plugin.data import Samples
from unlearn_plugin.splits import Need
from unlearn_plugin.unlearners._reproduction import compare, next_state
from unlearn_plugin.unlearners._rerun import BatchLoss, Recipe, RecordedRun, Rerun, find_optimizer, plain_loss
from unlearn_plugin.unlearners._training_data import TrainingData, seed_everything
from unlearn_plugin.unlearners.base import Evidence, Unlearner
from unlearn_plugin.user_code import load_function

__all__ = ["Replay"]


@dataclass(frozen=True, kw_only=True)
class Replay(Unlearner):
    """Run the recorded training again without F, from the newest recorded state that is older than F's first step.

    Order of the samples, learning rates, optimizer state and random numbers are the recorded ones, each pass over the
    data begins with its recorded random states, and F is left out of its micro-batches:

        g_t = mean gradient over B_t without F;    a micro-batch that is all F is no batch, a step that is all F no step

    On the same machine, with deterministic operations and as many threads, the result is bit by bit what a training
    would have given whose loader had left F out of each batch. What the record does not say (loss, clipping, the data's
    random changes) is assumed or told by options, and tested: before anything is left out, training is run again with
    F up to a recorded state and compared with it.

    Nothing of F enters the result in any case, unless the weights that training began with had met F.

    Attributes:
        check: Whether to test that the recorded run is reproduced; costs an epoch, or a quarter of the run, at most.
        data: What training read, with its random changes.
        loss: What training minimised.
        label_smoothing: Of the cross-entropy.
        clip_norm: Limit of the gradient's norm.
        divisor: What the loss of a micro-batch was divided by.
        optimizer: Class of the optimizer.

    Source: the definition of exact unlearning; ours in its form. Going back to a checkpoint older than the sample is a
    step of SISA (Bourtoule et al. 2021, arXiv 1912.03817), there within shards of the data; here there are none.
    """

    needs: ClassVar[Need] = Need.FORGET | Need.RETAIN | Need.RECORD
    exact: ClassVar[bool] = True
    summary: ClassVar[str] = "Run the recorded training again from before it met the forget data, without them."
    source: ClassVar[str] = "ours; returning to an older checkpoint is from SISA, https://arxiv.org/abs/1912.03817"

    check: bool = field(
        default=True,
        metadata={"help": "First run with F up to a recorded state, an epoch away if there is one, and compare."},
    )
    data: str | None = field(
        default=None,
        metadata={
            "help": "package.module:function that gives the training loader or its data set, with the random changes "
            "that training made; none: the data of the job, as they are."
        },
    )
    loss: str | None = field(
        default=None,
        metadata={
            "help": "package.module:function of (model, images, labels) that gives the mean loss of a batch; none: "
            "cross-entropy."
        },
    )
    label_smoothing: float = field(default=0.0, metadata={"help": "Label smoothing of the cross-entropy."})
    clip_norm: float | None = field(default=None, metadata={"help": "Norm that training clipped gradients to."})
    divisor: int | None = field(
        default=None,
        metadata={
            "help": "What training divided the loss of a micro-batch by; none: the largest number of micro-batches in "
            "a step."
        },
    )
    optimizer: str | None = field(
        default=None, metadata={"help": "package.module:Class of the optimizer, if it is none of torch's own."}
    )

    def __post_init__(self) -> None:
        findings = [
            f"{name}={getattr(self, name)!r} is out of range; it must be {text}."
            for name, text, holds in (
                ("label_smoothing", "at least 0 and below 1", 0 <= self.label_smoothing < 1),
                ("clip_norm", "above 0 and finite, or none", self.clip_norm is None or 0 < self.clip_norm < math.inf),
                ("divisor", "1 or more, or none", self.divisor is None or self.divisor >= 1),
                ("loss", "none together with label_smoothing", self.loss is None or not self.label_smoothing),
            )
            if not holds
        ]
        if findings:
            raise UnlearnError.of(findings)

    def unlearn(self, model: nn.Module, evidence: Evidence) -> Mapping[str, Any]:
        """Replace all weights and buffers by those of the training without F; see the base class."""
        record, retain = evidence.record, evidence.retain
        if record is None or retain is None:
            raise UnlearnError("replay needs the record of the training and the retained data; give --record FOLDER.")
        run = RecordedRun.read(record)
        gone = _left_out(record, evidence)
        first = run.first_seen(gone)
        if first is None or run.first_seen(_rows_of(record, evidence.forget)) is None:
            raise UnlearnError(
                "replay found no step that saw any of the samples to forget: the recorded training did without them. "
                "Look at the ids in the request and at those of the record."
            )
        start = [snapshot for snapshot in run.snapshots if snapshot.step <= first][-1]
        recipe = self._recipe(run, start)
        data = self._data(record, evidence.left_out, retain)
        _check_all_there(run.rows() - set(gone.tolist()), data)
        fresh = evidence.fresh(evidence.seed)
        rerun = Rerun(fresh, run, data, recipe, accelerator=evidence.accelerator, progress=evidence.progress)
        steps = run.schedule.steps
        with random_states_kept():
            seed_everything(evidence.seed)
            whole = run.rows() <= data.position.keys()
            facts = self._reproduction(rerun, run, record, start, whole=whole)
            seed_everything(evidence.seed)
            counts = rerun.go(start, steps, gone)
        with torch.no_grad():
            model.load_state_dict(fresh.state_dict())
        return {
            "from_step": start.step,
            "first_forget_step": first,
            "steps_of_the_run": steps,
            "steps_replayed": counts.steps,
            "steps_that_were_all_forget": counts.emptied,
            "share_of_the_run": run.samples(start.step, steps, gone) / run.samples(0, steps, gone[:0]),
            **facts,
            "assumed": self._assumed(recipe, data),
            "not_reproduced": _not_reproduced(run, record, start, data),
        }

    def _recipe(self, run: RecordedRun, start: Snapshot) -> Recipe:
        loss: BatchLoss = load_function(self.loss, "-o loss") if self.loss else plain_loss(self.label_smoothing)
        most = max(len(run.micro_batches(step)) for step in range(run.schedule.steps))
        return Recipe(
            optimizer=find_optimizer(start.optimizer, self.optimizer),
            loss=loss,
            divisor=most if self.divisor is None else self.divisor,
            clip_norm=self.clip_norm,
        )

    def _data(self, record: TrainingRecord, *parts: Samples) -> TrainingData:
        return TrainingData.of_samples(record, *parts) if self.data is None else TrainingData.named(self.data, record)

    def _reproduction(
        self, rerun: Rerun, run: RecordedRun, record: TrainingRecord, start: Snapshot, *, whole: bool
    ) -> dict[str, bool | int | float | None]:
        """Run with F up to a recorded state, a pass or a quarter of the run away at most, and compare."""
        steps = run.schedule.steps
        one_pass = min((begun.step for begun in run.passes if begun.step > start.step), default=steps) - start.step
        target = None
        if self.check and whole:  # samples of earlier requests may be deleted
            target = next_state(start, one_pass, steps // 4, run.snapshots, recorded_updates(record))
        weights = {} if target is None else target.weights()
        if target is None or not weights:
            return {"reproduces_the_run": None, "checked_steps": 0, "deviation": None}
        rerun.go(start, target.step, torch.empty(0, dtype=torch.int64))
        found = compare(rerun.model, weights, start.weights())
        return {
            "reproduces_the_run": found.identical,
            "checked_steps": target.step - start.step,
            "deviation": found.deviation if math.isfinite(found.deviation) else None,
        }

    def _assumed(self, recipe: Recipe, data: TrainingData) -> dict[str, Any]:
        return {
            "loss": "given" if self.loss else "cross-entropy",
            "label_smoothing": self.label_smoothing,
            "clip_norm": self.clip_norm,
            "loss_divided_by": recipe.divisor,
            "optimizer": recipe.optimizer.__name__,
            "data": "random" if data.random else "the same at every reading",
        }


def _rows_of(record: TrainingRecord, samples: Samples) -> Int64[Tensor, " k"]:
    """Rows of the record that samples stand for; those that training never had are left out."""
    if record.ids is None:
        return samples.rows
    row_of = {name: row for row, name in enumerate(record.ids)}
    return torch.tensor([row_of[name] for name in samples.ids if name in row_of], dtype=torch.int64)


def _left_out(record: TrainingRecord, evidence: Evidence) -> Int64[Tensor, " k"]:
    """Rows of F and of earlier requests, and those that the data do not hold any more since such a request."""
    rows = _rows_of(record, evidence.left_out)
    if evidence.earlier is None or record.ids is None:
        return rows
    there = evidence.earlier.data.row_of
    deleted = [row for row, name in enumerate(record.ids) if name not in there]
    return torch.cat([rows, torch.tensor(deleted, dtype=torch.int64)])


def _check_all_there(wanted: set[int], data: TrainingData) -> None:
    missing = len(wanted - data.position.keys())
    if missing:
        raise UnlearnError(
            f"replay lacks {missing} of the samples that training saw; give the whole training data, with "
            f"--retain-fraction 1, under the ids that the record has for them."
        )


def _not_reproduced(run: RecordedRun, record: TrainingRecord, start: Snapshot, data: TrainingData) -> list[str]:
    """What is known to differ from the recorded training, whatever the check said."""
    passes = [begun for begun in run.passes if begun.step >= start.step]
    world = record.manifest.get("world", 1)
    told = {
        f"training ran in {world} processes, and one runs it again": world > 1,
        "random numbers of passes whose beginning was not seen": any(begun.states is None for begun in passes),
        "random numbers of workers that were kept from pass to pass": data.random
        and any(begun.workers and begun.seed is None for begun in passes),
        "what the loader's worker_init_fn did": data.random
        and data.init is None
        and any(b.own_init and b.workers for b in passes),
        f"parts of the optimizer's state: {', '.join(start.lost)}": bool(start.lost),
    }
    return [what for what, holds in told.items() if holds]
