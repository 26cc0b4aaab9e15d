"""The membership attack as every probe makes it: margins of F against those of the controls, within classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from unlearn_plugin.data import Samples
from unlearn_plugin.metrics._calibration import fit_level
from unlearn_plugin.metrics.base import Trial
from unlearn_plugin.outputs import compute_outputs
from unlearn_plugin.statistics import match_classes, stratified_auc

__all__ = ["NOT_COMPARABLE", "Contest", "compare", "without_p_value"]

NOT_COMPARABLE = "No class of the requested data has enough held-out samples to compare with."


def compare(
    forget: Float[np.ndarray, " f"],
    forget_labels: Int64[np.ndarray, " f"],
    controls: Float[np.ndarray, " c"],
    control_labels: Int64[np.ndarray, " c"],
    subjects: Int64[np.ndarray, " f"] | None = None,
) -> dict[str, Any] | None:
    """How often a score of F beats one of a control of its class, see `unlearn_plugin.statistics.stratified_auc`.

    Args:
        forget: Scores of F.
        forget_labels: Their classes.
        controls: Scores of the controls.
        control_labels: Their classes.
        subjects: Data subject of each score of F.

    Returns:
        ``value``, ``low``, ``high``, ``n`` and the one-sided ``p_value``; ``None`` when no class can be compared.
    """
    matched = match_classes(forget, forget_labels, controls, control_labels)
    if matched is None:
        return None
    auc = stratified_auc(matched, None if subjects is None else subjects[matched.kept])
    return {"value": auc.value, "low": auc.low, "high": auc.high, "n": auc.n_forget, "p_value": auc.p_value}


def without_p_value(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """An AUC to be shown beside the one that is tested.

    Args:
        found: What `compare` gave.

    Returns:
        The same without its p-value, which only invites a second look for luck.
    """
    return None if found is None else {key: value for key, value in found.items() if key != "p_value"}


@dataclass(frozen=True)
class Contest:
    """Who is compared where a probe needs forward passes of its own: random parts, so that it stays cheap.

    Attributes:
        forget: Samples of F.
        controls: Controls of their classes.
        subjects: Data subject of each of `forget`.
        tuning: Controls on which scores are calibrated; ``None`` without reference models.
        outside: Out-of-sample margins of `forget`, `controls` and `tuning`; empty without reference models.
    """

    forget: Samples
    controls: Samples
    subjects: Int64[np.ndarray, " f"] | None
    tuning: Samples | None = None
    outside: tuple[Float64[np.ndarray, " _"], ...] = ()

    @classmethod
    def of(cls, trial: Trial, most: int) -> "Contest":
        """Draw who is compared; the same for every model of a trial.

        Args:
            trial: What the judge looks at.
            most: Samples of F, and controls, at most.

        Returns:
            The contest.
        """
        chosen = _some(torch.arange(len(trial.forget)), most, trial.seed)
        forget = trial.forget.select(chosen)
        useful = torch.isin(trial.controls.labels, forget.labels).nonzero().flatten()
        others = _some(useful, most, trial.seed)
        subjects = None if trial.subjects is None else trial.subjects[chosen].numpy()
        contest = cls(forget, trial.controls.select(others), subjects)
        margins = [trial.out_of_sample(split) for split in ("forget", "controls", "tuning")]
        if trial.tuning is None or any(one is None or not bool(one.isfinite().all()) for one in margins):
            return contest
        tuned = _some(torch.arange(len(trial.tuning)), most, trial.seed)
        outside = tuple(
            one[rows].double().numpy()
            for one, rows in zip(margins, (chosen, others, tuned), strict=True)
            if one is not None
        )
        return replace(contest, tuning=trial.tuning.select(tuned), outside=outside)

    def margins(self, model: nn.Module, trial: Trial) -> list[Float64[np.ndarray, " _"]]:
        """Run a model that is asked only once, so that nothing is kept.

        Args:
            model: Usually a changed copy.
            trial: Device, precision and batch size.

        Returns:
            Margins of `forget`, of `controls`, and of `tuning` if it is needed.
        """
        asked = [part for part in (self.forget, self.controls, self.tuning) if part is not None]
        found = (
            compute_outputs(model, part, trial.accelerator, batch_size=trial.batch_size, progress=trial.progress)
            for part in asked
        )
        return [one.margins.double().numpy() for one in found]

    def compare(self, scores: Sequence[Float64[np.ndarray, " _"]]) -> dict[str, Any] | None:
        """Compare the scores of F with those of the controls, calibrated by the reference models if there are any.

        Args:
            scores: One for each of `forget`, of `controls`, and of `tuning` if it is there.

        Returns:
            As the function `compare`.
        """
        forget, controls = calibrated(scores, self.outside)
        return compare(forget, self.forget.labels.numpy(), controls, self.controls.labels.numpy(), self.subjects)

    def attack(self, model: nn.Module, trial: Trial) -> dict[str, Any] | None:
        """Attack a model by the margin of the true class.

        Args:
            model: Usually a changed copy.
            trial: Device, precision and batch size.

        Returns:
            As the function `compare`.
        """
        return self.compare(self.margins(model, trial))


def calibrated(
    scores: Sequence[Float64[np.ndarray, " _"]], outside: Sequence[Float64[np.ndarray, " _"]]
) -> tuple[Float64[np.ndarray, " f"], Float64[np.ndarray, " c"]]:
    """Take off what is expected of unseen samples as hard, so that an unusual request is compared fairly.

    Args:
        scores: Of F, of the controls, and of the tuning controls.
        outside: Their out-of-sample margins; empty without reference models.

    Returns:
        Scores of F and of the controls; as they were without references or with too few tuning controls.
    """
    fitted = fit_level(outside[2], scores[2]) if outside else None
    if fitted is None:
        return scores[0], scores[1]
    return scores[0] - fitted[0](outside[0]), scores[1] - fitted[0](outside[1])


def _some(positions: Int64[Tensor, " n"], most: int, seed: int) -> Int64[Tensor, " k"]:
    order = torch.randperm(len(positions), generator=torch.Generator().manual_seed(seed))
    return positions[order[:most]].sort().values
