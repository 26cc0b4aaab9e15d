"""Release: may an output folder be published, and under which digests will a Hub list its files? Reads only."""

import hashlib
from pathlib import Path

import yaml  # type: ignore[import-untyped]  # huggingface_hub reads cards with it, and lets its errors through
from huggingface_hub import ModelCard

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.evidence import SIGNATURE, check_digests, check_statement
from unlearn_plugin.purge import Digests
from unlearn_plugin.report.report import read_report
from unlearn_plugin.signing import check_signature
from unlearn_plugin.soundness import check_verdict

__all__ = ["check_release"]

_WEIGHTS = "model.safetensors"
_PUBLISHED = (
    "README.md",
    "config.json",
    "evidence/SHA256SUMS",
    "evidence/environment.json",
    "evidence/job.json",
    SIGNATURE,
    "evidence/statement.json",
    _WEIGHTS,
    "preprocessor_config.json",
    "report.html",
    "report.json",
)
_TAG = "machine-unlearning"


def check_release(folder: Path, repository: str) -> Digests:
    """Check that an output folder may be published.

    Args:
        folder: An output folder of ``unlearn apply``.
        repository: ``owner/name`` it would go to.

    Returns:
        The files to publish, with the digests a Hub may list each under.

    Raises:
        UnlearnError: If a digest differs, there is a signature and it does not fit, the verdict does not follow from
            the measurements or does not allow release, there are no weights, a file is none of ours, or the card cannot
            be published; with every finding.
    """
    report = read_report(folder)
    findings = check_digests(folder) or check_statement(folder)
    if (folder / SIGNATURE).exists():
        findings += check_signature(folder)
    findings += check_verdict(folder, report)
    if findings:
        raise UnlearnError.of([f"{finding} Push the folder as `unlearn apply` wrote it." for finding in findings])
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    findings += [
        f"{name} is not a file that is published; only {', '.join(_PUBLISHED)} are: take it out of the folder."
        for name in names
        if name not in _PUBLISHED
    ]
    overall = report["overall"]
    if not overall["released"]:
        findings.append(
            f"The report does not allow release, its verdict is {overall['status']}: try another method or setting."
        )
    if _WEIGHTS not in names:
        findings.append(f"There is no {_WEIGHTS} in {str(folder)!r}, so there is nothing to push.")
    findings += _check_card(folder / "README.md", {repository, report["model"]["source"].removeprefix("hf-hub:")})
    if findings:
        raise UnlearnError.of(findings)
    return {name: _digests(folder / name) for name in names}


def _check_card(path: Path, forgotten: set[str]) -> list[str]:
    """The Hub checks the form again; this comes before anything is sent, and knows what may not stay public."""
    try:
        data = ModelCard(path.read_text(encoding="utf-8")).data
    except (OSError, ValueError, yaml.YAMLError) as error:
        return [f"The card README.md has no readable metadata ({error}): push the folder as `unlearn apply` wrote it."]
    base = data.get("base_model") or []
    named = {base} if isinstance(base, str) else set(base)
    findings = [
        f"README.md names {name} as base_model, and leads whoever reads it to the weights that were to be forgotten: "
        f"take base_model out of it."
        for name in sorted(named & forgotten)
    ]
    if _TAG not in (data.get("tags") or []):
        findings.append(f"README.md lacks the tag {_TAG}, by which such models are found: add it to its tags.")
    return findings


def _digests(path: Path) -> tuple[str, str]:
    """SHA-256 of the content, and SHA-1 as git counts it: with a heading of the size."""
    sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha256.update(block)
            git.update(block)
    return sha256.hexdigest(), git.hexdigest()
