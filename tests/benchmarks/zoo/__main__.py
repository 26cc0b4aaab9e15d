"""The zoo: models whose truth is known, judged. How often does the judge let through what it must not, or cry wolf?

    python -m tests.benchmarks.zoo run --root DATA --seeds 0-19 [--only retrained,...] [--cells ...] [--tiers B]
    python -m tests.benchmarks.zoo table

`DATA` is a folder that torchvision's FashionMNIST reads. Every seed draws its own data, trains its own network with the
hook on (test_resnet at 14 pixels, 2,000 training samples with 10 % wrong labels, 4,000 controls), and judges every case
of `cases.py` for every request of `world.py`. Results are appended line by line to `results.csv` beside this file, or
to `--out`; what is there is not done again. `table` writes its tables into docs/verification.md.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.zoo.cases import CASES
from tests.benchmarks.zoo.judge import before, judge, oracle, trials_of
from tests.benchmarks.zoo.results import Result, append, read
from tests.benchmarks.zoo.table import RESULTS, write_tables
from tests.benchmarks.zoo.world import Cell, World, make_world


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("--root", type=Path, required=True)
    run.add_argument("--out", type=Path, default=RESULTS)
    run.add_argument("--seeds", default="0-19")
    run.add_argument("--only", default=",".join(name for name, case in CASES.items() if case.truth != "unknown"))
    run.add_argument("--cells", default="", help="such as 'random 100,class 100'; all of them when left out")
    run.add_argument("--tiers", choices=("B", "AB"), default="AB", help="B alone takes less time")
    commands.add_parser("table")
    arguments = parser.parse_args()
    if arguments.command == "table":
        write_tables(read(RESULTS))
        return
    torch.set_num_threads(1)
    first, last = (int(end) for end in arguments.seeds.split("-"))
    for seed in range(first, last + 1):
        _judge_seed(arguments, seed)


def _judge_seed(arguments: argparse.Namespace, seed: int) -> None:
    done = {(line.cell, line.case) for line in read(arguments.out) if line.seed == seed}
    asked = arguments.only.split(",")
    purposes = ("judge", "method") if "matching" in asked else ("judge",)
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(arguments.root, Path(folder) / "record", seed, purposes)
        for cell in world.cells():
            cases = [name for name in asked if CASES[name].answers(cell) and (cell.name, name) not in done]
            if cases and cell.name in (arguments.cells.split(",") if arguments.cells else [cell.name]):
                for line in _judge_cell(world, cell, cases, arguments.tiers):
                    append(arguments.out, line)


def _judge_cell(world: World, cell: Cell, cases: list[str], tiers: str) -> Iterator[Result]:
    trials = {tier: trial for tier, trial in trials_of(world, cell).items() if tier in tiers}
    seen = {tier: before(trial) for tier, trial in trials.items()}
    retrained = CASES["retrained"].make(world, cell)
    for name in cases:
        model = CASES[name].make(world, cell)
        verdicts = judge(cell, seen, model, trials)
        left = None if model is retrained else oracle(model, retrained, trials["B"])
        columns: dict[str, Any] = {}
        for tier, judged in verdicts.items():
            columns |= {tier: judged.status, f"{tier}_without": judged.without, f"{tier}_difficulty": judged.difficulty}
        yield Result(
            seed=world.seed,
            cell=cell.name,
            case=name,
            **columns,
            margin=verdicts["B"].verdict.margin,
            left=left and left.value,
            left_surely=left and left.details["lower975"],
        )
        for trial in trials.values():
            trial.release(model)


if __name__ == "__main__":
    main()
