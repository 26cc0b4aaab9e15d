"""The zoo on tiny made-up data: its models are what they say, its shortcuts change no verdict, its tables add up."""

import csv
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.benchmarks.zoo import __main__ as zoo_command
from tests.benchmarks.zoo import judge as judging
from tests.benchmarks.zoo import world as worlds
from tests.benchmarks.zoo.cases import CASES
from tests.benchmarks.zoo.results import Result, append, read
from tests.benchmarks.zoo.table import DOCS, RESULTS, tables, write_tables
from tests.benchmarks.zoo.world import Cell, World, make_world
from unlearn_hooks.references import log_odds


def _write_idx(path: Path, array: np.ndarray) -> None:
    head = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(head + array.astype(np.uint8).tobytes())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that torchvision's FashionMNIST reads: ten sorts of stripes under noise."""
    folder = tmp_path_factory.mktemp("data")
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    generator = np.random.default_rng(0)
    labels = generator.integers(10, size=1200)
    stripes = np.zeros((10, 28, 28))
    for label in range(10):
        stripes[label, :, 2 * label : 2 * label + 6] = 120
    images = np.clip(stripes[labels] + generator.normal(60, 60, (1200, 28, 28)), 0, 255)
    for part in ("train", "t10k"):
        _write_idx(raw / f"{part}-images-idx3-ubyte", images)
        _write_idx(raw / f"{part}-labels-idx1-ubyte", labels)
    return folder


@pytest.fixture(scope="module", autouse=True)
def small() -> None:
    with pytest.MonkeyPatch.context() as patch:
        sizes = {"random": (5, 60), "class": (5,), "subject": (5, 20), "atypical": (5,), "hard": (30,)}
        for name, value in {"TRAINED": 300, "HELD_OUT": 600, "EPOCHS": 12, "BATCH": 25, "SERIES": (5, 20)}.items():
            patch.setattr(worlds, name, value)
        patch.setattr(worlds, "SIZES", sizes)
        yield


