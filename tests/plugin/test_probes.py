"""Probes: Holm's procedure by its definition, its error rate, and what is said."""

import numpy as np
import pytest

from unlearn_plugin.probes import LEVEL, PROBES, found_by_probes, holm


def report_of(**p_values: float | None) -> dict:
    return {
        "measurements": {
            name: {"after": {"value": 0.6, "details": {"p_value": p_value}}} for name, p_value in p_values.items()
        }
    }


def test_holm_by_hand() -> None:
    p_values = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}
    assert holm(p_values, 0.05) == ["d", "a"]  # 0.005 < 0.0125, 0.01 < 0.0167, but 0.03 >= 0.025
    assert holm({**p_values, "c": 0.0249}, 0.05) == ["d", "a", "c", "b"]
    assert holm({"a": 0.0125, "b": 1.0, "c": 1.0, "d": 1.0}, 0.05) == []  # at the limit is not below it
    assert holm({}, 0.05) == []


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.95])
def test_together_the_probes_raise_no_more_false_alarms_than_one_test(correlation: float) -> None:
    from scipy.stats import norm

    generator = np.random.default_rng(0)
    shared, own = generator.normal(size=(4000, 1)), generator.normal(size=(4000, len(PROBES)))
    p_values = norm.sf(np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own)
    alarms = np.mean([bool(holm(dict(zip(PROBES, row, strict=True)))) for row in p_values])
    assert alarms <= LEVEL + 3 * np.sqrt(LEVEL / 4000)


def test_one_probe_alone_has_the_whole_level() -> None:
    assert found_by_probes(report_of(rounding=0.0249))
    assert not found_by_probes(report_of(rounding=0.025))
    assert not found_by_probes(report_of(rounding=0.0249, linear_probe=0.9))


@pytest.mark.parametrize("name", PROBES)
def test_the_probe_that_finds_something_is_named(name: str) -> None:
    (told,) = found_by_probes(report_of(**{**dict.fromkeys(PROBES, 0.8), name: 1e-5}))
    assert told.startswith(PROBES[name])
    for text in ("AUC 0.600", "1e-05", f"{len(PROBES)} probes", "2.5%"):
        assert text in told


def test_a_probe_that_was_not_made_costs_the_others_nothing() -> None:
    report = report_of(rounding=0.012, linear_probe=None, neighbours=0.5)
    report["measurements"]["relearning"] = {"after": None}
    (told,) = found_by_probes(report)
    assert "2 probes" in told
    assert not found_by_probes({"measurements": {}})


def test_a_metric_of_someone_else_decides_nothing() -> None:
    assert not found_by_probes(report_of(theirs=1e-9))
