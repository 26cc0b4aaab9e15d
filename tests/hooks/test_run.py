import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from unlearn_hooks.capture import find_head
from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.features import recorded_features
from unlearn_hooks.loader_tags import DataLoader
from unlearn_hooks.run import Launcher, main
from unlearn_hooks.samples import recorded_samples
from unlearn_hooks.schedule import recorded_schedule
from unlearn_hooks.training_record import TrainingRecord, weights_digest
from unlearn_hooks.updates import recorded_updates

HOOKS = Path(__file__).parents[2] / "hooks"

# `train(images)` writes down the rows that are in the pixels; what follows is an ordinary script.
HEAD = """
import copy, json, sys
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

N = 44
class Pixels(Dataset):
    def __len__(self):
        return N
    def __getitem__(self, row):
        return torch.full((3, 2, 2), float(row)), row % 3

torch.manual_seed(0)
truth = []
model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

def rows_in(images):
    return images.flatten(1)[:, 0].round().long().tolist()

def train(images, labels, model=model):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()
    truth.append(rows_in(images))
"""
TAIL = """
json.dump(truth, open("truth.json", "w"))
torch.save(model.state_dict(), "model.pt")
"""
PLAIN = """
loader = DataLoader(Pixels(), 8, shuffle=True)
for epoch in range(3):
    for images, labels in loader:
        train(images, labels)
"""
BUSY = """
workers = int(sys.argv[1])
loader = DataLoader(Pixels(), 8, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
held_out = DataLoader(Pixels(), 5)
average = copy.deepcopy(model)
for epoch in range(3):
    model.train()
    for number, (images, labels) in enumerate(loader):
        train(images, labels)
        with torch.no_grad():
            average(images)
        if number == 3:
            model.eval()
            for others, _ in held_out:
                model(others)
            for others, _ in loader if workers == 0 else ():
                model(others)
            model.train()
        if epoch == 1 and number == 4:
            break
"""
PREFETCHED = """
from timm.data.loader import PrefetchLoader
loader = DataLoader(Pixels(), 8, shuffle=True)
ahead = PrefetchLoader(loader, mean=(0.5,) * 3, std=(0.25,) * 3, device=torch.device("cpu"))
for epoch in range(3):
    for images, labels in ahead:
        train(images, labels)
        truth[-1] = rows_in(images * 0.25 * 255 + 0.5 * 255)
    model.eval()
    for others, _ in DataLoader(Pixels(), 5):
        model(others / 2)
    model.train()
"""
NEW_LOADERS = """
for epoch in range(3):
    for images, labels in DataLoader(Pixels(), 8, shuffle=True):
        train(images, labels)
"""
ACCUMULATED = """
for epoch in range(2):
    rows = []
    for number, (images, labels) in enumerate(DataLoader(Pixels(), 8, shuffle=True), start=1):
        nn.functional.cross_entropy(model(images), labels).backward()
        rows += rows_in(images)
        if number % 4 == 0 or number == 6:
            optimizer.step()
            optimizer.zero_grad()
            truth.append(rows)
            rows = []
"""
TWICE = """
for images, labels in DataLoader(Pixels(), 8, shuffle=True):
    model(images).sum().backward()
    train(images, labels)
"""
TWO_LOADERS = """
other, first = DataLoader(Pixels(), 4, shuffle=True), DataLoader(Pixels(), 8, shuffle=True)
for (images, labels), (unlabelled, _) in zip(first, other):
    with torch.no_grad():
        model(unlabelled)
    train(images, labels)
"""
TEACHER = """
teacher = copy.deepcopy(model)
class Distilled(nn.Module):
    def __init__(self):
        super().__init__()
        self.student = model
    def forward(self, images):
        return self.student(images)
both = Distilled()
for images, labels in DataLoader(Pixels(), 8, shuffle=True):
    target = teacher(images)
    train(images, labels, model=both)
"""
REFERENCE = """
# in the form of torchvision's references/classification: a logger around the loader, warm-up, clipping, an average
def log_every(loader):
    for number, batch in enumerate(loader):
        yield batch

sampler = torch.utils.data.RandomSampler(Pixels())
loader = DataLoader(Pixels(), 8, sampler=sampler, num_workers=2, pin_memory=False)
held_out = DataLoader(Pixels(), 8, sampler=torch.utils.data.SequentialSampler(Pixels()))
warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=1)
schedule = torch.optim.lr_scheduler.SequentialLR(
    optimizer, [warm_up, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2)], milestones=[1]
)
average = torch.optim.swa_utils.AveragedModel(model, use_buffers=True)

def evaluate(net):
    net.eval()
    with torch.inference_mode():
        for images, labels in log_every(held_out):
            net(images)

for epoch in range(3):
    model.train()
    for number, (images, labels) in enumerate(log_every(loader)):
        output = model(images)
        optimizer.zero_grad()
        nn.functional.cross_entropy(output, labels, label_smoothing=0.1).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        truth.append(rows_in(images))
        if number % 2 == 0:
            average.update_parameters(model)
    schedule.step()
    evaluate(model)
    evaluate(average)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "checkpoint.pth")
"""
SCRIPTS = {
    "plain": PLAIN,
    "evaluation, average, early break": BUSY,
    "prefetched and normalised": PREFETCHED,
    "a new loader each epoch": NEW_LOADERS,
    "accumulated": ACCUMULATED,
    "two passes a step": TWICE,
    "two loaders": TWO_LOADERS,
    "a teacher in training mode": TEACHER,
    "a reference loop": REFERENCE,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", "0"])
    return tmp_path


def run(folder: Path, body: str) -> TrainingRecord:
    (folder / "train.py").write_text(HEAD + body + TAIL)
    Launcher(folder / "record").run(str(folder / "train.py"))
    return TrainingRecord.open(folder / "record")


def truth(folder: Path) -> list[list[int]]:
    rows: list[list[int]] = json.loads((folder / "truth.json").read_text())
    return rows


def rows_of(found: TrainingRecord) -> list[list[int] | None]:
    schedule = recorded_schedule(found)
    rows = [schedule.rows(step) for step in range(schedule.steps)]
    return [None if each is None else each.tolist() for each in rows]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_recorded_exactly_as_it_stands(folder: Path, name: str) -> None:
    found = run(folder, SCRIPTS[name])
    assert found.complete
    assert rows_of(found) == truth(folder)
    assert found.data["n"] == 44
    assert recorded_features(found).n == sum(map(len, truth(folder)))


def test_epochs_are_the_passes_over_the_training_loader(folder: Path) -> None:
    found = run(folder, BUSY)
    assert recorded_schedule(found).epochs.tolist() == [0] * 6 + [1] * 5 + [2] * 6
    assert found.recipe["epochs"] == 3


@pytest.mark.parametrize("body", [PLAIN, REFERENCE], ids=["plain", "reference loop"])
def test_the_final_weights_are_those_the_script_saved_with_and_without_recording(folder: Path, body: str) -> None:
    found = run(folder, body)
    recorded = torch.load(folder / "model.pt")
    exec(compile(HEAD + body + TAIL, "train.py", "exec"), {"__name__": "__main__"})
    plain = torch.load(folder / "model.pt")
    assert weights_digest(recorded) == weights_digest(plain) == found.manifest["final_weights"]


def test_the_command_line_runs_a_script_with_workers_its_arguments_and_its_neighbours(folder: Path) -> None:
    scripts = folder / "scripts"
    scripts.mkdir()
    (scripts / "neighbour.py").write_text("WORKERS = 2")
    body = "import neighbour\nassert sys.argv == [sys.argv[0], '2', '--lr', '0.1'] and neighbour.WORKERS == 2\n"
    (scripts / "train.py").write_text(HEAD + body + BUSY + TAIL)
    launcher = [sys.executable, "-m", "unlearn_hooks.run", "--record", "here", "--plan", "samples=false"]
    command = [*launcher, "scripts/train.py", "2", "--lr", "0.1"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env={"PYTHONPATH": str(HOOKS)})
    assert done.returncode == 0, done.stderr
    found = TrainingRecord.open("here")
    assert rows_of(found) == truth(folder)
    assert recorded_samples(found) == []


def test_a_model_called_twice_for_a_batch_that_changed_on_the_way_gives_no_wrong_rows(folder: Path) -> None:
    first = "        model(images + 1).sum().backward()\n"
    body = PREFETCHED.replace("        train(images", first + "        train(images")
    found = rows_of(run(folder, body))
    known = [rows for rows in found if rows is not None]
    assert known == [truth(folder)[epoch * 6] for epoch in range(3)]  # the first pass of an epoch is still sure


def test_a_script_that_fails_leaves_a_readable_record_that_is_not_complete(folder: Path) -> None:
    with pytest.raises(KeyError, match="bug"):
        run(folder, PLAIN + "raise KeyError('bug')\n")
    found = TrainingRecord.open(folder / "record")
    assert not found.complete
    assert len(rows_of(found)) == 18


@pytest.mark.parametrize(("code", "complete"), [("0", True), ("", True), ("3", False)])
def test_a_script_may_end_with_an_exit_code(folder: Path, code: str, complete: bool) -> None:
    with pytest.raises(SystemExit) as ending:
        run(folder, PLAIN + f"sys.exit({code})\n")
    assert ending.value.code == (int(code) if code else None)
    assert TrainingRecord.open(folder / "record").complete == complete


def test_a_script_without_training_is_said_to_be_one(folder: Path) -> None:
    (folder / "train.py").write_text(HEAD + "optimizer = None\nmodel(torch.zeros(1, 12))\n")
    with pytest.warns(RuntimeWarning, match="No training was seen, so nothing was recorded"):
        Launcher(folder / "record").run(str(folder / "train.py"))
    assert not (folder / "record").exists()


def test_a_script_that_goes_on_from_a_checkpoint_does_not_overwrite_what_it_recorded_before(folder: Path) -> None:
    momentum = "optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)\n"
    with pytest.raises(KeyError):
        run(folder, momentum + PLAIN + "torch.save(optimizer.state_dict(), 'optimizer.pt')\nraise KeyError\n")
    before = TrainingRecord.open(folder / "record").digest()
    with pytest.raises(UnlearnError, match="record of this training"):
        run(folder, momentum + "optimizer.load_state_dict(torch.load('optimizer.pt'))\n" + PLAIN)
    assert TrainingRecord.open(folder / "record").digest() == before


def test_nothing_stays_behind_in_the_process(folder: Path) -> None:
    before = DataLoader._get_iterator
    run(folder, PLAIN)
    assert DataLoader._get_iterator is before
    assert not torch.nn.modules.module._global_forward_pre_hooks
    assert find_head(torch.nn.Linear(2, 2))[0] == ""


def test_mistakes_are_one_line_without_a_traceback(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder, PLAIN)
    with pytest.raises(UnlearnError, match="finished training"):
        run(folder, PLAIN)
    with pytest.raises(SystemExit, match=r"record of a finished training; record to another folder"):
        main(["--record", str(folder / "record"), str(folder / "train.py")])
    with pytest.raises(SystemExit):
        main([])
    assert "the following arguments are required: script" in capsys.readouterr().err


TIMM_TRAIN = os.environ.get("UNLEARN_TIMM_TRAIN", "")
TORCHVISION_TRAIN = os.environ.get("UNLEARN_TORCHVISION_TRAIN", "")


def pictures(folder: Path, *splits: str) -> None:
    generator = torch.Generator().manual_seed(0)
    for split, count in zip(splits, (6, 2), strict=True):
        for name in "abcdef":  # torchvision's script asks for the best five
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                picture = torch.randint(255, (32, 32, 3), generator=generator, dtype=torch.uint8).numpy()
                Image.fromarray(picture).save(folder / split / name / f"{number}.png")


def script(folder: Path, words: list[str], record: str | None) -> None:
    launcher = [] if record is None else ["-m", "unlearn_hooks.run", "--record", record]
    command = [sys.executable, *launcher, *words]
    paths = {"PYTHONPATH": os.pathsep.join([str(HOOKS), os.environ.get("PYTHONPATH", "")])}
    found = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, **paths}
    )
    assert found.returncode == 0, found.stderr[-2000:]


