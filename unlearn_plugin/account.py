"""Account: what a report says of its job before anything is measured. Written once, and made again by `verify`."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from unlearn_hooks.training_record import TrainingRecord
from unlearn_plugin.measurement import FEWEST
from unlearn_plugin.preparation import Prepared
from unlearn_plugin.user_code import without_names_of_code

__all__ = ["describe_job", "describe_method", "without_single_samples"]


def describe_job(prepared: Prepared, key: bytes) -> dict[str, Any]:
    """Say what was asked for, of which model, with which data.

    Args:
        prepared: The checked job.
        key: Of the request's commitment.

    Returns:
        The report's ``request``, ``model`` (but for the one after) and ``data``; the same for the same job and key.
    """
    splits, checkpoint, manifest = prepared.splits, prepared.checkpoint, prepared.manifest
    copies = splits.copies()
    return {
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
            **_earlier(prepared, key),
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


def _earlier(prepared: Prepared, key: bytes) -> dict[str, Any]:
    """What the report says of earlier requests: counts, and commitments; nothing if this is the first."""
    earlier = prepared.earlier
    if not earlier.manifests:
        return {}
    return {
        "earlier": {
            "requests": len(earlier.manifests),
            "n_samples": len(prepared.splits.earlier),
            "commitments": earlier.commitments(key),
        }
    }


def describe_method(prepared: Prepared) -> dict[str, Any]:
    """Say what was to be done, and by what.

    Args:
        prepared: The checked job, with the options that were kept if there was a search.

    Returns:
        Those entries of the report's ``procedure`` that are settled before the method runs.
    """
    method = prepared.method
    return {
        "method": prepared.job.method,
        "summary": method.summary,
        "source": method.source,
        "exact": method.exact,
        "options": without_names_of_code(asdict(method)),  # type: ignore[call-overload]  # every method is a dataclass
        "seed": prepared.job.seed,
        "record": _record_facts(prepared.record) if prepared.record else None,
    }


def without_single_samples(facts: Mapping[str, Any], n_forget: int) -> dict[str, Any]:
    """Take out of a method's facts what would be about single samples: measured numbers, where F is very small.

    Args:
        facts: What the method tells of its run.
        n_forget: Requested samples.

    Returns:
        The facts; with fewer than `FEWEST` samples only those that are no fractions.
    """
    if n_forget >= FEWEST:
        return dict(facts)
    return {
        name: without_single_samples(value, n_forget) if isinstance(value, Mapping) else value
        for name, value in facts.items()
        if not isinstance(value, float | list | tuple)
    }


def _record_facts(record: TrainingRecord) -> dict[str, Any]:
    return {
        "run_id": record.manifest["run_id"],
        "digest": record.digest(),
        "steps": record.recipe.get("steps"),
        "complete": record.complete,
    }
