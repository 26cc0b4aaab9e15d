"""Calibration: how much surer a model is of a sample than models that never saw it would lead one to expect."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from sklearn.isotonic import IsotonicRegression
from torch import nn

from unlearn_plugin.metrics._difficulty import match_known
from unlearn_plugin.metrics.base import Split, Trial
from unlearn_plugin.statistics import Matched

Level = Callable[[Float64[np.ndarray, " n"]], Float64[np.ndarray, " n"]]

FEWEST_TUNING = 30  # fewer leave the expected level of unusual samples to chance
NO_REFERENCES = (
    f"There are no out-of-sample margins of the requested data, of the controls, or of {FEWEST_TUNING} tuning "
    f"controls: they come from a holdout and reference models made when the model was trained."
)


@dataclass(frozen=True)
class Calibrated:
    """Scores s(x) = phi(x) - g(o(x)) of one model; nan where a sample has no out-of-sample margin.

    Attributes:
        forget: Scores of F.
        controls: Scores of the verdict controls.
        spread: Standard deviation of the scores of the tuning controls, in nats: what chance alone does.
    """

    forget: Float64[np.ndarray, " f"]
    controls: Float64[np.ndarray, " c"]
    spread: float


def calibrate(model: nn.Module, trial: Trial) -> Calibrated | None:
    """Score samples by how far their margin lies above the level expected of unseen ones.

    Formula: s(x) = phi_theta(x) - g(o(x)), with o the mean margin under models that never saw x, and g the isotonic
    regression of phi_theta(c) on o(c) over the tuning controls, fitted for this very model. Beyond the tuning controls
    g stays constant.

    Args:
        model: Whose margins.
        trial: What the judge looks at.

    Returns:
        The scores; ``None`` without references or with fewer than 30 tuning controls.

    Source: ours, after offline LiRA (Carlini et al. 2022, arXiv 2112.03570) and difficulty calibration (Watson et al.
    2022, arXiv 2111.08440), which subtract o itself; g also takes out what half the data and another training do. Why
    isotonic: the expectation of phi given o rises with o, and nothing more is known of its shape. In simulations a
    straight line or a parabola fitted a skewed difficulty worse, which shows on unusual requests, and 30 controls did.
    """
    parts = [_margins(model, trial, split) for split in ("tuning", "forget", "controls")]
    if trial.tuning is None or any(part is None for part in parts):
        return None
    tuning, forget, controls = (part for part in parts if part is not None)
    fitted = fit_level(*tuning)
    if fitted is None:
        return None
    level, spread = fitted
    return Calibrated(forget[1] - level(forget[0]), controls[1] - level(controls[0]), spread)


def fit_level(outside: Float64[np.ndarray, " t"], scores: Float64[np.ndarray, " t"]) -> tuple[Level, float] | None:
    """Find what score is to be expected of an unseen sample.

    Args:
        outside: Out-of-sample margins of the tuning controls, nan where there is none.
        scores: Their scores of any kind.

    Returns:
        The expected score by out-of-sample margin, nan for nan, and the spread of the scores about it; ``None`` for
        fewer than 30 tuning controls.
    """
    there = np.isfinite(outside)
    if there.sum() < FEWEST_TUNING:
        return None
    fitted = IsotonicRegression().fit(outside[there], scores[there])

    def level(margins: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        found: Float64[np.ndarray, " n"] = np.interp(margins, fitted.X_thresholds_, fitted.y_thresholds_)
        return found

    return level, float((scores - level(outside))[there].std())


def matched_scores(model: nn.Module, trial: Trial) -> Matched | None:
    """Calibrated scores of F and of the controls of the same classes.

    Args:
        model: Whose scores.
        trial: What the judge looks at.

    Returns:
        The scores of what has an out-of-sample margin; ``None`` without references, or when no class of F has enough
        controls.
    """
    scores = calibrate(model, trial)
    return None if scores is None else match_known(scores.forget, trial.forget, scores.controls, trial.controls)


def _margins(
    model: nn.Module, trial: Trial, split: Split
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]] | None:
    """Out-of-sample margins of a split, nan where there are none, and the model's own."""
    outside = trial.out_of_sample(split)
    return None if outside is None else (outside.double().numpy(), trial.outputs(model, split).margins.double().numpy())
