"""The membership attack as every probe makes it: margins of F against those of the controls, within classes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from unlearn_plugin.data import Samples
from unlearn_plugin.metrics.base import Trial
from unlearn_plugin.outputs import Outputs, compute_outputs
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
    """

    forget: Samples
    controls: Samples
    subjects: Int64[np.ndarray, " f"] | None

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
        controls = trial.controls.select(_some(useful, most, trial.seed))
        return cls(forget, controls, None if trial.subjects is None else trial.subjects[chosen].numpy())

    def outputs(self, model: nn.Module, trial: Trial) -> tuple[Outputs, Outputs]:
        """Run a model that is asked only once, so that nothing is kept.

        Args:
            model: Usually a changed copy.
            trial: Device, precision and batch size.

        Returns:
            Outputs on `forget` and on `controls`.
        """
        forget, controls = (
            compute_outputs(
                model, samples, trial.accelerator, batch_size=trial.batch_size, progress=trial.progress
            )
            for samples in (self.forget, self.controls)
        )  # fmt: skip
        return forget, controls

    def attack(self, model: nn.Module, trial: Trial) -> dict[str, Any] | None:
        """Attack a model by the margin of the true class.

        Args:
            model: Usually a changed copy.
            trial: Device, precision and batch size.

        Returns:
            As `compare`.
        """
        forget, controls = self.outputs(model, trial)
        return compare(
            forget.margins.numpy(), forget.labels.numpy(), controls.margins.numpy(), controls.labels.numpy(),
            self.subjects,
        )  # fmt: skip


def _some(positions: Int64[Tensor, " n"], most: int, seed: int) -> Int64[Tensor, " k"]:
    order = torch.randperm(len(positions), generator=torch.Generator().manual_seed(seed))
    return positions[order[:most]].sort().values
