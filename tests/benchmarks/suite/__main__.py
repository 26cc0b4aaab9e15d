"""The benchmarks of docs/benchmarks.md."""

import argparse
from pathlib import Path

import torch

from tests.benchmarks.suite.world import Suite


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("worlds")
    for command in (make,):
        command.add_argument("--root", type=Path)
        command.add_argument("--cache", type=Path, required=True)
        command.add_argument("--datasets", default="fashion_mnist,cifar10")
        command.add_argument("--archs", default="test_resnet")
        command.add_argument("--requests", default="random,class,part,classes,second")
        command.add_argument("--seeds", default="0,1,2")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    suite = Suite(arguments.cache, arguments.root)
    for dataset in arguments.datasets.split(","):
        for arch in arguments.archs.split(","):
            worlds = [suite.world(dataset, arch, int(seed)) for seed in arguments.seeds.split(",")]
            for kind in filter(None, arguments.requests.split(",")):
                for seed in worlds[0].reference_seeds:
                    found = worlds[0].retrained(worlds[0].request(kind), seed)
                    print(dataset, arch, kind, seed, round(found.seconds, 1), round(found.steps), found.peak, flush=True)


if __name__ == "__main__":
    main()
