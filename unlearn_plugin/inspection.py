"""`unlearn inspect`: what is this checkpoint, record, manifest or output folder, and is it sound?"""

from collections.abc import Iterator
from pathlib import Path

from unlearn_hooks.capture import find_head
from unlearn_hooks.controls import recorded_holdout
from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.references import incomplete_pairs, recorded_references
from unlearn_hooks.schedule import recorded_schedule
from unlearn_hooks.training_record import TrainingRecord
from unlearn_hooks.updates import recorded_updates
from unlearn_plugin.checkpoint import Checkpoint
from unlearn_plugin.evidence import check_digests
from unlearn_plugin.manifest import ForgetManifest
from unlearn_plugin.report.report import read_report

__all__ = ["describe"]

_MANIFESTS = (".csv", ".jsonl", ".txt")


def describe(path: str, *, arch: str | None = None) -> Iterator[tuple[str, str]]:
    """Find out what `path` is and describe it.

    Args:
        path: A record, an output folder, a forget manifest, or anything ``--model`` takes.
        arch: Architecture, if `path` is a weights file.

    Yields:
        Pairs of a name and its value, the first being ``kind``.

    Raises:
        UnlearnError: If it is none of these, or damaged.
    """
    place = Path(path)
    if (place / "journal.jsonl").exists() or any(place.glob("rank*/journal.jsonl")):
        yield from _record(TrainingRecord.open(place))
    elif (place / "report.json").exists():
        yield from _output(place)
    elif place.suffix.lower() in _MANIFESTS and place.is_file():
        yield from _manifest(ForgetManifest.read(place))
    else:
        name = f"local-dir:{place}" if (place / "config.json").exists() else path
        yield from _checkpoint(Checkpoint.load(name, arch=arch))


def _record(record: TrainingRecord) -> Iterator[tuple[str, str]]:
    updates = recorded_updates(record)
    schedule = recorded_schedule(record)
    bytes_on_disk = sum(file.stat().st_size for file in record.folder.rglob("*") if file.is_file())
    yield "kind", "record of a training run"
    yield "run", record.manifest["run_id"]
    yield "finished", "yes" if record.complete else "no: training was interrupted; what is here is readable"
    yield "samples", str(record.data["n"])
    yield "steps", f"{schedule.steps} of {schedule.optimizer}"
    yield (
        "recorded updates",
        f"{len(updates)}, at steps {', '.join(str(update.step) for update in updates[:24])}",
    )
    unknown = sum(update.rows is None for update in updates)
    yield (
        "sample ids",
        "known in every recorded update" if not unknown else f"unknown in {unknown} recorded updates",
    )
    yield from _kept_for_judge(record)
    yield "parameters", str(len(record.manifest["parameters"]))
    yield "bytes", f"{bytes_on_disk:,}"
    yield "digest", record.digest()


def _kept_for_judge(record: TrainingRecord) -> Iterator[tuple[str, str]]:
    sealed = recorded_holdout(record)
    if sealed is None:
        yield "holdout", "none was set apart"
    else:
        kept = "training saw some of it, so it is no control" if sealed.trained_on else "sealed before training"
        yield "holdout", f"{len(sealed.tuning)} + {len(sealed.verdict)} samples, {kept}"
    for purpose in ("judge", "method"):
        found = recorded_references(record, purpose)
        yield f"references, {purpose}", f"{len(found.models) // 2} pairs of models" if found else "none"
    if incomplete := incomplete_pairs(record):
        yield "half a pair only", ", ".join(map(str, incomplete))


def _output(folder: Path) -> Iterator[tuple[str, str]]:
    report = read_report(folder)
    findings = check_digests(folder)
    if findings:
        raise UnlearnError(*findings)
    yield "kind", "output of unlearn apply"
    yield "verdict", report["overall"]["status"]
    yield "released", "yes" if report["overall"]["released"] else "no"
    yield "method", report["procedure"]["method"]
    yield "forgotten", f"{report['request']['n_samples']} samples"
    yield "architecture", report["model"]["architecture"]
    yield "weights", (report["model"]["after"] or {}).get("digest") or "none: they were refused"
    yield "written", report["created_utc"]
    yield "digests", "every file is as it was written"


def _manifest(manifest: ForgetManifest) -> Iterator[tuple[str, str]]:
    yield "kind", "forget manifest"
    yield "entries", str(len(manifest.entries))
    yield "request", manifest.request or "no reference given"
    yield "received", manifest.received.isoformat() if manifest.received else "no date given"


def _checkpoint(checkpoint: Checkpoint) -> Iterator[tuple[str, str]]:
    head, _ = find_head(checkpoint.model)
    yield "kind", "checkpoint"
    yield "architecture", checkpoint.architecture
    yield "classes", str(checkpoint.num_classes)
    yield "parameters", f"{sum(parameter.numel() for parameter in checkpoint.model.parameters()):,}"
    yield "head", head
    yield "input", str(checkpoint.data_config)
    yield "digest", checkpoint.digest
