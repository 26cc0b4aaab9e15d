"""Soundness: does an output folder agree with itself? Everything that can be computed again from the folder alone."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.training_record import weights_digest
from unlearn_plugin.evidence import check_digests, check_statement
from unlearn_plugin.registry import metrics, unlearners
from unlearn_plugin.report.card import render_card
from unlearn_plugin.report.html import render_html
from unlearn_plugin.report.report import report_text, rounded
from unlearn_plugin.report.schema import misfits, report_schema
from unlearn_plugin.values import read_value
from unlearn_plugin.verdict import decide
from unlearn_plugin.weights import read_weights

__all__ = ["check_soundness", "check_verdict"]

_Report = Mapping[str, Any]
_VERDICT = "the verdict follows from the measurements in report.json"
_SAID_OF_ANY = {"process": "COMPLETE", "erasure": "PENDING"}  # of overall: more than that no report may say
_MISSHAPEN = (
    KeyError, IndexError, TypeError, AttributeError, ValueError, ArithmeticError, TemplateError, RecursionError,
    OSError,
)  # fmt: skip


def check_soundness(out: Path, report: _Report) -> Iterator[tuple[str, list[str]]]:
    """Compute again what the files of an output folder say about each other.

    A forger who changes all of them alike is not found by this, but by a signature, or by measuring again.

    Args:
        out: An output folder of ``unlearn apply``.
        report: Content of its report.json.

    Yields:
        What was checked, in words, and what is wrong with it; an empty list is a check that was passed.
    """
    for what, check in _CHECKS.items():
        yield what, _checked(what, check, out, report)


def check_verdict(out: Path, report: _Report) -> list[str]:
    """Compute the verdict again from the measurements.

    Args:
        out: An output folder of ``unlearn apply``.
        report: Content of its report.json.

    Returns:
        One sentence for each entry of ``overall`` that does not follow.
    """
    return _checked(_VERDICT, _check_verdict, out, report)


def _checked(what: str, check: Callable[[Path, _Report], list[str]], out: Path, report: _Report) -> list[str]:
    try:
        return check(out, report)
    except UnlearnError as error:
        return list(error.findings)
    except _MISSHAPEN as error:  # the forms a missing or misshapen field takes
        return [f"That {what} cannot be computed again: a field is missing or misshapen ({error!r})."]


def _check_schema(out: Path, report: _Report) -> list[str]:
    findings = [f"report.json: {misfit}." for misfit in misfits(report, report_schema())]
    if not findings and (out / "report.json").read_text(encoding="utf-8") != report_text(report):
        return ["report.json is not in the form in which it is written: sorted, indented, six digits, no field twice."]
    return findings


def _check_verdict(out: Path, report: _Report) -> list[str]:
    told = report["overall"]
    return [
        f"report.json: overall.{name} is {told.get(name)!r}, and the measurements give {value!r}."
        for name, value in {**rounded(asdict(decide(report))), **_SAID_OF_ANY}.items()
        if told.get(name) != value
    ]


def _check_page(out: Path, report: _Report) -> list[str]:
    return _check_text(out / "report.html", render_html(report), "page")


def _check_card(out: Path, report: _Report) -> list[str]:
    return _check_text(out / "README.md", render_card(report), "card")


def _check_text(path: Path, expected: str, kind: str) -> list[str]:
    if path.exists() and path.read_bytes() == expected.encode():
        return []
    return [f"{path.name} is not the {kind} that report.json makes; it was changed, or another version wrote it."]


def _check_weights(out: Path, report: _Report) -> list[str]:
    told = (report["model"]["after"] or {}).get("digest")
    there = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.safetensors"))
    if told is None:
        return [f"{name} is there, and report.json says that no weights were written." for name in there]
    if there != ["model.safetensors"]:
        return [f"report.json speaks of model.safetensors, and there is {', '.join(there) or 'none'}."]
    if weights_digest(read_weights(out / "model.safetensors")) == told:
        return []
    return ["model.safetensors: not the weights the report names; the digest differs."]


def _check_environment(out: Path, report: _Report) -> list[str]:
    environment = _read_json(out / "evidence" / "environment.json")
    packages = environment["packages"]
    found = {
        "python": environment["python"],
        "device": environment["device"]["type"],
        "torch": packages["torch"],
        "timm": packages["timm"],
        "unlearn_plugin": packages["unlearn-plugin"],
    }
    return _differing("evidence/environment.json", report["procedure"]["environment"], found)


def _check_job(out: Path, report: _Report) -> list[str]:
    job, procedure = _read_json(out / "evidence" / "job.json"), report["procedure"]
    told = {
        "method": procedure["method"],
        "seed": procedure["seed"],
        "device": procedure["environment"]["device"],
        **{f"options.{name}": value for name, value in procedure["options"].items()},
    }
    found = {
        "method": job["method"],
        "seed": job["seed"],
        "device": job["device"].partition(":")[0],
        **{
            f"options.{name}": rounded(read_value(job["options"][name], type(value)))
            for name, value in procedure["options"].items()
        },
    }
    return _differing("evidence/job.json", told, found)


def _check_words(out: Path, report: _Report) -> list[str]:
    """What is published of a metric or a method beside its numbers; of one that is not installed nothing is known."""
    findings = []
    for name in set(metrics().names()) & set(report["measurements"]):
        metric, told = metrics().get(name), report["measurements"][name]
        ours = {part: getattr(metric, part) for part in ("title", "explanation", "source")}
        ours["goal"] = metric.goal.value
        findings += _differing("this version of unlearn-plugin", told, ours, f"measurements.{name}.")
    procedure = report["procedure"]
    if procedure["method"] in unlearners().names():
        method = unlearners().get(procedure["method"])
        ours = {part: getattr(method, part) for part in ("summary", "source", "exact")}
        findings += _differing("this version of unlearn-plugin", procedure, ours, "procedure.")
    return sorted(findings)


def _differing(where: str, told: _Report, found: _Report, place: str = "") -> list[str]:
    return [
        f"{where}: {place}{name} is {value!r}, and report.json says {told.get(name)!r}."
        for name, value in found.items()
        if value != told.get(name)
    ]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UnlearnError(f"evidence/{path.name} cannot be read ({error}); take an undamaged copy.") from error


_CHECKS: Mapping[str, Callable[[Path, _Report], list[str]]] = {
    "every published file has the digest in evidence/SHA256SUMS": lambda out, report: check_digests(out),
    "evidence/statement.json is about these files and this report": lambda out, report: check_statement(out),
    "report.json fits its schema": _check_schema,
    _VERDICT: _check_verdict,
    "report.html shows report.json": _check_page,
    "README.md is the card of report.json": _check_card,
    "the weights are those the report names": _check_weights,
    "evidence/environment.json is the environment of the report": _check_environment,
    "evidence/job.json has the settings of the report": _check_job,
    "metrics and method are described in this version's words": _check_words,
}
