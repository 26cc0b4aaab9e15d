"""The verdict: every branch and boundary from a table, and the whole judge on networks whose truth is known."""

import copy
import json
import math
from typing import Any

import numpy as np
import pytest
import timm
import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn

from unlearn_plugin import verdict
from unlearn_plugin.data import ImageData, Samples
from unlearn_plugin.guard import inspect_change
from unlearn_plugin.metrics.alignment import Alignment
from unlearn_plugin.metrics.base import Trial
from unlearn_plugin.metrics.change import Change
from unlearn_plugin.metrics.linear_probe import LinearProbe
from unlearn_plugin.metrics.membership import Membership
from unlearn_plugin.metrics.neighbours import Neighbours
from unlearn_plugin.metrics.null_control import NullControl
from unlearn_plugin.metrics.rounding import Rounding
from unlearn_plugin.metrics.utility import Utility
from unlearn_plugin.progress import Progress
from unlearn_plugin.statistics import match_classes, stratified_auc
from unlearn_plugin.verdict import Verdict, decide, samples_needed

STATUSES = {
    "NO_RESIDUAL_DETECTED",
    "RESIDUAL_DETECTED",
    "LOW_SIDE",
    "INCONCLUSIVE",
    "UTILITY_FAILED",
    "EXACT_BY_PROCESS",
    "REFUSED",
}


def measured(value: float | None, low: float | None, high: float | None, n: int, **details: Any) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "n": n, "details": details, "note": None}


def membership(value: float, lower: float, upper: float, *, n: int = 200, untested: int = 0) -> dict[str, Any]:
    return measured(
        value, lower - 0.01, upper + 0.01, n,
        lower95=lower, upper95=upper, lower975=lower - 0.01, n_controls=1000, n_untested=untested,
        tpr={"0.01": {"value": 0.01, "low": 0.0, "high": 0.04, "fpr_high": 0.018}, "0.001": None},
    )  # fmt: skip


def good_report() -> dict[str, Any]:
    """A report on which every rule is silent."""
    share = {"value": 0.9, "low": 0.88, "high": 0.92, "n": 1000}
    drop = {"value": -0.005, "low": -0.012, "high": 0.002}
    return {
        "request": {"kind": "samples", "n_samples": 200, "n_subjects": None},
        "model": {"num_classes": 10, "reference": None},
        "procedure": {"method": "finetune", "exact": False},
        "data": {"n_forget": 200, "n_verdict": 1000},
        "guard": {"finite": True, "changed": True, "collapsed": False, "reasons": []},
        "measurements": {
            "utility": {
                "before": measured(0.9, 0.88, 0.92, 1000, controls=share, drop=None, forgotten_classes=None),
                "after": measured(
                    0.895, 0.87, 0.91, 1000, controls=share, forgotten_classes=None, drop=drop,
                    worst_class_drop={"class": "seven", "value": -0.04, "low": -0.09, "high": 0.01},
                ),
                "reference": None,
            },
            "membership": {
                "before": membership(0.74, 0.70, 0.78), "after": membership(0.51, 0.46, 0.56), "reference": None
            },
            "null_control": {"before": None, "after": measured(0.03, 0.011, 0.064, 1000, runs=200, false_alarms=6)},
            "linear_probe": {
                "after": measured(0.5, 0.45, 0.55, 200, p_value=0.5)
            },
            "neighbours": {"after": measured(0.5, 0.45, 0.55, 200, p_value=0.5)},
            "alignment": {"before": None, "after": None, "reference": None},
        },
    }  # fmt: skip


def judged(**changes: Any) -> Verdict:
    """The verdict on the good report with some entries replaced; keys are paths joined by double underscores."""
    report = good_report()
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = report
        for name in parents:
            place = place[name]
        place[last] = value
    return decide(report)


AFTER = "measurements__membership__after"
BEFORE = "measurements__membership__before"
DROP = "measurements__utility__after__details__drop"
WORST = "measurements__utility__after__details__worst_class_drop"


