"""report.json: the same content gives the same bytes, and what cannot be read is refused in one sentence."""

import json
import math
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from tests.plugin.report.example import STATUSES, example_report
from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.report.report import SCHEMA, read_report, rounded, write_report

GOLDEN = Path(__file__).parents[2] / "golden" / "report-1.json"


def schema() -> dict[str, Any]:
    return dict(json.loads((files("unlearn_plugin.report") / "report-1.schema.json").read_text()))


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    path = write_report(example_report(), tmp_path)
    assert path == tmp_path / "report.json"
    assert read_report(tmp_path) == rounded(example_report())
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]


def test_the_bytes_do_not_depend_on_the_order_of_the_keys(tmp_path: Path) -> None:
    def turned_round(value: Any) -> Any:
        return {key: turned_round(value[key]) for key in reversed(value)} if isinstance(value, dict) else value

    (tmp_path / "other").mkdir()
    first = write_report(example_report(), tmp_path).read_bytes()
    assert write_report(turned_round(example_report()), tmp_path / "other").read_bytes() == first


def test_the_golden_report_of_schema_1_is_still_read_and_written_the_same(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes(GOLDEN.read_bytes())
    content = read_report(tmp_path)
    assert content["overall"]["status"] == "NO_RESIDUAL_DETECTED"
    assert content["measurements"]["membership"]["before"]["value"] == 0.781662
    assert write_report(content, tmp_path).read_bytes() == GOLDEN.read_bytes()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (0.123456789, 0.123457),
        (123456789.0, 123457000.0),
        (1.23456789e-12, 1.23457e-12),
        (-0.6666666, -0.666667),
        (12345678, 12345678),
        (True, True),
        ("0.123456789", "0.123456789"),
        (None, None),
        (math.nan, None),
        (-math.inf, None),
        ((0.5, [math.inf, {"a": (1.00000049,)}]), [0.5, [None, {"a": [1.0]}]]),
    ],
)
def test_numbers_keep_six_digits_and_what_is_no_number_becomes_null(given: object, kept: object) -> None:
    assert rounded(given) == kept
    assert type(rounded(given)) is type(kept)
    assert rounded(rounded(given)) == rounded(given)


def test_no_nan_ever_reaches_the_file(tmp_path: Path) -> None:
    report = example_report("REFUSED")
    report["procedure"]["facts"] = {"loss": math.nan, "largest": math.inf}
    text = write_report(report, tmp_path).read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert read_report(tmp_path)["procedure"]["facts"] == {"largest": None, "loss": None}


def test_a_tensor_in_a_report_is_a_bug_and_not_hidden(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_report({**example_report(), "data": {"n_train": {1, 2}}}, tmp_path)
    assert not (tmp_path / "report.json").exists()


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda path: path.unlink(), "There is no readable report.json"),
        (lambda path: path.write_text(path.read_text()[:-20]), "is damaged"),
        (lambda path: path.write_bytes(b"\xff\xfe{}"), "is damaged"),
        (lambda path: path.write_text("[]"), "is of schema None"),
        (lambda path: path.write_text('{"schema": "urn:unlearn-plugin:report:2"}'), "report:2.*this version reads"),
        (lambda path: path.write_text(json.dumps({"schema": SCHEMA})), "lacks created_utc, data, guard"),
    ],
    ids=["missing", "cut", "not-text", "a-list", "newer", "sections-missing"],
)
def test_a_report_that_cannot_be_read_is_refused_in_one_sentence(
    tmp_path: Path, damage: Callable[[Path], object], complaint: str
) -> None:
    damage(write_report(example_report(), tmp_path))
    with pytest.raises(UnlearnError, match=complaint) as caught:
        read_report(tmp_path)
    assert "\n" not in str(caught.value)
    assert re.search(r"; (give|take|read) .*\.$", str(caught.value))  # and says what to do


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("reference", [True, False])
def test_example_reports_fit_the_schema(status: str, reference: bool) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(rounded(example_report(status, reference=reference)), schema())


@pytest.mark.parametrize(
    ("section", "leak"),
    [
        ("request", {"ids": ["people/alice.png"]}),
        ("data", {"n_alice": 1}),
        ("overall", {"status": "DELETED"}),
        ("model", {"before": {"digest": "model/weights.bin"}}),
        ("measurements", {"membership": {"value": 0.5}}),
    ],
)
def test_the_schema_refuses_ids_unknown_fields_and_claims(section: str, leak: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    report = rounded(example_report())
    report[section] = {**report[section], **leak}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(report, schema())


def test_the_schema_is_itself_sound_and_names_the_schema_of_the_code() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema())
    assert schema()["properties"]["schema"]["const"] == schema()["$id"] == SCHEMA
