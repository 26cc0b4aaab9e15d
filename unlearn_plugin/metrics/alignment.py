"""Alignment: do features of the requested data still lie in the directions that the retained data span?"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor, nn

from unlearn_plugin.measurement import Measurement
from unlearn_plugin.metrics.base import Goal, Metric, Trial

__all__ = ["Alignment"]


@dataclass(frozen=True, kw_only=True)
class Alignment(Metric):
    """Dimensional alignment DA(F, R) of the features before the head.

    Formula: DA = sum_(x in F) |U_k^T z(x)|^2 / sum_(x in F) |z(x)|^2 in [0, 1], with U_k the first k eigenvectors of
    E_R[z z^T] (uncentred), k the fewest that hold the share `energy` of its trace. The interval is a percentile
    bootstrap over the forget samples, or over their subjects; R's directions are taken as given.

    Attributes:
        energy: Share of R's second moment that the kept directions hold.
        resamples: Bootstrap draws.

    Source: Seo et al., arXiv 2407.17710 (WACV 2025), of which the abstract was at hand; the uncentred moment and the
    choice of k are ours. It sees requests for classes and persons; on a random request it hardly differs between the
    original and a retrained model.
    """

    energy: float = 0.95
    resamples: int = 1000

    goal = Goal.LIKE_REFERENCE
    title = "Dimensional alignment"
    explanation = "How much of the requested pictures' features lies in the directions used by the remaining data."
    source = "MUDA, https://arxiv.org/abs/2407.17710"

    def measure(self, model: nn.Module, trial: Trial) -> Measurement:
        """Measure the alignment of F's features in `model`.

        Args:
            model: The model before, after, or the reference.
            trial: What the judge looks at.

        Returns:
            DA(F, R) with a bootstrap interval; missing when the features are all zero.
        """
        retain, forget = trial.outputs(model, "retain").features, trial.outputs(model, "forget").features
        basis = principal_directions(retain, self.energy)
        inside, whole = ((forget.double() @ basis) ** 2).sum(1).numpy(), (forget.double() ** 2).sum(1).numpy()
        if whole.sum() == 0:
            return Measurement.missing("All features of the requested data are zero.")
        subjects = np.arange(len(whole)) if trial.subjects is None else trial.subjects.numpy()
        low, high = self._interval(inside, whole, subjects, trial.seed)
        details = {"dimensions": basis.shape[1], "of": basis.shape[0], "energy": self.energy}
        value = float(inside.sum() / whole.sum())
        return Measurement(value=value, low=low, high=high, n=len(whole), details=details)

    def _interval(
        self,
        inside: Float64[np.ndarray, " f"],
        whole: Float64[np.ndarray, " f"],
        subjects: Int64[np.ndarray, " f"],
        seed: int,
    ) -> tuple[float | None, float | None]:
        units = np.unique(subjects, return_inverse=True)[1]
        inside, whole = np.bincount(units, weights=inside), np.bincount(units, weights=whole)
        if len(whole) < 2:
            return None, None
        drawn = np.random.default_rng(seed).integers(len(whole), size=(self.resamples, len(whole)))
        total = whole[drawn].sum(1)
        ratios: Float[np.ndarray, " r"] = inside[drawn].sum(1)[total > 0] / total[total > 0]
        return float(np.quantile(ratios, 0.025)), float(np.quantile(ratios, 0.975))


def principal_directions(features: Float32[Tensor, "n d"], energy: float) -> Float64[Tensor, "d k"]:
    """First eigenvectors of the uncentred second moment, as many as hold the share `energy` of its trace.

    Args:
        features: One row per sample.
        energy: Share to hold, in (0, 1].

    Returns:
        Orthonormal columns, the strongest direction first; at least one.
    """
    wide = features.double()
    values, vectors = torch.linalg.eigh(wide.T @ wide / len(wide))
    strongest = values.flip(0).clamp(min=0)
    reached = strongest.cumsum(0) >= energy * strongest.sum() * (1 - 1e-12)
    basis: Tensor = vectors.flip(1)[:, : int(reached.int().argmax()) + 1]
    return basis
