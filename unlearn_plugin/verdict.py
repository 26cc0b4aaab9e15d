"""The verdict: a pure function of report.json's measurements. Anyone can compute it again."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from scipy.stats import norm

from unlearn_plugin.primary import margin, measured, null_control, part, primary, result, tail, tier
from unlearn_plugin.probes import found_by_probes
from unlearn_plugin.statements import further_limits, grounds, remarks, statement

__all__ = ["Verdict", "decide", "samples_needed"]

MAX_SHOWN_DROP = 0.01  # of accuracy on the controls: a drop shown to be larger fails
MAX_POINT_DROP = 0.05  # a measured drop larger than this fails, whatever its interval
MAX_CLASS_DROP = 0.05  # a drop of one class shown to be larger fails
MAX_FALSE_ALARMS = 0.05  # a rate shown to be larger makes the membership test invalid
MAX_TAIL = 0.05  # true-positive rate at 1 % false positives that must be ruled out ...
TAIL_FROM = 300  # ... from this many requested samples on; fewer would often miss it even when retrained
LOW_SIDE = 0.40  # an AUC that may lie below is less familiar than unseen data
HARDER = 0.40  # an AUC of what is known of the difficulty; below, the controls are too easy to compare with
UNEVEN = 0.01  # chance of margins spread so unlike those of unseen data, below which an AUC near 0.5 says too little
MIN_COVERAGE = 0.90  # share of the requested samples that must have been tested

_WITHHELD = ("RESIDUAL_DETECTED", "UTILITY_FAILED", "REFUSED")

_LIMITS = (
    "The same weights can come from different data, so no measurement of the weights proves that data were removed.",
    "The tests protect against mistakes, not against a provider who wants to deceive.",
    "The tests give a lower bound of what is left: a stronger attack may find more.",
    "The membership test is valid only if the held-out data are like the requested data; it compares within classes.",
    "Nothing here speaks of copies of the data, or of earlier versions of the model, kept elsewhere.",
    "How often the procedure was tried before cannot be seen from this report.",
    f"Agreed limits of utility: the accuracy on unseen data may not be shown to fall by more than "
    f"{100 * MAX_SHOWN_DROP:g} percentage points nor be measured to fall by more than {100 * MAX_POINT_DROP:g}, and no "
    f"class that stays, with less than a tenth of it requested, may be shown to fall by more than "
    f"{100 * MAX_CLASS_DROP:g}.",
)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the measurements say, and no more.

    Attributes:
        status: NO_RESIDUAL_DETECTED, RESIDUAL_DETECTED, LOW_SIDE, INCONCLUSIVE, UTILITY_FAILED, EXACT_BY_PROCESS or
            REFUSED.
        outcome: Status of the statistics alone; differs from `status` for exact methods.
        margin: Excess of the AUC over 0.5 that had to be ruled out; ``None`` without a positive control.
        reasons: What decided, one sentence each, and what else a reader should know.
        statement: The text of the report.
        limits: What the verdict does not say.
        released: Whether the weights may leave; INCONCLUSIVE and LOW_SIDE leave the decision to a person.
        tier: Of the test that decided: "A" needs no other trained model, "B" rests on reference models.
    """

    status: str
    outcome: str
    margin: float | None
    reasons: tuple[str, ...]
    statement: str
    limits: tuple[str, ...]
    released: bool
    tier: str


def decide(report: Mapping[str, Any]) -> Verdict:
    """Judge a report by the published rule; the first line that applies decides.

    1. the guard has reasons: REFUSED
    2. utility fails: UTILITY_FAILED
    3. the forgotten classes, or one of them, are still recognised on held-out images: RESIDUAL_DETECTED
    4. membership or utility was not measured: INCONCLUSIVE
    5. the one-sided 95 % lower bound of the AUC before is at most 0.5: INCONCLUSIVE (the test is blind here)
    6. the false-alarm rate is shown to exceed 5 %: INCONCLUSIVE (the test is invalid here)
    7. the one-sided 97.5 % lower bound of the AUC after is above 0.5, or one of the probes (see
       `unlearn_plugin.probes`), which share 2.5 % by Holm's procedure, finds something: RESIDUAL_DETECTED
    8. no false-alarm rate could be had, or under 90 % of the request was tested: INCONCLUSIVE
    9. the one-sided 95 % upper bound of the AUC after is above 0.5 + d: INCONCLUSIVE (too few data), with
       d = min(0.10, half of (lower bound before - 0.5))
    10. 300 or more samples (of several subjects: their effective number), and a true-positive rate above 5 % at 1 %
        false positives is not ruled out: INCONCLUSIVE
    11. the one-sided 95 % lower bound of the AUC after is below 0.40: LOW_SIDE
    12. the margins of F are spread unlike those of the controls (Cramér-von Mises, p < 1 %): INCONCLUSIVE
    13. F is harder than others of its classes, which makes a residual look like none: the AUC of what models that never
        saw either say of F and the controls (tier B), or of the recorded losses of F and R (tier A), is below 0.40:
        INCONCLUSIVE
    14. otherwise: NO_RESIDUAL_DETECTED

    The AUC, its bounds, the false-alarm rate and the true-positive rate are those of `calibrated_membership` if it was
    measured before and after (tier B), else those of `membership` (tier A).

    For exact methods the status is EXACT_BY_PROCESS, unless refused, and the statistics are kept as the outcome; such
    weights are withheld for failed utility only.

    Args:
        report: Content of report.json; ``guard``, ``procedure``, ``request``, ``model``, ``data`` and ``measurements``
            are read.

    Returns:
        The verdict; the same for the same report, always.
    """
    outcome, reasons = _outcome(report)
    exact = bool(report["procedure"]["exact"]) and outcome != "REFUSED"
    return Verdict(
        status="EXACT_BY_PROCESS" if exact else outcome,
        outcome=outcome,
        margin=margin(report),
        tier=tier(report),
        reasons=(*reasons, *remarks(report, outcome)),
        statement=statement(report, outcome, reasons, exact),
        limits=(*_LIMITS, *further_limits(report)),
        released=outcome != "UTILITY_FAILED" if exact else outcome not in _WITHHELD,
    )


