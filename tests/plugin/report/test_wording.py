"""How numbers and verdicts are written for people."""

import json
from collections.abc import Callable
from importlib.resources import files

import pytest

from tests.plugin.report.example import STATUSES
from unlearn_plugin.report.wording import chance, estimate, headline, interval, number, percent, plain, points

NEVER = ("deleted", "erased", "compliant", "anonymised", "100 %", "guarantee", "verified deletion", "forgotten by")


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (number, 0.51234, "0.512"),
        (number, -0.51251, "−0.513"),
        (number, 1097, "1,097"),
        (number, -1097, "−1,097"),
        (number, 12345.678, "12,345.678"),
        (number, 0.000314159, "0.00031"),
        (number, -0.0000052, "−0.0000052"),
        (number, 0.0, "0.000"),
        (number, None, "not measured"),
        (chance, 0.0338, "0.034"),
        (chance, 0.001, "0.001"),
        (chance, 1.6e-62, "below 0.001"),
        (chance, None, "not measured"),
        (percent, 0.9412, "94.1\N{NO-BREAK SPACE}%"),
        (percent, -0.00001, "0.0\N{NO-BREAK SPACE}%"),
        (percent, None, "not measured"),
        (points, -0.0081, "−0.8\N{NO-BREAK SPACE}points"),
        (points, 0.0081, "+0.8\N{NO-BREAK SPACE}points"),
        (points, -0.0004, "0.0\N{NO-BREAK SPACE}points"),
        (points, None, "not measured"),
        (plain, None, "none"),
        (plain, True, "yes"),
        (plain, False, "no"),
        (plain, 1e-4, "0.0001"),
        (plain, 0.00123456, "0.00123456"),
        (plain, 60000, "60,000"),
        (plain, ["a", 1, None], "a, 1, none"),
        (plain, {"learning_rate": 0.1, "kept": True}, "learning rate 0.1, kept yes"),
        (plain, [{"a": {"b": 1}}, {"a": {}}], "a b 1; a none"),
        (plain, [], "none"),
        (plain, "sgd", "sgd"),
    ],
)
def test_a_value_is_written_so(write: Callable[[object], str], value: object, text: str) -> None:
    assert write(value) == text


def test_an_interval_names_its_unit_once_and_needs_both_ends() -> None:
    assert interval(0.4484, 0.576) == "0.448 to 0.576"
    assert interval(0.921, 0.961, percent) == "92.1 to 96.1\N{NO-BREAK SPACE}%"
    assert interval(-0.014, 0.004, points) == "−1.4 to +0.4\N{NO-BREAK SPACE}points"
    assert interval(None, 0.5) == interval(0.5, None) == ""


def test_an_estimate_carries_its_interval_where_there_is_one() -> None:
    assert estimate({"value": 0.5123, "low": 0.4484, "high": 0.576}) == "0.512 (0.448 to 0.576)"
    assert estimate({"value": 0.5123, "low": None, "high": None}) == "0.512"
    assert estimate({"value": 0.941}, percent) == "94.1\N{NO-BREAK SPACE}%"
    assert estimate({"value": None, "low": 0.1, "high": 0.2}) == estimate(None) == "not measured"


def test_every_status_of_the_schema_has_its_own_headline() -> None:
    schema = json.loads((files("unlearn_plugin.report") / "report-1.schema.json").read_text())
    assert set(schema["$defs"]["status"]["enum"]) == set(STATUSES)
    assert len({headline(status).words for status in STATUSES}) == len(STATUSES)


@pytest.mark.parametrize("status", STATUSES)
def test_no_headline_says_more_than_was_measured(status: str) -> None:
    words = headline(status).words.lower()
    assert not [claim for claim in NEVER if claim in words]
    assert headline(status).caution.startswith(("It does not mean", "It says nothing about"))


def test_only_two_statuses_are_good() -> None:
    good = {status for status in STATUSES if headline(status).tone == "good"}
    assert good == {"NO_RESIDUAL_DETECTED", "EXACT_BY_PROCESS"}
    assert {status for status in STATUSES if headline(status).tone == "open"} == {"LOW_SIDE", "INCONCLUSIVE"}
