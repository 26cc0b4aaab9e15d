"""`unlearn verify`: does an output folder tell the truth? Recomputed from the files, trusting none of them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from unlearn_plugin.evidence import check_digests, private_folder, read_commitment_key
from unlearn_plugin.job_file import JOB_FILE, check_published_job, read_job
from unlearn_plugin.pipeline import make_trial, measure_all
from unlearn_plugin.preparation import Prepared, load_model, prepare
from unlearn_plugin.progress import Progress
from unlearn_plugin.report.html import render_html
from unlearn_plugin.report.report import read_report, rounded
from unlearn_plugin.verdict import decide

__all__ = ["Verification", "verify"]

_TOLERANCE = 2e-3  # of a measured value: another processor rounds another way, and a sample near a tie may flip


@dataclass
class Verification:
    """What was checked.

    Attributes:
        checked: What was found to be as the report says.
        skipped: What could not be checked, with the reason.
        findings: What is not as it should be.
        measured: The report with the measurements made again, if they could be.
    """

    checked: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    measured: dict[str, Any] | None = None

    def note(self, what: str, findings: list[str]) -> None:
        """Keep the outcome of one check."""
        if findings:
            self.findings.extend(findings)
        else:
            self.checked.append(what)


def verify(
    out: Path, *, reference: str | None = None, private: Path | None = None, progress: Progress | None = None
) -> Verification:
    """Check digests, page, weights and verdict; measure everything again where the job is at hand.

    Args:
        out: An output folder of ``unlearn apply``.
        reference: A retrained model to measure against, besides what the job names.
        private: The private folder; beside `out` when not given.
        progress: Wraps long loops in a bar.

    Returns:
        What was checked and found.

    Raises:
        UnlearnError: If `out` holds no readable report, or the job's parts cannot be loaded any more.
    """
    report = read_report(out)
    found = Verification()
    found.note("every published file has the digest in evidence/SHA256SUMS", check_digests(out))
    found.note("the verdict follows from the measurements in report.json", _check_verdict(report))
    found.note("report.html shows report.json", _check_page(out, report))
    kept = private or private_folder(out)
    if not (kept / JOB_FILE).exists():
        found.skipped.append(
            "weights and measurements: the private folder with the job is not here, give it by --private"
        )
        return found
    job = read_job(kept / JOB_FILE)
    found.note("evidence/job.json is the public part of the job", check_published_job(job, out))
    if reference:
        job = replace(job, reference=reference)
    prepared = prepare(replace(job, out=str(out)), writing=False)
    found.note("the model before is the one the report names", _check_before(report, prepared))
    found.note("the request is the one the report commits to", _check_commitment(report, prepared, kept))
    _measure_again(out, report, prepared, found, progress or Progress())
    return found


def _check_verdict(report: Mapping[str, Any]) -> list[str]:
    told = report["overall"]
    try:
        found = rounded(asdict(decide(report)))
    except (KeyError, TypeError, AttributeError) as error:  # the forms a missing or misshapen field takes
        return [f"report.json: the verdict cannot be computed from it, a field is missing or misshapen ({error!r})."]
    return [
        f"report.json: overall.{name} is {told.get(name)!r}, and the measurements give {value!r}."
        for name, value in found.items()
        if told.get(name) != value
    ]


def _check_page(out: Path, report: Mapping[str, Any]) -> list[str]:
    page = out / "report.html"
    if page.exists() and page.read_text(encoding="utf-8") == render_html(report):
        return []
    return ["report.html is not the page that report.json makes; it was changed, or another version wrote it."]


def _check_before(report: Mapping[str, Any], prepared: Prepared) -> list[str]:
    if report["model"]["before"]["digest"] == prepared.checkpoint.digest:
        return []
    return ["The model before is not the one the report names: its digest differs."]


def _check_commitment(report: Mapping[str, Any], prepared: Prepared, private: Path) -> list[str]:
    if prepared.manifest.commitment(read_commitment_key(private)) == report["request"]["commitment"]["digest"]:
        return []
    return ["The forget manifest is not the one the report commits to; it was changed since."]


def _measure_again(
    out: Path, report: Mapping[str, Any], prepared: Prepared, found: Verification, progress: Progress
) -> None:
    after = None
    if report["model"]["after"]:
        checkpoint = load_model(prepared.job, f"local-dir:{out}")
        after = checkpoint.model
        same = checkpoint.digest == report["model"]["after"]["digest"]
        found.note(
            "the weights are those the report names",
            [] if same else ["model.safetensors: not the weights the report names; the digest differs."],
        )
    measured = measure_all(make_trial(prepared, progress), after, progress)
    told = report["measurements"]
    differing = [
        f"{name} ({who}): the report says {told[name][who]['value']}, measured again it is {again[who]['value']}."
        for name, again in measured.items()
        for who in ("before", "after", "reference")
        if name in told and told[name][who] and again[who] and not _close(told[name][who]["value"], again[who]["value"])
    ]
    found.note("measured again, every value is the report's", differing)
    found.measured = {**report, "measurements": measured}


def _close(told: float | None, again: float | None) -> bool:
    if told is None or again is None:
        return told is again
    return abs(told - again) <= _TOLERANCE
