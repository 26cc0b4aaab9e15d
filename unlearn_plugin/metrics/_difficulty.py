"""Difficulty: are the requested data harder than others of their classes, whatever the model remembers of them?"""

import numpy as np
from jaxtyping import Bool, Float

from unlearn_plugin.data import Samples
from unlearn_plugin.metrics.base import Trial
from unlearn_plugin.statistics import Matched, match_classes, stratified_auc

__all__ = ["match_known", "out_of_sample_difficulty", "recorded_difficulty"]


def out_of_sample_difficulty(trial: Trial) -> float | None:
    """Tell how hard the requested samples are beside the controls, for models that never saw either.

    Formula: P[o(F) > o(C)], within classes and combined by the classes' shares of F: the AUC of the out-of-sample
    margins. 0.5: equally hard; below: F is harder, as wrongly labelled images are.

    `unlearn_plugin.metrics._calibration.calibrate` takes differences in difficulty out only in part, because o is noisy
    and g falls back to the mean: with r the reliability of o, the scores of a harder F in a model that never saw it are
    too low by about (1 - r) of the difference. So on a much harder request a residual looks like none.

    Args:
        trial: What the judge looks at.

    Returns:
        The AUC; ``None`` without references, or when no class of F has enough controls.

    Source: ours; regression dilution is Spearman 1904, The American Journal of Psychology 15:72.
    """
    forget, controls = trial.out_of_sample("forget"), trial.out_of_sample("controls")
    if forget is None or controls is None:
        return None
    matched = match_known(forget.double().numpy(), trial.forget, controls.double().numpy(), trial.controls)
    return stratified_auc(matched).value if matched else None


def recorded_difficulty(trial: Trial) -> float | None:
    """Tell how hard the requested samples were beside the retained ones, while the recorded model learnt both.

    Formula: P[l(F) < l(R)], within classes and combined by the classes' shares of F, with l the mean loss over the
    recorded epochs. 0.5: equally hard; below: F is harder. The plain membership test takes nothing of the difficulty
    out: in a model that never saw it a harder F lies below the controls, and half remembered it lies among them.

    Args:
        trial: What the judge looks at.

    Returns:
        The AUC; ``None`` without recorded losses, or when no class of F has enough retained samples, as for whole
        classes.

    Source: ours; the mean loss of training as difficulty is from Swayamdipta et al. 2020, arXiv 2009.10795.
    """
    forget, retain = (trial.recorded_loss.get(split) for split in ("forget", "retain"))
    if forget is None or retain is None:
        return None
    matched = match_known(-forget.double().numpy(), trial.forget, -retain.double().numpy(), trial.retain)
    return stratified_auc(matched).value if matched else None


def match_known(
    forget: Float[np.ndarray, " f"], requested: Samples, others: Float[np.ndarray, " c"], compared: Samples
) -> Matched | None:
    """Scores of F and of other samples of the same classes, without those that are nan.

    Args:
        forget: Scores of F.
        requested: F.
        others: Scores of what it is compared with.
        compared: What that is.

    Returns:
        The scores; ``None`` when no class of F has enough of the others.
    """
    there, known = np.isfinite(forget), np.isfinite(others)
    if not there.any() or not known.any():
        return None
    matched = match_classes(
        forget[there], requested.labels.numpy()[there], others[known], compared.labels.numpy()[known]
    )
    if matched is None:
        return None
    kept: Bool[np.ndarray, " all"] = there.copy()
    kept[there] = matched.kept
    return Matched(matched.forget, matched.forget_class, matched.controls, matched.controls_class, kept)
