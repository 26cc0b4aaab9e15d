"""Judging: what the judge looks at, and all that it measures; what several jobs have in common is measured once."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from unlearn_plugin.data import Samples
from unlearn_plugin.measurement import FEWEST, FEWEST_NOTE, Measurement
from unlearn_plugin.metrics.base import Metric, Split, Tier, Trial
from unlearn_plugin.out_of_sample import mean_recorded_loss
from unlearn_plugin.preparation import Prepared
from unlearn_plugin.progress import Progress
from unlearn_plugin.registry import metrics

__all__ = ["Bench", "make_trial", "measure_all"]

_JUDGED_RETAIN = 10_000  # retained samples the judge looks at, at most


def make_trial(prepared: Prepared, progress: Progress) -> Trial:
    """Gather what the judge looks at.

    Args:
        prepared: The checked job.
        progress: Wraps long loops in a bar.

    Returns:
        The trial; the retained samples are a random subset of at most 10,000.
    """
    splits = prepared.splits
    generator = torch.Generator().manual_seed(prepared.job.seed)
    chosen = torch.randperm(len(splits.retain), generator=generator)[:_JUDGED_RETAIN].sort().values
    parts: dict[Split, Samples] = {"forget": splits.forget, "controls": splits.verdict, "tuning": splits.tuning}
    retain, references = splits.retain.select(chosen), prepared.references
    losses = mean_recorded_loss(prepared.record, prepared.train) if prepared.record else None
    return Trial(
        forget=splits.forget,
        controls=splits.verdict,
        tuning=splits.tuning,
        retain=retain,
        subjects=splits.subjects,
        forgotten_classes=splits.forgotten_classes,
        largely_requested=splits.largely_requested(),
        earlier_classes=splits.earlier_classes,
        classes=prepared.train.classes,
        original=prepared.checkpoint.model,
        reference=prepared.reference.model if prepared.reference else None,
        accelerator=prepared.accelerator,
        seed=prepared.job.seed,
        batch_size=prepared.job.batch_size,
        progress=progress,
        references={split: references.margins(samples) for split, samples in parts.items()} if references else {},
        recorded_loss={} if losses is None else {"forget": losses[splits.forget.rows], "retain": losses[retain.rows]},
    )


def measure_all(
    trial: Trial,
    after: nn.Module | None,
    progress: Progress,
    *,
    tier: Tier = "A",
    known: dict[tuple[str, str], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Make every measurement of a tier on the model before, after, and on the reference.

    Args:
        trial: What the judge looks at.
        after: The changed model; ``None`` when it was refused.
        progress: Wraps the loop in a bar.
        tier: Metrics of a higher one are left out.
        known: What was measured on the model before and on the reference, by metric and model; is added to.

    Returns:
        The report's ``measurements``, by metric name; with fewer than `FEWEST` requested samples nothing about them.
    """
    known = {} if known is None else known
    models = {"before": trial.original, "after": after, "reference": trial.reference}
    family = metrics()
    found = {}
    for name in progress([name for name in family.names() if family.get(name).tier <= tier], "measuring"):
        metric = family.create(name, {})
        withheld = metric.about_forget and len(trial.forget) < FEWEST
        for who, model in models.items():
            if model and who != "after" and (name, who) not in known:
                known[name, who] = _measured(metric, model, trial, withheld=withheld)
        found[name] = {
            "title": metric.title,
            "explanation": metric.explanation,
            "goal": metric.goal.value,
            "source": metric.source,
            "before": known[name, "before"],
            "after": _measured(metric, after, trial, withheld=withheld) if after else None,
            "reference": known.get((name, "reference")) if trial.reference else None,
        }
    return found


def _measured(metric: Metric, model: nn.Module, trial: Trial, *, withheld: bool) -> dict[str, Any]:
    found = Measurement.missing(FEWEST_NOTE) if withheld else metric.measure(model, trial)
    return found.as_dict()


@dataclass
class Bench:
    """What jobs on the same model, data and request have in common, so that it is made once.

    Attributes:
        trial: What the judge looks at; ``None`` before the first job.
        measured: What was measured on a model that no job changes, by metric and model.
    """

    trial: Trial | None = None
    measured: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    def trial_of(self, prepared: Prepared, progress: Progress) -> Trial:
        """The trial of one of the jobs.

        Args:
            prepared: Alike to all others but in its method and its reference.
            progress: Wraps the loops of the first one in a bar.

        Returns:
            The trial, with outputs of the fixed models where they were computed already.
        """
        if self.trial is None:
            self.trial = make_trial(prepared, progress)
        reference = prepared.reference.model if prepared.reference else None
        if self.trial.reference is not reference:
            self.measured = {key: found for key, found in self.measured.items() if key[1] != "reference"}
            self.trial = replace(self.trial, reference=reference)
        return self.trial