def test_with_nothing_against_it_no_residual_is_detected_and_all_numbers_are_said() -> None:
    found = judged()
    assert (found.status, found.outcome, found.released, found.tier) == (
        "NO_RESIDUAL_DETECTED", "NO_RESIDUAL_DETECTED", True, "A"
    )  # fmt: skip
    assert found.margin == pytest.approx(0.10)
    for number in ("200 samples", "0.740", "0.690 to 0.790", "0.510", "0.450 to 0.570", "above 0.600"):
        assert number in found.statement
    assert "subjects" not in found.statement
    assert "does not show" in found.statement


def test_subjects_are_named_when_there_are_any() -> None:
    assert "200 samples of 12 subjects" in judged(request__n_subjects=12).statement


@pytest.mark.parametrize(
    ("lower_before", "margin"),
    [(0.70, 0.10), (0.80, 0.10), (0.60, 0.05), (0.52, 0.01), (0.5, None), (0.45, None)],
)
def test_the_margin_is_half_of_what_the_test_saw_before_and_at_most_a_tenth(lower_before: float, margin: float) -> None:
    found = judged(**{BEFORE: membership(0.74, lower_before, 0.85)})
    assert found.margin == (None if margin is None else pytest.approx(margin))


SHARE = {"value": 0.5, "low": 0.3, "high": 0.7, "n": 30}
ALARMS = "measurements__null_control__after"
PROBE = "measurements__linear_probe__after__details__p_value"
COPIES = "measurements__neighbours__after__details__p_value"


def drop(value: float, high: float) -> dict[str, Any]:
    return {"value": value, "low": value - 0.1, "high": high, "class": "seven"}


def alarms(low: float) -> dict[str, Any]:
    return measured(low + 0.03, low, low + 0.08, 1000)


TABLE = {
    "a refused model": ({"guard__reasons": ["The weights are not finite."]}, "REFUSED"),
    "accuracy shown to drop by more than one point": ({DROP: drop(-0.02, -0.0101)}, "UTILITY_FAILED"),
    "accuracy not shown to drop by more than one point": ({DROP: drop(-0.02, -0.01)}, "NO_RESIDUAL_DETECTED"),
    "a measured drop of more than five points": ({DROP: drop(-0.051, 0.02)}, "UTILITY_FAILED"),
    "a measured drop of exactly five points": ({DROP: drop(-0.05, 0.02)}, "NO_RESIDUAL_DETECTED"),
    "better accuracy": ({DROP: drop(0.1, 0.2)}, "NO_RESIDUAL_DETECTED"),
    "a class shown to drop by more than five points": ({WORST: drop(-0.3, -0.06)}, "UTILITY_FAILED"),
    "a class that may have dropped": ({WORST: drop(-0.3, -0.05)}, "NO_RESIDUAL_DETECTED"),
    "no drop measured": ({DROP: None}, "INCONCLUSIVE"),
    "membership not measured before": ({BEFORE: measured(None, None, None, 0)}, "INCONCLUSIVE"),
    "membership not measured after": ({AFTER: None}, "INCONCLUSIVE"),
    "the test blind before": ({BEFORE: membership(0.52, 0.50, 0.56)}, "INCONCLUSIVE"),
    "the test blind before although something is seen after": (
        {BEFORE: membership(0.52, 0.50, 0.56), AFTER: membership(0.6, 0.56, 0.64)}, "INCONCLUSIVE"
    ),
    "a false-alarm rate shown to be too high": ({ALARMS: alarms(0.051)}, "INCONCLUSIVE"),
    "a false-alarm rate at the limit": ({ALARMS: alarms(0.05)}, "NO_RESIDUAL_DETECTED"),
    "an invalid test that sees a residual": (
        {ALARMS: alarms(0.051), AFTER: membership(0.6, 0.56, 0.64)}, "INCONCLUSIVE"
    ),
    "a residual": ({AFTER: membership(0.56, 0.512, 0.60)}, "RESIDUAL_DETECTED"),
    "a lower bound of exactly one half": ({AFTER: membership(0.55, 0.51, 0.59)}, "NO_RESIDUAL_DETECTED"),
    "a residual behind the head": ({PROBE: 0.0124}, "RESIDUAL_DETECTED"),
    "one probe at its part of the level": ({PROBE: 0.0125}, "NO_RESIDUAL_DETECTED"),
    "a residual in changed copies": ({COPIES: 0.0124}, "RESIDUAL_DETECTED"),
    "a probe that was not made leaves the other the whole level": ({PROBE: 0.0249, COPIES: None}, "RESIDUAL_DETECTED"),
    "a residual in a probe of a test blind before": (
        {BEFORE: membership(0.52, 0.50, 0.56), PROBE: 1e-9}, "INCONCLUSIVE"
    ),
    "a residual without control check": ({ALARMS: None, AFTER: membership(0.6, 0.56, 0.64)}, "RESIDUAL_DETECTED"),
    "no probe": ({"measurements__linear_probe__after": None}, "NO_RESIDUAL_DETECTED"),
    "no control check": ({ALARMS: None}, "INCONCLUSIVE"),
    "less than nine tenths tested": ({AFTER: membership(0.51, 0.46, 0.56, n=179, untested=21)}, "INCONCLUSIVE"),
    "nine tenths tested": ({AFTER: membership(0.51, 0.46, 0.56, n=180, untested=20)}, "NO_RESIDUAL_DETECTED"),
    "an upper bound beyond the margin": ({AFTER: membership(0.53, 0.46, 0.601)}, "INCONCLUSIVE"),
    "an upper bound at the margin": ({AFTER: membership(0.53, 0.46, 0.60)}, "NO_RESIDUAL_DETECTED"),
    "an upper bound beyond a small margin": (
        {BEFORE: membership(0.6, 0.56, 0.64), AFTER: membership(0.5, 0.46, 0.54)}, "INCONCLUSIVE"
    ),
    "a lower bound below 0.40": ({AFTER: membership(0.42, 0.399, 0.45)}, "LOW_SIDE"),
    "a lower bound of 0.40": ({AFTER: membership(0.43, 0.40, 0.46)}, "NO_RESIDUAL_DETECTED"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "status"), TABLE.values(), ids=TABLE)
