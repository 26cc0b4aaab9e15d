"""The benchmarks of docs/benchmarks.md.

    python -m tests.benchmarks.suite run --root DATA --cache CACHE --out RESULTS.jsonl
    python -m tests.benchmarks.suite table RESULTS.jsonl

`DATA` is a folder that torchvision.datasets reads without downloading; digits need none. Models, records and retrained
models are kept in `CACHE`. Results are appended line by line, by data set, network, request, method with its options,
seed and version of the method's code; what is there is not done again, so a run that was ended goes on where it was.
Every part can be chosen; several processes may share the work. `table` writes all tables and pictures; what is not
measured yet is said.
"""

import argparse
from pathlib import Path

import torch

from tests.benchmarks.suite import picture, runs, table
from tests.benchmarks.suite.tasks import TASKS
from tests.benchmarks.suite.world import Suite

DOCS = Path(__file__).parents[3] / "docs"


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("--root", type=Path, help="not needed where the cache has all worlds")
    run.add_argument("--cache", type=Path, required=True)
    run.add_argument("--out", type=Path, required=True)
    run.add_argument("--datasets", default=",".join(TASKS))
    run.add_argument("--archs", default="test_resnet", help="timm's names, such as test_resnet,test_vit")
    run.add_argument("--requests", default="random,class,part,classes,second,subject")
    run.add_argument("--methods", nargs="*", default=[], help="NAME or NAME:key=value,...; all when left out")
    run.add_argument("--seeds", default="0,1,2")
    run.add_argument("--no-verdict", action="store_true", help="leave out what the verdict alone needs")
    show = commands.add_parser("table")
    show.add_argument("results", type=Path, nargs="+")
    show.add_argument("--docs", type=Path, default=DOCS)
    arguments = parser.parse_args()
    if arguments.command == "run":
        _run(arguments)
    else:
        _show([line for path in arguments.results for line in runs.read(path)], arguments.docs)


def _run(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    suite = Suite(arguments.cache, arguments.root)
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    for request in arguments.requests.split(","):
        for dataset in arguments.datasets.split(","):
            if request not in TASKS[dataset].requests:
                continue
            for arch in arguments.archs.split(","):
                _answer(arguments, suite, (dataset, arch, request), seeds)


def _answer(arguments: argparse.Namespace, suite: Suite, place: tuple[str, str, str], seeds: list[int]) -> None:
    verdicts = not arguments.no_verdict
    named = arguments.methods or [*runs.YARDSTICKS, *runs.methods()]
    if "retrain" in named:
        references = suite.reference_seeds(seeds[0])
        runs.perform(runs.planned(*place, references, ["retrain"]), suite, arguments.out, verdicts=verdicts)
    others = [name for name in named if name != "retrain"]
    runs.perform(runs.planned(*place, seeds, others), suite, arguments.out, verdicts=verdicts)
    lines = [line for line in runs.read(arguments.out) if (line["dataset"], line["arch"], line["request"]) == place]
    asked = [name for name in runs.PUBLISHED if name in named]
    also = {f"finetune:{options}" for name in asked if (options := runs.equal_cost(lines, name))}
    runs.perform(runs.planned(*place, seeds, sorted(also)), suite, arguments.out, verdicts=verdicts)


def _show(lines: list[runs.Line], docs: Path) -> None:
    for place in sorted({(line["dataset"], line["arch"], line["request"]) for line in lines}):
        found = table.rows(lines, *place)
        if place[2] == "random" and any(row.name not in runs.YARDSTICKS for row in found):
            picture.draw(found, ", ".join(place), docs / "pictures" / f"{'-'.join(place)}.png")
    table.write(lines, docs / "benchmarks.md")


if __name__ == "__main__":
    main()
