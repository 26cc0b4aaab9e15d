"""The only file that wires everything: a job becomes a changed model, its measurements, a verdict and a folder."""

import os
import platform
import secrets
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unlearn_hooks.references import without_judge
from unlearn_plugin.account import describe_job, describe_method, without_single_samples
from unlearn_plugin.annex import make_annex, write_annex
from unlearn_plugin.cost import Cost, measured_cost
from unlearn_plugin.environment import write_environment
from unlearn_plugin.evidence import private_folder, write_commitment_key, write_digests
from unlearn_plugin.guard import inspect_change
from unlearn_plugin.job import Job
from unlearn_plugin.job_file import JOB_FILE, write_job_file, write_published_job
from unlearn_plugin.judging import Bench, measure_all
from unlearn_plugin.preparation import Prepared, prepare
from unlearn_plugin.progress import Progress
from unlearn_plugin.reading import MapDataset
from unlearn_plugin.report.card import render_card
from unlearn_plugin.report.html import render_html
from unlearn_plugin.report.notebook import outcome_html
from unlearn_plugin.report.report import SCHEMA, rounded, write_report
from unlearn_plugin.signing import Signer
from unlearn_plugin.surrogates import audit
from unlearn_plugin.unlearners._search import search
from unlearn_plugin.unlearners.base import Evidence
from unlearn_plugin.values import as_text
from unlearn_plugin.verdict import Verdict, decide

__all__ = ["Outcome", "carry_out", "resolved", "run"]


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
        prepared, facts = _unlearn(prepared, model, evidence)
    prepared.checkpoint.settle(model)
    trial = bench.trial_of(prepared, progress)
    guard = inspect_change(prepared.checkpoint.model, model, trial)
    after = None if guard["reasons"] else model
    key = secrets.token_bytes(32)
    now = datetime.now(timezone.utc)
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "report_id": str(uuid.uuid4()),
        "created_utc": now.strftime("%Y-%m-%dT%H:%MZ"),
        **describe_job(prepared, key),
    }
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


def _unlearn(prepared: Prepared, model: nn.Module, evidence: Evidence) -> tuple[Prepared, Mapping[str, Any]]:
    """Run the method; after a search, the job is the one with the settings that were kept."""
    if not prepared.trials:
        return prepared, prepared.method.unlearn(model, evidence)
    method, facts = search(prepared.method, model, evidence, prepared.trials, tuple(prepared.job.options))
    return replace(prepared, method=method), facts


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
        earlier=splits.earlier if prepared.earlier.manifests else None,
        fresh=prepared.checkpoint.fresh,
        accelerator=prepared.accelerator,
        seed=prepared.job.seed,
        progress=progress,
    )


def _procedure(prepared: Prepared, facts: Mapping[str, Any], cost: Cost) -> dict[str, Any]:
    return {
        **describe_method(prepared),
        "seconds": round(cost.seconds, 3),
        "cpu_seconds": round(cost.cpu_seconds, 3),
        "peak_memory": cost.peak_memory,
        "facts": without_single_samples(facts, len(prepared.splits.forget)),
        "environment": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": version("timm"),
            "unlearn_plugin": version("unlearn-plugin"),
            "device": prepared.accelerator.device.type,
        },
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
        earlier=prepared.earlier.paths,
    )
