"""`unlearn compare`: the same job by several methods, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.evidence import private_folder, read_commitment_key
from unlearn_plugin.job import Job
from unlearn_plugin.job_file import JOB_FILE, differing_settings
from unlearn_plugin.judging import Bench
from unlearn_plugin.lineup import Contestant, line_up
from unlearn_plugin.pipeline import Outcome, carry_out, resolved
from unlearn_plugin.preparation import Prepared, load_model, prepare_alike
from unlearn_plugin.progress import Progress
from unlearn_plugin.reading import MapDataset
from unlearn_plugin.report.compared import Entry, compare_reports, write_compared
from unlearn_plugin.report.compared_html import render_compared
from unlearn_plugin.report.notebook import page_html
from unlearn_plugin.report.report import read_report
from unlearn_plugin.signing import Signer

__all__ = ["Comparison", "compare", "prepare_comparison"]

_FAILURE = "failure.txt"  # in the private folder of a method: the sentences may name samples
_OWN = ("compare.json", "compare.html")


@dataclass(frozen=True)
class Comparison:
    """What came of a comparison.

    Attributes:
        folder: Where it was written.
        content: Content of compare.json.
        reports: Content of report.json of each method that came to an end, by label.
        failures: What was wrong, by label, with methods that did not.
        skipped: Labels of methods that had come to an end in an earlier, interrupted run.
    """

    folder: Path
    content: Mapping[str, Any]
    reports: Mapping[str, Mapping[str, Any]]
    failures: Mapping[str, str]
    skipped: tuple[str, ...]

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return page_html(f"Comparison of {len(self.content['rows'])} methods", render_compared(self.content))


def prepare_comparison(
    job: Job, *, data: tuple[MapDataset, MapDataset] | None = None
) -> list[tuple[Contestant, Prepared, Mapping[str, Any] | None]]:
    """Check the job for every method; nothing is written.

    Args:
        job: What the user asked for; `method`, `options` and `out` as `line_up` reads them.
        data: (train, held-out) in memory, instead of what the job names.

    Returns:
        Each method with its checked job and, if it was done already, its report.

    Raises:
        UnlearnError: With everything that is wrong with any of them at once.
    """
    findings: list[str] = []
    contestants: list[Contestant] = []
    try:
        contestants = line_up(job)
        prepared = prepare_alike([one.job for one in contestants], data=data)
    except UnlearnError as error:
        findings += error.findings
        prepared = []
    findings += _check_out(Path(job.out), contestants)
    done = []
    for one, ready in zip(contestants, prepared, strict=False):
        report, wrong = _done(one, ready)
        done.append((one, ready, report))
        findings += wrong
    if findings:
        raise UnlearnError.of(findings)
    return done


def compare(
    job: Job,
    *,
    progress: Progress | None = None,
    signer: Signer | None = None,
    data: tuple[MapDataset, MapDataset] | None = None,
) -> Comparison:
    """Run the same job by several methods, and put what came of it side by side.

    Everything is checked for every method before the first one starts. Data, model and what is measured on the model
    before are shared. Methods that retrain come first; unless the job names a reference, the first result of these
    is the reference of all that follow. A method that fails does not stop the others. What is finished stays, and the
    same call goes on from there.

    Args:
        job: What the user asked for; `method`, `options` and `out` as `line_up` reads them.
        progress: Wraps long loops in a bar.
        signer: Signs each method's statement, if given.
        data: (train, held-out) in memory, instead of what the job names.

    Returns:
        The comparison, written to OUT/compare.json and OUT/compare.html beside the methods' own folders.

    Raises:
        UnlearnError: If the job cannot be done, with every finding at once; or if every method failed.
    """
    progress = progress or Progress()
    todo = prepare_comparison(job, data=data)
    folder, bench = Path(job.out), Bench()
    folder.mkdir(exist_ok=True)
    reports: dict[str, Mapping[str, Any]] = {}
    failures: dict[str, str] = {}
    reference: Prepared | None = None
    for one, prepared, report in progress(todo, "comparing"):
        ready = prepared if reference is None else _judged_by(prepared, reference)
        try:
            reports[one.label] = report or _carry_out(ready, progress, signer, bench).report
        except UnlearnError as error:
            failures[one.label] = str(error)
            _note_failure(one, str(error))
            continue
        if reference is None and job.reference is None and _is_exact(reports[one.label]):
            reference = _with_reference(prepared, one)
    if not reports:
        raise UnlearnError.of([f"{label}: {failure}" for label, failure in failures.items()])
    entries = [Entry(one.label, one.job.method, one.folder.name, reports.get(one.label)) for one, _, _ in todo]
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%MZ")
    content = compare_reports(entries, created_utc=now)
    write_compared(content, folder)
    (folder / "compare.html").write_text(render_compared(content), encoding="utf-8")
    skipped = tuple(one.label for one, _, report in todo if report)
    return Comparison(folder, content, reports, failures, skipped)


def _carry_out(prepared: Prepared, progress: Progress, signer: Signer | None, bench: Bench) -> Outcome:
    outcome = carry_out(prepared, progress, signer=signer, bench=bench)
    (private_folder(outcome.folder) / _FAILURE).unlink(missing_ok=True)
    return outcome


def _note_failure(one: Contestant, failure: str) -> None:
    private = private_folder(one.folder)
    private.mkdir(mode=0o700, exist_ok=True)
    path = private / _FAILURE
    path.touch(mode=0o600)
    path.write_text(failure + "\n", encoding="utf-8")


def _is_exact(report: Mapping[str, Any]) -> bool:
    return bool(report["overall"]["status"] == "EXACT_BY_PROCESS")


def _with_reference(prepared: Prepared, one: Contestant) -> Prepared:
    """The parts of a job with the outcome of an exact method as the judge's reference."""
    name = f"local-dir:{one.folder.absolute()}"
    job = replace(prepared.job, reference=name)
    return replace(prepared, job=job, reference=load_model(job, name))


