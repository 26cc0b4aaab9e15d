"""Statements: what a verdict says in words. They hold the numbers of the report and nothing else."""

from collections.abc import Mapping
from typing import Any

from unlearn_plugin.primary import CALIBRATED, PLAIN, margin, measured, null_control, primary, result, tail

__all__ = ["further_limits", "grounds", "remarks", "statement"]


def grounds(report: Mapping[str, Any]) -> list[str]:
    """Say why no residual was detected.

    Args:
        report: Content of report.json, in which nothing speaks against it.

    Returns:
        One sentence each.
    """
    before, after, control = result(report, "before"), result(report, "after"), null_control(report)
    return [
        f"Before unlearning the test told the requested data apart (AUC {before['value']:.3f}, one-sided 95 % lower "
        f"bound {before['details']['lower95']:.3f}).",
        f"Afterwards the AUC is {after['value']:.3f}, with one-sided 95 % bounds {after['details']['lower95']:.3f} and "
        f"{after['details']['upper95']:.3f}.",
        *([f"On data never trained on, the same test raised {control['value']:.1%} false alarms."] if control else []),
    ]


def remarks(report: Mapping[str, Any], outcome: str) -> list[str]:
    """Say what does not decide and should be seen all the same.

    Args:
        report: Content of report.json.
        outcome: What the statistics say.

    Returns:
        One sentence each.
    """
    if outcome == "REFUSED":
        return []
    return [*_calibration(report), *_features(report), *_reference(report), *_surrogates(report)]


def _calibration(report: Mapping[str, Any]) -> list[str]:
    if primary(report) != CALIBRATED:
        return []
    remarks = [
        "The test that decides compares what the model says about each sample with what models say that never saw it."
    ]
    plain = measured(report, PLAIN, "after")
    if plain and plain["details"]["lower975"] > 0.5 >= result(report, "after")["details"]["lower975"]:
        remarks.append(
            f"Without that comparison the membership test raises an alarm (AUC {plain['value']:.3f}): the requested "
            f"data are easier than the held-out data, or the comparison hides something."
        )
    return remarks


def _features(report: Mapping[str, Any]) -> list[str]:
    before, after, reference = (measured(report, "alignment", who) for who in ("before", "after", "reference"))
    if not (before and after and reference):
        return []
    to_before, to_reference = (abs(after["value"] - other["value"]) for other in (before, reference))
    inside = after["low"] is not None and after["low"] <= reference["value"] <= after["high"]
    if to_before >= to_reference or inside:
        return []
    return [
        f"The features of the requested data lie more like before (alignment {before['value']:.3f}) than like in the "
        f"retrained reference ({reference['value']:.3f}): {after['value']:.3f}."
    ]


def _reference(report: Mapping[str, Any]) -> list[str]:
    retrained = measured(report, primary(report), "reference")
    if retrained is None or retrained["details"]["lower975"] <= 0.5:
        return []
    return [
        f"The test raises an alarm on the retrained reference too (AUC {retrained['value']:.3f}): the held-out data do "
        f"not fit this request, or the reference saw the requested data."
    ]


def _surrogates(report: Mapping[str, Any]) -> list[str]:
    """What the procedure left on pseudo-requests; it decides nothing about the request itself."""
    found = report.get("surrogates")
    if not found or not found["after"]:
        return []
    before, after = found["before"], found["after"]
    text = (
        f"The same procedure on {found['count']} pseudo-requests like this one, of {found['samples']} samples in all "
        f"and matched by {found['matched_by']}, left an AUC of {after['value']:.3f} (95 % interval {after['low']:.3f} "
        f"to {after['high']:.3f}; {before['value']:.3f} before)."
    )
    if found["rank"]:
        text += f" In what is left, this request is number {found['rank']} of {found['count'] + 1}."
    if before["lower95"] <= 0.5:
        return [f"{text} The test did not see the pseudo-requests before either, so nothing follows."]
    if after["low"] > 0.5:
        return [f"{text} So this procedure leaves a residual on requests like this one."]
    return [
        f"{text} So this procedure, on requests like this one, leaves at most an AUC of {after['upper95']:.3f} (95 %); "
        f"about this request itself that decides nothing."
    ]


