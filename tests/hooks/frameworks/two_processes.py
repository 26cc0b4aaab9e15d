"""Runs a test file as two processes that really talk to each other, over gloo."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.hooks.frameworks.pixel_truth import grouped

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
