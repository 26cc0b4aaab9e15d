"""Reference models: what models that never saw a sample say about it, kept instead of the models."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Float16, Float32, Int64
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from unlearn_hooks.capture import innermost_model, logits_of
from unlearn_hooks.controls import Half, recorded_holdout
from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.ids import batch_labels, data_fingerprint, dataset_labels, first_tensor, root_count, root_rows
from unlearn_hooks.training_record import RecordWriter, Shard, TrainingRecord

__all__ = [
    "OutOfSample",
    "Purpose",
    "ReferenceModel",
    "add_reference",
    "incomplete_pairs",
    "log_odds",
    "recorded_references",
    "without_judge",
]

Purpose = Literal["judge", "method"]

KIND = "reference"
_ALL_LOGITS = 64  # classes up to which all logits are kept; of more, the largest ones
_LARGEST_LOGITS = 10
_LARGEST = 6e4  # fp16 ends at 65504
_LOOKED_AT = 1000  # samples of either half, to see that the halves were not mixed up
_MIXED_UP = 4.0  # standard errors


def log_odds(logits: Float[Tensor, "n C"], labels: Int64[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Logit-scaled confidence of the true class.

    Formula: phi(x) = z_y - log sum_(j != y) exp(z_j) = log p_y - log(1 - p_y), computed without leaving log space.

    Args:
        logits: Scores before the softmax.
        labels: True class of each row.

    Returns:
        One margin per row, in nats; 0 where the true class has probability one half.

    Source: Carlini et al. 2022 (LiRA), arXiv 2112.03570, section V-A.
    """
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return logits.gather(1, labels[:, None]).squeeze(1) - others.logsumexp(1)


def add_reference(
    record: str | os.PathLike[str],
    model: nn.Module,
    data: Any,  # noqa: ANN401  # the user's data set or loader
    half: Half,
    *,
    purpose: str = "judge",
    batch_size: int = 256,
) -> None:
    """Keep what a model that was trained on one half says about all samples that it never saw.

    Only logits are kept, so the model can be deleted afterwards. The record may be finished, or its training may still
    go on, in this or another process. Both halves of a pair are needed before the pair counts.

    Args:
        record: Folder of the record.
        model: Trained on `half` and on nothing else, as the recorded model was trained on all.
        data: The data set that was recorded, or any view of it, as it is given in evaluation: no augmentation. Or a
            loader of it, whose collate function and workers are then used.
        half: What the model was trained on.
        purpose: Who may use the pair: the ``judge``, or an unlearning ``method``; never both.
        batch_size: Samples per forward pass, unless a loader is given.

    Raises:
        UnlearnError: If data or half do not belong to the record, the half is there already, the pair serves another
            purpose, or the model knows the other half better than its own.
        OSError: If the disk is full.
    """
    folder = Path(record)
    found = TrainingRecord.open(folder)
    dataset: Any = data.dataset if isinstance(data, DataLoader) else data
    loader = data if isinstance(data, DataLoader) else DataLoader(data, batch_size=batch_size)
    rows, seen = root_rows(dataset, torch.arange(len(dataset))), half.rows()
    _check(found, dataset, half, purpose)
    own = torch.isin(rows, seen)
    kept, labels = _outputs(model, loader, (~own).nonzero().flatten())
    holdout = recorded_holdout(found)
    strange = torch.ones_like(own[~own]) if holdout is None else ~holdout.contains(rows[~own])
    _check_not_mixed_up(model, loader, own, log_odds(kept, labels)[strange])
    writer = RecordWriter(folder, part=f"{KIND}-{half.pair:05d}-{half.side}")
    try:
        meta = {"pair": half.pair, "side": half.side, "seed": half.seed, "purpose": purpose, "classes": kept.shape[1]}
        writer.append(KIND, _packed(rows[~own], labels, kept), first=-1, last=-1, meta=meta)
        writer.close()
    except OSError:
        writer.abandon()
        raise


def _check(record: TrainingRecord, dataset: Any, half: Half, purpose: str) -> None:  # noqa: ANN401
    """See that data, half and purpose go with the record and with what was added before."""
    findings = []
    if purpose not in get_args(Purpose):
        findings.append(f"A reference cannot have the purpose {purpose!r}; it is for: {', '.join(get_args(Purpose))}.")
    n, labels = record.data.get("n"), dataset_labels(dataset)
    fingerprint = record.data.get("fingerprint")
    if {root_count(dataset), root_count(half)} != {n}:
        findings.append(
            f"The record is of {n} samples; the data given have {root_count(dataset)} and those of the half "
            f"{root_count(half)}. Give the data set that was recorded."
        )
    elif fingerprint and labels is not None and data_fingerprint(labels) != fingerprint:
        findings.append("The data given have other labels than those recorded; give the data set that was recorded.")
    holdout = recorded_holdout(record)
    if holdout is not None and bool(holdout.contains(half.rows()).any()):
        findings.append("The half holds samples of the holdout; draw the halves from the `train` part of holdout(...).")
    pair = [shard for shard in record.shards(KIND) if shard.meta["pair"] == half.pair]
    findings += [finding for shard in pair if (finding := _check_pair(shard, half, purpose))]
    if findings:
        raise UnlearnError.of(findings)


