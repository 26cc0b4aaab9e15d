"""What the hook costs: the same training with and without it, alternated, each in a process of its own.

    python tests/benchmarks/recording.py [--arch test_resnet] [--batch 128] [--steps 240] [--rounds 7]

Compares CPU time, since shared machines make wall time meaningless, and prints the median of the paired ratios. Freed
memory stays with the process (MALLOC_TRIM_THRESHOLD_, MALLOC_MMAP_THRESHOLD_), with the hook and without: else the
allocator's luck with large blocks changes the time of the same training by a tenth. Every round checks that both
trainings end in bit-identical weights.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import timm
import torch
from torch.utils.data import DataLoader, TensorDataset

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "hooks")]

from unlearn_hooks import record  # noqa: E402  # after the path is set
from unlearn_hooks.training_record import weights_digest  # noqa: E402


def train(arch: str, batch: int, steps: int, folder: Path | None) -> tuple[float, str]:
    """Train for `steps` steps; returns the CPU seconds of the loop and the digest of the weights."""
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
        with record(folder, model, optimizer) as recorder:
            loop(recorder.batches(loader))
    return time.process_time() - started, weights_digest(model.state_dict())


def child(arguments: argparse.Namespace, folder: Path | None) -> tuple[float, str]:
    """Train in a process of its own."""
    names = ("arch", "batch", "steps")
    options = [text for name in names for text in (f"--{name}", str(getattr(arguments, name)))]
    malloc = {"MALLOC_TRIM_THRESHOLD_": str(2**32), "MALLOC_MMAP_THRESHOLD_": str(2**32)}
    command = [sys.executable, __file__, *options, "--child", str(folder or "")]
    seconds, digest = json.loads(subprocess.check_output(command, env={**os.environ, **malloc}))
    return seconds, digest


def main() -> None:
    """Alternate the two, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="test_resnet")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.child is not None:
        train(arguments.arch, arguments.batch, 3, None)  # warms up
        folder = Path(arguments.child) if arguments.child else None
        print(json.dumps(train(arguments.arch, arguments.batch, arguments.steps, folder)))
        return
    pairs, size = [], 0
    for number in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "record"
            found = {where: child(arguments, where) for where in ([place, None] if number % 2 else [None, place])}
            if found[None][1] != found[place][1]:
                sys.exit("the weights differ with the recorder on")
            size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
            pairs.append((found[None][0], found[place][0]))
    ratios = [recorded / plain for plain, recorded in pairs]
    print(f"{platform.machine()}, {os.cpu_count()} cores, 1 thread, torch {torch.__version__}")
    print(f"{arguments.arch}, batch {arguments.batch}, {arguments.steps} steps, {arguments.rounds} rounds")
    print(f"CPU time with / without: median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}")
    print(f"fastest with / fastest without: {min(b for _, b in pairs) / min(a for a, _ in pairs):.3f}")
    print(f"bytes of the record: {size:,}")


if __name__ == "__main__":
    main()
