"""The membership test on scores of any kind: how well they tell the requested data from the controls."""

import math
from dataclasses import asdict
from typing import Any

import numpy as np
from jaxtyping import Float

from unlearn_plugin.exposure import stratified_roc, tail_rate
from unlearn_plugin.measurement import Measurement
from unlearn_plugin.metrics.base import Trial
from unlearn_plugin.statistics import Matched, effective_number, stratified_auc

_BINS = 20
_SHOWN_FROM = 20  # forget samples; curves over fewer would show single samples


def attack(matched: Matched, trial: Trial, edges: Float[np.ndarray, " edges"]) -> Measurement:
    """Compare the scores of F with those of the controls, within classes.

    Args:
        matched: The scores.
        trial: Whose subjects are told apart.
        edges: Of the histogram, see `histogram_edges`.

    Returns:
        The AUC within classes. `details` hold the one-sided bounds the verdict uses, the true-positive rate at low
        false-positive rates, and coarse pictures.
    """
    subjects = None if trial.subjects is None else trial.subjects.numpy()[matched.kept]
    auc = stratified_auc(matched, subjects)
    shown = auc.n_forget >= _SHOWN_FROM
    rates = {str(fpr): tail_rate(matched, fpr, subjects) for fpr in (0.01, 0.001)}
    details: dict[str, Any] = {
        "lower95": auc.lower95,
        "upper95": auc.upper95,
        "lower975": auc.low,
        "p_value": auc.p_value,
        "n_controls": auc.n_controls,
        "n_effective": auc.n_forget if subjects is None else effective_number(subjects),
        "n_untested": len(matched.kept) - auc.n_forget,
        "tpr": {fpr: asdict(rate) if rate else None for fpr, rate in rates.items()},
        "histogram": _histogram(matched, edges) if shown else None,
        "roc": [list(point) for point in stratified_roc(matched)] if shown else None,
    }
    return Measurement(value=auc.value, low=auc.low, high=auc.high, n=auc.n_forget, details=details)


def histogram_edges(scores: Float[np.ndarray, " n"]) -> Float[np.ndarray, " edges"]:
    """Twenty bins over the 1 % to 99 % range of some scores, rounded outwards to whole numbers."""
    low, high = np.quantile(scores, [0.01, 0.99])
    first = math.floor(low)
    return np.linspace(first, max(math.ceil(high), first + 1), _BINS + 1)


def _histogram(matched: Matched, edges: Float[np.ndarray, " edges"]) -> dict[str, Any]:
    inside = {"forget": matched.forget, "controls": matched.controls}
    counts = {
        name: np.histogram(np.clip(scores, edges[0], edges[-1]), edges)[0].tolist() for name, scores in inside.items()
    }
    return {"edges": edges.tolist(), **counts}
