"""`unlearn inspect`: what is this checkpoint, record, manifest or output folder, and is it sound?"""

from pathlib import Path
from typing import Any

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
from unlearn_plugin.report.compared import read_compared
from unlearn_plugin.report.report import read_report

__all__ = ["describe"]

_MANIFESTS = (".csv", ".jsonl", ".txt")


def describe(path: str | Path, *, arch: str | None = None) -> dict[str, Any]:
    """Find out what `path` is and describe it.

    Args:
        path: A record, an output folder of ``apply`` or ``compare``, a forget manifest, or anything ``--model`` takes.
        arch: Architecture, if `path` is a weights file.

    Returns:
        JSON values by name, the first being ``kind``; no sample id is among them.

    Raises:
        UnlearnError: If it is none of these, or damaged.
    """
    place = Path(path)
    if (place / "journal.jsonl").exists() or any(place.glob("rank*/journal.jsonl")):
        return _record(TrainingRecord.open(place))
    if (place / "report.json").exists():
        return _output(place)
    if (place / "compare.json").exists():
        return _comparison(read_compared(place))
    if place.suffix.lower() in _MANIFESTS and place.is_file():
        return _manifest(ForgetManifest.read(place))
    name = f"local-dir:{place}" if (place / "config.json").exists() else str(path)
    return _checkpoint(Checkpoint.load(name, arch=arch))


def _record(record: TrainingRecord) -> dict[str, Any]:
    updates = recorded_updates(record)
    schedule = recorded_schedule(record)
    return {
        "kind": "record of a training run",
        "run": record.manifest["run_id"],
        "finished": record.complete,
        "samples": record.data["n"],
        "steps": schedule.steps,
        "optimizer": schedule.optimizer,
        "recorded_updates": len(updates),
        "at_steps": [update.step for update in updates],
        "updates_without_ids": sum(update.rows is None for update in updates),
        **_kept_for_judge(record),
        "parameters": len(record.manifest["parameters"]),
        "bytes": sum(file.stat().st_size for file in record.folder.rglob("*") if file.is_file()),
        "digest": record.digest(),
    }


def _kept_for_judge(record: TrainingRecord) -> dict[str, Any]:
    sealed = recorded_holdout(record)
    pairs = {purpose: recorded_references(record, purpose) for purpose in ("judge", "method")}
    return {
        "holdout": [len(sealed.tuning), len(sealed.verdict)] if sealed else None,
        "holdout_trained_on": sealed.trained_on if sealed else None,
        **{f"references_{purpose}": len(found.models) // 2 if found else 0 for purpose, found in pairs.items()},
        "half_pairs": list(map(str, incomplete_pairs(record))),
    }


def _output(folder: Path) -> dict[str, Any]:
    report = read_report(folder)
    if findings := check_digests(folder):
        raise UnlearnError(*findings)
    return {
        "kind": "output of unlearn apply",
        "verdict": report["overall"]["status"],
        "released": report["overall"]["released"],
        "method": report["procedure"]["method"],
        "forgotten_samples": report["request"]["n_samples"],
        "architecture": report["model"]["architecture"],
        "weights": (report["model"]["after"] or {}).get("digest"),
        "written": report["created_utc"],
        "digests": "every file is as it was written",
    }


def _comparison(content: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": "output of unlearn compare",
        "methods": [row["label"] for row in content["rows"]],
        "verdicts": [row["status"] for row in content["rows"]],
        "exact": content["exact"]["labels"],
        "forgotten_samples": content["request"]["n_samples"],
        "architecture": content["model"]["architecture"],
        "written": content["created_utc"],
    }


def _manifest(manifest: ForgetManifest) -> dict[str, Any]:
    return {
        "kind": "forget manifest",
        "entries": len(manifest.entries),
        "request": manifest.request,
        "received": manifest.received.isoformat() if manifest.received else None,
    }


def _checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    head, _ = find_head(checkpoint.model)
    return {
        "kind": "checkpoint",
        "architecture": checkpoint.architecture,
        "classes": checkpoint.num_classes,
        "parameters": sum(parameter.numel() for parameter in checkpoint.model.parameters()),
        "head": head,
        **{name: checkpoint.data_config[name] for name in ("input_size", "mean", "std", "crop_pct")},
        "digest": checkpoint.digest,
    }
