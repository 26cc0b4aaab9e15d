"""Which test decides, and its numbers."""

import pytest

from tests.plugin.test_verdict import good_report, membership
from unlearn_plugin import primary
from unlearn_plugin.primary import margin, measured, null_control, part, result, tail, tier


def test_a_measurement_without_a_value_is_none() -> None:
    report = good_report()
    assert measured(report, "membership", "after")["value"] == 0.51
    assert measured(report, "membership", "reference") is None
    assert measured(report, "nothing", "after") is None
    report["measurements"]["membership"]["after"]["value"] = None
    assert measured(report, "membership", "after") is None
    assert part(report, "membership", "after", "tpr") is not None
    assert part(report, "membership", "reference", "tpr") is None


def test_the_plain_test_decides_until_the_calibrated_one_was_made_twice() -> None:
    report = good_report()
    assert (primary.primary(report), tier(report)) == ("membership", "A")
    report["measurements"]["calibrated_membership"] = {"before": membership(0.8, 0.7, 0.9), "after": None}
    assert tier(report) == "A"
    report["measurements"]["calibrated_membership"]["after"] = membership(0.52, 0.5, 0.55)
    assert (primary.primary(report), tier(report)) == ("calibrated_membership", "B")
    assert result(report, "after")["value"] == 0.52
    assert null_control(report) is None  # that of the plain test does not count
    report["measurements"]["calibrated_null_control"] = {"after": {"value": 0.02}}
    assert null_control(report) == {"value": 0.02}


@pytest.mark.parametrize(("lower", "expected"), [(0.8, 0.1), (0.6, 0.05), (0.5, None)])
def test_the_margin_is_half_of_what_was_seen(lower: float, expected: float | None) -> None:
    report = good_report()
    report["measurements"]["membership"]["before"] = membership(0.85, lower, 0.9)
    assert margin(report) == (None if expected is None else pytest.approx(expected))


def test_the_tail_is_that_of_the_test_that_decides() -> None:
    report = good_report()
    assert tail(report)["high"] == 0.04
    for who in ("before", "after"):
        report["measurements"].setdefault("calibrated_membership", {})[who] = membership(0.8, 0.7, 0.9)
    report["measurements"]["calibrated_membership"]["after"]["details"]["tpr"]["0.01"] = None
    assert tail(report) is None
