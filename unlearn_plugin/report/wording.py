"""Wording: how a status and a number are written for people; the page and the model card use the same words."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from unlearn_plugin.probes import PROBES

__all__ = [
    "LABELS",
    "NOT_MEASURED",
    "WRITERS",
    "Headline",
    "Writer",
    "chance",
    "estimate",
    "headline",
    "interval",
    "number",
    "percent",
    "plain",
    "points",
]

Tone = Literal["good", "open", "bad"]
Writer = Callable[[int | float | None], str]
NOT_MEASURED = "not measured"
_MINUS = "\N{MINUS SIGN}"
_SPACE = "\N{NO-BREAK SPACE}"  # before a unit


@dataclass(frozen=True)
class Headline:
    """A verdict in a few words.

    Attributes:
        words: The verdict itself.
        tone: Colour and icon.
        caution: What the verdict does not mean.
    """

    words: str
    tone: Tone
    caution: str


_HEADLINES = {
    "NO_RESIDUAL_DETECTED": Headline(
        "No residual signal detected",
        "good",
        "It does not mean that the data are proven to be gone from the weights, that the model counts as anonymous, "
        "or that the request is settled: copies of the data and earlier models are a matter of their own.",
    ),
    "EXACT_BY_PROCESS": Headline(
        "Retrained without the data",
        "good",
        "It does not mean that the numbers below prove it: the statement is only as good as the record of what was "
        "run. Copies of the earlier weights are not covered.",
    ),
    "RESIDUAL_DETECTED": Headline(
        "Residual signal detected",
        "bad",
        "It does not mean that anybody can rebuild the requested data from the model; it means that the data still "
        "leave a measurable mark.",
    ),
    "UTILITY_FAILED": Headline(
        "Too much accuracy lost",
        "bad",
        "It says nothing about whether the data are gone: a model that no longer works is not accepted, "
        "whatever it forgot.",
    ),
    "REFUSED": Headline(
        "Refused: no usable model",
        "bad",
        "It does not mean that anything was removed: no new weights were written, and the earlier model still "
        "holds what it learnt.",
    ),
    "LOW_SIDE": Headline(
        "Suppressed below the level of unseen data",
        "open",
        "It does not mean that the request is fulfilled: data that stand out by being unfamiliar can be found "
        "as well as data that stand out by being familiar.",
    ),
    "INCONCLUSIVE": Headline(
        "Inconclusive",
        "open",
        "It does not mean that the data are gone, nor that they are still there: this test could not tell.",
    ),
}


def headline(status: str) -> Headline:
    """The words for a status of the report.

    Args:
        status: ``overall.status`` or ``overall.outcome``.

    Returns:
        The headline.
    """
    return _HEADLINES[status]


def number(value: int | float | None, digits: int = 3) -> str:
    """Write a number: counts with thousands separated, others with `digits` places (small ones with two figures).

    Args:
        value: Any number, or ``None``.
        digits: Places after the point.

    Returns:
        Such as "1,097", "0.512", "0.00031"; "not measured" for ``None``.
    """
    if value is None:
        return NOT_MEASURED
    if isinstance(value, int):
        return f"{value:,}".replace("-", _MINUS)
    places = digits
    if 0 < abs(value) < 10**-digits:
        places = 1 - math.floor(math.log10(abs(value)))
    return _signed(f"{value:,.{places}f}")


def percent(value: int | float | None) -> str:
    """Write a share of 1 as a percentage with one place, such as "94.1 %"."""
    return NOT_MEASURED if value is None else _signed(f"{100 * value:.1f}") + _SPACE + "%"


def points(value: int | float | None) -> str:
    """Write a difference of two shares in percentage points, such as "−0.8 points"."""
    return NOT_MEASURED if value is None else _signed(f"{100 * value:+.1f}") + _SPACE + "points"


def chance(value: int | float | None) -> str:
    """Write a p-value with three places, such as "0.034"; "below 0.001" where these would not show it."""
    return "below 0.001" if value is not None and value < 0.001 else number(value)


def interval(low: int | float | None, high: int | float | None, write: Writer = number) -> str:
    """Write the ends of a two-sided 95 % interval, such as "92.1 to 96.1 %"; empty if either is missing.

    Args:
        low: Lower end.
        high: Upper end.
        write: How to write a number: `number`, `percent` or `points`.

    Returns:
        The text.
    """
    if low is None or high is None:
        return ""
    return f"{write(low).partition(_SPACE)[0]} to {write(high)}"  # the unit once


def estimate(measured: Mapping[str, Any] | None, write: Writer = number) -> str:
    """Write a value with its interval, such as "0.512 (0.448 to 0.576)"; "not measured" if there is none.

    Args:
        measured: Holds ``value`` and perhaps ``low`` and ``high``.
        write: How to write a number.

    Returns:
        The text.
    """
    if measured is None or measured.get("value") is None:
        return NOT_MEASURED
    ends = interval(measured.get("low"), measured.get("high"), write)
    return f"{write(measured['value'])} ({ends})" if ends else write(measured["value"])


def plain(value: Any) -> str:
    """Write any value of an option, a fact or a count; nothing is lost but the seventh digit.

    Args:
        value: A JSON value.

    Returns:
        The text; "none" for ``None``.
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return number(value)
    if isinstance(value, float):
        return _signed(f"{value:.6g}")
    if isinstance(value, Mapping):
        return ", ".join(f"{name.replace('_', ' ')} {plain(one)}" for name, one in value.items()) or "none"
    if isinstance(value, list | tuple):
        between = "; " if any(isinstance(one, Mapping) for one in value) else ", "
        return between.join(plain(one) for one in value) or "none"
    return str(value)