def test_every_line_of_the_rule(changes: dict[str, Any], status: str) -> None:
    found = judged(**changes)
    assert found.status == found.outcome == status
    assert found.released == (status in ("NO_RESIDUAL_DETECTED", "INCONCLUSIVE", "LOW_SIDE"))
    assert found.reasons
    assert "{" not in found.statement


def test_the_table_reaches_every_status_of_the_statistics() -> None:
    assert {status for _, status in TABLE.values()} == STATUSES - {"EXACT_BY_PROCESS"}


@pytest.mark.parametrize(
    ("n", "high", "status"),
    [(300, 0.051, "INCONCLUSIVE"), (300, 0.05, "NO_RESIDUAL_DETECTED"), (299, 0.3, "NO_RESIDUAL_DETECTED")],
)
def test_the_tail_is_a_gate_from_three_hundred_samples_on(n: int, high: float, status: str) -> None:
    after = membership(0.51, 0.46, 0.56, n=n)
    after["details"]["tpr"]["0.01"]["high"] = high
    assert judged(**{AFTER: after}).status == status


@pytest.mark.parametrize(("n", "status"), [(300, "INCONCLUSIVE"), (299, "NO_RESIDUAL_DETECTED")])
def test_a_tail_that_was_not_measured_rules_nothing_out(n: int, status: str) -> None:
    after = membership(0.51, 0.46, 0.56, n=n)
    after["details"]["tpr"] = {"0.01": None, "0.001": None}
    found = judged(**{AFTER: after})
    assert found.status == status
    assert any("499 held-out" in limit for limit in found.limits)
    assert not any("499 held-out" in limit for limit in judged().limits)


def test_why_a_test_was_not_made_is_said_once_where_it_is_the_same_reason() -> None:
    missing = measured(None, None, None, 0) | {"note": "No class has enough."}
    both = judged(**{BEFORE: missing, AFTER: missing})
    assert both.reasons == ("The membership test was not made on the model before or after: No class has enough.",)
    other = judged(**{BEFORE: missing, AFTER: missing | {"note": "Too few."}})
    assert [reason.partition(": ")[2] for reason in other.reasons] == ["No class has enough.", "Too few."]
    assert both.status == other.status == "INCONCLUSIVE"


