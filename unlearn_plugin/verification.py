"""`unlearn verify`: does an output folder tell the truth? Recomputed from the files, trusting none of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.evidence import SIGNATURE, private_folder, read_commitment_key
from unlearn_plugin.job_file import JOB_FILE, check_published_job, read_job
from unlearn_plugin.judging import make_trial, measure_all
from unlearn_plugin.preparation import Prepared, load_model, prepare
from unlearn_plugin.progress import Progress
from unlearn_plugin.reading import MapDataset
from unlearn_plugin.registry import metrics
from unlearn_plugin.report.notebook import verification_html
from unlearn_plugin.report.report import read_report, rounded
from unlearn_plugin.signing import PublicKey, check_signature
from unlearn_plugin.soundness import check_soundness
from unlearn_plugin.verdict import decide

__all__ = ["Verification", "verify"]

_TOLERANCE = 2e-3  # of a measured value: another processor rounds another way, and a sample near a tie may flip
_NEEDS_PRIVATE = (
    "the measurements: the data and the model before are found by the private folder; give it by --private",
    "the model before: its digest is in the report, and where it lies in the private folder",
    "the request: the key of its commitment is in the private folder",
)


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

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return verification_html(self.checked, self.skipped, self.findings)

    def note(self, what: str, findings: list[str]) -> None:
        """Keep the outcome of one check."""
        if findings:
            self.findings.extend(findings)
        else:
            self.checked.append(what)


def verify(
    out: Path,
    *,
    reference: str | None = None,
    private: Path | None = None,
    key: PublicKey | None = None,
    progress: Progress | None = None,
    data: tuple[MapDataset, MapDataset] | None = None,
) -> Verification:
    """Check all that the folder says of itself, and its signature; measure everything again where the job is at hand.

    Args:
        out: An output folder of ``unlearn apply``.
        reference: A retrained model to measure against, besides what the job names.
        private: The private folder; beside `out` when not given.
        key: Whose signature must be there.
        progress: Wraps long loops in a bar.
        data: The (train, held-out) data sets that the job had in memory.

    Returns:
        What was checked and found.

    Raises:
        UnlearnError: If `out` holds no readable report, or the job's parts cannot be loaded any more.
    """
    report = read_report(out)
    found = Verification()
    for what, findings in check_soundness(out, report):
        found.note(what, findings)
    _check_signature(out, key, found)
    kept = private or private_folder(out)
    if not (kept / JOB_FILE).exists():
        found.skipped.extend(_NEEDS_PRIVATE)
        return found
    job = read_job(kept / JOB_FILE)
    found.note("evidence/job.json is the public part of the job", check_published_job(job, out))
    if not (data or job.has_data):
        found.skipped.append("weights and measurements: the data were in memory; give them to verify() in Python")
        return found
    if reference:
        job = replace(job, reference=reference)
    prepared = prepare(replace(job, out=str(out)), writing=False, data=data)
    found.note("the model before is the one the report names", _check_before(report, prepared))
    found.note("the request is the one the report commits to", _check_commitment(report, prepared, kept))
    if prepared.earlier.manifests or "earlier" in report["request"]:
        found.note("the earlier requests are the ones the report commits to", _check_earlier(report, prepared, kept))
    _measure_again(out, report, prepared, found, progress or Progress())
    return found


def _check_signature(out: Path, key: PublicKey | None, found: Verification) -> None:
    if key is not None:
        found.note(f"the statement is signed by the key {key.keyid}", check_signature(out, key))
        return
    if not (out / SIGNATURE).exists():
        found.skipped.append("signature: there is none; whoever wrote the folder could have changed all of it")
        return
    try:
        found.note("the signature fits the key that it names itself", check_signature(out))
    except UnlearnError as error:  # without the extra the rest is still worth checking
        found.skipped.append(f"signature: {error}")
    found.skipped.append("who signed: that takes the signer's public key from elsewhere, give it by --key")


def _check_before(report: Mapping[str, Any], prepared: Prepared) -> list[str]:
    if report["model"]["before"]["digest"] == prepared.checkpoint.digest:
        return []
    return ["The model before is not the one the report names: its digest differs."]


def _check_commitment(report: Mapping[str, Any], prepared: Prepared, private: Path) -> list[str]:
    if prepared.manifest.commitment(read_commitment_key(private)) == report["request"]["commitment"]["digest"]:
        return []
    return ["The forget manifest is not the one the report commits to; it was changed since."]


def _check_earlier(report: Mapping[str, Any], prepared: Prepared, private: Path) -> list[str]:
    told = report["request"].get("earlier", {"requests": 0, "n_samples": 0, "commitments": []})
    there = prepared.earlier.commitments(read_commitment_key(private))
    if told["commitments"] == there and told["requests"] == len(there):
        return []
    return [
        f"The report speaks of {told['requests']} earlier requests, and the manifests of {len(there)} that are named "
        f"by the private folder are not these; they were changed, or one is missing."
    ]


def _measure_again(
    out: Path, report: Mapping[str, Any], prepared: Prepared, found: Verification, progress: Progress
) -> None:
    after = None
    if report["model"]["after"]:
        after = load_model(prepared.job, f"local-dir:{out}").model
    measured = measure_all(make_trial(prepared, progress), after, progress, tier=prepared.tier)
    told = report["measurements"]
    differing = [
        f"{name} ({who}): the report says {part} {told[name][who][part]}, measured again it is {again[who][part]}."
        for name, again in measured.items()
        for who in ("before", "after", "reference")
        for part in ("value", "low", "high")
        if name in told and told[name][who] and again[who]
        and not _close(told[name][who][part], again[who][part], _allowed(name, told[name][who]))
    ]  # fmt: skip
    found.note("measured again, every value is the report's", differing)
    found.measured = rounded({**report, "measurements": measured})
    found.note("measured again, the verdict is the report's", _check_verdict(report, found.measured))


def _check_verdict(report: Mapping[str, Any], measured: Mapping[str, Any]) -> list[str]:
    told, again = report["overall"]["status"], decide(measured).status
    if again == told:
        return []
    return [f"The verdict is {again} by the numbers measured again, and the report says {told}."]


def _allowed(name: str, told: Mapping[str, Any]) -> float:
    """How far a value measured again may lie from the one told: half its interval where a copy is trained."""
    if metrics().get(name).repeatable or told["low"] is None or told["high"] is None:
        return _TOLERANCE
    return max(_TOLERANCE, float(told["high"] - told["low"]) / 2)


def _close(told: float | None, again: float | None, allowed: float) -> bool:
    if told is None or again is None:
        return told is again
    return abs(told - again) <= allowed
