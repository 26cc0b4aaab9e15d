"""Runs a test file as two processes that really talk to each other, over gloo."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.hooks.frameworks.pixel_truth import N, grouped, recorded
from unlearn_hooks import TrainingRecord
from unlearn_hooks.features import recorded_features
from unlearn_hooks.samples import recorded_samples
from unlearn_hooks.schedule import recorded_schedule
from unlearn_hooks.updates import recorded_updates

ROOT = Path(__file__).parents[3]


def run_in_two(script: str, folder: Path) -> list[dict[str, Any]]:
    """Run `script FOLDER` in two ranks; give what each wrote by `tell`."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script]
    paths = os.pathsep.join([str(ROOT / "hooks"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(folder)], check=False, capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"truth{rank}.json").read_text()) for rank in (0, 1)]


def tell(folder: Path, told: dict[str, Any]) -> None:
    """Called in a rank: what it knows of what it was trained on."""
    (folder / f"truth{os.environ['RANK']}.json").write_text(json.dumps(told))


def together(micro_batches: list[list[list[int]]], size: int = 1) -> list[list[list[int]]]:
    """Steps of both ranks, who trained on 3 micro-batches an epoch each and made a step of every `size` of them."""
    first, second = (grouped(one, size, 3) for one in micro_batches)
    return [[*mine, *theirs] for mine, theirs in zip(first, second, strict=True)]


def check_whole(folder: Path, told: list[dict[str, Any]]) -> None:
    """Two epochs in steps of two micro-batches, recorded as `told` says they were."""
    found, trained = TrainingRecord.open(folder / "whole"), [one["whole"] for one in told]
    assert recorded(found.folder) == together(trained, 2)
    assert found.manifest["world"] == 2
    assert {row for one in trained for rows in one[:3] for row in rows} == set(range(N))
    assert recorded_features(found).n == sum(len(rows) for one in trained for rows in one)
    assert [sorted(set(epoch.rows.tolist())) for epoch in recorded_samples(found)] == [list(range(N))] * 2
    assert len(recorded_updates(found)) > 0
    assert {one["weights"] for one in told} == {found.manifest["final_weights"]}
    assert [one["unknown"] for one in told] == [[{}, {}]] * 2


def check_resumed(folder: Path, told: list[dict[str, Any]]) -> None:
    """Three epochs that died in the second one, recorded once each."""
    found, trained = TrainingRecord.open(folder / "resumed"), [one["resumed"] for one in told]
    assert recorded(found.folder) == together(trained)
    assert found.complete
    assert recorded_schedule(found).epochs.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert recorded_features(found).n == sum(len(rows) for one in trained for rows in one)
