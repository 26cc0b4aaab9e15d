"""One real case, from the request to the signed report: a person asks to be taken out of a face recogniser.

    python tests/benchmarks/walkthrough.py --root ORL --out WORK

`ORL` holds the ORL faces as s1/1.pgm ... s40/10.pgm. Six pictures of each person are trained on, four are held out; the
training is recorded. Prints the commands of docs/walkthrough.md with what they answer.
"""

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

import timm
import torch
from PIL import Image
from timm.models import save_for_hf
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, Grayscale, Normalize, Resize, ToTensor

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "hooks")]

from unlearn_hooks import record

TRAINED, SIDE, EPOCHS, PERSON = 6, 64, 40, "s17"


def write_pictures(source: Path, out: Path) -> None:
    """The faces as class folders, one class for each person."""
    generator = torch.Generator().manual_seed(0)
    for person in sorted(folder.name for folder in source.glob("s*")):
        for place, number in enumerate(torch.randperm(10, generator=generator).tolist()):
            path = out / ("train" if place < TRAINED else "validation") / person / f"{number + 1}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.open(source / person / f"{number + 1}.pgm").save(path)


def train(out: Path) -> None:
    """What the company had done before anybody asked; two lines of it are ours."""
    torch.manual_seed(0)
    steps = Compose([Grayscale(), Resize((SIDE, SIDE)), ToTensor(), Normalize(0.5, 0.5)])
    faces = ImageFolder(str(out / "faces" / "train"), steps)
    shape = {"input_size": (1, SIDE, SIDE), "mean": (0.5,), "std": (0.5,), "crop_pct": 1.0, "crop_mode": "squash"}
    model = timm.create_model("test_resnet", num_classes=40, in_chans=1, pretrained_cfg_overlay=shape)
    loader = DataLoader(faces, batch_size=32, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * len(loader))
    model.train()
    with record(out / "record", model, optimizer) as recorder:
        for _ in range(EPOCHS):
            for images, labels in recorder.batches(loader):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(images), labels).backward()
                optimizer.step()
                schedule.step()
    save_for_hf(
        model, out / "recogniser", model_config={"label_names": faces.classes}, model_args={"in_chans": 1},
        safe_serialization=True,
    )  # fmt: skip


def say(out: Path, command: str) -> None:
    """Run a command of the walk-through and show both."""
    print(f"$ {command}", flush=True)
    words = [sys.executable, "-m", "unlearn_plugin", *shlex.split(command)[1:]]
    path = os.pathsep.join([str(ROOT), str(ROOT / "hooks")])
    found = subprocess.run(
        words, cwd=out, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=False
    )
    print(found.stdout + "\n".join(line for line in found.stderr.splitlines() if "%|" not in line), flush=True)
    print(f"[exit code {found.returncode}]\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    out = arguments.out
    write_pictures(arguments.root, out / "faces")
    train(out)
    (out / "forget.txt").write_text(f"request=2026-117\nreceived=2026-11-02\nclass={PERSON}\n")
    job = "unlearn apply --model local-dir:recogniser --data-dir faces --forget forget.txt --record record"
    say(out, "unlearn inspect record")
    say(out, f"{job} --method muda --out by-muda --dry-run")
    say(out, f"{job} --method muda --out by-muda")
    say(out, f"{job} --method retrain --out retrained")
    say(out, "unlearn keygen officer.pem")
    say(out, "unlearn sign retrained --key officer.pem")
    say(out, "unlearn verify retrained --key officer.pub.pem")


if __name__ == "__main__":
    main()
