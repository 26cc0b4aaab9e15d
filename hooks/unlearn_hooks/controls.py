"""Data kept apart before training: a holdout for the judge, and complementary halves for its reference models."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from torch.utils.data import Subset

from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.ids import dataset_labels, root_count, root_rows
from unlearn_hooks.journal import write_json
from unlearn_hooks.training_record import SCHEMA, TrainingRecord

__all__ = ["Half", "Holdout", "SealedHoldout", "halves", "holdout", "read_holdout", "recorded_holdout"]

_FILE = "holdout.json"


@dataclass(frozen=True)
class SealedHoldout:
    """Rows that no training may see, as the record keeps them.

    Attributes:
        n: Rows of the root data set they were drawn from.
        seed: Where the draw came from.
        tuning: Root rows that methods may look at, sorted.
        verdict: Root rows that the judge alone looks at, sorted.
        trained_on: Training saw some of them all the same, so they are no controls.
    """

    n: int
    seed: int
    tuning: Int64[Tensor, " t"]
    verdict: Int64[Tensor, " v"]
    trained_on: bool = False

    @property
    def digest(self) -> str:
        """Hex sha256 over the content; the journal holds it."""
        return hashlib.sha256(json.dumps(self._content(), sort_keys=True).encode()).hexdigest()

    @cached_property
    def _mask(self) -> Bool[Tensor, " n"]:
        mask = torch.zeros(self.n, dtype=torch.bool)
        mask[self.tuning] = mask[self.verdict] = True
        return mask

    def contains(self, rows: Int64[Tensor, " k"]) -> Bool[Tensor, " k"]:
        """Tell which of some root rows are held out."""
        exist = (rows >= 0) & (rows < self.n)  # of a stream, whoever tells the rows may count differently
        return self._mask[rows.clamp(0, self.n - 1)] & exist

    def write(self, folder: Path) -> None:
        """Write holdout.json, or see that it holds the same.

        Args:
            folder: The record.

        Raises:
            UnlearnError: If another holdout is sealed there.
            OSError: If the disk is full.
        """
        sealed = read_holdout(folder)
        if sealed is None:
            write_json(folder / _FILE, self._content())
        elif sealed.digest != self.digest:
            raise UnlearnError(
                f"{folder} has another holdout sealed in it (seed {sealed.seed}, {len(sealed.tuning)} + "
                f"{len(sealed.verdict)} rows); give the same one, or record to another folder."
            )

    def _content(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "n": self.n,
            "seed": self.seed,
            "tuning": self.tuning.tolist(),
            "verdict": self.verdict.tolist(),
        }


@dataclass(frozen=True)
class Holdout:
    """A data set in three parts: to train on, for methods to tune on, and for the judge alone.

    Attributes:
        train: What training may see.
        tuning: Held out; unlearning methods may look at it.
        verdict: Held out; only the judge looks at it.
        seed: Where the draw came from.
    """

    train: Subset[Any]
    tuning: Subset[Any]
    verdict: Subset[Any]
    seed: int

    def sealed(self) -> SealedHoldout:
        """Return the held-out rows as rows of the root data set, the form in which they are recorded."""
        tuning, verdict = (_all_root_rows(part).sort().values for part in (self.tuning, self.verdict))
        return SealedHoldout(root_count(self.train), self.seed, tuning, verdict)


class Half(Subset[Any]):
    """One of two complementary halves of the training data.

    Attributes:
        pair: Number of the pair.
        side: 0 or 1.
        seed: Where the draw came from.
    """

    def __init__(self, dataset: Any, indices: Sequence[int], *, pair: int, side: int, seed: int) -> None:  # noqa: ANN401
        super().__init__(dataset, indices)
        self.pair, self.side, self.seed = pair, side, seed

    def rows(self) -> Int64[Tensor, " n"]:
        """Return its rows of the root data set."""
        return _all_root_rows(self)


def holdout(
    dataset: Any,  # noqa: ANN401  # any map-style data set
    n: int,
    seed: int,
    *,
    labels: Sequence[int] | Tensor | None = None,
    subjects: Sequence[Any] | None = None,
) -> Holdout:
    """Draw n samples at random that training will not see, and halve them; every class gives its share.

    Training reads ``.train``; ``record(..., holdout=...)`` seals the draw and checks that training keeps to it.

    Args:
        dataset: A map-style data set, possibly a ``Subset`` of another.
        n: Samples to hold out; 1,000 or more let the judge speak about low false-positive rates.
        seed: Where the draw comes from; the same seed gives the same rows.
        labels: Class of each sample of `dataset`, where the data set does not tell without loading images.
        subjects: Data subject of each sample. All samples of one stay together, and about n are held out: pictures
            of somebody whose other pictures were trained on are no pictures that training never saw.

    Returns:
        The three parts, as subsets of `dataset`.

    Raises:
        UnlearnError: If n leaves nothing on either side, or the classes are unknown.
    """
    if not 2 <= n < len(dataset):
        raise UnlearnError(
            f"A holdout of {n} out of {len(dataset)} samples is not possible; take 2 to {len(dataset) - 1}."
        )
    generator, units = np.random.default_rng([seed, 0]), _Units.of(dataset, labels, subjects)
    count = len(units.labels)
    wanted = min(max(2, round(n * count / len(dataset))), count - 1)
    if wanted < 2:
        raise UnlearnError(f"{count} data subjects cannot be parted in three; a holdout takes at least 3.")
    order = _by_class(units.labels, generator)
    # Evenly spaced places in an order sorted by class, from a random start: every class gives its share.
    places = np.floor((np.arange(wanted) + generator.random()) * (count / wanted)).astype(np.int64)
    drawn = order[places]
    tuning, verdict = _halved(drawn, generator)
    train = np.setdiff1d(np.arange(count), drawn)
    kept, first, second = (Subset(dataset, units.positions(part)) for part in (train, tuning, verdict))
    return Holdout(kept, first, second, seed)


def halves(
    dataset: Any,  # noqa: ANN401  # any map-style data set
    pair: int,
    seed: int,
    *,
    labels: Sequence[int] | Tensor | None = None,
    subjects: Sequence[Any] | None = None,
) -> tuple[Half, Half]:
    """Split training data into two complementary random halves; every class is halved.

    Train a model on each, as the real one is trained, and give both to `unlearn_hooks.references.add_reference`.

    Args:
        dataset: What the real model is trained on, such as ``Holdout.train``.
        pair: Number of the pair, counted from 0; every pair is another split.
        seed: Where the splits come from.
        labels: Class of each sample of `dataset`, where the data set does not tell without loading images.
        subjects: Data subject of each sample. All samples of one fall into the same half: a model that knows somebody
            from other pictures is no reference for what a model would say that never saw them.

    Returns:
        The two halves; every sample is in exactly one.

    Raises:
        UnlearnError: If the classes are unknown, or the pair's number is negative.
    """
    if pair < 0:
        raise UnlearnError(f"There is no pair {pair}; pairs are numbered from 0.")
    generator, units = np.random.default_rng([seed, 1, pair]), _Units.of(dataset, labels, subjects)
    first, second = _halved(_by_class(units.labels, generator), generator)
    return (
        Half(dataset, units.positions(first), pair=pair, side=0, seed=seed),
        Half(dataset, units.positions(second), pair=pair, side=1, seed=seed),
    )


@dataclass(frozen=True)
class _Units:
    """What is drawn as a whole: samples, or all the samples of one data subject."""

    owner: Int64[np.ndarray, " n"]  # unit of each sample
    labels: Int64[np.ndarray, " units"]  # class of each unit: that of its first sample

    @classmethod
    def of(
        cls,
        dataset: Any,
        labels: Sequence[int] | Tensor | None,
        subjects: Sequence[Any] | None,  # noqa: ANN401
    ) -> "_Units":
        known = _labels(dataset, labels)
        if subjects is None:
            return cls(np.arange(len(known)), known.astype(np.int64))
        if len(subjects) != len(known):
            raise UnlearnError(f"There are {len(subjects)} subjects for {len(known)} samples; give one for each.")
        _, first, owner = np.unique(np.asarray(subjects), return_index=True, return_inverse=True)
        return cls(owner.astype(np.int64), known[first].astype(np.int64))

    def positions(self, chosen: Int64[np.ndarray, " k"]) -> list[int]:
        """Samples of some units, in order."""
        mask = np.zeros(len(self.labels), dtype=bool)
        mask[chosen] = True
        found: list[int] = np.flatnonzero(mask[self.owner]).tolist()
        return found


def _labels(dataset: Any, labels: Sequence[int] | Tensor | None) -> Int64[np.ndarray, " n"]:  # noqa: ANN401
    if labels is not None:
        told: Int64[np.ndarray, " n"] = torch.as_tensor(labels).long().numpy()
        if len(told) != len(dataset):
            raise UnlearnError(f"There are {len(told)} labels for {len(dataset)} samples; give one for each.")
        return told
    known = dataset_labels(dataset)
    if known is None:
        raise UnlearnError(
            f"{type(dataset).__name__} does not tell the classes of its samples without loading them; give labels=, "
            f"one for each sample."
        )
    found: Int64[np.ndarray, " n"] = known[_all_root_rows(dataset)].numpy()
    return found


def _all_root_rows(dataset: Any) -> Int64[Tensor, " n"]:  # noqa: ANN401  # any map-style data set
    return root_rows(dataset, torch.arange(len(dataset)))


def _by_class(labels: Int64[np.ndarray, " n"], generator: np.random.Generator) -> Int64[np.ndarray, " n"]:
    """All positions sorted by class, in random order within each."""
    shuffled = generator.permutation(len(labels))
    return shuffled[np.argsort(labels[shuffled], kind="stable")]


def _halved(
    order: Int64[np.ndarray, " n"], generator: np.random.Generator
) -> tuple[Int64[np.ndarray, " a"], Int64[np.ndarray, " b"]]:
    """Of any two neighbours in the order, a coin sends one here and the other there; both sorted."""
    coins = np.repeat(generator.integers(2, size=(len(order) + 1) // 2), 2)[: len(order)]
    here = (np.arange(len(order)) % 2) == coins
    return np.sort(order[here]), np.sort(order[~here])


def read_holdout(folder: Path) -> SealedHoldout | None:
    """Read holdout.json of a record; ``None`` if there is none.

    Args:
        folder: The record.

    Returns:
        The holdout.

    Raises:
        UnlearnError: If the file is damaged.
    """
    path = folder / _FILE
    if not path.exists():
        return None
    try:
        content: Mapping[str, Any] = json.loads(path.read_bytes())
        tuning, verdict = (torch.tensor(content[name], dtype=torch.int64) for name in ("tuning", "verdict"))
        return SealedHoldout(content["n"], content["seed"], tuning, verdict)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnlearnError(f"{path} cannot be read ({error!r}); bring it back from a copy.") from error


def recorded_holdout(record: TrainingRecord) -> SealedHoldout | None:
    """Read the holdout that was sealed before training.

    Args:
        record: What training left behind.

    Returns:
        The holdout, which says whether training kept to it; ``None`` if none was sealed.

    Raises:
        UnlearnError: If it is missing, damaged, or not the one that was sealed.
    """
    seals = {event["digest"] for event in record.noted("holdout")}
    if not seals:
        return None
    sealed = read_holdout(record.folder)
    if sealed is None or {sealed.digest} != seals:
        raise UnlearnError(
            f"{record.folder / _FILE} is not the holdout that was sealed before training; bring it back from a copy."
        )
    trained_on = bool(record.noted("holdout_trained"))
    return SealedHoldout(sealed.n, sealed.seed, sealed.tuning, sealed.verdict, trained_on)
