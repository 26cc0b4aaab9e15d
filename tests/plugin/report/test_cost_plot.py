"""The picture of a comparison shows the numbers."""

import re
from typing import Any

import pytest

from tests.plugin.report.compared_example import entries, example_comparison
from unlearn_plugin.report.compared import compare_reports
from unlearn_plugin.report.cost_plot import draw_costs, heights, widths

WHEN = "2026-02-03T10:00Z"


def without_exact() -> dict[str, Any]:
    return compare_reports(entries()[2:], created_utc=WHEN)


def test_marks_stand_at_distance_and_share_and_a_failed_method_nowhere() -> None:
    rows = example_comparison()["rows"]
    assert heights(rows)[2] == pytest.approx((0.025 + 0.02) / 2, abs=1e-6)
    assert widths(rows)[2] == pytest.approx(4 / 41, rel=1e-4)
    assert heights(rows)[4:] == [None, None]
    assert widths(rows)[5] is None


def test_the_only_exact_model_stands_at_nought() -> None:
    rows = compare_reports(entries()[::2], created_utc=WHEN)["rows"]
    assert heights(rows)[0] == 0.0


def test_without_an_exact_model_the_height_is_the_membership_and_the_picture_says_so() -> None:
    content = without_exact()
    assert heights(content["rows"])[:2] == pytest.approx([0.03, 0.18])
    assert widths(content["rows"])[0] == pytest.approx(3.6)
    picture = draw_costs(content)
    assert picture is not None
    assert "No exact model is there" in picture.drawn
    assert "membership AUC above 0.5" in picture.svg
    assert "AUC above 0.5 by 0.030, cost 3.6 seconds" in picture.seen


def test_every_measured_method_has_its_number_and_the_band_is_drawn_for_two_exact_models() -> None:
    picture = draw_costs(example_comparison())
    assert picture is not None
    numbers = re.findall(r">\s*([\d, ]+?)\s*</text>", picture.svg)
    assert {"1, 2", "3", "4"} <= set(numbers)  # the retrained models nearly cover each other
    assert "5" not in numbers
    assert "The band" in picture.drawn
    assert picture.seen.startswith("Nearest: mini (distance 0.022, cost 9.8")
    alone = draw_costs(compare_reports(entries()[::2], created_utc=WHEN))
    assert alone is not None
    assert "there is one only" in alone.drawn


def test_nothing_measured_is_no_picture() -> None:
    content = example_comparison()
    content["rows"] = content["rows"][4:]
    assert draw_costs(content) is None
