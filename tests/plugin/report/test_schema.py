"""Our schema check says what the `jsonschema` package says, of every way to spoil a report, and names the place."""

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.plugin.report.example import STATUSES, example_report
from unlearn_plugin.report.report import rounded
from unlearn_plugin.report.schema import misfits, report_schema

GOLDEN = Path(__file__).parents[2] / "golden" / "report-1.json"
OTHERS = (None, True, -1, 7, 0.25, 1e9, math.pi, "", "a" * 64, [], ["x"], [""], {}, {"x": 1})


@pytest.mark.parametrize("status", STATUSES)
def test_example_reports_fit(status: str) -> None:
    assert misfits(rounded(example_report(status)), report_schema()) == []


def test_the_golden_report_fits() -> None:
    assert misfits(json.loads(GOLDEN.read_text()), report_schema()) == []


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a JSON value, of lists only the first."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, child in list(inner):
        yield value, key
        yield from places(child)


def small_report() -> Any:
    report = rounded(example_report(reference=False))
    report["measurements"] = {"membership": report["measurements"]["membership"]}
    report["measurements"]["membership"]["before"]["details"] = {}
    report["measurements"]["membership"]["after"] = None
    return report


def sections() -> Iterator[tuple[dict[str, Any], jsonschema.Draft202012Validator]]:
    """Each section of a report alone, with its part of the schema: whole reports take long."""
    schema = report_schema()
    for name, content in small_report().items():
        part = {"type": "object", "properties": {name: schema["properties"][name]}, "required": [name]}
        yield {name: content}, jsonschema.Draft202012Validator({**part, "$defs": schema["$defs"]})


def agreed(validator: jsonschema.Draft202012Validator, value: Any) -> bool:
    """Whether a value fits, by both."""
    fits = validator.is_valid(value)
    assert (misfits(value, validator.schema) == []) == fits
    return fits


def test_it_judges_as_jsonschema_does_whatever_stands_anywhere_in_a_report() -> None:
    verdicts = []
    for section, validator in sections():
        for container, key in places(section):
            kept = container[key]
            for other in OTHERS:
                container[key] = other
                verdicts.append(agreed(validator, section))
            container[key] = kept
        assert agreed(validator, section)
    assert min(verdicts.count(True), verdicts.count(False)) > 50


def test_it_judges_as_jsonschema_does_of_missing_and_added_fields() -> None:
    verdicts = []
    for section, validator in sections():
        for container, key in places(section):
            if isinstance(container, dict):
                kept = container.pop(key)
                verdicts.append(agreed(validator, section))
                container |= {key: kept, "added": 1}
                verdicts.append(agreed(validator, section))
                del container["added"]
    assert min(verdicts.count(True), verdicts.count(False)) > 5


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("overall", "margin"), 0.7, "overall.margin is 0.7, more than 0.5"),
        (("overall", "margin"), -1, "overall.margin is -1, less than 0"),
        (("overall", "tier"), "Z", "overall.tier is 'Z', not A or B or C"),
        (("overall", "statement"), "", "overall.statement is '', shorter than 1"),
        (("overall", "reasons"), [""], "overall.reasons.0 is '', shorter than 1"),
        (("request", "ids"), ["anna.png"], "request.ids is not a field of it"),
        (("model", "num_classes"), True, "model.num_classes is True, not of type integer"),
        (("data", "n_train"), math.inf, "data.n_train is inf, not of type integer"),
        (("measurements", "membership", "value"), 1, "measurements.membership.value is not a field of it"),
        (("created_utc",), "2026-01-01T00:00:00Z", "created_utc is '2026-01-01T00:00:00Z', not of the form"),
        (("created_utc",), "2026-01-01T00:00Z\n", "created_utc is '2026-01-01T00:00Z\\n', not of the form"),
        (("created_utc",), "٢٠٢٦-01-01T00:00Z", "created_utc is '٢٠٢٦-01-01T00:00Z', not of the form"),
    ],
)
def test_the_place_and_the_value_are_named(path: tuple[str, ...], value: object, said: str) -> None:
    report = copy.deepcopy(small_report())
    place = report
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (found,) = misfits(report, report_schema())
    assert found.startswith(said)


def test_a_missing_section_is_named() -> None:
    report = small_report()
    del report["request"]["commitment"]["digest"]
    assert misfits(report, report_schema()) == ["request.commitment.digest is missing"]


def test_a_keyword_that_is_not_known_is_never_skipped() -> None:
    with pytest.raises(RuntimeError, match="'uniqueItems' is not known here"):
        misfits([1, 1], {"type": "array", "uniqueItems": True})


def test_a_long_value_is_cut_in_the_message() -> None:
    (found,) = misfits("x" * 500, {"type": "integer"})
    assert len(found) < 120


def test_true_is_not_one() -> None:
    assert misfits(1, {"const": True}) == ["the whole is 1, not True"]
    assert misfits(False, {"enum": [0, "x"]}) == ["the whole is False, not 0 or x"]
    assert misfits(1.0, {"enum": [1]}) == []