def _outcome(report: Mapping[str, Any]) -> tuple[str, list[str]]:
    for status, rule in _RULES:
        reasons = rule(report)
        if reasons:
            return status, reasons
    return "NO_RESIDUAL_DETECTED", grounds(report)


def _refused(report: Mapping[str, Any]) -> list[str]:
    return list(report["guard"]["reasons"])


def _utility_failed(report: Mapping[str, Any]) -> list[str]:
    reasons = []
    drop, worst = (part(report, "utility", "after", name) for name in ("drop", "worst_class_drop"))
    if drop and (drop["high"] < -MAX_SHOWN_DROP or drop["value"] < -MAX_POINT_DROP):
        reasons.append(
            f"The accuracy on unseen data changed by {_points(drop['value'])} and at best by {_points(drop['high'])} "
            f"(95 %); the limits are {_points(-MAX_POINT_DROP)} and {_points(-MAX_SHOWN_DROP)}."
        )
    if worst and worst["high"] < -MAX_CLASS_DROP:
        reasons.append(
            f"The accuracy on unseen data of the class {worst['class']} changed by {_points(worst['value'])} and at "
            f"best by {_points(worst['high'])} (95 % over all classes), beyond the limit of {_points(-MAX_CLASS_DROP)}."
        )
    return reasons


def _class_recognised(report: Mapping[str, Any]) -> list[str]:
    chance = 1 / report["model"]["num_classes"]
    reasons = []
    for scope in ("forgotten_classes", "best_forgotten_class"):
        before, after = (part(report, "utility", who, scope) for who in ("before", "after"))
        if before and after and before["low"] > chance and after["low"] > chance:
            of = f"the class {after['class']}, which had" if "class" in after else "the classes that had"
            reasons.append(
                f"The model still recognises {after['value']:.1%} of held-out images of {of} to go (95 % interval "
                f"{after['low']:.1%} to {after['high']:.1%}); chance is {chance:.1%}."
            )
    return reasons[:1]


def _unmeasured(report: Mapping[str, Any]) -> list[str]:
    test, missing = primary(report), dict[str | None, list[str]]()  # by note
    for who in ("before", "after"):
        if measured(report, test, who) is None:
            note = (report["measurements"].get(test, {}).get(who) or {}).get("note")
            missing.setdefault(note, []).append(who)
    reasons = [
        f"The membership test was not made on the model {' or '.join(models)}" + (f": {note}" if note else ".")
        for note, models in missing.items()
    ]
    if not part(report, "utility", "after", "drop"):
        reasons.append("The change of accuracy on unseen data was not measured.")
    return reasons


def _blind(report: Mapping[str, Any]) -> list[str]:
    if margin(report) is not None:
        return []
    before = result(report, "before")
    return [
        f"The test had no power on this request: before unlearning it could not tell the requested data from unseen "
        f"data either (AUC {before['value']:.3f}, one-sided 95 % lower bound {before['details']['lower95']:.3f})."
    ]


def _test_invalid(report: Mapping[str, Any]) -> list[str]:
    control = null_control(report)
    if control is None or control["low"] <= MAX_FALSE_ALARMS:
        return []
    return [
        f"The control check failed: on data that were never trained on, the test raised {control['value']:.1%} false "
        f"alarms (95 % interval {control['low']:.1%} to {control['high']:.1%}), and {MAX_FALSE_ALARMS:.0%} "
        f"are tolerated."
    ]


def _residual(report: Mapping[str, Any]) -> list[str]:
    after, reasons = result(report, "after"), []
    if after["details"]["lower975"] > 0.5:
        reasons.append(
            f"After unlearning the requested data are still told apart from unseen data (AUC {after['value']:.3f}, "
            f"95 % interval {after['low']:.3f} to {after['high']:.3f})."
        )
    return [*reasons, *found_by_probes(report)]