def _check_pair(other: Shard, half: Half, purpose: str) -> str | None:
    meta = other.meta
    if meta["side"] == half.side:
        return f"The reference of pair {half.pair}, half {half.side} is in the record already; add the other half."
    if meta["purpose"] != purpose:
        return (
            f"Pair {half.pair} is for the {meta['purpose']}, so its other half cannot be for the {purpose}: who "
            f"changes the model may not use what judges it. Take another pair."
        )
    if meta["seed"] != half.seed or not bool(torch.isin(half.rows(), other.tensors()["rows"].long()).all()):
        return (
            f"The two halves of pair {half.pair} are not of one split; draw both by one call of halves(dataset, "
            f"{half.pair}, {meta['seed']})."
        )
    return None


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[torch.device]:
    """Run in evaluation mode, without gradients, and leave mode and random state as they were.

    Yields:
        The device of the model.
    """
    training = [module for module in model.modules() if module.training]
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=True):
            yield device
    finally:
        for module in training:
            module.training = True


def _outputs(
    model: nn.Module, loader: "DataLoader[Any]", places: Int64[Tensor, " n"]
) -> tuple[Float32[Tensor, "n C"], Int64[Tensor, " n"]]:
    """Logits and labels of some samples of the loader's data set, in order."""
    ordered = DataLoader(
        Subset(loader.dataset, places.tolist()),
        batch_size=loader.batch_size or 1,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        generator=torch.Generator().manual_seed(0),
    )
    logits, labels = [], []
    with _evaluating(innermost_model(model)) as device:
        for batch in ordered:
            images, classes = first_tensor(batch), batch_labels(batch)
            if images is None or classes is None:
                raise UnlearnError("The data do not give batches of images and whole-number labels; give a loader.")
            scores = logits_of(model(images.to(device)))
            if scores is None or len(scores) != len(classes) or not bool(scores.isfinite().all()):
                raise UnlearnError(
                    f"The {type(model).__name__} does not give one row of finite logits per image; give a classifier."
                )
            logits.append(scores.float().cpu())
            labels.append(classes.long().cpu())
    if sum(map(len, labels)) != len(places):
        raise UnlearnError("The loader's collate function leaves samples out; give one that keeps all.")
    return torch.cat(logits), torch.cat(labels)


