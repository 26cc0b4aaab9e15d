"""Measure matching against retrained models on Fashion-MNIST: a tenth of the samples at random, or one class.

    python tests/benchmarks/matching.py --root DATA --work WORK [--seeds 0,1,2] [--request samples|class]
        [--trained 3000] [--epochs 20] [--pairs 1,2] METHOD[:key=value,...] ...

timm's test_resnet at 14 pixels, SGD. Worlds (the original, its record with method pairs, retrained models)
are kept under WORK. FA, RA, TA: accuracy on F, R and 2,000 unseen images; AUC: margin of F against unseen images of the
same class. Gap: mean distance of the four to the mean of the retrained models; for a retrained model, to the others.
Cost: processor time as a share of the mean time of retraining; pairs are made once for all requests and not in it.
"""

import argparse
import copy
import dataclasses
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import timm
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torchvision.datasets import FashionMNIST

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[2] / "hooks")]

from tests.conftest import Rows, image_data
from unlearn_hooks.controls import halves
from unlearn_hooks.plan import Plan
from unlearn_hooks.recorder import record
from unlearn_hooks.references import add_reference
from unlearn_hooks.training_record import TrainingRecord
from unlearn_plugin.data import ImageData, Samples
from unlearn_plugin.outputs import compute_outputs
from unlearn_plugin.progress import Progress
from unlearn_plugin.registry import unlearners
from unlearn_plugin.unlearners._steps import advantage
from unlearn_plugin.unlearners.base import Evidence

UNSEEN, SIDE = 4000, 14
BATCH, RATE, RETRAINED = 64, 0.1, 3
QUIET = Progress(enabled=False)


def fresh(seed: int) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return timm.create_model("test_resnet", num_classes=10, in_chans=1)


def scene(root: Path, seed: int, trained: int) -> tuple[ImageData, ImageData]:
    source = FashionMNIST(root, train=True)
    chosen = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))[: trained + UNSEEN]
    images = F.interpolate((source.data[chosen, None] / 255 - 0.286) / 0.353, size=(SIDE, SIDE), mode="area")
    labels = source.targets[chosen]
    return image_data(images[:trained], labels[:trained]), image_data(images[trained:], labels[trained:])


