"""What the hook costs: the same training with and without it, alternated within one process.

    python tests/benchmarks/recording.py [--arch test_resnet] [--batch 128] [--rounds 7]

Compares CPU time, since shared machines make wall time meaningless, and prints the median of the paired ratios. Every
round checks that both trainings end in bit-identical weights.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import timm
import torch
from torch.utils.data import DataLoader, TensorDataset

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "hooks")]

from unlearn_hooks import Plan, record  # noqa: E402  # after the path is set


def train(arch: str, batch: int, steps: int, folder: Path | None, plan: Plan) -> tuple[float, dict[str, torch.Tensor]]:
    """Train for `steps` steps; returns the CPU seconds of the loop and the weights."""
    torch.manual_seed(0)
    model = timm.create_model(arch, num_classes=10).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    data = TensorDataset(torch.randn(batch * steps, 3, 32, 32), torch.randint(0, 10, (batch * steps,)))
    loader = DataLoader(data, batch_size=batch, shuffle=True)
    started = time.process_time()

    def loop(batches: object) -> None:
        for images, labels in batches:  # type: ignore[attr-defined]
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()

    if folder is None:
        loop(loader)
    else:
        with record(folder, model, optimizer, plan=plan) as recorder:
            loop(recorder.batches(loader))
    return time.process_time() - started, model.state_dict()


def main() -> None:
    """Alternate the two, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="test_resnet")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    ratios, sizes = [], []
    for number in range(arguments.rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "record"
            variants = [None, place] if number % 2 else [place, None]
            found = {
                where is None: train(arguments.arch, arguments.batch, arguments.steps, where, Plan())
                for where in variants
            }
            plain, recorded = found[True], found[False]
            if any(not torch.equal(plain[1][name], recorded[1][name]) for name in plain[1]):
                sys.exit("the weights differ with the recorder on")
            sizes.append(sum(path.stat().st_size for path in place.rglob("*") if path.is_file()))
            if number:  # the first round warms up
                ratios.append(recorded[0] / plain[0])
    print(f"{platform.machine()}, {os.cpu_count()} cores, 1 thread, torch {torch.__version__}")
    print(f"{arguments.arch}, batch {arguments.batch}, {arguments.steps} steps, {arguments.rounds} rounds")
    print(f"CPU time with / without: median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}")
    print(f"bytes written: {sizes[-1]:,}")


if __name__ == "__main__":
    main()
