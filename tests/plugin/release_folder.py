"""An output folder that may be published, with small invented weights; made in a moment."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.plugin.report.example import example_report
from unlearn_plugin.evidence import write_digests
from unlearn_plugin.job import Job
from unlearn_plugin.job_file import write_published_job
from unlearn_plugin.report.card import render_card
from unlearn_plugin.report.report import rounded, write_report
from unlearn_plugin.verdict import decide

NAMES = (
    "README.md",
    "config.json",
    "evidence/SHA256SUMS",
    "evidence/environment.json",
    "evidence/job.json",
    "evidence/statement.json",
    "model.safetensors",
    "report.html",
    "report.json",
)


def make_folder(place: Path, *, status: str = "NO_RESIDUAL_DETECTED", seed: int = 0, card: str = "") -> Path:
    """An output folder; `card` is written instead of the one that belongs to the report."""
    place.mkdir(parents=True)
    report: dict[str, Any] = example_report(status, n_forget=40 if status == "INCONCLUSIVE" else 120)
    report["overall"] |= rounded(asdict(decide(report)))
    assert report["overall"]["status"] == status
    generator = torch.Generator().manual_seed(seed)
    if report["overall"]["released"]:
        save_file({"weight": torch.rand(40, 10, generator=generator)}, place / "model.safetensors")
    (place / "evidence").mkdir()
    for name in ("config.json", "evidence/environment.json"):
        (place / name).write_text('{"architecture": "test_resnet"}')
    (place / "report.html").write_text("<!doctype html>")
    (place / "README.md").write_text(card or render_card(report))
    write_report(report, place)
    write_published_job(Job(model="m", forget="f", method="mini", out=str(place)), place)
    write_digests(place)
    return place
