"""The only file that wires everything: a job becomes a changed model, its measurements, a verdict and a folder."""

import os
import platform
import secrets
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unlearn_hooks.references import without_judge
from unlearn_hooks.training_record import TrainingRecord
from unlearn_plugin.annex import make_annex, write_annex
from unlearn_plugin.cost import Cost, measured_cost
from unlearn_plugin.data import Samples
from unlearn_plugin.environment import write_environment
from unlearn_plugin.evidence import private_folder, write_commitment_key, write_digests
from unlearn_plugin.guard import inspect_change
from unlearn_plugin.job import Job
from unlearn_plugin.job_file import JOB_FILE, write_job_file, write_published_job
from unlearn_plugin.metrics.base import Split, Tier, Trial
from unlearn_plugin.preparation import Prepared, prepare
from unlearn_plugin.progress import Progress
from unlearn_plugin.reading import MapDataset
from unlearn_plugin.registry import metrics
from unlearn_plugin.report.card import render_card
from unlearn_plugin.report.html import render_html
from unlearn_plugin.report.notebook import outcome_html
from unlearn_plugin.report.report import SCHEMA, rounded, write_report
from unlearn_plugin.signing import Signer
from unlearn_plugin.surrogates import audit
from unlearn_plugin.unlearners.base import Evidence
from unlearn_plugin.values import as_text
from unlearn_plugin.verdict import Verdict, decide

__all__ = ["Bench", "Outcome", "carry_out", "make_trial", "measure_all", "resolved", "run"]

_JUDGED_RETAIN = 10_000  # retained samples the judge looks at, at most


@dataclass(frozen=True)
class Outcome:
    """What came of a job.

    Attributes:
        folder: Where it was written.
        report: Content of report.json.
        verdict: What the measurements say.
    """

    folder: Path
    report: Mapping[str, Any]
    verdict: Verdict

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return outcome_html(self.report)


def run(
    job: Job,
    *,
    progress: Progress | None = None,
    signer: Signer | None = None,
    data: tuple[MapDataset, MapDataset] | None = None,
) -> Outcome:
    """Unlearn, measure, judge and write the output folder.

    Everything is checked before the first tensor is touched. The folder appears under its name only when it is
    finished; weights that are not finite, unchanged or collapsed are never written.

    Args:
        job: What the user asked for.
        progress: Wraps long loops in a bar.
        signer: Signs the statement, if given.
        data: (train, held-out) in memory, instead of what the job names.

    Returns:
        The outcome; ``outcome.verdict.released`` says whether the verdict lets the weights go.

    Raises:
        UnlearnError: If the job cannot be done, with every finding at once.
    """
    return carry_out(prepare(job, data=data), progress or Progress(), signer=signer)


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