@pytest.mark.parametrize(("effective", "status"), [(300.0, "INCONCLUSIVE"), (299.9, "NO_RESIDUAL_DETECTED")])
def test_of_several_subjects_the_tail_counts_their_effective_number(effective: float, status: str) -> None:
    after = membership(0.51, 0.46, 0.56, n=900)
    after["details"] |= {"n_effective": effective, "tpr": {"0.01": {"value": 0.02, "low": 0.0, "high": 0.1}}}
    assert judged(**{AFTER: after}).status == status


@pytest.mark.parametrize(("chance", "status"), [(0.0099, "INCONCLUSIVE"), (0.01, "NO_RESIDUAL_DETECTED")])
def test_an_auc_of_one_half_does_not_hide_a_part_that_is_known_and_a_part_that_is_suppressed(
    chance: float, status: str
) -> None:
    tails = {"before": None, "after": measured(0.3, 0.2, 0.4, 200, cramer_von_mises_p_value=chance), "reference": None}
    found = judged(measurements__tails=tails)
    assert found.status == status
    assert any("suppressed" in reason for reason in found.reasons) == (status == "INCONCLUSIVE")


@pytest.mark.parametrize(
    ("difficulty", "status"),
    [
        (0.399, "INCONCLUSIVE"),
        (0.4, "NO_RESIDUAL_DETECTED"),
        (0.9, "NO_RESIDUAL_DETECTED"),
        (None, "NO_RESIDUAL_DETECTED"),
    ],
)
def test_a_request_harder_than_the_controls_is_not_certified(difficulty: float | None, status: str) -> None:
    after = membership(0.51, 0.46, 0.56)
    after["details"]["difficulty"] = difficulty
    found = judged(**{AFTER: after})
    assert found.status == status
    assert any("were harder than the retained" in reason for reason in found.reasons) == (status == "INCONCLUSIVE")
    assert any("harder than the held-out data is not known" in limit for limit in found.limits) == (difficulty is None)


def test_one_of_several_classes_that_is_still_recognised_is_a_residual() -> None:
    all_of_them, one = "measurements__utility__{}__details__forgotten_classes", "best_forgotten_class"
    best = all_of_them.replace("forgotten_classes", one)
    share, known = ({"value": value, "low": low, "high": 0.6} for value, low in ((0.1, 0.07), (0.5, 0.38)))
    pooled = {all_of_them.format("before"): known, all_of_them.format("after"): share}
    assert judged(**pooled).status == "NO_RESIDUAL_DETECTED"
    found = judged(**pooled, **{best.format(who): {**known, "class": "cat"} for who in ("before", "after")})
    assert found.status == "RESIDUAL_DETECTED"
    assert "of the class cat" in found.reasons[0]


FORGOTTEN = "measurements__utility__{}__details__forgotten_classes"


@pytest.mark.parametrize(
    ("before", "after", "status"),
    [
        ({**SHARE, "low": 0.8}, {**SHARE, "low": 0.101}, "RESIDUAL_DETECTED"),
        ({**SHARE, "low": 0.8}, {**SHARE, "low": 0.1}, "NO_RESIDUAL_DETECTED"),  # chance with ten classes
        ({**SHARE, "low": 0.05}, {**SHARE, "low": 0.2}, "NO_RESIDUAL_DETECTED"),  # never recognised: says nothing
        (None, None, "NO_RESIDUAL_DETECTED"),
    ],
)
def test_a_class_still_recognised_on_held_out_images_is_a_residual(before: Any, after: Any, status: str) -> None:
    changes = {FORGOTTEN.format("before"): before, FORGOTTEN.format("after"): after}
    assert judged(**changes, request__kind="classes").status == status


