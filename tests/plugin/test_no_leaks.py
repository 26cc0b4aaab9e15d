"""Nothing that is published names a person, a sample, a place or a machine, or gives the score of a single sample."""

import base64
import getpass
import io
import json
import shutil
import socket
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, Grayscale, Normalize, Resize, ToTensor

from tests.plugin.conftest import job_for
from tests.plugin.leak_scan import Secrets, files_of, leaks, picture_digests
from unlearn_hooks import add_reference, halves, holdout, record
from unlearn_plugin.audit.full import audit
from unlearn_plugin.comparison import compare
from unlearn_plugin.demo import Scene
from unlearn_plugin.evidence import private_folder
from unlearn_plugin.job import Job
from unlearn_plugin.judging import make_trial
from unlearn_plugin.metrics._calibration import calibrate
from unlearn_plugin.outputs import compute_outputs
from unlearn_plugin.pipeline import run
from unlearn_plugin.preparation import load_model, prepare
from unlearn_plugin.progress import Progress
from unlearn_plugin.signing import Signer, generate_key
from unlearn_plugin.unlearners.base import Evidence
from unlearn_plugin.unlearners.finetune import Finetune

PEOPLE = ("Zöë Quarnström", "Xaver Blümlein", "Jytte Kvistgård")
FORGOTTEN = 24  # enough for histogram and ROC to be drawn


@dataclass(frozen=True)
class Case:
    """A job whose every name is one that occurs nowhere else, what it published, and what that must not hold."""

    job: Job
    folder: Path
    secrets: Secrets


