"""compare.json: distances and costs by hand, and nothing invented."""

from pathlib import Path
from typing import Any

import pytest

from tests.plugin.report.compared_example import entries, example_comparison, report
from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.report.compared import (
    FAILED,
    Entry,
    compare_reports,
    compare_schema,
    read_compared,
    write_compared,
)
from unlearn_plugin.report.schema import misfits

WHEN = "2026-02-03T10:00Z"


def rows(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["label"]: row for row in content["rows"]}


def test_the_distance_is_the_mean_gap_to_the_exact_models_and_theirs_to_each_other() -> None:
    found = rows(example_comparison())
    between = (0.02 + 0.0 + 0.02 + 0.02) / 4
    assert found["retrain"]["measured"]["distance"] == pytest.approx(between)
    assert found["retrain:seed=1"]["measured"]["distance"] == pytest.approx(between)
    to_first, to_second = (0.05 + 0.01 + 0.01 + 0.03) / 4, (0.03 + 0.01 + 0.03 + 0.01) / 4
    assert found["mini"]["measured"]["distance"] == pytest.approx((to_first + to_second) / 2)
    assert example_comparison()["exact"]["spread"] == {
        "models": 2, "mean": pytest.approx(between), "largest": pytest.approx(between),
    }  # fmt: skip


def test_the_cost_is_a_share_of_the_mean_of_retraining() -> None:
    content = example_comparison()
    assert content["cost"] == {"measured_in": "cpu_seconds", "of_retraining": pytest.approx(0.9 * 41)}
    assert rows(content)["mini"]["cost"]["share_of_retraining"] == pytest.approx(4 / 41, rel=1e-4)


def test_with_a_single_exact_model_nothing_is_said_of_the_noise() -> None:
    content = compare_reports(entries()[::2], created_utc=WHEN)
    assert content["exact"] == {"given": None, "labels": ["retrain"], "spread": None}
    assert rows(content)["retrain"]["measured"]["distance"] is None
    assert rows(content)["mini"]["measured"]["distance"] == pytest.approx((0.05 + 0.01 + 0.01 + 0.03) / 4)


def test_without_an_exact_model_there_is_no_distance_and_no_share() -> None:
    content = compare_reports(entries()[2:4], created_utc=WHEN)
    assert content["exact"] == {"given": None, "labels": [], "spread": None}
    assert content["cost"]["of_retraining"] is None
    for row in content["rows"]:
        assert row["measured"]["distance"] is None
        assert row["cost"]["share_of_retraining"] is None


def test_a_reference_from_elsewhere_is_an_exact_model_of_its_own() -> None:
    made = entries()[2:4]
    for entry in made:
        entry.report["model"]["reference"] = {"digest": "d3" * 32}
        details = entry.report["measurements"]["utility"]["after"]["details"]
        entry.report["measurements"]["utility"]["reference"] = {"details": {
            part: {"value": details[part]["value"] + 0.04} for part in ("forget", "retain", "controls")
        }}  # fmt: skip
        after = entry.report["measurements"]["membership"]["after"]
        entry.report["measurements"]["membership"]["reference"] = {**after, "value": after["value"] + 0.04}
    content = compare_reports(made[:1], created_utc=WHEN)
    assert content["exact"]["given"] == {"digest": "d3" * 32}
    assert content["rows"][0]["measured"]["distance"] == pytest.approx(0.04)
    assert content["reference"]["distance"] is None


def test_the_first_outcome_as_the_reference_of_the_others_is_not_counted_twice() -> None:
    made = entries()[::2][:2]
    made[1].report["model"]["reference"] = made[0].report["model"]["after"]
    assert compare_reports(made, created_utc=WHEN)["exact"] == {"given": None, "labels": ["retrain"], "spread": None}


def test_what_failed_or_was_refused_has_no_numbers() -> None:
    found = rows(example_comparison())
    assert (found["muda"]["status"], found["muda"]["measured"], found["muda"]["cost"]) == (FAILED, None, None)
    assert found["scrub"]["measured"] is None
    assert found["scrub"]["cost"]["seconds"] == 3.0


def test_requests_of_classes_are_compared_by_alignment_too() -> None:
    one = report("mini", (0.1, 0.9, 0.8), 0.5, 1.0)
    one["request"] |= {"kind": "classes", "n_subjects": None}
    one["measurements"]["alignment"] = {"before": None, "after": {"value": 0.8}, "reference": None}
    content = compare_reports([Entry("mini", "mini", "mini", one)], created_utc=WHEN)
    assert content["compared_by"][-1] == "alignment"
    assert content["rows"][0]["measured"]["alignment"] == 0.8
    one["request"] |= {"kind": "samples"}
    assert "alignment" not in compare_reports([Entry("mini", "mini", "mini", one)], created_utc=WHEN)["compared_by"]


def test_it_fits_its_schema_and_is_read_back_as_it_was(tmp_path: Path) -> None:
    content = example_comparison()
    assert misfits(content, compare_schema()) == []
    write_compared(content, tmp_path)
    assert read_compared(tmp_path) == content
    del content["rows"][0]["status"]
    assert misfits(content, compare_schema()) == ["rows.0.status is missing"]


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": "urn:unlearn-plugin:comparison:9"}'])
def test_what_is_no_comparison_is_said_to_be_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "compare.json").write_text(text)
    with pytest.raises(UnlearnError, match="compare.json"):
        read_compared(tmp_path)
