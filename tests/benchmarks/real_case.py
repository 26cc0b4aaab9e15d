"""A real case: Fashion-MNIST or CIFAR-10, a timm ResNet trained with the hook on, 10 % of the samples forgotten.

    python tests/benchmarks/real_case.py --root DATA --out WORK [--dataset fashion_mnist] [--methods mini,muda]

`DATA` is a folder that torchvision.datasets reads without downloading. The original and every method run once per
seed; the retrained references are `--references` models from different seeds, and their own spread is a row of the
table. The table is written into docs/benchmarks.md between the markers of the data set.
"""

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import save_for_hf
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets, transforms

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "hooks")]

from unlearn_hooks import Plan, record  # noqa: E402  # after the path is set

from unlearn_plugin.job import Job  # noqa: E402
from unlearn_plugin.pipeline import Outcome, run  # noqa: E402

DATASETS = {
    "fashion_mnist": (datasets.FashionMNIST, 1, ((0.2860,), (0.3530,))),
    "cifar10": (datasets.CIFAR10, 3, ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))),
}
TRAIN, HELD_OUT, FORGET, CLASSES = 3000, 4000, 0.1, 10


class Kept(Dataset[tuple[torch.Tensor, int]]):
    """Rows of a data set, decoded once; ids are the rows of the official training set."""

    def __init__(self, source: Dataset[Any], rows: Sequence[int]) -> None:
        self.ids = [str(row) for row in rows]
        self.items = [source[row] for row in rows]
        self.targets = [label for _, label in self.items]
        self.classes = [str(label) for label in range(CLASSES)]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return self.items[row]


def subset() -> tuple[Kept, Kept]:
    """The training samples and the held-out samples, drawn at random from the official training set."""
    make, _, (mean, std) = DATASETS[os.environ["REAL_CASE_DATASET"]]
    steps = [transforms.Resize(32), transforms.ToTensor(), transforms.Normalize(mean, std)]
    source = make(os.environ["REAL_CASE_ROOT"], train=True, download=False, transform=transforms.Compose(steps))
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(0)).tolist()
    return Kept(source, order[:TRAIN]), Kept(source, order[TRAIN : TRAIN + HELD_OUT])


def train(folder: Path, arch: str, channels: int, train_set: Kept, seed: int, epochs: int) -> float:
    """Train the original with the hook on, and write its checkpoint and record; returns the seconds."""
    torch.manual_seed(seed)
    shape = {"input_size": (channels, 32, 32), "crop_pct": 1.0, "mean": (0.5,) * channels, "std": (0.5,) * channels}
    model = timm.create_model(arch, num_classes=CLASSES, in_chans=channels, pretrained_cfg_overlay=shape)
    loader = DataLoader(train_set, batch_size=100, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
    started = time.perf_counter()
    model.train()
    with record(folder / "record", model, optimizer, plan=Plan(steps=12)) as recorder:
        for _ in range(epochs):
            for images, labels in recorder.batches(loader):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(images), labels).backward()
                optimizer.step()
                schedule.step()
    seconds = time.perf_counter() - started
    save_for_hf(model, folder / "model", model_args={"in_chans": channels}, safe_serialization=True)
    return seconds


def job(folder: Path, method: str, seed: int, name: str, options: dict[str, str], reference: str | None) -> Outcome:
    """One request on the original of `folder`."""
    return run(
        Job(
            model=f"local-dir:{folder / 'model'}",
            data="real_case:subset",
            forget=str(folder / "forget.txt"),
            record=str(folder / "record"),
            method=method,
            options=options,
            reference=reference,
            seed=seed,
            out=str(folder / name),
            device="cpu",
        )
    )


def row(report: dict[str, Any], who: str = "after") -> dict[str, float | None]:
    """The table's numbers of one model."""
    measured = {name: entry[who] for name, entry in report["measurements"].items()}
    utility = measured["utility"]["details"]
    return {
        "RA": utility["retain"]["value"],
        "FA": utility["forget"]["value"],
        "TA": utility["controls"]["value"],
        "AUC": measured["membership"]["value"],
        "DA": measured["alignment"]["value"],
        "LP": measured["linear_probe"]["value"],
    }


