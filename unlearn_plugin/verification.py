"""`unlearn verify`: does an output folder tell the truth? Recomputed from the files, trusting none of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.account import describe_job, describe_method
from unlearn_plugin.environment import code_digests, written_by
from unlearn_plugin.evidence import SIGNATURE, private_folder, read_commitment_key
from unlearn_plugin.guard import inspect_change
from unlearn_plugin.job import Job
from unlearn_plugin.job_file import JOB_FILE, check_published_job, read_job
from unlearn_plugin.judging import make_trial, measure_all
from unlearn_plugin.preparation import Prepared, load_model, prepare
from unlearn_plugin.progress import Progress
from unlearn_plugin.reading import MapDataset
from unlearn_plugin.registry import metrics
from unlearn_plugin.report.notebook import verification_html
from unlearn_plugin.report.report import read_report, rounded
from unlearn_plugin.report.schema import misfits, report_schema
from unlearn_plugin.signing import PublicKey, check_signature
from unlearn_plugin.soundness import check_soundness
from unlearn_plugin.user_code import is_function_name
from unlearn_plugin.verdict import decide

__all__ = ["Verification", "verify"]

_TOLERANCE = 2e-3  # of a measured value: another processor rounds another way, and a sample near a tie may flip
_FEW, _LOOSE, _PART = 3, 0.02, 0.05  # a detail's count, number, and share of either, may differ by so much
_NOTHING = object()
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
        private: The private folder; beside `out` when not given, and then code that its job names is not run.
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
    _tell_other_code(out, found)
    kept = private or private_folder(out)
    if not (kept / JOB_FILE).exists():
        found.skipped.extend(_NEEDS_PRIVATE)
    elif misfits(report, report_schema()):
        found.skipped.append("the measurements: report.json does not fit its schema")
    else:
        try:
            _check_by_job(out, report, kept, found, _Given(reference, asked=private is not None, data=data), progress)
        except UnlearnError as error:
            if not found.findings:
                raise
            found.skipped.append(f"the rest, with the private folder: {error}")
    return found


@dataclass(frozen=True)
class _Given:
    """What whoever verifies gave beside the folder."""

    reference: str | None
    asked: bool  # the private folder was named, and not only found
    data: tuple[MapDataset, MapDataset] | None


def _check_by_job(
    out: Path, report: Mapping[str, Any], kept: Path, found: Verification, given: _Given, progress: Progress | None
) -> None:
    """Check all that takes the private folder."""
    job = read_job(kept / JOB_FILE)
    found.note("evidence/job.json is the public part of the job", check_published_job(job, out))
    if not (given.data or job.has_data):
        found.skipped.append("weights and measurements: the data were in memory; give them to verify() in Python")
        return
    if not given.asked and (code := _own_code(job)):
        found.skipped.append(
            f"weights and measurements: the job names code, {', '.join(code)}, which is run only for a folder that you "
            f"name yourself, by --private {str(kept)!r}"
        )
        return
    if given.reference:
        job = replace(job, reference=given.reference)
    prepared = prepare(replace(job, out=str(out)), writing=False, data=given.data)
    found.note("the model before is the one the report names", _check_before(report, prepared))
    found.note("the request is the one the report commits to", _check_commitment(report, prepared, kept))
    if prepared.earlier.manifests or "earlier" in report["request"]:
        found.note("the earlier requests are the ones the report commits to", _check_earlier(report, prepared, kept))
    found.note("request, model, data and method are those of the job", _check_account(report, prepared, kept, given))
    _measure_again(out, report, prepared, found, progress or Progress())
    found.skipped.append(
        "what only the run itself knows: its time, its memory"
        + (", what the method reports of it" if report["procedure"]["facts"] else "")
        + (", and the pseudo-requests of --surrogates" if "surrogates" in report else "")
    )


def _own_code(job: Job) -> list[str]:
    """Functions that the job would have imported and called."""
    texts = [*job.as_dict().values(), *job.options.values()]
    return [value for value in texts if isinstance(value, str) and is_function_name(value)]


def _tell_other_code(out: Path, found: Verification) -> None:
    """A page or a sentence that differs may come of another version, which is worth knowing before an accusation."""
    if not found.findings:
        return
    told, here = written_by(out), code_digests()
    if told is not None and told != here:
        found.findings.append(
            f"The folder says that other code of unlearn-plugin wrote it (its digest is "
            f"{told.get('unlearn_plugin', '')[:12]}, here {here['unlearn_plugin'][:12]}): page, card and sentences may "
            f"differ for that alone. Verify it with the version that wrote it."
        )


def _check_account(report: Mapping[str, Any], prepared: Prepared, kept: Path, given: _Given) -> list[str]:
    """What the report says of the job, against what it would say now."""
    again = rounded({**describe_job(prepared, read_commitment_key(kept)), "procedure": describe_method(prepared)})
    if given.reference:
        del again["model"]["reference"]
    return [
        f"report.json: {part}.{name} is {report[part].get(name)!r}, and the job gives {value!r}."
        for part, entries in again.items()
        for name, value in entries.items()
        if report[part].get(name) != value
    ]


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
    trial = make_trial(prepared, progress)
    if after is not None:
        guard = inspect_change(prepared.checkpoint.model, after, trial)
        found.note("the new weights pass the guard as the report says", _differing_guard(report, guard))
    measured = measure_all(trial, after, progress, tier=prepared.tier)
    told = report["measurements"]
    differing = [
        f"report.json: the measurement {name!r} is {'missing' if name in measured else 'none of those that are made'}."
        for name in sorted(told.keys() ^ measured.keys())
    ]
    for name in [name for name in measured if name in told]:
        for who in ("before", "after", *(("reference",) if report["model"]["reference"] else ())):
            differing += _differing_measurement(name, who, told[name][who], rounded(measured[name][who]))
    found.note("measured again, every value is the report's", differing)
    found.measured = rounded({**report, "measurements": measured})
    found.note("measured again, the verdict is the report's", _check_verdict(report, found.measured))


def _check_verdict(report: Mapping[str, Any], measured: Mapping[str, Any]) -> list[str]:
    told, again = report["overall"]["status"], decide(measured).status
    if again == told:
        return []
    return [f"The verdict is {again} by the numbers measured again, and the report says {told}."]


def _differing_guard(report: Mapping[str, Any], again: Mapping[str, Any]) -> list[str]:
    told = report["guard"]
    return [
        f"report.json: guard.{name} is {told[name]!r}, and the weights give {again[name]!r}."
        for name in ("finite", "changed", "collapsed")
        if told[name] != again[name]
    ]


def _differing_measurement(
    name: str, who: str, told: Mapping[str, Any] | None, again: Mapping[str, Any] | None
) -> list[str]:
    """Where a measurement made again is another one; a number from a copy that was trained may differ by more."""
    if told is None or again is None:
        return (
            [] if told is again else [f"{name} ({who}): there is {'no' if told is None else 'a'} value in the report."]
        )
    found = [
        f"{name} ({who}): the report says {part} {told[part]}, measured again it is {again[part]}."
        for part in ("value", "low", "high")
        if not _close(told[part], again[part], _allowed(name, told))
    ]
    rest = {part: (told[part], again[part]) for part in ("n", "note", "details")}
    if metrics().get(name).repeatable:
        found += [
            f"{name} ({who}): {path} in the report is not what is measured again."
            for part, (one, other) in rest.items()
            for path in _unlike(one, other, part)
        ]
    return found


def _unlike(told: Any, again: Any, path: str) -> list[str]:  # noqa: ANN401  # whatever JSON can hold
    """Paths at which two values differ: other names, other texts, or numbers that no rounding explains."""
    if isinstance(told, list) and isinstance(again, list) and len(told) == len(again):
        told, again = dict(enumerate(told)), dict(enumerate(again))
    if isinstance(told, Mapping) and isinstance(again, Mapping):
        inner = [(told.get(name, _NOTHING), again.get(name, _NOTHING), name) for name in dict.fromkeys([*told, *again])]
        return [found for one, other, name in inner for found in _unlike(one, other, f"{path}.{name}")]
    if _is_number(told) and _is_number(again):
        least = _FEW if isinstance(told, int) and isinstance(again, int) else _LOOSE
        return [path] if abs(told - again) > max(least, _PART * max(abs(told), abs(again))) else []
    return [path] if told != again else []


def _is_number(value: Any) -> bool:  # noqa: ANN401  # whatever JSON can hold
    return isinstance(value, int | float) and not isinstance(value, bool)


def _allowed(name: str, told: Mapping[str, Any]) -> float:
    """How far a value measured again may lie from the one told: half its interval where a copy is trained."""
    if metrics().get(name).repeatable or told["low"] is None or told["high"] is None:
        return _TOLERANCE
    return max(_TOLERANCE, float(told["high"] - told["low"]) / 2)


def _close(told: float | None, again: float | None, allowed: float) -> bool:
    if told is None or again is None:
        return told is again
    return abs(told - again) <= allowed