def test_a_recognised_class_needs_no_membership_test() -> None:
    changes = {FORGOTTEN.format(who): {**SHARE, "low": 0.8} for who in ("before", "after")}
    found = judged(**changes, **{BEFORE: measured(None, None, None, 0)})
    assert found.status == "RESIDUAL_DETECTED"
    assert "chance is 10.0%" in found.statement


def test_whole_classes_have_a_limit_of_their_own() -> None:
    assert any("whole classes" in limit for limit in judged(request__kind="samples and classes").limits)
    assert not any("whole classes" in limit for limit in judged().limits)


@pytest.mark.parametrize(
    ("changes", "outcome", "released"),
    [
        ({}, "NO_RESIDUAL_DETECTED", True),
        ({AFTER: membership(0.7, 0.65, 0.75)}, "RESIDUAL_DETECTED", True),
        ({BEFORE: membership(0.5, 0.45, 0.55)}, "INCONCLUSIVE", True),
        ({DROP: drop(-0.2, -0.1)}, "UTILITY_FAILED", False),
    ],
)
def test_an_exact_method_rests_on_its_process_and_keeps_the_outcome(changes: Any, outcome: str, released: bool) -> None:
    found = judged(procedure__exact=True, **changes)
    assert (found.status, found.outcome, found.released) == ("EXACT_BY_PROCESS", outcome, released)
    assert "not on the statistics below" in found.statement
    assert ("alarm" in found.statement) == (outcome == "RESIDUAL_DETECTED")
    assert ("withheld" in found.statement) == (outcome == "UTILITY_FAILED")


def test_a_refused_exact_result_is_refused() -> None:
    found = judged(procedure__exact=True, guard__reasons=["It changed nothing."])
    assert (found.status, found.outcome, found.released) == ("REFUSED", "REFUSED", False)
    assert "It changed nothing." in found.statement


def test_a_refused_model_needs_no_measurements_at_all() -> None:
    report = good_report()
    report["guard"]["reasons"] = ["Collapsed."]
    for parts in report["measurements"].values():
        parts["after"] = None
    assert decide(report).status == "REFUSED"
    report["measurements"] = {}
    assert decide(report).margin is None


def test_too_few_samples_are_told_how_many_are_needed() -> None:
    after = membership(0.5, 0.38, 0.62, n=20)
    assert "The request has 20 samples; at least 55 are needed" in judged(**{AFTER: after}).statement
    after["details"]["n_controls"] = 40
    assert "no request could be certified" in judged(**{AFTER: after}).statement
    enough = membership(0.57, 0.49, 0.65, n=2000)
    assert "needed" not in judged(**{AFTER: enough}).statement


def test_untested_samples_are_a_limit() -> None:
    found = judged(**{AFTER: membership(0.51, 0.46, 0.56, n=195, untested=5)})
    assert any(limit.startswith("5 requested samples") for limit in found.limits)


def test_what_leaves_the_decision_to_a_person_says_so() -> None:
    for changes in ({AFTER: None}, {AFTER: membership(0.42, 0.39, 0.45)}):
        assert "for a person to decide" in judged(**changes).statement


ALIGNED = {"before": measured(0.90, 0.88, 0.92, 200), "reference": measured(0.60, 0.55, 0.65, 200)}


@pytest.mark.parametrize(
    ("after", "told"), [((0.88, 0.86, 0.9), True), ((0.7, 0.65, 0.75), False), ((0.8, 0.59, 1.0), False)]
)
def test_an_alignment_nearer_to_before_than_to_the_reference_is_told_only(after: Any, told: bool) -> None:
    found = judged(measurements__alignment={**ALIGNED, "after": measured(*after, 200)})
    assert found.status == "NO_RESIDUAL_DETECTED"
    assert any("alignment" in reason for reason in found.reasons) == told


def test_an_alarm_on_the_retrained_reference_is_told() -> None:
    assert "reference" in judged(measurements__membership__reference=membership(0.6, 0.56, 0.64)).reasons[-1]
    assert len(judged(measurements__membership__reference=membership(0.5, 0.46, 0.54)).reasons) == len(judged().reasons)


CALIBRATED = "measurements__calibrated_membership"
WOLF = "measurements__calibrated_null_control"


