"""Feature space: where the requested pictures lie among the retained ones, on a flat map. For the eye alone."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor, nn

from unlearn_plugin.measurement import Measurement
from unlearn_plugin.metrics.base import Goal, Metric, Trial

__all__ = ["FeatureSpace"]

_SHOWN_FROM = 20  # forget samples; a map of fewer would show single samples


@dataclass(frozen=True, kw_only=True)
class FeatureSpace(Metric):
    """A map of the features before the head: R and F, counted on a grid over R's two main directions of variation.

    Formula: with U the first two eigenvectors of Cov_R[z], U^T z is counted on `bins` x `bins` fields, from the 1 % to
    the 99 % quantile of R on each axis; the outer fields hold what lies beyond. `details["map"]` holds the shares of R
    and of F in each field. The value is the share of R's variance that the two directions hold, in [0, 1]: how much of
    what the network knows the map can show at all. Every model has its own plane, so that places cannot be compared
    between models, only who lies among whom.

    Attributes:
        bins: Fields along each axis.

    Source: principal components, Pearson 1901. No number of overlap is given: on so many fields it would mostly show
    how few samples were asked for.
    """

    bins: int = 14

    goal = Goal.CONTEXT
    title = "Map of the features"
    explanation = (
        "How much of the variation of the remaining pictures' features a flat map can show. The picture is such a map; "
        "it decides nothing."
    )
    source = "principal components, standard"

    def measure(self, model: nn.Module, trial: Trial) -> Measurement:
        """Draw up the map of `model`.

        Args:
            model: The model before, after, or the reference.
            trial: What the judge looks at.

        Returns:
            The share of variance in the map; without a map for fewer than 20 forget samples.
        """
        retain, forget = (trial.outputs(model, split).features.double() for split in ("retain", "forget"))
        if len(retain) < 2 or retain.shape[1] < 2:
            return Measurement.missing("A map needs two retained samples and two features.")
        plane, share = _main_plane(retain)
        shown = None
        if len(forget) >= _SHOWN_FROM:
            edges = [_edges(axis, self.bins) for axis in (retain @ plane).numpy().T]
            shown = {name: _shares((features @ plane).numpy(), edges).round(4).tolist()
                     for name, features in (("retain", retain), ("forget", forget))}  # fmt: skip
        return Measurement(value=share, n=len(retain), details={"map": shown})


def _main_plane(features: Float64[Tensor, "n d"]) -> tuple[Float64[Tensor, "d 2"], float]:
    """First two eigenvectors of the covariance, the largest entry of each positive; their share of the variance."""
    values, vectors = torch.linalg.eigh(torch.cov(features.T))
    plane = vectors.flip(1)[:, :2]
    plane = plane * plane.gather(0, plane.abs().argmax(0, keepdim=True)).sign()
    total = float(values.clamp(min=0).sum())
    return plane, float(values.flip(0)[:2].clamp(min=0).sum()) / total if total else 0.0


def _edges(places: Float64[np.ndarray, " n"], bins: int) -> Float64[np.ndarray, " e"]:
    low, high = np.quantile(places, [0.01, 0.99])
    return np.linspace(low, high if high > low else low + 1.0, bins + 1)


def _shares(places: Float64[np.ndarray, "n 2"], edges: list[Any]) -> Float64[np.ndarray, "x y"]:
    x, y = (np.clip(axis, ends[0], ends[-1]) for axis, ends in zip(places.T, edges, strict=True))
    counts = np.histogram2d(x, y, bins=edges)[0]
    shares: Float64[np.ndarray, "x y"] = counts / counts.sum()
    return shares
