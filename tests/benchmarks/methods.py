"""Measure the methods on real digits against really retrained models: a sample request and a class request.

    python tests/benchmarks/methods.py [--seeds 3] [--request samples|class] METHOD[:key=value,...] ...

700 digits with 20 % wrong labels, timm's test_resnet at 32 pixels, 30 epochs of SGD, recorded with Plan(steps=24).
FA, RA, TA: accuracy on F, R and 1,097 unseen digits (for a class request: of the other classes). AUC: margin of F
against unseen digits (of the same class for a class request). DA: share of the energy of F's features in the main
directions (95 %) of R's. Seconds depend on the machine; `work` is their ratio to training the original.
"""

import argparse
import copy
import sys
import tempfile
import time
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[2] / "hooks")]

from tests.conftest import digits, image_data
from unlearn_hooks.plan import Plan
from unlearn_hooks.recorder import record
from unlearn_hooks.training_record import TrainingRecord
from unlearn_plugin.data import ImageData, Samples
from unlearn_plugin.outputs import compute_outputs
from unlearn_plugin.progress import Progress
from unlearn_plugin.registry import unlearners
from unlearn_plugin.unlearners._subspace import alignment, main_directions
from unlearn_plugin.unlearners.base import Evidence

TRAINED, EPOCHS, FORGET = 700, 30, 100


def fresh(seed: int) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return timm.create_model("test_resnet", num_classes=10, in_chans=1)


def scene(seed: int) -> tuple[ImageData, ImageData]:
    images, labels = digits(seed)
    images = F.interpolate(images, size=(32, 32), mode="bilinear")
    return image_data(images[:TRAINED], labels[:TRAINED]), image_data(images[TRAINED:], labels[TRAINED:])


def train_recorded(train: ImageData, seed: int, folder: Path) -> nn.Module:
    model = fresh(seed)
    torch.manual_seed(seed)
    loader = torch.utils.data.DataLoader(train.dataset, batch_size=64, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * len(loader))
    model.train()
    with record(folder, model, optimizer, plan=Plan(steps=24)) as recorder:
        for _ in range(EPOCHS):
            for images, labels in recorder.batches(loader):
                optimizer.zero_grad()
                F.cross_entropy(model(images), labels).backward()
                optimizer.step()
                schedule.step()
    return model.eval()


def request(train: ImageData, kind: str, seed: int) -> tuple[Tensor, tuple[int, ...]]:
    if kind == "class":
        label = seed % 10
        return (train.labels == label).nonzero().flatten(), (label,)
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(TRAINED, generator=generator)[:FORGET].sort().values, ()


def measure(model: nn.Module, evidence: Evidence, heldout: ImageData) -> dict[str, float]:
    def look(samples: Samples):  # noqa: ANN202
        return compute_outputs(model, samples, evidence.accelerator, batch_size=512, progress=evidence.progress)

    forget, retain = look(evidence.forget), look(evidence.retain)
    unseen = look(Samples(heldout, torch.arange(len(heldout))))
    same = torch.isin(unseen.labels, torch.tensor(evidence.forgotten_classes)) if evidence.forgotten_classes else None
    others = unseen.margins if same is None else unseen.margins[same]
    judged = unseen.correct if same is None else unseen.correct[~same]
    wins = (forget.margins[:, None] > others).float() + 0.5 * (forget.margins[:, None] == others).float()
    basis = main_directions(retain.features.T @ retain.features / len(retain.features), 0.95)
    return {
        "FA": float(forget.correct.float().mean()), "RA": float(retain.correct.float().mean()),
        "TA": float(judged.float().mean()), "AUC": float(wins.mean()), "DA": float(alignment(forget.features, basis)),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("methods", nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--request", choices=("samples", "class"), default="samples")
    arguments = parser.parse_args()
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in range(arguments.seeds):
        train, heldout = scene(seed)
        with tempfile.TemporaryDirectory() as folder:
            started = time.process_time()
            original = train_recorded(train, seed, Path(folder) / "record")
            training = time.process_time() - started
            forget, classes = request(train, arguments.request, seed)
            kept = torch.ones(TRAINED, dtype=torch.bool)
            kept[forget] = False
            evidence = Evidence(
                forget=Samples(train, forget), retain=Samples(train, kept.nonzero().flatten()),
                tuning=Samples(heldout, torch.arange(0, len(heldout), 2)),
                record=TrainingRecord.open(Path(folder) / "record"),
                classes=10, forgotten_classes=classes, fresh=fresh, accelerator=Accelerator(cpu=True), seed=seed + 100,
                progress=Progress(enabled=False),
            )  # fmt: skip
            rows.setdefault("original", []).append({**measure(original, evidence, heldout), "work": 0.0})
            for text in arguments.methods:
                name, _, options = text.partition(":")
                method = unlearners().create(name, dict(pair.split("=") for pair in options.split(",") if pair))
                model = copy.deepcopy(original)
                started = time.process_time()
                facts = method.unlearn(model, evidence)
                work = (time.process_time() - started) / training
                rows.setdefault(text, []).append({**measure(model, evidence, heldout), "work": work})
                print(seed, text, {key: round(value, 3) for key, value in rows[text][-1].items()}, facts, flush=True)
    print(f"\n{arguments.request} request, mean of {arguments.seeds} seeds\n")
    print("| method | FA | RA | TA | AUC | DA | work |\n|---|---|---|---|---|---|---|")
    for text, found in rows.items():
        means = {key: sum(one[key] for one in found) / len(found) for key in found[0]}
        print(f"| {text} | " + " | ".join(f"{value:.3f}" for value in means.values()) + " |")


if __name__ == "__main__":
    main()
