"""Nothing that is published names a person, a sample, a place or a machine, or gives the score of a single sample."""

import base64
import getpass
import io
import json
import shutil
import socket
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import load_file, save_file

from tests.plugin.conftest import job_for
from tests.plugin.leak_scan import Secrets, files_of, leaks, picture_digests
from unlearn_plugin.demo import Scene
from unlearn_plugin.evidence import private_folder
from unlearn_plugin.job import Job
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
    words = {*ids, *(Path(name).stem for name in ids), *PEOPLE, *(name.split()[1] for name in PEOPLE), str(Path.home())}
    words |= {str(tmp_path_factory.getbasetemp()), str(Path.cwd()), "zqoperator", "vqnode17", "zqclinic", "zqrequest"}
    words |= {"zqmodel", "zqcleaned", "zqofficer"}
    words |= {name for name in (getpass.getuser(), socket.gethostname()) if len(name) > 4}
    pictures = {digest for name in ids for digest in picture_digests(place / "zqclinic-data" / "train" / name)}
    secrets = Secrets(frozenset(words), frozenset(pictures), _scores(job, outcome.folder))
    return Case(job, outcome.folder, secrets)


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
        lambda case: f"{case.secrets.scores[5]:.4g}".encode(),
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
