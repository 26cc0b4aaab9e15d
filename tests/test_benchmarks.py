"""The suite of benchmarks on tiny made-up data: worlds, requests, results and tables."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from tests.benchmarks.suite import __main__ as suite_command
from tests.benchmarks.suite import measure, picture, runs, table, tasks
from tests.benchmarks.suite.meter import Meter
from tests.benchmarks.suite.world import Suite, World
from unlearn_hooks.controls import recorded_holdout
from unlearn_hooks.references import recorded_references


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


def test_a_method_can_be_given_little_of_what_stays(world: World) -> None:
    request = world.request("class")
    whole, little = (world.evidence(request, retain_fraction=share).retain for share in (1.0, 0.1))
    assert 0 < len(little) <= 0.2 * len(whole)
    assert set(little.labels.tolist()) == set(whole.labels.tolist())
    assert set(little.rows.tolist()) <= set(whole.rows.tolist())


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
    assert first.earlier is None
    assert second.earlier.rows.tolist() == first.forget.rows.tolist()
    assert second.left_out.rows.tolist() == request.rows.tolist()


def test_a_training_that_leaves_the_request_out_is_what_replay_gives(world: World) -> None:
    request = world.request("random")
    left_out = world.left_out(request, 0).model.state_dict()
    line = runs.Run("tiny", "test_resnet", "random", "replay", "", 0)
    model, costs = runs.unlearned(line, world, request)
    assert costs["steps"] > 0
    assert runs.farthest(model, world.left_out(request, 0).model) == 0
    assert not torch.equal(left_out["fc.weight"], world.original.fc.weight)
    assert not torch.equal(left_out["fc.weight"], world.left_out(request, 1).model.fc.weight)
    everything = world.retained(request)[:0]
    whole = dataclasses.replace(request, kind="nothing", parts=(everything,))
    assert runs.farthest(world.left_out(whole, 0).model, world.original) == 0


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
    with Meter(world.time_of_a_step) as meter:
        torch.ones(8_000_000).sum()
    assert meter.seconds > 0
    assert meter.steps > 0
    assert meter.peak is None or 30e6 < meter.peak < 60e6


def test_the_version_of_a_method_is_that_of_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    assert runs.version("finetune") == runs.version("finetune")
    assert runs.version("finetune") != runs.version("scrub")
    before, read = runs.version.__wrapped__("finetune"), Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path: read(path) + "\n# a comment\n")
    assert runs.version.__wrapped__("finetune") == before
    monkeypatch.setattr(Path, "read_text", lambda path: read(path) + "\nmore = 1\n")
    assert runs.version.__wrapped__("finetune") != before


def _line(method: str, seed: int, steps: float | None, options: str = "", **numbers: float) -> runs.Line:
    numbers = {"RA": 1.0, "FA": 0.5, "TA": 0.4, "AUC": 0.5, "peak": 3 * 2**20} | numbers
    place = {"dataset": "tiny", "arch": "test_resnet", "request": "class", "code": "old"}
    costs = {} if steps is None else {"steps": steps}
    return {**place, "method": method, "options": options, "seed": seed, **numbers, **costs}


def _lines() -> list[runs.Line]:
    """Two retrained models 0.1 from each other in FA, `mini` 0.15 from their mean, `finetune` 0.35 from it."""
    return [
        _line("original", 0, None, FA=1.0, AUC=0.9),
        *(
            _line("retrain", 500 + number, 100.0, FA=0.45 + 0.1 * number, verdict="EXACT_BY_PROCESS")
            for number in (0, 1)
        ),
        *(_line("mini", seed, 40.0, FA=0.65, verdict=("LOW_SIDE", "INCONCLUSIVE")[seed]) for seed in (0, 1)),
        _line("finetune", 0, 20.0, FA=0.9),
        _line("finetune", 0, 41.0, "epochs=10", FA=0.85),
        _line("matching", 0, 20.0, FA=0.55),
        _line("replay", 0, 95.0, FA=0.55, off=0.0),
        _line("replay", 1, 95.0, FA=0.55, off=0.002),
        _line("mini", 10, 40.0, FA=0.0),
        _line("mini", 0, 30.0, "steps=4", FA=0.75),
        _line("salun", 0, None) | {"failed": "It needs more."},
    ]


def test_the_table_by_hand() -> None:
    found = {row.name: row for row in table.rows(_lines(), "tiny", "test_resnet", "class")}
    assert runs.equal_cost(_lines(), "mini") == "epochs=10"
    assert runs.equal_cost(_lines(), "muda") is None
    assert found["retrain"].mean("gap") == pytest.approx(0.1 / 4)
    assert found["original"].mean("gap") == pytest.approx((0.5 + 0.4) / 4)
    assert found["mini"].mean("gap") == pytest.approx(0.15 / 4)
    assert found["mini"].mean("time") == pytest.approx(0.4)
    assert len(found["mini"].runs) == 2  # the seed that settings are chosen on is not reported
    assert found["finetune, epochs=10 (costs as much as `mini`)"].mean("gap") == pytest.approx(0.35 / 4)
    text = table.as_markdown(list(found.values()))
    assert "| mini† | 2 | 1.000 ± 0.000 | 0.650 ± 0.000 |" in text
    assert "| 40% | 3 MB | INCONCLUSIVE (1 of 2), LOW_SIDE (1 of 2) |" in text
    assert "`salun` does not take such a request: It needs more." in text


def test_a_methods_own_options_have_a_table_of_their_own() -> None:
    place = ("tiny", "test_resnet", "class")
    assert "mini, steps=4" not in [row.name for row in table.rows(_lines(), *place)]
    own = [row.name for row in table.rows(_lines(), *place, only="mini")]
    assert own == ["original", "retrain", "mini", "mini, steps=4"]


def test_two_versions_of_a_method_are_never_averaged() -> None:
    new = _line("mini", 2, 40.0, FA=0.5) | {"code": runs.version("mini")}
    (row,) = [row for row in table.rows([*_lines(), new], "tiny", "test_resnet", "class") if row.name == "mini"]
    assert [line["seed"] for line in row.runs] == [2]
    assert not row.old


def test_a_bar_that_is_missed_is_said_to_be() -> None:
    place = ("tiny", "test_resnet", "class")
    text = table.bars({place: table.rows(_lines(), *place)})
    assert "gap 0.013, 0.5 times theirs, at 20.0% | **no** |" in text
    assert "largest difference of a weight 0.002, in 2 trainings | **no** |" in text
    assert "gap 0.038, `finetune` 0.087 | yes |" in text


def test_one_command_does_what_is_not_done_and_another_writes_the_tables(
    suite: Suite, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, docs = tmp_path / "results.jsonl", tmp_path / "docs"
    docs.mkdir()
    (docs / "benchmarks.md").write_text(
        "before\n\n<!-- suite tiny test_resnet class begin -->\n<!-- end -->\n\nbetween\n\n"
        "<!-- suite tiny test_resnet part begin -->\n<!-- end -->\n\n"
        "<!-- suite tiny test_resnet class mini begin -->\n<!-- end -->\n\n"
        "<!-- suite bars begin -->\n<!-- end -->\nafter"
    )
    results.write_text("".join(json.dumps(line) + "\n" for line in _lines()))
    words = ["run", "--cache", str(suite.cache), "--out", str(results), "--datasets", "tiny", "--requests", "class"]
    asked = ["--methods", "ssd", "--seeds", "0"]
    for _ in range(2):
        monkeypatch.setattr("sys.argv", ["suite", *words, *asked])
        suite_command.main()
    (line,) = runs.read(results)[len(_lines()) :]
    monkeypatch.setattr("sys.argv", ["suite", "table", str(results), "--docs", str(docs)])
    suite_command.main()
    page = (docs / "benchmarks.md").read_text()
    assert (line["method"], line["seed"], line["code"]) == ("ssd", 0, runs.version("ssd"))
    assert line["verdict"]
    assert page.startswith("before")
    assert page.endswith("after")
    assert "| ssd | 1 |" in page
    assert "Not measured yet." in page
    assert page.count("| mini, steps=4† | 1 |") == 1
    assert page.count("suite tiny test_resnet class mini begin") == 1


def test_a_picture_shows_every_method(tmp_path: Path) -> None:
    picture.draw(table.rows(_lines(), "tiny", "test_resnet", "class"), "tiny", tmp_path / "tiny.png")
    assert (tmp_path / "tiny.png").stat().st_size > 1000
