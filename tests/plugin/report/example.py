"""Example reports: invented numbers with the shapes and orders of magnitude of real ones, for every status."""

import math
from statistics import NormalDist
from typing import Any

STATUSES = (
    "NO_RESIDUAL_DETECTED",
    "RESIDUAL_DETECTED",
    "LOW_SIDE",
    "INCONCLUSIVE",
    "UTILITY_FAILED",
    "EXACT_BY_PROCESS",
    "REFUSED",
)
CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NORMAL = NormalDist()
_SHIFT_BEFORE = 1.1  # standard deviations between the margins of requested and unseen images
_SHIFT_AFTER = {"RESIDUAL_DETECTED": 0.7, "LOW_SIDE": -0.8, "INCONCLUSIVE": 0.15, "UTILITY_FAILED": 0.05}
_STATEMENTS = {
    "NO_RESIDUAL_DETECTED": (
        "With the tests listed and 120 samples of 3 subjects, we found no sign that the model still distinguishes "
        "the requested data from data it was never trained on. Before unlearning, the same test did distinguish "
        "them (AUC 0.78, 95 % interval 0.73 to 0.83); afterwards the AUC is 0.51 (0.46 to 0.57), and values above "
        "0.60 are ruled out at 95 % confidence."
    ),
    "RESIDUAL_DETECTED": (
        "The model still treats the requested data differently from unseen data (AUC 0.69, 95 % interval 0.64 to "
        "0.74). The request is not fulfilled at model level."
    ),
    "LOW_SIDE": (
        "No sign of remaining familiarity was found, but the model is now less familiar with the requested data "
        "than with comparable unseen data (AUC 0.29). We do not count this as fulfilled without a further check."
    ),
    "INCONCLUSIVE": "The test could not decide. Absence of a finding here is not evidence of removal.",
    "UTILITY_FAILED": "Unlearning changed the model beyond the agreed limits; the result was not released.",
    "EXACT_BY_PROCESS": (
        "The model was retrained without the requested data. This rests on the process record, not on the "
        "statistics below, which are given as a plausibility check."
    ),
    "REFUSED": "The method did not produce a usable model, so no weights were written and nothing was measured.",
}
_REASONS = {
    "RESIDUAL_DETECTED": ["The 97.5 % lower bound of the AUC after unlearning, 0.640, is above 0.5."],
    "LOW_SIDE": ["The 95 % lower bound of the AUC after unlearning, 0.243, is below 0.40."],
    "INCONCLUSIVE": ["The upper bound of the AUC after unlearning, 0.603, is above 0.5 + 0.1: not enough data."],
    "UTILITY_FAILED": ["Accuracy on unseen data fell by 18.9 points; at most 2 points are allowed."],
    "REFUSED": ["The weights hold values that are not finite."],
}
_LIMITS = [
    "The same weights can come from different data, so closeness to a retrained model proves nothing by itself.",
    "A test run by whoever holds the model shows mistakes, not deceit.",
    "A test that finds nothing is no proof: a stronger one may find something.",
    "Copies of the earlier weights, published or not, are not covered by these measurements.",
]


