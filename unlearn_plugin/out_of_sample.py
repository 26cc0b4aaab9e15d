"""What the record keeps for the judge: sealed controls, and what reference models that never saw a sample say of it.

No method may import this file; a method is shown a record without the judge's references.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from unlearn_hooks.controls import recorded_holdout
from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.references import OutOfSample, recorded_references
from unlearn_hooks.samples import recorded_samples
from unlearn_hooks.training_record import TrainingRecord
from unlearn_plugin.data import ImageData, Samples
from unlearn_plugin.splits import SealedIds

__all__ = ["JudgeReferences", "judge_references", "mean_recorded_loss", "sealed_ids"]


@dataclass(frozen=True)
class JudgeReferences:
    """Out-of-sample margins of training and held-out samples, found by the samples' ids.

    Attributes:
        found: What the record holds.
        train: The data that were recorded.
        record_row: Row in the record of each row of `train`.
        seed: Of the coins, see `OutOfSample.one_of_each_pair`.
    """

    found: OutOfSample
    train: ImageData
    record_row: Int64[Tensor, " n"]
    seed: int

    def margins(self, samples: Samples) -> Float32[Tensor, " k"]:
        """Mean margin of samples under models that never saw them, as many as a training sample has.

        Args:
            samples: Any samples.

        Returns:
            One margin each, in nats; nan where there is none, as for data the record does not know.
        """
        if samples.data is not self.train:
            return torch.full((len(samples),), torch.nan)
        return self.found.one_of_each_pair(self.record_row[samples.rows], self.seed)


def judge_references(record: TrainingRecord, train: ImageData, seed: int) -> JudgeReferences | None:
    """Read the judge's references.

    Args:
        record: What training left behind, matched to the data.
        train: The data that were recorded.
        seed: Randomness of the judge.

    Returns:
        The references; ``None`` if the record holds no complete pair of them for the judge, or no holdout: without
        controls of the same kind there is nothing to compare with.
    """
    found = recorded_references(record, "judge")
    if found is None or recorded_holdout(record) is None:
        return None
    return JudgeReferences(found, train, _record_rows(record, train), seed)


def mean_recorded_loss(record: TrainingRecord, train: ImageData) -> Float32[Tensor, " n"] | None:
    """Average the loss of each training sample over the epochs of the recorded training.

    Args:
        record: What training left behind, matched to the data.
        train: The data that were recorded.

    Returns:
        One loss per row of `train`, in nats, nan where none was recorded; ``None`` if none was at all.
    """
    epochs = recorded_samples(record)
    if not epochs:
        return None
    sums, counts = torch.zeros(len(train)), torch.zeros(len(train))
    for epoch in epochs:
        sums[epoch.rows] += epoch.loss
        counts[epoch.rows] += 1
    return (sums / counts)[_record_rows(record, train)]


def _record_rows(record: TrainingRecord, train: ImageData) -> Int64[Tensor, " n"]:
    """Row in the record of each row of the data."""
    return Samples(train, torch.arange(len(train))).record_rows(record.row_of)


def sealed_ids(record: TrainingRecord, train: ImageData) -> SealedIds | None:
    """Name the samples of the holdout that was sealed before training.

    Args:
        record: What training left behind, matched to the data.
        train: The data that were recorded.

    Returns:
        Their ids; ``None`` if no holdout was sealed.

    Raises:
        UnlearnError: If training saw some of them, or the file is damaged.
    """
    sealed = recorded_holdout(record)
    if sealed is None:
        return None
    if sealed.trained_on:
        raise UnlearnError(
            "The holdout of the record was trained on, so it is no data that the model never saw; train again on the "
            "`train` part of holdout(...), or leave --record out."
        )
    names = train.ids if record.ids is None else record.ids
    tuning, verdict = (tuple(names[row] for row in rows.tolist()) for rows in (sealed.tuning, sealed.verdict))
    return SealedIds(tuning, verdict)