def _check_not_mixed_up(
    model: nn.Module, loader: "DataLoader[Any]", own: Tensor, strange: Float32[Tensor, " n"]
) -> None:
    """A model knows what it was trained on at least as well as what it was not."""
    places = own.nonzero().flatten()
    chosen = places[:: max(1, len(places) // _LOOKED_AT)]
    known = log_odds(*_outputs(model, loader, chosen)) if len(chosen) else chosen.float()
    if min(len(known), len(strange)) < 2:
        return
    error = (known.var() / len(known) + strange.var() / len(strange)).sqrt()
    if float(known.mean() - strange.mean()) < -_MIXED_UP * float(error):
        raise UnlearnError(
            "The model knows the half that it should not have seen better than its own: were the two models of the "
            "pair mixed up? Give each with the half that it was trained on."
        )


def _packed(rows: Tensor, labels: Tensor, logits: Float32[Tensor, "n C"]) -> dict[str, Tensor]:
    tensors = {"rows": rows.to(torch.int32), "labels": labels.to(torch.int32)}
    half = logits.clamp(-_LARGEST, _LARGEST).half()
    if logits.shape[1] <= _ALL_LOGITS:
        return tensors | {"logits": half}
    largest = logits.topk(_LARGEST_LOGITS, dim=1).indices
    margin = log_odds(logits, labels).clamp(-_LARGEST, _LARGEST).half()
    return tensors | {"margin": margin, "top_classes": largest.to(torch.int32), "top_logits": half.gather(1, largest)}


class ReferenceModel(NamedTuple):
    """One reference model: where it stands, and the samples it never saw.

    Attributes:
        pair: Number of its pair.
        side: Which half it was trained on.
        rows: Root rows that it never saw.
        margins: Log-odds of the true class of each.
        shard: The logits.
    """

    pair: int
    side: int
    rows: Int64[Tensor, " n"]
    margins: Float32[Tensor, " n"]
    shard: Shard


@dataclass(frozen=True)
class OutOfSample:
    """What models that never saw a sample say about it, for the samples of a record.

    A row of the training data was not seen by one model of each pair, a row of the holdout by none of the two.

    Attributes:
        n: Rows of the root data set.
        models: The models of complete pairs, in the order of pairs and sides.
    """

    n: int
    models: tuple[ReferenceModel, ...]

    @cached_property
    def _margins(self) -> Float32[Tensor, "pairs 2 n"]:
        """Margin by pair, side and row; nan where the model saw the row."""
        dense = torch.full((len(self.models) // 2, 2, self.n), torch.nan)
        for place, model in enumerate(self.models):
            dense[place // 2, place % 2, model.rows] = model.margins
        return dense

    def count(self, rows: Int64[Tensor, " k"]) -> Int64[Tensor, " k"]:
        """Count the models that never saw each of some root rows."""
        return (~self._margins[:, :, rows].isnan()).sum((0, 1))

    def margins(self, rows: Int64[Tensor, " k"]) -> Float32[Tensor, " k"]:
        """Average the log-odds of the true class over all models that never saw a row.

        Args:
            rows: Root rows.

        Returns:
            One value per row, in nats; nan where every model saw it.
        """
        return self._margins[:, :, rows].flatten(0, 1).nanmean(0)

    def one_of_each_pair(self, rows: Int64[Tensor, " k"], seed: int) -> Float32[Tensor, " k"]:
        """Average over one model of each pair, so that held-out rows compare with training rows like for like.

        For a training row it is the model that never saw it; for a row that none of the two saw, a coin decides. With
        both, the values of held-out rows would be less noisy than those of training rows, and that alone would tell
        the two apart.

        Args:
            rows: Root rows.
            seed: Of the coins; a row's coin does not depend on which other rows are asked for.

        Returns:
            One value per row, in nats; nan where every model saw it.
        """
        generator = torch.Generator().manual_seed(seed)
        coins = torch.randint(2, (len(self.models) // 2, self.n), generator=generator)[:, rows]
        pairs = self._margins[:, :, rows]
        first, second = (pairs.gather(1, side[:, None]).squeeze(1) for side in (coins, 1 - coins))
        return first.where(~first.isnan(), second).nanmean(0)

    def logits(self, rows: Int64[Tensor, " k"]) -> Float16[Tensor, "models k C"]:
        """Read the logits of all models.

        Args:
            rows: Root rows.

        Returns:
            nan where the model saw the row, and, with more than 64 classes, for all but the ten largest.
        """
        found = []
        for model in self.models:
            tensors = model.shard.tensors()
            place = torch.full((self.n,), -1).index_copy(0, model.rows, torch.arange(len(model.rows)))[rows]
            logits = _unpacked(tensors, model.shard.meta["classes"])[place]
            found.append(logits.masked_fill((place < 0)[:, None], torch.nan))
        return torch.stack(found)


def _unpacked(tensors: dict[str, Tensor], classes: int) -> Float16[Tensor, "n C"]:
    if "logits" in tensors:
        return tensors["logits"]
    logits = torch.full((len(tensors["rows"]), classes), torch.nan, dtype=torch.float16)
    return logits.scatter(1, tensors["top_classes"].long(), tensors["top_logits"])


def recorded_references(record: TrainingRecord, purpose: Purpose) -> OutOfSample | None:
    """Read what the reference models of a record say.

    Args:
        record: What training left behind.
        purpose: Who asks; a pair that was added for the other is not there for this one.

    Returns:
        Out-of-sample margins and logits; ``None`` if no pair is complete.
    """
    shards = [shard for shard in record.shards(KIND) if shard.meta["purpose"] == purpose]
    shards.sort(key=lambda shard: (shard.meta["pair"], shard.meta["side"]))
    pairs = [shard.meta["pair"] for shard in shards]
    models = tuple(_read(shard) for shard in shards if pairs.count(shard.meta["pair"]) == 2)
    return OutOfSample(record.data["n"], models) if models else None


def _read(shard: Shard) -> ReferenceModel:
    tensors = shard.tensors()
    if "margin" in tensors:
        margins = tensors["margin"].float()
    else:
        margins = log_odds(tensors["logits"].float(), tensors["labels"].long())
    return ReferenceModel(shard.meta["pair"], shard.meta["side"], tensors["rows"].long(), margins, shard)


def incomplete_pairs(record: TrainingRecord) -> list[int]:
    """List the pairs of which only one model was added so far; they do not count."""
    pairs = [shard.meta["pair"] for shard in record.shards(KIND)]
    return sorted(pair for pair in set(pairs) if pairs.count(pair) == 1)


def without_judge(record: TrainingRecord) -> TrainingRecord:
    """Take the judge's references out of an opened record, before it is shown to a method."""
    return record.only(lambda shard: shard.kind != KIND or shard.meta["purpose"] == "method")
