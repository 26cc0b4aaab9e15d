"""Measure methods at equal cost on random requests: Fashion-MNIST and CIFAR-10, test_resnet, against retrained models.

    python tests/benchmarks/equal_cost.py --root DATA --worlds FOLDER [--dataset cifar10] [--seeds 0,1,2]
        [--forget 0.1] METHOD[:key=value,...] ...

`DATA` is a folder that torchvision.datasets reads without downloading. A world is a seed: 3,000 images at 16 pixels, 30
epochs of SGD recorded with Plan(steps=12), two models retrained without F. It is kept in `FOLDER` and used again. FA,
RA, TA: accuracy on F, R and 2,000 unseen images that no method saw; AUC: margin of F against them. `gap` is the mean
over the four of the distance to the retrained models' mean. `work` is processor time over that of the training.
"""

import argparse
import copy
import statistics
import sys
import time
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torchvision import datasets

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[2] / "hooks")]

from tests.conftest import image_data
from unlearn_hooks.plan import Plan
from unlearn_hooks.recorder import record
from unlearn_hooks.training_record import TrainingRecord
from unlearn_plugin.data import ImageData, Samples
from unlearn_plugin.outputs import Outputs, compute_outputs
from unlearn_plugin.progress import Progress
from unlearn_plugin.registry import unlearners
from unlearn_plugin.unlearners.base import Evidence

TRAINED, HELD_OUT, SIDE, EPOCHS, BATCH = 3000, 4000, 16, 30, 100
ACCELERATOR, QUIET = Accelerator(cpu=True), Progress(enabled=False)


def draw(root: Path, name: str, seed: int) -> tuple[ImageData, ImageData]:
    """Training and held-out images of one seed, normalised, at 16 pixels."""
    source = {"fashion_mnist": datasets.FashionMNIST, "cifar10": datasets.CIFAR10}[name](root, train=True)
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))[: TRAINED + HELD_OUT]
    pixels = torch.as_tensor(source.data)[order].float() / 255
    images = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
    images = F.interpolate(F.pad(images, (2, 2, 2, 2)) if images.shape[-1] == 28 else images, (SIDE, SIDE), mode="area")
    images = (images - images.mean((0, 2, 3), keepdim=True)) / images.std((0, 2, 3), keepdim=True)
    labels = torch.as_tensor(source.targets)[order]
    return image_data(images[:TRAINED], labels[:TRAINED]), image_data(images[TRAINED:], labels[TRAINED:])


def fresh(seed: int, channels: int) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return timm.create_model("test_resnet", num_classes=10, in_chans=channels)


def train(data: ImageData, rows: Tensor, seed: int, folder: Path | None = None) -> nn.Module:
    """Train on some rows, recording if there is a folder."""
    model = fresh(seed, data.images(rows[:1]).shape[1])
    torch.manual_seed(seed)
    loader = torch.utils.data.DataLoader(torch.utils.data.Subset(data.dataset, rows.tolist()), BATCH, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * len(loader))
    model.train()

    def run(batches) -> None:  # noqa: ANN001
        for _ in range(EPOCHS):
            for images, labels in batches(loader):
                optimizer.zero_grad()
                F.cross_entropy(model(images), labels).backward()
                optimizer.step()
                schedule.step()

    if folder is None:
        run(iter)
    else:
        with record(folder, model, optimizer, plan=Plan(steps=12)) as recorder:
            run(recorder.batches)
    return model.eval()