def _unchecked(report: Mapping[str, Any]) -> list[str]:
    reasons = []
    if null_control(report) is None:
        reasons.append("The control check could not be run: too few held-out samples of the requested classes.")
    after = result(report, "after")
    tested, untested = after["n"], after["details"]["n_untested"]
    if tested < MIN_COVERAGE * (tested + untested):
        reasons.append(
            f"Only {tested} of {tested + untested} requested samples could be tested; the others have too few "
            f"held-out samples of their class."
        )
    return reasons


def _too_few_data(report: Mapping[str, Any]) -> list[str]:
    limit, after = margin(report), result(report, "after")
    upper = after["details"]["upper95"]
    if limit is None or upper <= 0.5 + limit:
        return []
    controls = after["details"]["n_controls"]
    needed = samples_needed(limit, controls)
    advice = ""
    if needed is None:
        advice = f" With {controls} held-out samples of these classes no request could be certified; more are needed."
    elif needed > after["n"]:
        advice = f" The request has {after['n']} samples; at least {needed} are needed for this margin."
    return [f"Values of the AUC up to {upper:.3f} are not ruled out, and the limit is {0.5 + limit:.3f}.{advice}"]


def _tail_open(report: Mapping[str, Any]) -> list[str]:
    rate, after = tail(report), result(report, "after")
    if after["details"].get("n_effective", after["n"]) < TAIL_FROM or (rate and rate["high"] <= MAX_TAIL):
        return []
    if rate is None:
        return [
            f"Whether single samples stand out could not be measured: for a request of {after['n']} samples, "
            f"{after['details']['n_controls']} held-out samples of their classes are too few; 499 are needed, and 99 "
            f"of each class, or of the small ones together."
        ]
    return [
        f"At 1 % false positives up to {rate['high']:.1%} of the requested samples may still be found (measured "
        f"{rate['value']:.1%}); {MAX_TAIL:.0%} must be ruled out."
    ]


def _low_side(report: Mapping[str, Any]) -> list[str]:
    after = result(report, "after")
    lower = after["details"]["lower95"]
    if lower >= LOW_SIDE:
        return []
    return [f"The AUC after unlearning is {after['value']:.3f}, and values below {LOW_SIDE:.2f} are not ruled out."]


def _uneven(report: Mapping[str, Any]) -> list[str]:
    found = measured(report, "tails", "after")
    chance = found["details"].get("cramer_von_mises_p_value") if found else None
    if chance is None or chance >= UNEVEN:
        return []
    return [
        f"The AUC after unlearning is near 0.5, but the margins of the requested data are spread unlike those of "
        f"unseen data (Cramér-von Mises, p = {chance:.3f}): a part may still be known while another was suppressed."
    ]


def _harder(report: Mapping[str, Any]) -> list[str]:
    found = result(report, "after")["details"].get("difficulty")
    if found is None or found >= HARDER:
        return []
    beside = {
        "A": "in the recorded training the requested data were harder than the retained data of their classes",
        "B": "for models that never saw either the requested data are harder than the held-out data of their classes",
    }[tier(report)]
    return [
        f"The AUC after unlearning is near 0.5, but {beside} (AUC {found:.3f}, and {HARDER:.2f} is the limit): what is "
        f"usual for data never seen is not known for such data, and a residual could look like none."
    ]


# The first rule with a reason decides; `decide` lists them in words.
_RULES: tuple[tuple[str, Callable[[Mapping[str, Any]], list[str]]], ...] = (
    ("REFUSED", _refused),
    ("UTILITY_FAILED", _utility_failed),
    ("RESIDUAL_DETECTED", _class_recognised),
    ("INCONCLUSIVE", _unmeasured),
    ("INCONCLUSIVE", _blind),
    ("INCONCLUSIVE", _test_invalid),
    ("RESIDUAL_DETECTED", _residual),
    ("INCONCLUSIVE", _unchecked),
    ("INCONCLUSIVE", _too_few_data),
    ("INCONCLUSIVE", _tail_open),
    ("LOW_SIDE", _low_side),
    ("INCONCLUSIVE", _uneven),
    ("INCONCLUSIVE", _harder),
)


def _points(change: float) -> str:
    return f"{100 * change:+.1f} percentage points"


def samples_needed(margin: float, n_controls: int) -> int | None:
    """Samples of F at which a true AUC of 0.5 is certified within `margin` in 80 % of cases.

    Formula: (z_0.95 + z_0.80) sqrt((n_f + n_c + 1) / (12 n_f n_c)) <= margin, solved for n_f.

    Args:
        margin: Largest excess over 0.5 to be ruled out.
        n_controls: Controls at hand.

    Returns:
        The number; ``None`` when no number of samples would do with so few controls.
    """
    needed = (margin / float(norm.ppf(0.95) + norm.ppf(0.80))) ** 2 * 12 * n_controls - 1
    return math.ceil((n_controls + 1) / needed) if needed > 0 else None