def example_report(
    status: str = "NO_RESIDUAL_DETECTED",
    *,
    reference: bool = True,
    n_forget: int = 120,
    classes: tuple[str, ...] = CLASSES,
    tier: str = "A",
) -> dict[str, Any]:
    """A report of schema 1 with invented numbers; one of tier B has a calibrated test and surrogate requests."""
    refused = status == "REFUSED"
    shifts = {"before": _SHIFT_BEFORE, "after": _SHIFT_AFTER.get(status, 0.05), "reference": 0.02}
    accuracies = {"before": 0.941, "after": 0.752 if status == "UTILITY_FAILED" else 0.936, "reference": 0.938}
    models = [who for who in shifts if not (who == "after" and refused) and (who != "reference" or reference)]
    return {
        "schema": "urn:unlearn-plugin:report:1",
        "report_id": "00000000-0000-4000-8000-000000000001",
        "created_utc": "2026-01-31T09:30Z",
        "overall": {
            "status": status,
            "process": "COMPLETE",
            "outcome": "NO_RESIDUAL_DETECTED" if status == "EXACT_BY_PROCESS" else status,
            "erasure": "PENDING",
            "tier": tier,
            "released": status in ("NO_RESIDUAL_DETECTED", "EXACT_BY_PROCESS"),
            "margin": None if refused else 0.1,
            "statement": _STATEMENTS[status],
            "reasons": _REASONS.get(status, []),
            "limits": _LIMITS,
        },
        "request": {
            "reference": "EXAMPLE-0001",
            "received": "2026-01-12",
            "kind": "samples",
            "n_samples": n_forget,
            "n_subjects": 3,
            "commitment": {"scheme": "hmac-sha256", "digest": "c0" * 32, "key_state": "held by the operator"},
        },
        "model": {
            "architecture": "test_resnet",
            "source": "a local timm folder",
            "num_classes": len(classes),
            "classes": list(classes),
            "before": {"digest": "b1" * 32},
            "after": {"digest": None if refused else "a2" * 32},
            "reference": {"digest": "d3" * 32} if reference else None,
        },
        "procedure": _procedure(exact=status == "EXACT_BY_PROCESS"),
        "data": {"n_train": 1400, "n_forget": n_forget, "n_retain": 1400 - n_forget, "n_tuning": 548, "n_verdict": 549},
        "guard": {
            "finite": not refused,
            "changed": True,
            "collapsed": False,
            "reasons": _REASONS["REFUSED"] if refused else [],
        },
        "measurements": {
            "membership": _metric(
                "Membership",
                "How often the model is surer of a requested image than of an unseen one of the same class: "
                "0.5 means that it cannot tell them apart, 1 that it always can.",
                "low",
                "Carlini et al. 2022, arXiv 2112.03570; DeLong et al. 1988",
                {who: _membership(shifts[who], n_forget) for who in models},
            ),
            "feature_space": _metric(
                "Map of the features",
                "How much of the variation of the remaining pictures' features a flat map can show.",
                "context only",
                "principal components, standard",
                {who: _feature_space(shifts[who], n_forget) for who in models},
            ),
            "utility": _metric(
                "Accuracy on unseen data",
                "The share of never-trained images that the model classifies correctly.",
                "high",
                "standard",
                {who: _utility(accuracies[who], accuracies["before"], n_forget, classes) for who in models},
            ),
            "null_control": _metric(
                "False alarms of the test",
                "The whole test run on pseudo-requests drawn from data never trained on: how often it cries wolf.",
                "context only",
                "ours",
                {who: _null_control() for who in models if who == "after"},
            ),
            "alignment": _metric(
                "Feature alignment",
                "How much of the features of the requested images lies in the directions that unseen images use.",
                "like the reference",
                "Dimensional alignment, arXiv 2407.17710",
                {who: _number(value, n=549) for who, value in zip(models, (0.913, 0.871, 0.869), strict=False)},
            ),
            "linear_probe": _metric(
                "Linear probe",
                "How well a fresh linear classifier on the model's features recognises the requested classes.",
                "like the reference",
                "Alain and Bengio 2017, arXiv 1610.01644",
                {who: _missing("The request names no whole class.") for who in models},
            ),
            "change": _metric(
                "Change of the model",
                "How far the weights moved, in which layers, and on how many unseen images the answer is the same.",
                "context only",
                "ours",
                {who: _change() for who in models if who == "after"},
            ),
            **_probes({who: shifts[who] for who in models}, n_forget),
            **(_calibrated({who: 2 * shifts[who] for who in models}, n_forget) if tier == "B" else {}),
        },
        **({"surrogates": _surrogates(n_forget)} if tier == "B" else {}),
    }


def _calibrated(shifts: dict[str, float], n_forget: int) -> dict[str, Any]:
    return {
        "calibrated_membership": _metric(
            "Calibrated membership",
            "The membership test once more, each picture measured against what models that never saw it say about it.",
            "like the reference",
            "after Carlini et al. 2022, arXiv 2112.03570",
            {who: _membership(shift, n_forget) for who, shift in shifts.items()},
        )
    }


def _surrogates(n_forget: int) -> dict[str, Any]:
    def pooled(value: float, half: float) -> dict[str, Any]:
        ends = {
            "low": value - half,
            "high": value + half,
            "lower95": value - 0.84 * half,
            "upper95": value + 0.84 * half,
        }
        return {"value": value, **ends, "p_value": 0.312, "n_forget": 20 * n_forget, "n_controls": 549}

    return {
        "count": 20,
        "samples": 20 * n_forget,
        "test": "calibrated_membership",
        "matched_by": "class and out-of-sample margin",
        "before": pooled(0.931, 0.011),
        "after": pooled(0.512, 0.028),
        "rank": 9,
    }