def table(rows: dict[str, list[dict[str, Any]]]) -> str:
    """Mean and, of several runs, the standard deviation of each number, as Markdown."""
    columns = ["RA", "FA", "TA", "AUC", "DA", "LP", "gap", "cost", "verdict"]
    lines = ["| model | runs | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for name, runs in rows.items():
        cells = [name, str(len(runs))]
        for column in columns:
            values = [entry[column] for entry in runs if entry.get(column) is not None]
            if not values:
                cells.append("–")
            elif isinstance(values[0], str):
                cells.append(", ".join(sorted(set(values))))
            else:
                spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
                cells.append(f"{statistics.mean(values):.3f}{spread}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def gap(found: dict[str, Any], references: list[dict[str, Any]]) -> float:
    """Average over RA, FA, TA and AUC of the distance to the mean retrained model."""
    names = ("RA", "FA", "TA", "AUC")
    return statistics.mean(abs(found[name] - statistics.mean(r[name] for r in references)) for name in names)


def main() -> None:
    """Run everything and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dataset", choices=DATASETS, default="fashion_mnist")
    parser.add_argument("--arch", default="test_resnet")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--references", type=int, default=2)
    parser.add_argument("--methods", default="finetune,mini,muda")
    arguments = parser.parse_args()
    sys.modules["real_case"] = sys.modules["__main__"]
    os.environ.update(REAL_CASE_DATASET=arguments.dataset, REAL_CASE_ROOT=arguments.root)
    rows: dict[str, list[dict[str, Any]]] = {}
    for seed in range(arguments.seeds):
        for name, found in play(arguments, arguments.out / f"{arguments.dataset}-{seed}", seed):
            rows.setdefault(name, []).append(found)
            print(name, found, flush=True)
    write(arguments, table(rows))


def play(arguments: argparse.Namespace, folder: Path, seed: int) -> list[tuple[str, dict[str, Any]]]:
    """Original, references and methods of one seed."""
    folder.mkdir(parents=True)
    train_set, _ = subset()
    forget = torch.randperm(TRAIN, generator=torch.Generator().manual_seed(100 + seed))[: int(FORGET * TRAIN)]
    (folder / "forget.txt").write_text("\n".join(train_set.ids[place] for place in sorted(forget.tolist())))
    channels = DATASETS[arguments.dataset][1]
    seconds = train(folder, arguments.arch, channels, train_set, seed, arguments.epochs)
    print(f"original trained with the hook on in {seconds:.0f} s", flush=True)
    outcomes = [
        job(folder, "retrain", 10 + number, f"retrain-{number}", {}, None) for number in range(arguments.references)
    ]
    references = [row(outcome.report) for outcome in outcomes]
    cost = statistics.mean(outcome.report["procedure"]["seconds"] for outcome in outcomes)
    found = [("original", {**row(outcomes[0].report, "before"), "cost": None})]
    found[0][1]["gap"] = gap(found[0][1], references)
    for number, outcome in enumerate(outcomes):
        others = [r for place, r in enumerate(references) if place != number] or references
        found.append(("retrain", entry(outcome, gap(row(outcome.report), others), cost)))
    reference = f"local-dir:{folder / 'retrain-0'}"
    for method in arguments.methods.split(","):
        name, _, text = method.partition(":")
        options = dict(pair.split("=") for pair in text.split("/") if pair)
        outcome = job(folder, name, seed, method.replace(":", "-").replace("/", "-"), options, reference)
        found.append((method, entry(outcome, gap(row(outcome.report), references), cost)))
    return found


def entry(outcome: Outcome, distance: float, cost: float) -> dict[str, Any]:
    """A table row of one outcome."""
    seconds = outcome.report["procedure"]["seconds"]
    return {**row(outcome.report), "gap": distance, "cost": seconds / cost, "verdict": outcome.verdict.status}


def write(arguments: argparse.Namespace, lines: str) -> None:
    """Put the table between its markers in docs/benchmarks.md."""
    page = ROOT / "docs" / "benchmarks.md"
    begin, end = (f"<!-- {arguments.dataset}:{word} -->" for word in ("begin", "end"))
    before, _, rest = page.read_text().partition(begin)
    _, _, after = rest.partition(end)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, timm {timm.__version__}"
    given = (
        f"--dataset {arguments.dataset} --arch {arguments.arch} --epochs {arguments.epochs} --seeds {arguments.seeds}"
    )
    command = f"`python tests/benchmarks/real_case.py --root DATA --out WORK {given} --methods {arguments.methods}`"
    page.write_text(f"{before}{begin}\n\n{command} ({machine})\n\n{lines}\n\n{end}{after}")


if __name__ == "__main__":
    main()
