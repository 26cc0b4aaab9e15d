"""How often the primary test and the probes raise an alarm on networks that never saw the request.

    python tests/benchmarks/false_alarms.py FIRST LAST [--relearning]

One network per number from FIRST to LAST (not included): timm's test_resnet, digits at 16 px with 20 % wrong labels,
550 training samples. Requests of 20, 50 and 150 samples are drawn from data it never saw; the rest are the controls.
One line of JSON per request, then the counts with intervals. Requests to one network share it, so the intervals, which
take them as independent, are too narrow.
"""

import json
import math
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[2] / "hooks")]

import timm
import torch
from accelerate import Accelerator
from torch import nn

from tests.plugin.test_verdict import digits
from unlearn_plugin.data import ImageData, Samples
from unlearn_plugin.metrics.base import Trial
from unlearn_plugin.probes import PROBES, found_by_probes
from unlearn_plugin.progress import Progress
from unlearn_plugin.registry import metrics
from unlearn_plugin.statistics import proportion

TRAINED, SIZES = 550, (20, 50, 150)


def trained(images: torch.Tensor, labels: torch.Tensor, seed: int, epochs: int = 15) -> nn.Module:
    torch.manual_seed(seed)
    model = timm.create_model("test_resnet", num_classes=10, in_chans=1)
    optimizer = torch.optim.AdamW(model.train().parameters(), 3e-3)
    steps = epochs * math.ceil(len(labels) / 50)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(labels)).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def trials(number: int) -> list[Trial]:
    images, labels = digits()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1000 + number))
    images, labels = images[order], labels[order]
    data = ImageData(
        dataset=list(zip(images, labels.tolist(), strict=True)), ids=tuple(map(str, range(len(labels)))),
        labels=labels, classes=tuple("0123456789"), deterministic=True,
    )  # fmt: skip
    model = trained(images[:TRAINED], labels[:TRAINED], number)
    made, first = [], TRAINED
    for size in SIZES:
        chosen = torch.zeros(len(labels), dtype=torch.bool)
        chosen[first : first + size] = True
        unseen = ~chosen & (torch.arange(len(labels)) >= TRAINED)
        made.append(
            Trial(
                forget=Samples(data, chosen.nonzero().flatten()), retain=Samples(data, torch.arange(TRAINED)),
                controls=Samples(data, unseen.nonzero().flatten()), classes=data.classes, original=model, seed=number,
                accelerator=Accelerator(cpu=True), progress=Progress(enabled=False),
            )
        )  # fmt: skip
        first += size
    return made


def judge(trial: Trial, names: list[str]) -> dict[str, object]:
    measured = {name: {"after": metrics().create(name, {}).measure(trial.original, trial).as_dict()} for name in names}
    return {
        "n": len(trial.forget),
        "primary": measured["membership"]["after"]["details"]["lower975"] > 0.5,
        "probes": bool(found_by_probes({"measurements": measured})),
        "p": {name: one["after"]["details"]["p_value"] for name, one in measured.items()},
    }


def main() -> None:
    torch.set_num_threads(1)
    names = ["membership", *(name for name in PROBES if name != "relearning" or "--relearning" in sys.argv)]
    found = []
    for number in range(int(sys.argv[1]), int(sys.argv[2])):
        for trial in trials(number):
            found.append({"network": number, **judge(trial, names)})
            print(json.dumps(found[-1]), flush=True)
    for what in ("primary", "probes"):
        print(what, proportion(sum(bool(one[what]) for one in found), len(found)))
    print("either", proportion(sum(bool(one["primary"] or one["probes"]) for one in found), len(found)))


if __name__ == "__main__":
    main()
