"""Measurement: plain JSON, and nothing invented."""

import dataclasses
import json

import pytest

from unlearn_plugin.measurement import Measurement


def test_a_missing_measurement_has_a_reason_and_no_number() -> None:
    found = Measurement.missing("There were no samples.")
    assert (found.value, found.low, found.high, found.n, found.note) == (
        None,
        None,
        None,
        None,
        "There were no samples.",
    )
    assert found.details == {}


def test_it_becomes_json_and_comes_back_the_same() -> None:
    measurement = Measurement(value=0.5, low=0.4, high=0.6, n=10, details={"curve": [[0.0, 1.0]], "rate": None})
    assert Measurement(**json.loads(json.dumps(measurement.as_dict()))) == measurement


def test_the_dictionary_is_a_copy() -> None:
    measurement = Measurement(value=1.0, details={"counts": [1]})
    measurement.as_dict()["details"]["counts"].append(2)
    assert measurement.details == {"counts": [1]}


def test_it_cannot_be_changed_afterwards() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Measurement(value=0.5).value = 0.6  # type: ignore[misc]