def _probes(shifts: dict[str, float], n_forget: int) -> dict[str, Any]:
    """The measurements that stand beside the primary test."""
    aucs = {who: NORMAL.cdf(shift / math.sqrt(2)) for who, shift in shifts.items()}
    half = 0.5 / math.sqrt(n_forget)

    def around(value: float) -> dict[str, Any]:
        return {"value": value, "low": value - half, "high": value + half, "n": n_forget}

    def chance(auc: float) -> float:
        return NORMAL.cdf(1.96 * (0.5 - auc) / half)

    below = {"value": 0.05, "low": 0.018, "high": 0.106, "fpr_high": 0.072}
    return {
        "neighbours": _metric(
            "Changed copies",
            "Whether slightly changed copies of the requested images are told apart from such copies of unseen ones.",
            "like the reference",
            "arXiv 2601.22359",
            {
                who: _number(
                    0.9 * auc, half, n_forget, p_value=chance(0.9 * auc), noise=around(auc), shift=around(0.8 * auc),
                    flip=around(0.7 * auc), retained=around(0.55),
                )
                for who, auc in aucs.items()
            },
        ),
        "rounding": _metric(
            "After rounding",
            "Whether the requested images are told apart again once the model is rounded to fewer bits.",
            "like the reference",
            "arXiv 2410.16454",
            {
                who: _number(
                    auc, half, n_forget, p_value=min(1.0, 3 * chance(auc)), bf16=around(auc), int8=around(auc),
                    int4=around(0.95 * auc),
                )
                for who, auc in aucs.items()
            },
        ),
        "suppression": _metric(
            "Suppression",
            "The share of requested images that the model is less sure of than of 95 % of the unseen ones.",
            "like the reference",
            "Golatkar et al. 2020, arXiv 1911.04933",
            {
                who: {
                    **_number(0.05, n=n_forget),
                    **{key: below[key] for key in ("low", "high")},
                    "details": {
                        "below": {"0.01": None, "0.05": below},
                        "flat": {"forget": _share(0.025, n_forget), "controls": _share(0.02, 549)},
                    },
                }
                for who in shifts
            },
        ),
        "tails": _metric(
            "Distribution of margins",
            "The largest difference between requested and unseen images in how sure the model is of them.",
            "like the reference",
            "Kolmogorov and Smirnov",
            {
                who: _number(
                    0.062 + abs(shift) / 4, 0.06, n_forget, distance_p_value=0.214, cramer_von_mises=0.0731,
                    cramer_von_mises_p_value=0.318, loss_tail=None,
                )
                for who, shift in shifts.items()
            },
        ),
        "conformal": _metric(
            "Single images",
            "The share of requested images that stand out one by one among unseen images of their class.",
            "like the reference",
            "Benjamini and Hochberg 1995",
            {who: _number(0.0, n=n_forget, found=0, q=0.05, smallest_p=0.0179) for who in shifts},
        ),
        "clusters": _metric(
            "Feature clusters",
            "How well the features of the requested images fall into groups by class.",
            "like the reference",
            "MUDA, arXiv 2407.17710",
            {
                who: _number(
                    0.871, 0.042, n_forget, nmi=0.812, controls_f1=0.864, controls_nmi=0.803, clusters=10
                )
                for who in shifts
            },
        ),
    }  # fmt: skip


def _feature_space(shift: float, n: int) -> dict[str, Any]:
    def bump(place: float) -> list[list[float]]:
        heights = [[math.exp(-((x - place) ** 2 + (y - 6.5) ** 2) / 12) for y in range(14)] for x in range(14)]
        total = sum(map(sum, heights))
        return [[round(height / total, 4) for height in row] for row in heights]

    shown = {"retain": bump(6.5), "forget": bump(6.5 + 3 * shift)} if n >= 20 else None
    return {"value": 0.61, "low": None, "high": None, "n": 1280, "details": {"map": shown}, "note": None}


def _metric(title: str, explanation: str, goal: str, source: str, measured: dict[str, Any]) -> dict[str, Any]:
    models = {who: measured.get(who) for who in ("before", "after", "reference")}
    return {"title": title, "explanation": explanation, "goal": goal, "source": source, **models}


def _number(value: float, half: float | None = None, n: int | None = None, **details: Any) -> dict[str, Any]:
    low, high = (value - half, value + half) if half is not None else (None, None)
    return {"value": value, "low": low, "high": high, "n": n, "details": details, "note": None}


def _missing(why: str) -> dict[str, Any]:
    return {"value": None, "low": None, "high": None, "n": None, "details": {}, "note": why}


def _share(value: float, n: int) -> dict[str, Any]:
    half = 1.96 * math.sqrt(value * (1 - value) / n)
    return {"value": value, "low": max(0.0, value - half), "high": min(1.0, value + half), "n": n}


