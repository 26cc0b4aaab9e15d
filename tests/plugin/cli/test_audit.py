"""``unlearn audit`` says what lies outside the range of retrained models, and whether a game was played."""

import json
from typing import Any

import pytest
from click.testing import CliRunner

from unlearn_plugin.cli import main

PLACE = {"value": 0.9, "mean": 0.7, "spread": 0.02, "low": 0.6, "high": 0.8, "models": 3, "inside": False}
GAME = {
    "auc": 0.91, "auc_worst_tenth": 0.99, "energy": {"value": 2.0, "p_value": 0.001}, "excess_klom": None,
    "epsilon": {"largest_for_sure": 0.4, "worst_twentieth": 0.2, "share_above_one": 0.0, "ceiling": 0.9},
}  # fmt: skip


def shown(monkeypatch: pytest.MonkeyPatch, games: Any, *words: str) -> str:
    found = {
        "models": {"retrained": 3, "unlearned": 0},
        "equivalence": {"accuracy_forget": PLACE, "membership": {**PLACE, "value": 0.7, "inside": True}},
        "games": games,
    }
    monkeypatch.setattr("unlearn_plugin.audit.full.audit", lambda *_, **__: found)
    result = CliRunner().invoke(main, ["audit", "out", "--retrained", "r", *words])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_numbers_outside_the_range_of_retrained_models_stand_out(monkeypatch: pytest.MonkeyPatch) -> None:
    output = shown(monkeypatch, None)
    assert "accuracy, forgotten samples" in output
    assert output.count("OUTSIDE") == 1
    assert "1 of 2 outside what one more of 3 retrained models would give." in output
    assert "No game was played: it takes 8 models of each kind, and 0 unlearned and 3 retrained ones" in output


def test_a_game_is_told_with_its_p_value_and_the_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    output = shown(monkeypatch, {"forget": GAME})
    (line,) = [line for line in output.splitlines() if line.startswith("forget")]
    assert line.split() == ["forget", "0.910", "0.990", "0.001", "0.40", "0.90"]


def test_with_json_the_whole_audit_is_one_document(monkeypatch: pytest.MonkeyPatch) -> None:
    document = json.loads(shown(monkeypatch, {"forget": GAME}, "--json"))
    assert document["schema"] == "urn:unlearn-plugin:audit:1"
    assert document["games"]["forget"]["auc"] == 0.91


def test_retrained_models_are_required_and_a_missing_folder_is_one_sentence() -> None:
    assert CliRunner().invoke(main, ["audit", "out"]).exit_code == 2
    result = CliRunner().invoke(main, ["audit", "nowhere", *["--retrained", "r"] * 3])
    assert result.exit_code == 1
    assert "nowhere" in result.output
    assert "Traceback" not in result.output
