"""Linear probe: is what the head no longer says still in the features?"""

import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from unlearn_plugin.measurement import Measurement
from unlearn_plugin.metrics._contest import compare, without_p_value
from unlearn_plugin.metrics.base import Goal, Metric, Trial
from unlearn_plugin.outputs import Outputs, margin
from unlearn_plugin.statistics import proportion

__all__ = ["LinearProbe"]


@dataclass(frozen=True, kw_only=True)
class LinearProbe(Metric):
    """The membership test once more, under fresh heads fitted on features of the retained data only.

    Value, for requests of samples: the AUC of `membership`, with the margins of a logistic regression fitted on
    standardised features of R. A method that only bends the head cannot lower it, and a model that never saw F gives
    0.5. The verdict uses its ``p_value``. ``ridge`` and ``nearest_mean`` are the same AUC under a ridge regression on
    the classes' indicators, and under the log-odds of a Gaussian around each class's mean with the unit covariance;
    three heads on the same features are nearly one test, so these two are shown and decide nothing.

    Value, for requests of whole classes: R holds no such class, so there is nothing to compare; the value is the share
    of held-out images of the forgotten classes that a probe fitted on R *and* F recognises. A model that never saw the
    class can separate it as well, so this number means something only beside a reference; the verdict does not use it.

    Attributes:
        samples: Features the probe is fitted on, at most.

    Source: linear probing as in MUDA, arXiv 2407.17710; the reset head of arXiv 2604.08271. The AUC instead of an
    accuracy is ours: it has the same null as the primary test and more power.
    """

    samples: int = 2000

    goal = Goal.LIKE_REFERENCE
    title = "Linear probe"
    explanation = (
        "Whether a fresh linear classifier on the model's features still treats the requested pictures as known; "
        "for whole classes, how well they can still be separated."
    )
    source = "https://arxiv.org/abs/2407.17710; https://arxiv.org/abs/2604.08271"

    def measure(self, model: nn.Module, trial: Trial) -> Measurement:
        """Fit the probe on features of `model` and test it.

        Args:
            model: The model before, after, or the reference.
            trial: What the judge looks at.

        Returns:
            AUC under the probe, or separability of the forgotten classes; missing when neither can be had.
        """
        retain, forget = trial.outputs(model, "retain"), trial.outputs(model, "forget")
        controls = trial.outputs(model, "controls")
        heads = {name: self._auc(name, retain, forget, controls, trial) for name in _HEADS}
        auc = heads.pop("auc")
        separable = self._separability(retain, forget, controls, trial)
        main = auc or separable
        if main is None:
            return Measurement.missing(
                "The retained data have one class only, or no class of the request has controls."
            )
        details = {
            "auc": without_p_value(auc),
            "p_value": auc and auc["p_value"],
            **{name: without_p_value(one) for name, one in heads.items()},
            "separability": separable,
        }
        return Measurement(value=main["value"], low=main["low"], high=main["high"], n=main["n"], details=details)

    def _auc(
        self, head: str, retain: Outputs, forget: Outputs, controls: Outputs, trial: Trial
    ) -> dict[str, Any] | None:
        probe = self._fit(head, retain, trial.seed)
        if probe is None:
            return None
        known, control_known = _known(probe, forget), _known(probe, controls)
        if not known.any() or not control_known.any():
            return None
        return compare(
            _probe_margins(probe, forget, known), forget.labels.numpy()[known],
            _probe_margins(probe, controls, control_known), controls.labels.numpy()[control_known],
            None if trial.subjects is None else trial.subjects.numpy()[known],
        )  # fmt: skip

    def _separability(self, retain: Outputs, forget: Outputs, controls: Outputs, trial: Trial) -> dict[str, Any] | None:
        wanted = np.isin(controls.labels.numpy(), trial.forgotten_classes)
        probe = self._fit("auc", _joined(retain, forget), trial.seed) if wanted.any() else None
        if probe is None:
            return None
        right = probe.predict(controls.features.numpy()[wanted]) == controls.labels.numpy()[wanted]
        return asdict(proportion(int(right.sum()), len(right)))

    def _fit(self, head: str, outputs: Outputs, seed: int) -> Pipeline | None:
        features, labels = outputs.features.numpy(), outputs.labels.numpy()
        chosen = np.random.default_rng(seed).permutation(len(labels))[: self.samples]
        if len(np.unique(labels[chosen])) < 2:
            return None
        probe = make_pipeline(StandardScaler(), _HEADS[head]())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a probe short of its optimum is a probe all the same
            return probe.fit(features[chosen].astype(np.float64), labels[chosen])


class _NearestMean(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A head that knows the classes' means alone."""

    classes_: Int64[np.ndarray, " k"]

    def fit(self, features: Float64[np.ndarray, "n d"], labels: Int64[np.ndarray, " n"]) -> "_NearestMean":
        self.classes_ = np.unique(labels)
        self._means = np.stack([features[labels == label].mean(0) for label in self.classes_])
        return self

    def decision_function(self, features: Float64[np.ndarray, "n d"]) -> Float64[np.ndarray, "n k"]:
        scores: Float64[np.ndarray, "n k"] = features @ self._means.T - (self._means**2).sum(1) / 2
        return scores


_HEADS = {"auc": LogisticRegression, "ridge": RidgeClassifier, "nearest_mean": _NearestMean}


def _joined(first: Outputs, second: Outputs) -> Outputs:
    return Outputs(
        torch.cat([first.logits, second.logits]),
        torch.cat([first.features, second.features]),
        torch.cat([first.labels, second.labels]),
    )


def _known(probe: Pipeline, outputs: Outputs) -> Bool[np.ndarray, " n"]:
    return np.isin(outputs.labels.numpy(), probe.classes_)


def _probe_margins(probe: Pipeline, outputs: Outputs, chosen: Bool[np.ndarray, " n"]) -> np.ndarray:
    scores = probe.decision_function(outputs.features.numpy()[chosen].astype(np.float64))
    if scores.ndim == 1:  # two classes: one log-odds
        scores = np.stack([np.zeros_like(scores), scores], axis=1)
    places = np.searchsorted(probe.classes_, outputs.labels.numpy()[chosen])
    found: np.ndarray = margin(torch.tensor(scores, dtype=torch.float32), torch.tensor(places)).numpy()
    return found