def fit(data: ImageData, rows: Tensor, seed: int, epochs: int, folder: Path | None = None) -> nn.Module:
    """Train as the original was; into `folder` goes the record."""
    model = fresh(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, weight_decay=5e-4)
    steps = epochs * -(-len(rows) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps + 1)
    images, labels = data.dataset.images[rows], data.dataset.labels[rows]
    loader = torch.utils.data.DataLoader(
        Rows(images, labels) if folder is None else torch.utils.data.Subset(data.dataset, rows.tolist()),
        batch_size=BATCH, shuffle=True, generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    torch.manual_seed(seed)
    model.train()

    def run(batches: Any) -> None:
        for _ in range(epochs):
            for shown, wanted in batches(loader):
                optimizer.zero_grad()
                F.cross_entropy(model(shown), wanted).backward()
                optimizer.step()
                schedule.step()

    if folder is None:
        run(iter)
    else:
        with record(folder, model, optimizer, plan=Plan(steps=24)) as recorder:
            run(recorder.batches)
    return model.eval()


def request(data: ImageData, kind: str, seed: int) -> tuple[Tensor, tuple[int, ...]]:
    if kind == "class":
        return (data.labels == seed % 10).nonzero().flatten(), (seed % 10,)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed + 50))
    return order[: len(data) // 10].sort().values, ()


def original_of(data: ImageData, seed: int, arguments: argparse.Namespace) -> tuple[nn.Module, Path]:
    """The original and its record with method pairs, made unless they are there."""
    folder, weights, epochs = arguments.work / f"{seed}.record", arguments.work / f"{seed}.pt", arguments.epochs
    model = fresh(seed)
    if not weights.exists():
        model = fit(data, torch.arange(len(data)), seed, epochs, folder)
        for pair in range(max(arguments.pairs)):
            for half in halves(data.dataset, pair, seed, labels=data.labels):
                other = fit(data, half.rows(), 1000 * (pair + 1) + 10 * seed + half.side, epochs)
                add_reference(folder, other, data.dataset, half, purpose="method")
        torch.save(model.state_dict(), weights)
    model.load_state_dict(torch.load(weights))
    return model.eval(), folder


def retrained_of(
    data: ImageData, kept: Tensor, seed: int, arguments: argparse.Namespace
) -> Iterator[tuple[nn.Module, float]]:
    for number in range(RETRAINED):
        path = arguments.work / f"{seed}.{arguments.request}.{number}.pt"
        if not path.exists():
            started = time.process_time()
            state = fit(data, kept, 7000 + 10 * seed + number, arguments.epochs).state_dict()
            torch.save({"state": state, "seconds": time.process_time() - started}, path)
        found = torch.load(path)
        model = fresh(0)
        model.load_state_dict(found["state"])
        yield model.eval(), found["seconds"]


def measure(model: nn.Module, evidence: Evidence, unseen: Samples) -> dict[str, float]:
    parts = [
        compute_outputs(model, samples, evidence.accelerator, batch_size=500, progress=QUIET)
        for samples in (evidence.forget, evidence.retain, unseen)
    ]
    stays = ~torch.isin(parts[2].labels, torch.tensor(evidence.forgotten_classes))
    return {
        "FA": float(parts[0].correct.float().mean()), "RA": float(parts[1].correct.float().mean()),
        "TA": float(parts[2].correct[stays].float().mean()),
        "AUC": advantage(parts[0], parts[2], evidence.forgotten_classes) or 0.5,
    }  # fmt: skip


def gap(one: dict[str, float], others: list[dict[str, float]]) -> float:
    return mean(abs(one[key] - mean(other[key] for other in others)) for key in ("FA", "RA", "TA", "AUC"))


def only_pairs(found: TrainingRecord, pairs: int) -> TrainingRecord:
    return found.only(lambda shard: shard.kind != "reference" or shard.meta["pair"] < pairs)


def run_seed(arguments: argparse.Namespace, seed: int, rows: dict[str, list[dict[str, float]]]) -> None:
    data, heldout = scene(arguments.root, seed, arguments.trained)
    original, folder = original_of(data, seed, arguments)
    forget, classes = request(data, arguments.request, seed)
    kept = torch.ones(len(data), dtype=torch.bool)
    kept[forget] = False
    evidence = Evidence(
        forget=Samples(data, forget), retain=Samples(data, kept.nonzero().flatten()),
        tuning=Samples(heldout, torch.arange(UNSEEN // 2)), record=TrainingRecord.open(folder), classes=10,
        forgotten_classes=classes, fresh=fresh, accelerator=Accelerator(cpu=True), seed=seed + 100, progress=QUIET,
    )  # fmt: skip
    unseen = Samples(heldout, torch.arange(UNSEEN // 2, UNSEEN))
    made = list(retrained_of(data, kept.nonzero().flatten(), seed, arguments))
    others = [measure(model, evidence, unseen) for model, _ in made]
    seconds = mean(spent for _, spent in made)
    for place, one in enumerate(others):
        rest = others[:place] + others[place + 1 :]
        rows.setdefault("**retrain**", []).append({**one, "gap": gap(one, rest), "cost": 1.0})
    before = measure(original, evidence, unseen)
    rows.setdefault("original", []).append({**before, "gap": gap(before, others), "cost": 0.0})
    for pairs in arguments.pairs:
        shown = dataclasses.replace(evidence, record=only_pairs(TrainingRecord.open(folder), pairs))
        for text in arguments.methods:
            name, _, options = text.partition(":")
            if name != "matching" and pairs != arguments.pairs[0]:
                continue
            method = unlearners().create(name, dict(pair.split("=") for pair in options.split(",") if pair))
            model = copy.deepcopy(original)
            started = time.process_time()
            facts = method.unlearn(model, shown)
            cost = (time.process_time() - started) / seconds
            found = measure(model, evidence, unseen)
            label = f"{text}, {pairs} pair(s)" if name == "matching" else text
            rows.setdefault(label, []).append({**found, "gap": gap(found, others), "cost": cost})
            print(seed, label, {key: round(value, 3) for key, value in rows[label][-1].items()}, facts, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("methods", nargs="+")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--request", choices=("samples", "class"), default="samples")
    parser.add_argument("--pairs", type=lambda text: [int(part) for part in text.split(",")], default=[1, 2])
    parser.add_argument("--trained", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=20)
    arguments = parser.parse_args()
    arguments.work.mkdir(exist_ok=True)
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in arguments.seeds:
        run_seed(arguments, seed, rows)
    print(f"\n{arguments.request} request, mean of {len(arguments.seeds)} seeds\n")
    print("| method | FA | RA | TA | AUC | gap | cost |\n|---|---|---|---|---|---|---|")
    for label, found in rows.items():
        means = {key: mean(one[key] for one in found) for key in found[0]}
        print(f"| {label} | " + " | ".join(f"{value:.3f}" for value in means.values()) + " |")


if __name__ == "__main__":
    main()