class World:
    """One seed: data, request, the original with its record, and two models retrained without F."""

    def __init__(self, root: Path, folder: Path, name: str, seed: int, share: float) -> None:
        self.data, self.heldout = draw(root, name, seed)
        order = torch.randperm(TRAINED, generator=torch.Generator().manual_seed(seed + 1))
        count = round(share * TRAINED)
        self.forget, self.retain = order[:count].sort().values, order[count:].sort().values
        self.seed, self.channels = seed, 1 if name == "fashion_mnist" else 3
        place = folder / f"{name}-{seed}"
        place.mkdir(parents=True, exist_ok=True)
        if not (place / "original.pt").exists():
            started = time.process_time()
            model = train(self.data, torch.arange(TRAINED), seed, place / "record")
            torch.save((model.state_dict(), time.process_time() - started), place / "original.pt")
        self.original = fresh(seed, self.channels).eval()
        state, self.training = torch.load(place / "original.pt")
        self.original.load_state_dict(state)
        self.record = TrainingRecord.open(place / "record")
        self.retrained = []
        for other in (1000, 2000):
            kept = place / f"retrained-{other}-{share}.pt"
            if not kept.exists():
                torch.save(train(self.data, self.retain, seed + other).state_dict(), kept)
            model = fresh(0, self.channels).eval()
            model.load_state_dict(torch.load(kept))
            self.retrained.append(model)

    def evidence(self) -> Evidence:
        return Evidence(
            forget=Samples(self.data, self.forget), retain=Samples(self.data, self.retain),
            tuning=Samples(self.heldout, torch.arange(0, HELD_OUT, 2)), record=self.record, classes=10,
            fresh=lambda seed: fresh(seed, self.channels), accelerator=ACCELERATOR, seed=self.seed + 100,
            progress=QUIET,
        )  # fmt: skip

    def outputs(self, model: nn.Module, data: ImageData, rows: Tensor) -> Outputs:
        return compute_outputs(model, Samples(data, rows), ACCELERATOR, batch_size=512, progress=QUIET)

    def measure(self, model: nn.Module) -> dict[str, float]:
        forget = self.outputs(model, self.data, self.forget)
        retain = self.outputs(model, self.data, self.retain)
        unseen = self.outputs(model, self.heldout, torch.arange(1, HELD_OUT, 2))
        own, others = forget.margins[:, None], unseen.margins
        return {
            "FA": float(forget.correct.float().mean()), "RA": float(retain.correct.float().mean()),
            "TA": float(unseen.correct.float().mean()),
            "AUC": float(((own > others).float() + 0.5 * (own == others).float()).mean()),
        }  # fmt: skip


def summary(rows: dict[str, list[dict[str, float]]]) -> str:
    """Mean, and standard deviation of `gap`, over the seeds."""
    lines = ["| method | FA | RA | TA | AUC | gap | work |", "|---|---|---|---|---|---|---|"]
    for text, found in rows.items():
        means = {key: statistics.mean(one[key] for one in found) for key in found[0]}
        cells = [f"{value:.3f}" for value in means.values()]
        if len(found) > 1:
            cells[4] += f" ± {statistics.stdev(one['gap'] for one in found):.3f}"
        lines.append(f"| {text} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("methods", nargs="*")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--worlds", type=Path, required=True)
    parser.add_argument("--dataset", choices=("fashion_mnist", "cifar10"), default="fashion_mnist")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--forget", type=float, default=0.1)
    arguments = parser.parse_args()
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in map(int, arguments.seeds.split(",")):
        world = World(arguments.root, arguments.worlds, arguments.dataset, seed, arguments.forget)
        references = [world.measure(model) for model in world.retrained]
        truth = {key: statistics.mean(one[key] for one in references) for key in references[0]}

        def note(text: str, found: dict[str, float], work: float, truth: dict[str, float] = truth) -> None:
            gap = statistics.mean(abs(found[key] - truth[key]) for key in truth)
            rows.setdefault(text, []).append({**found, "gap": gap, "work": work})

        note("original", world.measure(world.original), 0.0)
        for one in references:
            note("retrain", one, 1.0)
        for text in arguments.methods:
            name, _, options = text.partition(":")
            method = unlearners().create(name, dict(pair.split("=") for pair in options.split(",") if pair))
            model = copy.deepcopy(world.original)
            started = time.process_time()
            facts = method.unlearn(model, world.evidence())
            work = (time.process_time() - started) / world.training
            note(text, world.measure(model), work)
            print(seed, text, {key: round(value, 3) for key, value in rows[text][-1].items()}, facts, flush=True)
    print(f"\n{arguments.dataset}, {arguments.forget:.0%} forgotten, seeds {arguments.seeds}\n\n{summary(rows)}")


if __name__ == "__main__":
    main()