def _signed(text: str) -> str:
    digits = text.lstrip("+-")
    if not digits.strip("0.,"):
        return digits  # no minus nought
    return text.replace("-", _MINUS)


LABELS = {  # of the entries of a measurement's details, in the order of a table
    "lower95": "One-sided 95 % lower bound",
    "upper95": "One-sided 95 % upper bound",
    "lower975": "One-sided 97.5 % lower bound",
    "p_value": "Chance of such a value, or a larger one, if nothing is left (p-value)",
    "n_controls": "Unseen images compared with",
    "n_untested": "Requested images not tested",
    "difficulty": "How easy they are beside others of their classes: below 0.5 they are harder",
    "n_effective": "Independent observations that the tested ones are worth",
    "tpr 0.01": "Requested images found at 1 % false alarms",
    "tpr 0.01 fpr_high": "Rate of false alarms there, at most",
    "tpr 0.001": "Requested images found at 0.1 % false alarms",
    "tpr 0.001 fpr_high": "Rate of false alarms there, at most",
    "retain": "Retained training images",
    "forget": "Requested images",
    "forgotten_classes": "Unseen images of the forgotten classes",
    "best_forgotten_class": "Unseen images of the forgotten class that is recognised most surely",
    "best_forgotten_class class": "That class",
    "drop": "Change against the original",
    "largely_requested": "Classes of which a tenth or more was requested",
    "worst_class_drop class": "Class with the largest loss",
    "worst_class_drop": "Its change against the original",
    "runs": "Pseudo-requests tried",
    "request_size": "Images in a pseudo-request",
    "false_alarms": "False alarms among them",
    "dimensions": "Directions kept",
    "n_requested": "Requested images in all",
    "tenth_percentile": "Gone at least, for nine in ten of them",
    "of": "Directions in all",
    "energy": "Share of the retained data they hold",
    "auc": "Membership under a fresh head",
    "ridge": "The same with a ridge regression as head",
    "nearest_mean": "The same with the means of the classes as head",
    "separability": "Images of the forgotten classes recognised",
    "head_share": "Share of the change in the last layer",
    "tensors_changed": "Tensors changed",
    "tensors": "Tensors in all",
    "batchnorm_changed": "Batch normalisation changed",
    "agreement": "Unseen images classified as before",
    "noise": "Copies with a little noise",
    "shift": "Copies moved by a sixteenth",
    "flip": "Mirrored copies",
    "retained": "Retained images most like the requested ones, told apart from other retained ones",
    "bf16": "All numbers rounded to 16 bits",
    "int8": "Weights rounded to 8 bits",
    "int4": "Weights rounded to 4 bits",
    "below 0.01": "Requested images below 99 % of the unseen ones",
    "below 0.01 fpr_high": "Share of unseen images there, at most",
    "below 0.05": "Requested images below 95 % of the unseen ones",
    "below 0.05 fpr_high": "Share of unseen images there, at most",
    "flat forget": "Requested images on which the model is at a loss",
    "flat controls": "Unseen images on which the model is at a loss",
    "distance_p_value": "Chance of such a difference if there is none (p-value)",
    "cramer_von_mises": "Difference over the whole range (Cram\N{LATIN SMALL LETTER E WITH ACUTE}r-von Mises)",
    "cramer_von_mises_p_value": "Chance of such a difference if there is none (p-value)",
    "loss_tail": "Unseen images on which the model does worse than on 95 % of the requested ones",
    "loss_tail fpr_high": "Share of requested images there, at most",
    "found": "Images that stand out by themselves",
    "q": "Share of false ones among them that is tolerated",
    "smallest_p": "Smallest p-value that the number of unseen images allows",
    "controls_f1": "The same for unseen images",
    "nmi": "Agreement of groups and classes (normalised mutual information)",
    "controls_nmi": "The same for unseen images",
    "clusters": "Groups",
}

WRITERS: dict[str, Writer] = {
    **dict.fromkeys(("utility", "utility retain", "utility forget"), percent),
    **dict.fromkeys(("utility forgotten_classes", "utility best_forgotten_class"), percent),
    **dict.fromkeys(("utility drop", "utility worst_class_drop"), points),
    **{
        f"{test} tpr {rate}": percent
        for test in ("membership", "calibrated_membership")
        for rate in ("0.01", "0.01 fpr_high", "0.001", "0.001 fpr_high")
    },
    **dict.fromkeys(
        ("null_control", "calibrated_null_control", "completeness", "completeness tenth_percentile"), percent
    ),
    **dict.fromkeys(("alignment energy", "linear_probe separability"), percent),
    **dict.fromkeys(("feature_space", "change", "change head_share", "change agreement"), percent),
    **dict.fromkeys(("utility per_class", "change per_layer"), percent),
    **dict.fromkeys(("suppression", "suppression flat forget", "suppression flat controls"), percent),
    **dict.fromkeys(
        (f"suppression below {part}{more}" for part in ("0.01", "0.05") for more in ("", " fpr_high")), percent
    ),
    **dict.fromkeys(("tails loss_tail", "tails loss_tail fpr_high", "conformal", "conformal q"), percent),
    **dict.fromkeys((f"{name} p_value" for name in ("calibrated_membership", "membership", *PROBES)), chance),
    **dict.fromkeys(("tails distance_p_value", "tails cramer_von_mises_p_value"), chance),
}