def calibrated(before: Any = None, after: Any = None, control: Any = None, **changes: Any) -> Verdict:
    """The verdict on the good report with calibrated tests beside the plain ones."""
    test = {"before": before or membership(0.9, 0.88, 0.92), "after": after or membership(0.5, 0.46, 0.54)}
    return judged(**{
        CALIBRATED: {**test, "reference": None},
        WOLF: {"before": None, "after": control or alarms(0.01)},
        **changes,
    })


def test_the_calibrated_test_decides_where_it_was_made_before_and_after() -> None:
    blind = {BEFORE: membership(0.5, 0.45, 0.55), ALARMS: alarms(0.2)}  # the plain test could not tell
    assert (judged(**blind).status, judged(**blind).tier) == ("INCONCLUSIVE", "A")
    found = calibrated(**blind)
    assert (found.status, found.tier, found.margin) == ("NO_RESIDUAL_DETECTED", "B", pytest.approx(0.1))
    assert "AUC 0.900" in found.statement
    assert "never saw it" in " ".join(found.reasons)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"before": membership(0.52, 0.5, 0.55)}, "INCONCLUSIVE"),
        ({"control": alarms(0.06)}, "INCONCLUSIVE"),
        ({"after": membership(0.6, 0.56, 0.64)}, "RESIDUAL_DETECTED"),
        ({"after": membership(0.55, 0.48, 0.62)}, "INCONCLUSIVE"),
        ({"after": membership(0.42, 0.39, 0.45)}, "LOW_SIDE"),
        ({"after": membership(0.5, 0.46, 0.54, n=100, untested=100)}, "INCONCLUSIVE"),
    ],
)
def test_every_line_looks_at_the_calibrated_numbers(changes: dict[str, Any], status: str) -> None:
    assert calibrated(**changes).status == status


def test_the_calibrated_test_asks_the_references_how_hard_the_request_is() -> None:
    plain = membership(0.51, 0.46, 0.56)
    plain["details"]["difficulty"] = 0.1  # of the recorded losses: not asked
    after = membership(0.51, 0.46, 0.56)
    after["details"]["difficulty"] = 0.39
    assert calibrated(**{AFTER: plain}).status == "NO_RESIDUAL_DETECTED"
    found = calibrated(after=after)
    assert found.status == "INCONCLUSIVE"
    assert "for models that never saw either" in found.reasons[0]


def test_without_a_negative_control_of_its_own_the_calibrated_test_certifies_nothing() -> None:
    assert calibrated(**{WOLF: {"before": None, "after": None}}).status == "INCONCLUSIVE"


def test_calibrated_on_one_side_only_leaves_the_decision_to_the_plain_test() -> None:
    half = {"before": membership(0.9, 0.88, 0.92), "after": None, "reference": None}
    found = judged(**{CALIBRATED: half})
    assert (found.status, found.tier) == ("NO_RESIDUAL_DETECTED", "A")


def test_an_alarm_of_the_plain_test_is_told_and_does_not_decide() -> None:
    found = calibrated(**{AFTER: membership(0.6, 0.56, 0.64)})
    assert found.status == "NO_RESIDUAL_DETECTED"
    assert any("Without that comparison" in reason for reason in found.reasons)
    assert not any("Without that comparison" in reason for reason in calibrated().reasons)


def test_a_missing_reference_is_a_limit() -> None:
    assert any("No model retrained" in limit for limit in judged().limits)
    assert not any("No model retrained" in limit for limit in judged(model__reference={"digest": "00"}).limits)


def test_the_limits_of_utility_stand_in_the_report() -> None:
    text = " ".join(judged().limits)
    assert f"{100 * verdict.MAX_SHOWN_DROP:g} percentage points" in text
    assert f"{100 * verdict.MAX_CLASS_DROP:g}." in text


@pytest.mark.parametrize("changes", [changes for changes, _ in TABLE.values()], ids=TABLE)
def test_no_verdict_claims_more_than_was_measured(changes: dict[str, Any]) -> None:
    for exact in (False, True):
        found = judged(**changes, procedure__exact=exact)
        text = " ".join([found.statement, *found.reasons, *found.limits]).lower()
        for claim in ("deleted", "erased", "compliant", "gdpr", "anonymous", "guarantee", "mathematically", "100 %"):
            assert claim not in text


