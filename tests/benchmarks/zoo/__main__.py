"""The zoo: models whose truth is known, judged. How often does the judge let through what it must not, or cry wolf?

    python -m tests.benchmarks.zoo run --root DATA --out results.jsonl --seeds 0-9 [--only retrained,...] [--cells ...]
    python -m tests.benchmarks.zoo table results.jsonl

`DATA` is a folder that torchvision's FashionMNIST reads. Every seed draws its own data, trains its own network with the
hook on (test_resnet at 14 pixels, 2,000 training samples with 10 % wrong labels, 4,000 controls), and judges every case
of `cases.py` for every request of `world.py`. Results are appended line by line; what is there is not done again.
`table` writes its table into docs/verification.md.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.zoo.cases import CASES
from tests.benchmarks.zoo.judge import judge, measure, trial_of
from tests.benchmarks.zoo.table import write_table
from tests.benchmarks.zoo.world import Cell, make_world


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("--root", type=Path, required=True)
    run.add_argument("--out", type=Path, required=True)
    run.add_argument("--seeds", default="0-19")
    run.add_argument("--only", default=",".join(name for name, case in CASES.items() if case.truth != "unknown"))
    run.add_argument("--cells", default="", help="such as 'random 100,class 100'; all of them when left out")
    table = commands.add_parser("table")
    table.add_argument("results", type=Path, nargs="+")
    arguments = parser.parse_args()
    if arguments.command == "table":
        write_table([json.loads(line) for path in arguments.results for line in path.read_text().splitlines()])
        return
    torch.set_num_threads(1)
    first, last = (int(end) for end in arguments.seeds.split("-"))
    for seed in range(first, last + 1):
        _judge_seed(arguments, seed)


def _judge_seed(arguments: argparse.Namespace, seed: int) -> None:
    lines = map(json.loads, arguments.out.read_text().splitlines()) if arguments.out.exists() else ()
    done = {(line["cell"], line["case"]) for line in lines if line["seed"] == seed}
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(arguments.root, Path(folder) / "record", seed, pairs=1)
        for cell in world.cells():
            if arguments.cells and cell.name not in arguments.cells.split(","):
                continue
            trial, before = trial_of(world, cell), None
            for name in arguments.only.split(","):
                if (cell.name, name) not in done:
                    before = before or measure(world.original, trial)
                    after = measure(CASES[name].make(world, cell), trial)
                    with arguments.out.open("a") as file:
                        file.write(json.dumps(_line(seed, cell, name, before, after)) + "\n")


def _line(seed: int, cell: Cell, name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    verdicts = {tier: judge(cell, before, after, tier) for tier in ("A", "B")}
    return {
        "seed": seed,
        "cell": cell.name,
        "case": name,
        "truth": CASES[name].truth,
        "status": {tier: verdict.status for tier, verdict in verdicts.items()},
        "reason": {tier: verdict.reasons[0] for tier, verdict in verdicts.items()},
        "auc": {test: [one[test]["value"] for one in (before, after)] for test in after if test.endswith("membership")},
    }


if __name__ == "__main__":
    main()
