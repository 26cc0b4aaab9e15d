"""Conformal: how many single samples of F stand out among unseen data? The samples themselves stay in the annex."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import false_discovery_control
from torch import nn

from unlearn_plugin.measurement import Measurement
from unlearn_plugin.metrics._contest import NOT_COMPARABLE
from unlearn_plugin.metrics.base import Goal, Metric, Trial
from unlearn_plugin.metrics.membership import matched_margins

__all__ = ["Conformal", "Q", "conformal_p_values", "discoveries"]

Q = 0.05  # share of false ones among the samples found that is tolerated on average
_TOLD_FROM = 20  # requested samples; a count over fewer would say something about a single one


@dataclass(frozen=True, kw_only=True)
class Conformal(Metric):
    """Share of F whose margin is too large for data the model never saw, sample by sample.

    Formula: p_i = (1 + #{c : phi(c) >= phi(x_i)}) / (n_c + 1) over the controls c of the sample's own class; the value
    is the share of F found by the procedure of Benjamini and Hochberg at q = 5 %. ``smallest_p`` is the smallest
    p-value that so many controls can give.

    The p-values share their controls, so they depend on each other positively, for which the procedure stays valid. The
    verdict does not use it: with plain margins an easy unseen sample scores as high as a remembered one.

    Source: Vovk et al. 2005 (conformal p-values, within classes); Benjamini and Hochberg 1995, JRSS B 57:289; Bates et
    al. 2023, arXiv 2104.08279 (dependence).
    """

    goal = Goal.LIKE_REFERENCE
    title = "Single images"
    explanation = (
        "The share of requested pictures that stand out one by one among unseen pictures of their class; in a model "
        "that never saw them it is nearly always 0. Few unseen pictures cannot make any single one stand out."
    )
    source = "Bates et al. 2023, https://arxiv.org/abs/2104.08279; Benjamini and Hochberg 1995"

    def measure(self, model: nn.Module, trial: Trial) -> Measurement:
        """Test each sample of F in `model`.

        Args:
            model: The model before, after, or the reference.
            trial: What the judge looks at.

        Returns:
            The share found; missing for requests of fewer than 20 samples and where no class can be compared.
        """
        p_values = conformal_p_values(model, trial)
        if p_values is None:
            return Measurement.missing(NOT_COMPARABLE)
        tested = ~np.isnan(p_values)
        if tested.sum() < _TOLD_FROM:
            return Measurement.missing("Of fewer than 20 requested samples a count could say something about one.")
        found, n = int(discoveries(p_values).sum()), int(tested.sum())
        labels = trial.controls.labels[np.isin(trial.controls.labels, trial.forget.labels)].numpy()
        details = {"found": found, "q": Q, "smallest_p": 1 / (int(np.bincount(labels).max()) + 1)}
        return Measurement(value=found / n, n=n, details=details)


def conformal_p_values(model: nn.Module, trial: Trial) -> Float[np.ndarray, " forget"] | None:
    """Conformal p-value of each sample of F among the controls of its class.

    Args:
        model: Whose margins.
        trial: What the judge looks at.

    Returns:
        One per sample of F; nan where its class has too few controls; ``None`` when all have.
    """
    matched = matched_margins(model, trial)
    if matched is None:
        return None
    found = np.full(len(matched.kept), np.nan)
    tested = np.empty(len(matched.forget))
    for label in np.unique(matched.forget_class):
        mine, theirs = matched.forget_class == label, np.sort(matched.controls[matched.controls_class == label])
        beaten = np.searchsorted(theirs, matched.forget[mine], side="left")
        tested[mine] = (1 + len(theirs) - beaten) / (len(theirs) + 1)
    found[matched.kept] = tested
    return found


def discoveries(p_values: Float[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Which p-values the procedure of Benjamini and Hochberg finds at level `Q`; never one that is nan."""
    found = np.zeros(len(p_values), dtype=bool)
    tested = ~np.isnan(p_values)
    if tested.any():
        found[tested] = false_discovery_control(p_values[tested], method="bh") <= Q
    return found
