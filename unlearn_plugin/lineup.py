"""Lineup: the methods of a comparison, each with a job of its own."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.job import Job
from unlearn_plugin.registry import unlearners
from unlearn_plugin.values import nearest

__all__ = ["Contestant", "line_up"]

_STRANGE = re.compile(r"[^A-Za-z0-9._=+-]+")
_TAKEN = ("compare.json", "compare.html")


@dataclass(frozen=True)
class Contestant:
    """One method of a comparison.

    Attributes:
        label: As it was asked for: ``mini``, or ``mini:steps=12`` where one method stands twice.
        job: What it is to do.
    """

    label: str
    job: Job

    @property
    def folder(self) -> Path:
        """Where its output goes."""
        return Path(self.job.out)


def line_up(job: Job) -> list[Contestant]:
    """Give every method of a comparison its own job.

    ``method`` holds names with commas between them, each as ``NAME`` or ``NAME:KEY=VALUE:KEY=VALUE``; a KEY is an
    option of the method. In ``options``, ``METHOD.KEY`` is for all that run METHOD, and a plain ``KEY`` for
    all methods that have such an option. The nearest word wins: what stands behind a NAME goes before METHOD.KEY, and
    that before KEY.

    Args:
        job: One whose ``method`` and ``options`` are written like that, and whose ``out`` is to hold all outputs.

    Returns:
        One contestant for each, methods that retrain first, since the others are measured against these.

    Raises:
        UnlearnError: With everything that is wrong with names and options at once.
    """
    findings: list[str] = []
    entries = [entry.strip() for entry in job.method.split(",") if entry.strip()]
    own = [_read_entry(entry, findings) for entry in entries]
    known = {name: _options_of(name) for name in {name for name, _ in own} & set(unlearners().names())}
    findings += _unknown_methods([name for name, _ in own])
    shared = _shared(job.options, known, findings)
    found = []
    for entry, (name, given) in zip(entries, own, strict=True):
        options = {**shared.get(name, {}), **given}
        out = str(Path(job.out) / _STRANGE.sub("-", entry))
        found.append(Contestant(entry, replace(job, method=name, options=options, out=out)))
    findings += _check_folders(found)
    if not found:
        findings.append("No method is named; give --method with names and commas between them, such as retrain,mini.")
    if findings:
        raise UnlearnError.of(findings)
    return sorted(found, key=lambda one: not unlearners().get(one.job.method).exact)


def _read_entry(entry: str, findings: list[str]) -> tuple[str, dict[str, str]]:
    name, *pairs = entry.split(":")
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            findings.append(f"--method {entry!r}: {pair!r} is not of the form KEY=VALUE, such as mini:steps=12.")
        options[key] = value
    return name.strip(), options


def _unknown_methods(names: Sequence[str]) -> list[str]:
    there = unlearners().names()
    return [
        f"There is no unlearner called {name!r}{nearest(name, there)}; there are: {', '.join(there)}."
        for name in dict.fromkeys(names)
        if name not in there
    ]


def _options_of(name: str) -> tuple[str, ...]:
    return tuple(option["name"] for option in unlearners().facts(name)["options"])


def _shared(
    options: Mapping[str, str], known: Mapping[str, Sequence[str]], findings: list[str]
) -> dict[str, dict[str, str]]:
    """The options of `-o` by method."""
    found: dict[str, dict[str, str]] = {name: {} for name in known}
    for option, value in options.items():
        if "." not in option:
            takers = [name for name in known if option in known[name]]
            if not takers:
                there = sorted({name for names in known.values() for name in names})
                findings.append(
                    f"None of the methods has an option {option!r}{nearest(option, there)}; they have: "
                    f"{', '.join(there) or 'none'}."
                )
            for name in takers:
                found[name].setdefault(option, value)
    for option, value in options.items():
        name, dot, key = option.partition(".")
        if dot and name not in known:
            findings.append(f"-o {option}={value}: {name!r} is none of the methods compared: {', '.join(known)}.")
        elif dot:
            found[name][key] = value  # whether there is such an option is seen when the method is made
    return found


def _check_folders(contestants: Sequence[Contestant]) -> list[str]:
    places: dict[str, list[str]] = {}
    for one in contestants:
        places.setdefault(one.folder.name.lower(), []).append(one.label)
    return [
        f"--method names {' and '.join(map(repr, labels))}, and both would be written to {name!r}; give each options "
        f"of its own, such as mini,mini:steps=12."
        for name, labels in places.items()
        if len(labels) > 1
    ] + [f"--method {labels[0]!r} is the name of another file of the output." for name, labels in places.items()
         if name in _TAKEN]  # fmt: skip