def check(record: TrainingRecord, epochs: int, *, losses: bool = True) -> None:
    """All 36 rows in each epoch, features of each, and the losses where they can be seen."""
    assert record.complete
    assert record.ids is not None
    assert len(record.ids) == 36
    assert all(update.rows is not None for update in recorded_updates(record))
    seen = [rows for rows in rows_of(record) if rows is not None]
    assert sorted(row for rows in seen for row in rows) == sorted(list(range(36)) * epochs)
    assert recorded_features(record).n == 36 * epochs
    assert [epoch.rows.tolist() for epoch in recorded_samples(record)] == [list(range(36))] * (epochs if losses else 0)


@pytest.mark.skipif(not TIMM_TRAIN, reason="UNLEARN_TIMM_TRAIN does not name timm's train.py, which is in no package")
@pytest.mark.parametrize(
    "options",
    ["-j 2", "--grad-accum-steps 3", "--model-ema --channels-last --amp --amp-dtype bfloat16", "--opt lookahead_adamw",
     "--no-prefetcher --mixup 0.2", "--mixup 0.2", "--torchcompile aot_eager", "--torchcompile inductor"],
)  # fmt: skip
def test_timms_own_script_is_recorded_unmodified_and_trains_the_same(tmp_path: Path, options: str) -> None:
    pictures(tmp_path / "data", "train", "validation")
    given = "--data-dir data --model test_resnet --num-classes 6 --img-size 32 -b 6 --epochs 2 --device cpu -j 0"
    weights = []
    for place, record in (("with", "rec"), ("without", None)):
        script(tmp_path, [TIMM_TRAIN, *given.split(), *options.split(), "--output", place], record)
        (checkpoint,) = (tmp_path / place).glob("*/last.pth.tar")
        weights.append(torch.load(checkpoint, weights_only=False)["state_dict"])
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    # without a prefetcher timm mixes within its loop, where nobody sees it: losses of mixed images are recorded
    check(TrainingRecord.open(tmp_path / "rec"), 2, losses="mixup" not in options or "--no-prefetcher" in options)


