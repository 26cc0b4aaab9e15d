"""Statements hold the numbers of the report; what they may not claim is tested with the verdict."""

import pytest

from tests.plugin.test_verdict import STATUSES, good_report, membership
from unlearn_plugin.statements import further_limits, grounds, remarks, statement


@pytest.mark.parametrize("outcome", sorted(STATUSES - {"EXACT_BY_PROCESS"}))
@pytest.mark.parametrize("exact", [False, True])
def test_every_outcome_has_its_words(outcome: str, exact: bool) -> None:
    text = statement(good_report(), outcome, ["Because of this."], exact)
    assert "{" not in text
    assert text.endswith(".")
    if not exact and outcome != "NO_RESIDUAL_DETECTED":
        assert "Because of this." in text


def test_the_grounds_name_what_was_seen_before_and_after_and_the_false_alarms() -> None:
    before, after, wolf = grounds(good_report())
    assert "0.740" in before
    assert "0.510" in after
    assert "3.0%" in wolf


def test_nothing_is_remarked_on_a_refused_model_or_where_there_is_nothing_to_say() -> None:
    report = good_report()
    assert remarks(report, "NO_RESIDUAL_DETECTED") == []
    report["measurements"]["membership"]["reference"] = membership(0.6, 0.56, 0.64)
    assert len(remarks(report, "NO_RESIDUAL_DETECTED")) == 1
    assert remarks(report, "REFUSED") == []


def test_samples_that_were_not_tested_are_a_limit() -> None:
    report = good_report()
    count = len(further_limits(report))
    report["measurements"]["membership"]["after"]["details"]["n_untested"] = 7
    assert len(further_limits(report)) == count + 1
    assert further_limits(report)[0].startswith("7 requested samples")


def test_a_class_that_was_largely_requested_is_a_limit_of_the_utility_check() -> None:
    report = good_report()
    report["measurements"]["utility"]["after"]["details"]["largely_requested"] = ["six", "nine"]
    assert any("six, nine was requested" in limit for limit in further_limits(report))