def test_the_verdict_survives_the_way_through_json_and_leaves_the_report_alone() -> None:
    report = good_report()
    before = copy.deepcopy(report)
    assert decide(json.loads(json.dumps(report))) == decide(report)
    assert report == before


def test_the_needed_samples_certify_in_four_of_five_cases() -> None:
    needed = samples_needed(0.10, 1000)
    assert needed is not None
    generator = np.random.default_rng(7)
    hits = 0
    for _ in range(300):
        forget, controls = generator.normal(size=needed), generator.normal(size=1000)
        matched = match_classes(forget, np.zeros(needed, np.int64), controls, np.zeros(1000, np.int64))
        hits += stratified_auc(matched).upper95 < 0.6
    assert 0.70 < hits / 300 < 0.90


def test_with_too_few_controls_no_number_of_samples_is_enough() -> None:
    assert samples_needed(0.05, 100) is None
    assert samples_needed(0.05, 5000) is not None


# ---- the whole judge on real digits


N_TRAIN, N_FORGET = 700, 150
METRICS = (Utility, Membership, NullControl, Alignment, LinearProbe, Neighbours, Rounding, Change)


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Digits at 16 px; a fifth of all labels is wrong, so that a network has to remember."""
    bunch = load_digits()
    images = nn.functional.interpolate(torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 8 - 1, size=16)
    labels = torch.tensor(bunch.target, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(labels), generator=generator)
    wrong = torch.rand(len(labels), generator=generator) < 0.2
    shifted = (labels + torch.randint(1, 10, labels.shape, generator=generator)) % 10
    return images[order], torch.where(wrong, shifted, labels)[order]


def trained(images: torch.Tensor, labels: torch.Tensor, epochs: int = 15, start: nn.Module | None = None) -> nn.Module:
    """A network trained until it knows its data by heart, or a given one trained on."""
    torch.manual_seed(1)
    model = timm.create_model("test_resnet", num_classes=10, in_chans=1) if start is None else copy.deepcopy(start)
    optimizer = torch.optim.AdamW(model.train().parameters(), 3e-3 if start is None else 3e-4)
    steps = epochs * math.ceil(len(labels) / 50)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, optimizer.param_groups[0]["lr"], total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(labels)).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


class World:
    """A network that remembers, one retrained without the request, and what the judge looks at."""

    def __init__(
        self, images: torch.Tensor, labels: torch.Tensor, original: nn.Module, forgotten: torch.Tensor
    ) -> None:
        """Take a network that was trained on the first `N_TRAIN` samples, and which of them have to go."""
        self.kept = torch.tensor([row for row in range(N_TRAIN) if row not in set(forgotten.tolist())])
        self.images, self.labels, self.original = images, labels, original
        self.retrained = trained(images[self.kept], labels[self.kept])
        data = ImageData(
            dataset=list(zip(images, labels.tolist(), strict=True)),
            ids=tuple(map(str, range(len(labels)))),
            labels=labels,
            classes=tuple("0123456789"),
            deterministic=True,
        )
        whole = set(labels[forgotten].tolist()) - set(labels[self.kept].tolist())
        self.trial = Trial(
            forget=Samples(data, forgotten),
            retain=Samples(data, self.kept),
            controls=Samples(data, torch.arange(N_TRAIN, len(labels))),
            forgotten_classes=tuple(whole),
            classes=data.classes,
            original=original,
            accelerator=Accelerator(cpu=True),
            progress=Progress(enabled=False),
        )

    def finetuned(self) -> nn.Module:
        """What people hope is enough: two gentle epochs on the remaining data."""
        return trained(self.images[self.kept], self.labels[self.kept], epochs=2, start=self.original)

    def report(self, model: nn.Module) -> dict[str, Any]:
        """What the pipeline would write about `model`."""
        guard = inspect_change(self.original, model, self.trial)
        models = {"before": self.original, "after": None if guard["reasons"] else model, "reference": self.retrained}
        return {
            **good_report(),
            "request": {"kind": "samples", "n_samples": len(self.trial.forget), "n_subjects": None},
            "guard": guard,
            "measurements": {
                metric.__module__.rpartition(".")[2]: {
                    who: metric().measure(each, self.trial).as_dict() if each else None for who, each in models.items()
                }
                for metric in METRICS
            },
        }


@pytest.fixture(scope="module")
def random_request() -> World:
    images, labels = digits()
    original = trained(images[:N_TRAIN], labels[:N_TRAIN])
    return World(images, labels, original, torch.arange(N_FORGET))


@pytest.fixture(scope="module")
def class_request(random_request: World) -> World:
    images, labels, original = random_request.images, random_request.labels, random_request.original
    return World(images, labels, original, (labels[:N_TRAIN] == 3).nonzero().squeeze(1))


def value(report: dict[str, Any], metric: str, who: str) -> float:
    return report["measurements"][metric][who]["value"]


@pytest.mark.slow
def test_the_retrained_network_passes_and_nothing_is_seen_in_it(random_request: World) -> None:
    report = random_request.report(random_request.retrained)
    assert report["measurements"]["membership"]["before"]["details"]["lower95"] > 0.7
    assert value(report, "membership", "after") == pytest.approx(0.5, abs=0.06)
    assert value(report, "linear_probe", "before") > 0.7
    assert value(report, "linear_probe", "after") == pytest.approx(0.5, abs=0.06)
    assert value(report, "utility", "after") == pytest.approx(value(report, "utility", "before"), abs=0.05)
    assert decide(report).status == "NO_RESIDUAL_DETECTED"


@pytest.mark.slow
def test_the_original_under_another_name_is_refused(random_request: World) -> None:
    assert decide(random_request.report(copy.deepcopy(random_request.original))).status == "REFUSED"


def noised(model: nn.Module) -> nn.Module:
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter += 1e-4 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    return copied


def flattened(model: nn.Module) -> nn.Module:
    """Confidence taken back in the head alone; every prediction stays."""
    copied = copy.deepcopy(model)
    with torch.no_grad():
        copied.fc.weight *= 0.1
        copied.fc.bias *= 0.1
    return copied


@pytest.mark.slow
@pytest.mark.parametrize("disguise", [noised, flattened])
def test_an_untouched_network_in_disguise_is_found_out(random_request: World, disguise: Any) -> None:
    found = decide(random_request.report(disguise(random_request.original)))
    assert (found.status, found.released) == ("RESIDUAL_DETECTED", False)


@pytest.mark.slow
def test_a_little_finetuning_is_found_out(random_request: World) -> None:
    assert decide(random_request.report(random_request.finetuned())).status == "RESIDUAL_DETECTED"


@pytest.mark.slow
def test_a_destroyed_network_is_refused(random_request: World) -> None:
    model = copy.deepcopy(random_request.original)
    nn.init.zeros_(model.fc.weight)
    found = decide(random_request.report(model))
    assert (found.status, found.margin is not None) == ("REFUSED", True)


@pytest.mark.slow
def test_a_whole_class_is_judged_against_held_out_images_of_the_same_class(class_request: World) -> None:
    report = class_request.report(class_request.retrained)
    after = report["measurements"]["membership"]["after"]
    assert report["measurements"]["membership"]["before"]["details"]["lower95"] > 0.6
    assert after["low"] < 0.5
    assert after["details"]["n_controls"] == int((class_request.labels[N_TRAIN:] == 3).sum())
    assert report["measurements"]["utility"]["after"]["details"]["forgotten_classes"]["value"] == 0.0
    assert decide(report).status not in ("RESIDUAL_DETECTED", "REFUSED")


@pytest.mark.slow
def test_a_class_that_is_still_recognised_is_found_out(class_request: World) -> None:
    found = decide(class_request.report(noised(class_request.original)))
    assert found.status == "RESIDUAL_DETECTED"
    assert "still recognises" in found.reasons[0]