@pytest.mark.skipif(not TIMM_TRAIN, reason="UNLEARN_TIMM_TRAIN does not name timm's train.py, which is in no package")
def test_timms_own_script_goes_on_into_a_record_of_its_own(tmp_path: Path) -> None:
    pictures(tmp_path / "data", "train", "validation")
    given = "--data-dir data --model test_resnet --num-classes 6 --img-size 32 -b 6 --device cpu -j 0 --output"
    script(tmp_path, [TIMM_TRAIN, *given.split(), "out", "--epochs", "1", "--experiment", "a"], "first")
    resumed = [*given.split(), "out", "--epochs", "2", "--experiment", "b", "--resume", "out/a/last.pth.tar"]
    with pytest.raises(AssertionError, match="record of a finished training; record to another folder"):
        script(tmp_path, [TIMM_TRAIN, *resumed], "first")
    script(tmp_path, [TIMM_TRAIN, *resumed], "second")
    for name in ("first", "second"):
        check(TrainingRecord.open(tmp_path / name), 1)
    assert "began_late" in (tmp_path / "second" / "rank00000" / "journal.jsonl").read_text()


@pytest.mark.skipif(
    not TORCHVISION_TRAIN,
    reason="UNLEARN_TORCHVISION_TRAIN does not name references/classification/train.py, which is in no package",
)
@pytest.mark.parametrize(
    "options",
    ["-j 2", "--model-ema --model-ema-steps 2 --lr-warmup-epochs 1 --lr-warmup-method linear --clip-grad-norm 1",
     "--mixup-alpha 0.2 --cutmix-alpha 1.0 --label-smoothing 0.1", "--opt adamw --use-v2 --auto-augment ta_wide"],
)  # fmt: skip
def test_torchvisions_own_script_is_recorded_unmodified_and_trains_the_same(tmp_path: Path, options: str) -> None:
    pictures(tmp_path / "data", "train", "val")
    seeded = tmp_path / "seeded.py"  # it takes no seed
    seeded.write_text(
        f"import runpy, sys, torch\nsys.path.insert(0, {str(Path(TORCHVISION_TRAIN).parent)!r})\n"
        f"torch.manual_seed(0)\nrunpy.run_path({TORCHVISION_TRAIN!r}, run_name='__main__')\n"
    )
    given = (
        "--data-path data --model mobilenet_v3_small --device cpu -b 6 --epochs 2 -j 0 --lr 0.01 "
        "--train-crop-size 32 --val-resize-size 32 --val-crop-size 32"
    )
    weights = []
    for place, record in (("with", "rec"), ("without", None)):
        script(tmp_path, [str(seeded), *given.split(), *options.split(), "--output-dir", place], record)
        weights.append(torch.load(tmp_path / place / "checkpoint.pth", weights_only=False)["model"])
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    check(TrainingRecord.open(tmp_path / "rec"), 2, losses="mixup" not in options)