def _membership(shift: float, n_forget: int) -> dict[str, Any]:
    auc = NORMAL.cdf(shift / math.sqrt(2))
    half = 0.5 / math.sqrt(n_forget)
    drawn = n_forget >= 20
    edges = [-6.0 + 0.5 * step for step in range(37)]
    forget, controls = ([NormalDist(2.0 + 2.5 * s, 2.5) for s in (shift, 0.0)]) if drawn else (None, None)
    histogram = (
        {
            "edges": edges,
            "forget": [
                round(n_forget * (forget.cdf(b) - forget.cdf(a))) for a, b in zip(edges, edges[1:], strict=False)
            ],
            "controls": [
                round(549 * (controls.cdf(b) - controls.cdf(a))) for a, b in zip(edges, edges[1:], strict=False)
            ],
        }
        if drawn
        else None
    )
    grid = [step / 50 for step in range(1, 50)]
    roc = [[0.0, 0.0], *([x, NORMAL.cdf(shift + NORMAL.inv_cdf(x))] for x in grid), [1.0, 1.0]] if drawn else None
    tpr = NORMAL.cdf(shift + NORMAL.inv_cdf(0.01))
    at_one_percent = {"value": tpr, "low": tpr * 0.4, "high": min(1.0, tpr * 1.9 + 0.03), "fpr_high": 0.021}
    return {
        **_number(auc, half, n_forget),
        "details": {
            "lower95": auc - 0.84 * half,
            "upper95": auc + 0.84 * half,
            "lower975": auc - half,
            "p_value": NORMAL.cdf(1.96 * (0.5 - auc) / half),
            "n_controls": 549,
            "n_untested": 0,
            "tpr": {"0.01": at_one_percent if drawn else None},
            "histogram": histogram,
            "roc": roc,
        },
        "note": None if drawn else "Fewer than 20 requested samples: no pictures.",
    }


def _utility(accuracy: float, original: float, n_forget: int, classes: tuple[str, ...]) -> dict[str, Any]:
    swing = [0.03 * math.sin(2.4 * position) for position in range(len(classes))]
    per_class = [
        {"class": name, **_share(min(0.999, accuracy + s), 55)} for name, s in zip(classes, swing, strict=True)
    ]
    drop = accuracy - original
    controls = _share(accuracy, 549)
    return {
        **controls,
        "details": {
            "controls": controls,
            "retain": _share(min(0.999, accuracy + 0.05), 1400 - n_forget),
            "forget": _share(accuracy - 0.002, n_forget),
            "per_class": per_class,
            "drop": {"value": drop, "low": drop - 0.009, "high": drop + 0.009},
            "worst_class_drop": {
                "class": classes[min(3, len(classes) - 1)],
                "value": drop - 0.02,
                "low": drop - 0.07,
                "high": drop + 0.03,
            },
        },
        "note": None,
    }


def _null_control() -> dict[str, Any]:
    return {**_number(0.035, n=200, runs=200, false_alarms=7, low=0.0142, high=0.0708), "low": 0.0142, "high": 0.0708}


def _change() -> dict[str, Any]:
    stages = [
        f"layer{stage}.{block}.conv{conv}.weight" for stage in (1, 2, 3, 4) for block in (0, 1) for conv in (1, 2)
    ]
    layers = ["conv1.weight", *stages, "fc.weight", "fc.bias"]
    moved = [0.004 * 1.22**depth for depth in range(len(layers))]
    return _number(
        0.0312,
        n=549,
        relative_norm=0.0312,
        head_share=0.41,
        tensors_changed=41,
        tensors=62,
        batchnorm_changed=False,
        agreement=0.978,
        per_layer=[{"name": name, "relative_norm": norm} for name, norm in zip(layers, moved, strict=True)],
    )


def _procedure(*, exact: bool) -> dict[str, Any]:
    return {
        "method": "retrain" if exact else "mini",
        "summary": (
            "Train again from the start without the requested samples."
            if exact
            else "Take back the recorded influence of the requested samples, step by step."
        ),
        "source": "standard" if exact else "ours, after arXiv 2505.22310",
        "exact": exact,
        "options": {"epochs": 30} if exact else {"strength": 1.0, "steps": 24, "clip": None},
        "seed": 0,
        "seconds": 61.204 if exact else 4.817,
        "facts": {"steps_used": 24, "loss": {"first": 0.0312, "last": 0.0071}},
        "environment": {
            "python": "3.12.3",
            "torch": "2.15.0",
            "timm": "1.0.31",
            "unlearn_plugin": "0.1.0",
            "device": "cpu",
        },
        "record": {"run_id": "example-run", "digest": "e4" * 32, "steps": 660, "complete": True},
    }