def _judged_by(prepared: Prepared, reference: Prepared) -> Prepared:
    return replace(
        prepared, job=replace(prepared.job, reference=reference.job.reference), reference=reference.reference
    )


def _check_out(out: Path, contestants: Sequence[Contestant]) -> list[str]:
    if not out.absolute().parent.is_dir():
        return [f"The folder {str(out.absolute().parent)!r}, which is to hold the output, does not exist; create it."]
    if not out.exists():
        return []
    if not out.is_dir():
        return [f"The output folder {str(out)!r} is a file; choose a new name, or remove it first."]
    known = {*_OWN, *(f"{name}.partial" for name in _OWN)}
    for one in contestants:
        known |= {one.folder.name, f"{one.folder.name}.partial", private_folder(one.folder).name}
    strange = sorted(path.name for path in out.iterdir() if path.name not in known)
    if not strange or not contestants:
        return []
    return [
        f"The output folder {str(out)!r} exists already and holds {strange[0]!r}, which is of none of these methods; "
        f"choose a new name, or remove it first."
    ]


def _done(one: Contestant, prepared: Prepared) -> tuple[Mapping[str, Any] | None, list[str]]:
    """The report of a method that came to an end earlier, or why what lies in its place is none."""
    if not one.folder.exists() or (one.folder.is_dir() and not any(one.folder.iterdir())):
        return None, []
    remedy = "give --out a new name, or remove this folder and run it again"
    try:
        report = read_report(one.folder)
        private = private_folder(one.folder)
        differing = differing_settings(resolved(prepared), private / JOB_FILE)
        commitment = prepared.manifest.commitment(read_commitment_key(private))
    except UnlearnError as error:
        return None, [f"{str(one.folder)!r} exists, and cannot be gone on with: {error}"]
    if prepared.job.reference is None:  # then it is the first exact outcome, and the numbers compared do not rest on it
        differing = [name for name in differing if name != "reference"]
    if differing:
        return None, [f"{str(one.folder)!r} was made with other settings ({', '.join(differing)}); {remedy}."]
    record = prepared.record.digest() if prepared.record else None
    if (
        report["model"]["before"]["digest"] != prepared.checkpoint.digest
        or report["request"]["commitment"]["digest"] != commitment
        or (report["procedure"]["record"] or {}).get("digest") != record
    ):
        return None, [f"{str(one.folder)!r} was made of another model, request or record; {remedy}."]
    return report, []
