"""The suite of benchmarks on tiny made-up data: worlds, requests, results and tables."""

import copy
from pathlib import Path

import pytest
import torch

from tests.benchmarks.suite import __main__ as suite_command
from tests.benchmarks.suite import measure, picture, runs, table, tasks
from tests.benchmarks.suite.world import Meter, Suite, World
from unlearn_hooks.controls import recorded_holdout
from unlearn_hooks.references import recorded_references
from unlearn_plugin.training import Recipe


def _made_up(root: Path, seed: int) -> tasks.Drawn:
    """Two sorts of stripes with much noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(160) % 4
    stripes = torch.zeros(4, 1, 12, 12)
    for label in range(4):
        stripes[label, :, :, label::4] = 1.0
    return {"images": stripes[labels] + torch.randn(160, 1, 12, 12, generator=generator), "labels": labels}


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    return Suite(tmp_path_factory.mktemp("cache"), Path("nowhere"))


@pytest.fixture(scope="module", autouse=True)
def tiny() -> None:
    tasks.TASKS["tiny"] = tasks.Task(
        _made_up, classes=4, channels=1, side=12, held_out=80, epochs={"resnet": 3, "vit": 1}
    )


@pytest.fixture(scope="module")
def world(suite: Suite) -> World:
    return suite.world("tiny", "test_resnet", 0)


def test_a_world_is_made_once_and_seals_its_controls(world: World, suite: Suite) -> None:
    again = suite.world("tiny", "test_resnet", 0)
    held = recorded_holdout(world.record)
    assert torch.equal(again.original.fc.weight, world.original.fc.weight)
    assert again.record.manifest["run_id"] == world.record.manifest["run_id"]
    assert not held.trained_on
    assert len(held.tuning) == len(held.verdict) == 40
    assert not torch.isin(world.trained, torch.cat([held.tuning, held.verdict])).any()
    assert {len(recorded_references(world.record, who).models) for who in ("judge", "method")} == {2}


@pytest.mark.parametrize("kind", ["random", "class", "part", "classes", "second"])
def test_requests_hold_what_they_say(world: World, kind: str) -> None:
    request, labels = world.request(kind), world.data.labels
    assert set(request.rows.tolist()) <= set(world.trained.tolist())
    assert sorted([*world.retained(request).tolist(), *request.rows.tolist()]) == world.trained.tolist()
    assert request.rows.tolist() == world.request(kind).rows.tolist()
    requested = set(labels[request.rows].tolist())
    if request.classes:
        assert requested == set(request.classes)
        assert not requested & set(labels[world.retained(request)].tolist())
    assert len(request.rows) == {"random": 8, "class": 20, "part": 16, "classes": 40, "second": 8}[kind]
    assert len(request.classes) == {"class": 1, "classes": 2}.get(kind, 0)


def test_a_second_request_comes_when_the_first_one_is_gone(world: World) -> None:
    request = world.request("second")
    first, second = (world.evidence(request, part=part) for part in (0, 1))
    assert not set(first.forget.rows.tolist()) & set(second.forget.rows.tolist())
    assert set(second.forget.rows.tolist()) <= set(first.retain.rows.tolist())
    assert not set(request.rows.tolist()) & set(second.retain.rows.tolist())


def test_methods_do_not_see_what_judges_them(world: World) -> None:
    evidence, held = world.evidence(world.request("random")), recorded_holdout(world.record)
    assert recorded_references(evidence.record, "judge") is None
    assert recorded_references(evidence.record, "method") is not None
    assert evidence.tuning.rows.tolist() == held.tuning.tolist()


def test_the_gap_and_the_tug_of_war_by_hand() -> None:
    references = [{"RA": 1.0, "FA": 0.5, "TA": 0.4, "AUC": 0.5}, {"RA": 1.0, "FA": 0.7, "TA": 0.4, "AUC": 0.5}]
    row = {"RA": 0.9, "FA": 1.0, "TA": 0.5, "AUC": 0.7}
    assert measure.gap(row, references) == pytest.approx((0.1 + 0.4 + 0.1 + 0.2) / 4)
    assert measure.tug_of_war(row, references) == pytest.approx(0.6 * 0.9 * 0.9)


def test_the_meter_sees_time_and_memory(world: World) -> None:
    with Meter(world) as meter:
        torch.ones(8_000_000).sum()
    assert meter.seconds > 0
    assert meter.steps > 0
    assert meter.peak is None or 30e6 < meter.peak < 60e6


def test_the_version_of_a_method_is_that_of_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    assert runs.version("finetune") == runs.version("finetune")
    assert runs.version("finetune") != runs.version("scrub")
    before, read = runs.version("finetune"), Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path: read(path) + "\n# a comment\n")
    assert runs.version("finetune") == before
    monkeypatch.setattr(Path, "read_text", lambda path: read(path) + "\nmore = 1\n")
    assert runs.version("finetune") != before


def test_one_command_runs_everything_once_and_another_writes_the_tables(
    suite: Suite, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results, docs = tmp_path / "results.jsonl", tmp_path / "docs"
    docs.mkdir()
    (docs / "benchmarks.md").write_text(
        "before\n\n<!-- suite tiny test_resnet random begin -->\n<!-- end -->\n\nbetween\n\n"
        "<!-- suite tiny test_resnet class begin -->\n<!-- end -->\n\n<!-- suite bars begin -->\n<!-- end -->\nafter"
    )
    words = ["run", "--cache", str(suite.cache), "--out", str(results), "--datasets", "tiny", "--requests", "random"]
    asked = ["--methods", "original", "retrain", "finetune", "mixunlearn", "--seeds", "0"]
    for _ in range(2):
        monkeypatch.setattr("sys.argv", ["suite", *words, *asked])
        suite_command.main()
    lines = runs.read(results)
    monkeypatch.setattr("sys.argv", ["suite", "table", str(results), "--docs", str(docs)])
    suite_command.main()
    page = (docs / "benchmarks.md").read_text()
    assert [line["method"] for line in lines][:4] == ["retrain", "retrain", "retrain", "original"]
    assert len({(line["method"], line["options"], line["seed"]) for line in lines}) == len(lines)
    assert page.startswith("before")
    assert page.endswith("after")
    assert "| **retrain** | 3 |" in page
    assert "costs as much as `mixunlearn`" in page
    assert "EXACT_BY_PROCESS" in page
    assert "Not measured yet." in page
    assert "`mixunlearn` nearer to the retrained models than `finetune` at the same cost" in page
    assert (docs / "pictures" / "tiny-test_resnet.png").stat().st_size > 1000