@pytest.fixture(scope="module")
def case(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Case:
    place = tmp_path_factory.mktemp("kvx") / "home" / "zqoperator-lindqvist" / "host-vqnode17"
    place.mkdir(parents=True)
    ids = _rename(scene.data, place / "zqclinic-data")
    shutil.copytree(scene.model, place / "zqmodel-v3")
    lines = [f"{name},{PEOPLE[number % 3]}" for number, name in enumerate(ids)]
    (place / "zqrequest.csv").write_text("id,subject\n" + "\n".join(lines), encoding="utf-8")
    changes = {"model": f"local-dir:{place / 'zqmodel-v3'}", "data_dir": str(place / "zqclinic-data")}
    job = job_for(scene, place / "zqcleaned", **changes, forget=str(place / "zqrequest.csv"), record=None)
    generate_key(place / "zqofficer.pem")
    outcome = run(job, signer=Signer.load(place / "zqofficer.pem"))
    return Case(job, outcome.folder, _secrets(ids, place, tmp_path_factory, _scores(job, outcome.folder)))


def _secrets(ids: list[str], place: Path, factory: pytest.TempPathFactory, scores: tuple[float, ...]) -> Secrets:
    """Every name there is, the digests of the pictures, and the scores."""
    words = {*ids, *(Path(name).stem for name in ids), *PEOPLE, *(name.split()[1] for name in PEOPLE), str(Path.home())}
    words |= {str(factory.getbasetemp()), str(Path.cwd()), "zqoperator", "vqnode17", "zqclinic", "zqrequest"}
    words |= {"zqmodel", "zqcleaned", "zqofficer", "zqrecord"}
    words |= {name for name in (getpass.getuser(), socket.gethostname()) if len(name) > 4}
    pictures = {digest for name in ids for digest in picture_digests(place / "zqclinic-data" / "train" / name)}
    return Secrets(frozenset(words), frozenset(pictures), scores)


@dataclass(frozen=True)
class Published:
    """All that can leave the house where training left references: by folder, and the scores each must not hold."""

    folder: Path
    audit: Mapping[str, Any]
    secrets: Mapping[str, Secrets]


@pytest.fixture(scope="module")
def published(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Two methods side by side and one with surrogate requests and an audit, all judged with references."""
    place = tmp_path_factory.mktemp("kvy") / "zqoperator-lindqvist" / "host-vqnode17"
    place.mkdir(parents=True)
    _rename(scene.data, place / "zqclinic-data")
    model, ids = _train_with_references(place)
    lines = [f"{name},{PEOPLE[number % 3]} {number}" for number, name in enumerate(ids)]
    (place / "zqrequest.csv").write_text("id,subject\n" + "\n".join(lines), encoding="utf-8")
    job = Job(
        model=f"local-dir:{model}", data_dir=str(place / "zqclinic-data"), forget=str(place / "zqrequest.csv"),
        record=str(place / "zqrecord"), method="retrain,matching", options={"retrain.epochs": "6"}, device="cpu",
        out=str(place / "zqcleaned"),
    )  # fmt: skip
    found = compare(job, progress=Progress(enabled=False))
    assert not found.failures
    one = replace(job, method="finetune", options={"epochs": "1"}, surrogates=5, out=str(found.folder / "surrogates"))
    assert run(one).report["surrogates"]["count"] == 5
    names = [path.name for path in found.folder.iterdir() if path.is_dir() and path.suffix != ".private"]
    scores = {name: _scores(one, found.folder / name) + _reference_scores(one, found.folder / name) for name in names}
    others = [str(found.folder / "retrain"), *(str(place / f"half-{side}") for side in (0, 1))]
    audited = audit(found.folder / "surrogates", others)
    return Published(
        found.folder, audited, {name: _secrets(ids, place, tmp_path_factory, told) for name, told in scores.items()}
    )


def _train_with_references(place: Path) -> tuple[Path, list[str]]:
    """A network trained with the hook on, and two pairs of half models; say what it lies in and some of what it saw."""
    shape = Compose([Grayscale(), Resize((16, 16)), ToTensor(), Normalize(0.5, 0.5)])
    data = ImageFolder(str(place / "zqclinic-data" / "train"), shape)
    held = holdout(data, 250, 0)
    record_folder, seen = place / "zqrecord", [data.samples[row][0] for row in held.train.indices]
    model = _network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    with record(record_folder, model, optimizer, holdout=held) as recorder:
        _train(model, optimizer, recorder.batches(DataLoader(held.train, 30, shuffle=True)))
    for pair, purpose in enumerate(("judge", "method")):
        for half in halves(held.train, pair, 0):
            reference = _network()
            half_optimizer = torch.optim.SGD(reference.parameters(), lr=0.05, momentum=0.9)
            _train(reference, half_optimizer, DataLoader(half, 30, shuffle=True))
            add_reference(record_folder, reference, data, half, purpose=purpose)
            save_for_hf(reference, place / f"half-{half.side}", model_args={"in_chans": 1}, safe_serialization=True)
    save_for_hf(model, place / "zqmodel-v3", model_args={"in_chans": 1}, safe_serialization=True)
    names = [Path(path).relative_to(data.root).as_posix() for path in seen]
    return place / "zqmodel-v3", names[:: len(names) // FORGOTTEN][:FORGOTTEN]


def _network() -> torch.nn.Module:
    settings = {"input_size": (1, 16, 16), "mean": (0.5,), "std": (0.5,), "crop_pct": 1.0}
    return timm.create_model("test_resnet", num_classes=10, in_chans=1, pretrained_cfg_overlay=settings)


def _train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[Any]) -> None:
    for _ in range(6):
        for images, labels in batches:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model.train()(images), labels).backward()
            optimizer.step()


def _reference_scores(job: Job, out: Path) -> tuple[float, ...]:
    """What the half models say of the forgotten samples, and the scores that the models before and after get by it."""
    prepared = prepare(job, writing=False)
    trial = make_trial(prepared, Progress(enabled=False))
    models = (trial.original, load_model(job, f"local-dir:{out}").model)
    found = [trial.out_of_sample("forget"), trial.recorded_loss["forget"]]
    found += [torch.from_numpy(calibrate(model, trial).forget) for model in models]
    return tuple(torch.cat(found).tolist())


def _rename(data: Path, place: Path) -> list[str]:
    """Copy the pictures under strange names; say which are to be forgotten."""
    shutil.copytree(data, place)
    for number, path in enumerate(sorted((place / "train").rglob("*.png"))):
        path.rename(path.with_name(f"qz-patient-{number:04d}x.png"))
    every = sorted(path.relative_to(place / "train").as_posix() for path in (place / "train").rglob("*.png"))
    return every[:: len(every) // FORGOTTEN][:FORGOTTEN]


def _scores(job: Job, out: Path) -> tuple[float, ...]:
    """Margins and losses of the forgotten samples under the models before and after, computed once more."""
    prepared = prepare(job, writing=False)
    found: list[float] = []
    for model in (prepared.checkpoint.model, load_model(job, f"local-dir:{out}").model):
        outputs = compute_outputs(
            model, prepared.splits.forget, prepared.accelerator, batch_size=256, progress=Progress(enabled=False)
        )
        losses = torch.nn.functional.cross_entropy(outputs.logits, outputs.labels, reduction="none")
        found += [*outputs.margins.tolist(), *losses.tolist()]
    return tuple(found)


def test_there_are_secrets_to_look_for(case: Case) -> None:
    assert len(case.secrets.scores) == 4 * FORGOTTEN
    assert len(case.secrets.digests) > 5 * FORGOTTEN
    assert len(files_of(case.folder)) == 10
    assert json.loads((case.folder / "report.json").read_text())["request"]["n_subjects"] == len(PEOPLE)


def test_nothing_of_a_comparison_with_references_or_of_an_audit_gives_anything_away(published: Published) -> None:
    assert len(published.secrets) == 3
    for name, secrets in published.secrets.items():
        report = json.loads((published.folder / name / "report.json").read_text())
        assert report["overall"]["tier"] == "B"
        assert len(set(secrets.scores)) > 6 * FORGOTTEN
        assert leaks(files_of(published.folder / name), secrets) == []
    side_by_side = {path.name: path.read_bytes() for path in published.folder.iterdir() if path.is_file()}
    assert set(side_by_side) == {"compare.json", "compare.html"}
    assert leaks(side_by_side, published.secrets["matching"]) == []
    assert leaks({"audit.json": json.dumps(published.audit).encode()}, published.secrets["surrogates"]) == []


def test_no_published_file_gives_anything_away(case: Case) -> None:
    assert leaks(files_of(case.folder), case.secrets) == []


def test_the_private_folder_would_be_caught(case: Case) -> None:
    assert any("zqclinic" in leak for leak in leaks(files_of(private_folder(case.folder)), case.secrets))


@pytest.mark.slow
def test_a_method_that_tells_samples_in_its_facts_is_caught(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tell(self: Finetune, model: torch.nn.Module, evidence: object) -> dict[str, object]:
        with torch.no_grad():
            next(model.parameters()).mul_(1.01)
        return {"hardest": evidence.forget.ids[3], "its margin": case.secrets.scores[3]}  # type: ignore[attr-defined]

    monkeypatch.setattr(Finetune, "unlearn", tell)
    outcome = run(Job(**{**case.job.as_dict(), "out": str(tmp_path / "out")}))
    found = leaks(files_of(outcome.folder), case.secrets)
    assert any(leak.startswith("report.json: the word") for leak in found)
    assert any(leak.startswith("report.json: the score") for leak in found)
    assert any(leak.startswith("report.html") for leak in found)


def test_of_one_sample_nothing_is_told_that_a_method_or_a_metric_knows(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Finetune.unlearn

    def tell(self: Finetune, model: torch.nn.Module, evidence: Evidence) -> dict[str, object]:
        facts = real(self, model, evidence)
        outputs = compute_outputs(
            model, evidence.forget, evidence.accelerator, batch_size=4, progress=Progress(enabled=False)
        )
        return {**facts, "margin on forget": float(outputs.margins.mean())}

    monkeypatch.setattr(Finetune, "unlearn", tell)
    first = (Path(case.job.forget).read_text(encoding="utf-8")).splitlines()[1].partition(",")[0]
    (tmp_path / "request.csv").write_text(f"id\n{first}\n", encoding="utf-8")
    job = Job(**{**case.job.as_dict(), "forget": str(tmp_path / "request.csv"), "out": str(tmp_path / "out")})
    outcome = run(job)
    assert outcome.verdict.status in ("INCONCLUSIVE", "UTILITY_FAILED")
    assert "margin on forget" not in outcome.report["procedure"]["facts"]
    scores = _scores(job, outcome.folder)
    assert len(scores) == 4
    secrets = Secrets(case.secrets.words, case.secrets.digests, scores)
    assert leaks(files_of(outcome.folder), secrets) == []


def _zipped(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("notes.txt", content)
    return buffer.getvalue()


def _drawn(text: str, *, zipped: bool) -> bytes:
    buffer, notes = io.BytesIO(), PngImagePlugin.PngInfo()
    notes.add_text("Comment", text, zip=zipped)
    Image.new("L", (4, 4)).save(buffer, "PNG", pnginfo=notes)
    return buffer.getvalue()


NAME = "qz-patient-0000x"


@pytest.mark.parametrize(
    "plant",
    [
        lambda case: NAME.encode(),
        lambda case: NAME.upper().encode("utf-16-le"),
        lambda case: PEOPLE[0].encode(),
        lambda case: json.dumps({"who": PEOPLE[0]}).encode(),
        lambda case: b"<p>Z&ouml;&euml; Quarnstr&ouml;m</p>",
        lambda case: b"/home/zqoperator%2Dlindqvist/",
        lambda case: b'{"payload": "%s"}' % base64.b64encode(b'{"name": "%s"}' % NAME.encode()),
        lambda case: b'<img src="data:image/png;base64,%s">' % base64.b64encode(_drawn(NAME, zipped=False)),
        lambda case: b'<img src="data:image/png;base64,%s">' % base64.b64encode(_drawn(NAME, zipped=True)),
        lambda case: _zipped(NAME.encode()),
        lambda case: f"{case.secrets.scores[5]:.6g}".encode(),
        lambda case: f'{{"margin": {-case.secrets.scores[-1]!r}}}'.encode(),
        lambda case: struct.pack("<2f", *case.secrets.scores[7:9]),
        lambda case: struct.pack("<d", case.secrets.scores[9]),
        lambda case: next(iter(case.secrets.digests)).hex().upper().encode(),
        lambda case: base64.b64encode(max(case.secrets.digests, key=len)),
        lambda case: b"2026-01-01T10:11:12Z",
    ],
)
def test_what_is_planted_is_caught_in_any_wrapping(case: Case, plant: Callable[[Case], bytes]) -> None:
    files = {"planted": plant(case)}
    assert len(leaks(files, case.secrets)) >= 1
    assert leaks({"harmless": b"0.1234 of all samples, 2026-01-01T10:11Z"}, case.secrets) == []


def test_a_name_hidden_in_the_metadata_of_the_weights_is_caught(case: Case, tmp_path: Path) -> None:
    state = load_file(case.folder / "model.safetensors")
    save_file(state, tmp_path / "model.safetensors", metadata={"note": NAME})
    assert leaks(files_of(tmp_path), case.secrets) == [f"model.safetensors: the word '{NAME}'"]


def test_the_name_of_a_file_counts_as_well(case: Case) -> None:
    assert leaks({f"{NAME}.png": b""}, case.secrets)