def further_limits(report: Mapping[str, Any]) -> list[str]:
    """Say what this report in particular does not show.

    Args:
        report: Content of report.json.

    Returns:
        One sentence each.
    """
    limits = []
    after = measured(report, primary(report), "after")
    if after and after["details"]["n_untested"]:
        limits.append(
            f"{after['details']['n_untested']} requested samples have too few held-out samples of their class and were "
            f"not tested."
        )
    if after and tail(report) is None:
        limits.append(
            "How well the most exposed samples are hidden was not measured: 499 held-out samples of their classes are "
            "needed."
        )
    if after and after["details"].get("difficulty") is None and "classes" not in report["request"]["kind"]:
        limits.append(
            "Whether the requested data are harder than the held-out data is not known: that takes the record of the "
            "training, or reference models. On harder data a residual can look like none."
        )
    utility = measured(report, "utility", "after")
    if utility and (named := utility["details"].get("largely_requested")):
        limits.append(
            f"A tenth or more of the training images of {', '.join(named)} was requested. A model retrained without "
            f"them loses accuracy there as well, so a loss in these classes does not count as failed utility."
        )
    if not report["model"].get("reference"):
        limits.append("No model retrained without the requested data was at hand to compare with.")
    if earlier := report["request"].get("earlier"):
        count = earlier["requests"]
        limits.append(
            f"The model before had been cleaned of {count} earlier {'request' if count == 1 else 'requests'}, of which "
            f"the data still hold {earlier['n_samples']} samples; they were not used. The tests speak of this request "
            f"alone, not of what became of the earlier ones."
        )
    if "classes" in report["request"]["kind"]:
        limits.append(
            "For whole classes the test compares with held-out images of the same classes; a model that never saw them "
            "may still separate them, and that is no residual."
        )
    return limits


def _no_residual(report: Mapping[str, Any]) -> str:
    before, after = result(report, "before"), result(report, "after")
    subjects = report["request"]["n_subjects"]
    return (
        f"With the tests listed and {after['n']} samples{f' of {subjects} subjects' if subjects else ''}, we found no "
        f"sign that the model still distinguishes the requested data from data it was never trained on. Before "
        f"unlearning, the same test did distinguish them (AUC {before['value']:.3f}, 95 % interval "
        f"{before['low']:.3f} to {before['high']:.3f}); afterwards the AUC is {after['value']:.3f} "
        f"({after['low']:.3f} to {after['high']:.3f}), and values above {0.5 + (margin(report) or 0.0):.3f} are ruled "
        f"out at 95 % confidence. This does not show that the weights contain no information about the data, that a "
        f"stronger attack would fail, or that copies held elsewhere are gone."
    )


_STATEMENTS: Mapping[str, str] = {
    "RESIDUAL_DETECTED": (
        "The model still treats the requested data differently from data it never saw, or still knows what it had to "
        "forget. {reasons} The request is not fulfilled at model level, and the weights are withheld. Options: a "
        "stronger setting, exact retraining, or withdrawal of the model."
    ),
    "INCONCLUSIVE": (
        "The test could not decide. {reasons} Absence of a finding here is not evidence of removal; whether to use "
        "these weights is for a person to decide."
    ),
    "LOW_SIDE": (
        "No sign of remaining familiarity was found, but the model may now be less familiar with the requested data "
        "than with comparable unseen data. {reasons} This can mean that the data were suppressed too strongly, which "
        "can itself give them away, or that the comparison data do not match this request. We do not count this as "
        "fulfilled without a further check; whether to use these weights is for a person to decide."
    ),
    "UTILITY_FAILED": (
        "Unlearning changed the model beyond the agreed limits, and the weights are withheld. {reasons}"
    ),
    "REFUSED": "The changed model was refused before any test, and its weights were not written. {reasons}",
}

_EXACT = (
    "The model is the result of training without the requested data. This rests on the record of the process, not on "
    "the statistics below, which are given as a plausibility check."
)
_EXACT_BUT = {
    "UTILITY_FAILED": "It is beyond the agreed limits of utility, and the weights are withheld.",
    "RESIDUAL_DETECTED": (
        "That check raised an alarm: look for copies of the requested data among the remaining data before relying on "
        "this result."
    ),
}


def statement(report: Mapping[str, Any], outcome: str, reasons: list[str], exact: bool) -> str:
    """Write the text of the verdict.

    Args:
        report: Content of report.json.
        outcome: What the statistics say.
        reasons: Why.
        exact: The status rests on the process.

    Returns:
        A few sentences.
    """
    if exact:
        return " ".join([_EXACT, *([_EXACT_BUT[outcome]] if outcome in _EXACT_BUT else [])])
    if outcome == "NO_RESIDUAL_DETECTED":
        return _no_residual(report)
    text = _STATEMENTS[outcome].format(reasons=" ".join(reasons))
    return " ".join([text, *_surrogates(report)]) if outcome in ("INCONCLUSIVE", "LOW_SIDE") else text
