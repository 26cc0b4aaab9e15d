"""Clusters: do the features of F still fall into groups by class, as those of data the model learnt do?"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix
from torch import nn

from unlearn_plugin.measurement import Measurement
from unlearn_plugin.metrics.base import Goal, Metric, Split, Trial

__all__ = ["Clusters"]


@dataclass(frozen=True, kw_only=True)
class Clusters(Metric):
    """Macro F1 and normalised mutual information of clusters of features against the labels.

    k-means with one cluster per class is fitted on the features before the head of (at most `samples` each of) R and F;
    clusters are matched to classes one to one so that most of these samples agree (Hungarian method). Value: the macro
    F1 of the clusters as predictions of F's labels, over the classes of F, with a percentile bootstrap over samples or
    subjects and clusters taken as given. ``details``: F1 of the controls of these classes, and the NMI (arithmetic
    mean) of clusters and labels of both. F takes part in the fit and the controls do not, so a model that never saw F
    gives F the same numbers as the controls where F is small beside R, and somewhat higher ones where it is not.

    NMI is ``null`` where there is one class only. Neither number has a null of its own, so both are to be read beside
    the controls or a reference, and the verdict does not use them.

    Attributes:
        samples: Samples of R, of F and of the controls, at most.
        resamples: Bootstrap draws.

    Source: F1 and NMI stand among the tools of MUDA, arXiv 2407.17710, of which the abstract was at hand; what is
    clustered and matched is ours. scikit-learn's ``KMeans`` and ``normalized_mutual_info_score``.
    """

    samples: int = 2000
    resamples: int = 200

    goal = Goal.LIKE_REFERENCE
    title = "Feature clusters"
    explanation = (
        "How well the inner picture that the model has of the requested images falls into groups by class: 1 means "
        "perfectly. In a model that never saw them they group like unseen images do."
    )
    source = "MUDA, https://arxiv.org/abs/2407.17710"

    def measure(self, model: nn.Module, trial: Trial) -> Measurement:
        """Cluster the features of `model`.

        Args:
            model: The model before, after, or the reference.
            trial: What the judge looks at.

        Returns:
            Macro F1 on F.
        """
        retain, labels, _ = self._some(model, trial, "retain")
        forget, wanted, subjects = self._some(model, trial, "forget")
        controls, unseen, _ = self._some(model, trial, "controls")
        features, known = np.concatenate([retain, forget]), np.concatenate([labels, wanted])
        means, classes = _fit(features, known, trial.seed)
        found, among = classes[means.predict(forget)], np.isin(unseen, wanted)
        others = classes[means.predict(controls[among])] if among.any() else unseen[among]
        details: dict[str, Any] = {
            "nmi": _nmi(wanted, found),
            "controls_f1": _f1(unseen[among], others) if among.any() else None,
            "controls_nmi": _nmi(unseen[among], others),
            "clusters": len(classes),
        }
        low, high = self._interval(wanted, found, subjects, trial.seed)
        return Measurement(value=_f1(wanted, found), low=low, high=high, n=len(wanted), details=details)

    def _some(
        self, model: nn.Module, trial: Trial, split: Split
    ) -> tuple[Float64[np.ndarray, "n d"], Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """Features, labels and subjects of a random part."""
        outputs = trial.outputs(model, split)
        n = len(outputs.labels)
        chosen = np.sort(np.random.default_rng(trial.seed).permutation(n)[: self.samples])
        subjects = trial.subjects.numpy() if split == "forget" and trial.subjects is not None else np.arange(n)
        return outputs.features.numpy()[chosen].astype(np.float64), outputs.labels.numpy()[chosen], subjects[chosen]

    def _interval(
        self,
        labels: Int64[np.ndarray, " f"],
        found: Int64[np.ndarray, " f"],
        subjects: Int64[np.ndarray, " f"],
        seed: int,
    ) -> tuple[float | None, float | None]:
        units = np.unique(subjects, return_inverse=True)[1]
        if units.max() == 0:
            return None, None
        generator = np.random.default_rng(seed)
        drawn = []
        for _ in range(self.resamples):
            counts = np.bincount(generator.integers(units.max() + 1, size=units.max() + 1), minlength=units.max() + 1)
            rows = np.repeat(np.arange(len(units)), counts[units])
            drawn.append(_f1(labels[rows], found[rows]))
        return float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))


def _fit(
    features: Float64[np.ndarray, "n d"], labels: Int64[np.ndarray, " n"], seed: int
) -> tuple[KMeans, Int64[np.ndarray, " k"]]:
    """The clusters, and the class that each is matched to."""
    classes = np.unique(labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct features than classes: empty clusters
        means = KMeans(len(classes), n_init=1, random_state=seed).fit(features)
    table = np.zeros((len(classes), len(classes)))
    table[:, np.unique(means.labels_)] = contingency_matrix(labels, means.labels_)
    rows, columns = linear_sum_assignment(-table)
    matched = np.empty(len(classes), dtype=np.int64)
    matched[columns] = classes[rows]
    return means, matched


def _f1(labels: Int64[np.ndarray, " n"], found: Int64[np.ndarray, " n"]) -> float:
    """scikit-learn's ``f1_score`` over the classes of `labels`, a hundred times faster, which the bootstrap needs."""
    size = int(max(labels.max(), found.max())) + 1
    right, true, told = (np.bincount(one, minlength=size) for one in (labels[labels == found], labels, found))
    present = true > 0
    return float((2 * right[present] / (true + told)[present]).mean())


def _nmi(labels: Int64[np.ndarray, " n"], found: Int64[np.ndarray, " n"]) -> float | None:
    return float(normalized_mutual_info_score(labels, found)) if len(np.unique(labels)) > 1 else None