@pytest.fixture(scope="module")
def world(root: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(root, tmp_path_factory.mktemp("world") / "record", 0)


@pytest.fixture(scope="module")
def cells(world: World) -> dict[str, Cell]:
    return {cell.name: cell for cell in world.cells()}


def test_requests_hold_what_they_say(world: World, cells: dict[str, Cell]) -> None:
    assert list(cells) == ["random 5", "random 60", "class 5", "subject 5", "subject 20", "atypical 5", "hard 30"]
    assert all(bool(torch.isin(cell.rows, world.trained).all()) for cell in cells.values())
    assert bool(world.wrong[cells["atypical 5"].rows].all())
    assert not bool(world.wrong[cells["class 5"].rows].any())
    assert len(set(world.data.labels[cells["class 5"].rows].tolist())) == 1
    assert set(world.persons[cells["subject 20"].rows].tolist()) == {1}
    assert world.persons[cells["random 60"].rows].max() < 0
    assert not bool(world.wrong[cells["hard 30"].rows].any())
    asked, model = world._hardest(), world.kept["of one half"]
    with torch.no_grad():
        margins = log_odds(model(world.images(asked)), world.data.labels[asked])
    assert set(asked[margins <= margins.sort().values[29]].tolist()) == set(cells["hard 30"].rows.tolist())


def test_a_retrained_model_serves_only_requests_it_never_saw(world: World, cells: dict[str, Cell]) -> None:
    small = [CASES["retrained"].make(world, cells[name]) for name in ("random 5", "class 5", "atypical 5")]
    assert small[0] is small[1] or cells["class 5"].left_out_with != cells["random 5"].left_out_with
    assert CASES["retrained"].make(world, cells["random 60"]) is not small[0]
    together = {name: cells[name].left_out_with for name in cells}
    assert together["subject 20"] == together["random 5"] == "up to 20"
    assert Cell("class", torch.arange(100)).left_out_with == "class 100"
    assert Cell("hard", torch.arange(100)).left_out_with == "hard 100"
    assert Cell("random", torch.arange(500)).left_out_with == "random 500"
    hundred = {Cell(kind, torch.arange(100)).left_out_with for kind in ("random", "subject", "atypical")}
    assert hundred == {"others of 100"}


@pytest.mark.parametrize("name", ["untouched", "head refitted", "logits suppressed", "logits noised"])
def test_what_only_hides_leaves_the_features_alone(world: World, cells: dict[str, Cell], name: str) -> None:
    model, images = CASES[name].make(world, cells["random 60"]), world.images(cells["random 60"].rows)
    inner = model.model if name.startswith("logits") else model
    with torch.inference_mode():
        assert torch.allclose(
            inner.forward_features(images), world.original.forward_features(images), atol=1e-3, rtol=1e-3
        )
        unseen = world.images(torch.arange(5))
        if name.startswith("logits"):
            assert not torch.allclose(model(images), world.original(images), atol=0.1)
            others = world.images(world.trained[~torch.isin(world.trained, cells["random 60"].rows)][:5])
            assert torch.equal(model(others), world.original(others))
        if name == "untouched":
            assert torch.allclose(model(unseen), world.original(unseen), atol=1e-2)


def test_what_is_over_forgotten_is_not_recognised(world: World, cells: dict[str, Cell]) -> None:
    rows = cells["random 5"].rows
    model = CASES["over-forgotten"].make(world, cells["random 5"])
    with torch.inference_mode():
        assert not bool((model(world.images(rows)).argmax(1) == world.data.labels[rows]).any())


def test_what_is_not_measured_could_not_have_changed_the_verdict(
    world: World, cells: dict[str, Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured, real = [], judging.measure
    monkeypatch.setattr(judging, "measure", lambda *given: measured.extend(given[2]) or real(*given))
    for name, cases in (("random 60", ("retrained", "logits suppressed")), ("subject 5", ("untouched",))):
        trials = judging.trials_of(world, cells[name])
        seen = {tier: judging.before(trial) for tier, trial in trials.items()}
        for case in cases:
            model = CASES[case].make(world, cells[name])
            found = judging.judge(cells[name], seen, model, trials)
            for tier, trial in trials.items():
                everything = judging.further(trial)
                assert ("relearning" in everything) == (tier == "B")
                after = real(model, trial, [*seen[tier], *everything])
                whole = judging._decide(cells[name], seen[tier], after)
                assert (found[tier].status, found[tier].without) == (whole.status, whole.without)
    assert measured.count("relearning") < 4


def test_the_oracle_sees_what_is_left(world: World, cells: dict[str, Cell]) -> None:
    trial = judging.trials_of(world, cells["random 60"])["B"]
    retrained = CASES["retrained"].make(world, cells["random 60"])
    assert judging.oracle(world.original, retrained, trial).low > 0.5
    kept = world.trained[~torch.isin(world.trained, cells["random 60"].rows)]
    another: nn.Module = worlds.train(world.data.dataset, kept, 99)
    found = judging.oracle(another, retrained, trial)
    assert found.low < 0.5 < found.high


def _result(case: str, seed: int = 0, b: str = "RESIDUAL_DETECTED", **numbers: float) -> Result:
    return Result(seed=seed, cell="random 100", case=case, A="INCONCLUSIVE", B=b, **numbers)


def test_the_tables_by_hand() -> None:
    ok = "NO_RESIDUAL_DETECTED"
    lines = [
        *(_result("retrained", seed, ok if seed else "RESIDUAL_DETECTED") for seed in range(4)),
        *(_result("untouched", seed, left=0.9, left_surely=0.8) for seed in range(4)),
        _result("relabelled", 0, ok),
        _result("mini", 0, ok, margin=0.1, left=0.7, left_surely=0.61),
        _result("mini", 1, ok, margin=0.1, left=0.6, left_surely=0.59),
    ]
    text = "\n".join(tables(lines))
    assert "| random 100 | 20% (1% to 72%) of 5 | 25% (1% to 81%) of 4 | 75% (19% to 99%) of 4 | 100%" in text
    assert "| 20.0% at most; the largest upper bound is 71.6% | **no** |" in text
    assert "| 25.0% (0.6% to 80.6%), on 1 of 4 seeds | **no** |" in text
    assert "1 of 1 kinds have one in 80% or more of their verdicts | yes |" in text
    assert "| mini | random 100 | 2 | 0 | 0 | 0 | 0 | 0.650 ± 0.635 | 1 of 2 |" in text
    assert "| untouched | random 100 | 0 | 4 | 0 | 0 | 0 | 0.900 ± 0.000 | 0 of 0 |" in text


def test_the_published_tables_are_those_of_the_published_results(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(DOCS.read_text())
    write_tables(read(RESULTS), page)
    assert page.read_text() == DOCS.read_text(), "run python -m tests.benchmarks.zoo table"


def test_results_come_back_as_they_were(tmp_path: Path) -> None:
    path, line = tmp_path / "results.csv", _result("mini", 3, margin=0.0476, left=0.5, left_surely=0.41)
    assert read(path) == []
    append(path, line)
    append(path, _result("retrained"))
    assert read(path) == [line, _result("retrained")]


def test_one_command_judges_and_goes_on_where_it_ended(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "results.csv"
    words = ["zoo", "run", "--root", str(root), "--out", str(out), "--seeds", "1-1", "--cells", "random 5"]
    monkeypatch.setattr(worlds, "EPOCHS", 1)
    for only in ("untouched", "untouched,retrained"):
        monkeypatch.setattr("sys.argv", [*words, "--only", only])
        zoo_command.main()
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["seed"], row["cell"], row["case"]) for row in rows] == [
        ("1", "random 5", "untouched"), ("1", "random 5", "retrained"),
    ]  # fmt: skip
    assert rows[0]["left"]
    assert not rows[1]["left"]