def carry_out(
    prepared: Prepared, progress: Progress, *, signer: Signer | None = None, bench: Bench | None = None
) -> Outcome:
    """Do what `run` does, for a job that was checked already.

    Args:
        prepared: The checked job.
        progress: Wraps long loops in a bar.
        signer: Signs the statement, if given.
        bench: What the job has in common with others.

    Returns:
        The outcome.

    Raises:
        UnlearnError: If the method cannot do it.
    """
    bench = bench or Bench()
    model = prepared.checkpoint.copy()
    evidence = _evidence(prepared, progress)
    with measured_cost(prepared.accelerator.device) as cost:
        facts = prepared.method.unlearn(model, evidence)
    prepared.checkpoint.settle(model)
    trial = bench.trial_of(prepared, progress)
    guard = inspect_change(prepared.checkpoint.model, model, trial)
    after = None if guard["reasons"] else model
    key = secrets.token_bytes(32)
    report = _head(prepared, key)
    report["model"]["after"] = {"digest": prepared.checkpoint.digest_of(model)} if after is not None else None
    report |= {
        "procedure": _procedure(prepared, facts, cost),
        "guard": guard,
        "measurements": measure_all(trial, after, progress, tier=prepared.tier, known=bench.measured),
    }
    if prepared.job.surrogates and after is not None:
        report["surrogates"] = audit(prepared, evidence, trial, after)
    report = rounded(report)  # the verdict must follow from the numbers as they are written
    verdict = decide(report)
    report["overall"] = rounded({**asdict(verdict), "process": "COMPLETE", "erasure": "PENDING"})
    annex = make_annex(trial, {"before": trial.original, "after": after, "reference": trial.reference})
    trial.release(model)
    folder = _write(prepared, report, after, key, annex, signer)
    return Outcome(folder=folder, report=report, verdict=verdict)


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
    references = prepared.references
    return Trial(
        forget=splits.forget,
        controls=splits.verdict,
        tuning=splits.tuning,
        retain=splits.retain.select(chosen),
        subjects=splits.subjects,
        forgotten_classes=splits.forgotten_classes,
        largely_requested=splits.largely_requested(),
        classes=prepared.train.classes,
        original=prepared.checkpoint.model,
        reference=prepared.reference.model if prepared.reference else None,
        accelerator=prepared.accelerator,
        seed=prepared.job.seed,
        batch_size=prepared.job.batch_size,
        progress=progress,
        references={split: references.margins(samples) for split, samples in parts.items()} if references else {},
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
        The report's ``measurements``, by metric name.
    """
    known = {} if known is None else known
    models = {"before": trial.original, "after": after, "reference": trial.reference}
    family = metrics()
    found = {}
    for name in progress([name for name in family.names() if family.get(name).tier <= tier], "measuring"):
        metric = family.create(name, {})
        for who, model in models.items():
            if model and who != "after" and (name, who) not in known:
                known[name, who] = metric.measure(model, trial).as_dict()
        found[name] = {
            "title": metric.title,
            "explanation": metric.explanation,
            "goal": metric.goal.value,
            "source": metric.source,
            "before": known[name, "before"],
            "after": metric.measure(after, trial).as_dict() if after else None,
            "reference": known.get((name, "reference")) if trial.reference else None,
        }
    return found


def _evidence(prepared: Prepared, progress: Progress) -> Evidence:
    splits = prepared.splits
    return Evidence(
        forget=splits.forget,
        retain=splits.retain,
        tuning=splits.tuning,
        record=without_judge(prepared.record) if prepared.record else None,
        classes=prepared.checkpoint.num_classes,
        forgotten_classes=splits.forgotten_classes,
        one_subject=splits.one_subject,
        fresh=prepared.checkpoint.fresh,
        accelerator=prepared.accelerator,
        seed=prepared.job.seed,
        progress=progress,
    )


def _head(prepared: Prepared, key: bytes) -> dict[str, Any]:
    splits, checkpoint, manifest = prepared.splits, prepared.checkpoint, prepared.manifest
    now = datetime.now(timezone.utc)
    copies = splits.copies()
    return {
        "schema": SCHEMA,
        "report_id": str(uuid.uuid4()),
        "created_utc": now.strftime("%Y-%m-%dT%H:%MZ"),
        "request": {
            "reference": manifest.request,
            "received": manifest.received.isoformat() if manifest.received else None,
            "kind": manifest.kind,
            "n_samples": len(splits.forget),
            "n_subjects": int(splits.subjects.max()) + 1 if splits.subjects is not None else None,
            "commitment": {
                "scheme": "hmac-sha256",
                "digest": manifest.commitment(key),
                "key_state": "held by the operator",
            },
        },
        "model": {
            "architecture": checkpoint.architecture,
            "source": checkpoint.source,
            "num_classes": checkpoint.num_classes,
            "classes": list(prepared.train.classes),
            "before": {"digest": checkpoint.digest},
            "reference": {"digest": prepared.reference.digest} if prepared.reference else None,
        },
        "data": {
            "n_train": len(prepared.train.ids) - (splits.sealed and len(splits.tuning) + len(splits.verdict)),
            "controls": "sealed before training" if splits.sealed else "held-out split",
            "n_forget": len(splits.forget),
            "n_retain": len(splits.retain),
            "n_tuning": len(splits.tuning),
            "n_verdict": len(splits.verdict),
            "n_copies": None if copies is None else len(copies),
        },
    }


def _procedure(prepared: Prepared, facts: Mapping[str, Any], cost: Cost) -> dict[str, Any]:
    method = prepared.method
    return {
        "method": prepared.job.method,
        "summary": method.summary,
        "source": method.source,
        "exact": method.exact,
        "options": asdict(method),  # type: ignore[call-overload]  # every method is a dataclass; the base class is not
        "seed": prepared.job.seed,
        "seconds": round(cost.seconds, 3),
        "cpu_seconds": round(cost.cpu_seconds, 3),
        "peak_memory": cost.peak_memory,
        "facts": dict(facts),
        "environment": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": version("timm"),
            "unlearn_plugin": version("unlearn-plugin"),
            "device": prepared.accelerator.device.type,
        },
        "record": _record_facts(prepared.record) if prepared.record else None,
    }


def _record_facts(record: TrainingRecord) -> dict[str, Any]:
    return {
        "run_id": record.manifest["run_id"],
        "digest": record.digest(),
        "steps": record.recipe.get("steps"),
        "complete": record.complete,
    }


def _write(
    prepared: Prepared,
    report: dict[str, Any],
    after: nn.Module | None,
    key: bytes,
    annex: Mapping[str, Any],
    signer: Signer | None,
) -> Path:
    out = Path(prepared.job.out)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        if after is not None:
            prepared.checkpoint.save(after, partial)
        write_report(report, partial)
        (partial / "report.html").write_text(render_html(report), encoding="utf-8")
        (partial / "README.md").write_text(render_card(report), encoding="utf-8")
        write_published_job(resolved(prepared), partial)
        write_environment(prepared.accelerator, partial)
        write_digests(partial)
        if signer is not None:
            signer.sign(partial)
        _write_private(resolved(prepared), key, annex)
        if out.exists():
            out.rmdir()  # prepare() saw that it is empty
        os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def _write_private(job: Job, key: bytes, annex: Mapping[str, Any]) -> None:
    folder = private_folder(Path(job.out))
    folder.mkdir(mode=0o700, exist_ok=True)
    write_job_file(job, folder / JOB_FILE)
    write_commitment_key(key, folder)
    write_annex(annex, folder)


def resolved(prepared: Prepared) -> Job:
    """Write down what a job leaves to defaults that another version or machine may set otherwise.

    Args:
        prepared: The checked job.

    Returns:
        The job with every option of its method, its device and its tier.
    """
    options = asdict(prepared.method)  # type: ignore[call-overload]  # every method is a dataclass; the base class is not
    return replace(
        prepared.job,
        options={name: as_text(value) for name, value in options.items()},
        device=prepared.job.device or prepared.accelerator.device.type,
        tier=prepared.tier,
    )
