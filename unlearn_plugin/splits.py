"""Splits: forget, retain, and the two halves of the held-out data; Need: what a method asks for."""

import difflib
import enum
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Literal

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.data import ImageData, Samples
from unlearn_plugin.manifest import ForgetEntry, ForgetManifest, list_some

__all__ = ["Need", "Request", "SealedIds", "Splits", "kind_of_request"]

Request = Literal["sample", "class", "subject"]

_COMPARED = 20_000  # known ids looked through for the nearest to an unknown one
_LARGE_PART = 0.1  # of a class
_NEAREST = 3  # unknown ids for which the nearest are looked for: comparing is slow


class Need(enum.Flag):
    """What a method must be given."""

    FORGET = enum.auto()
    RETAIN = enum.auto()
    RECORD = enum.auto()
    TUNING = enum.auto()


def kind_of_request(forgotten_classes: tuple[int, ...], *, one_subject: bool) -> Request:
    """What a method's presets are chosen by.

    Args:
        forgotten_classes: Classes that are requested as a whole.
        one_subject: All samples of the request are of one data subject.

    Returns:
        ``class`` if a class is requested as a whole, else ``subject`` for one data subject, else ``sample``.
    """
    return "class" if forgotten_classes else "subject" if one_subject else "sample"


@dataclass(frozen=True)
class SealedIds:
    """Samples among the training data that were set apart before training; see `unlearn_hooks.controls.holdout`.

    Attributes:
        tuning: Ids of those that methods may look at.
        verdict: Ids of those that only the judge looks at.
    """

    tuning: tuple[str, ...]
    verdict: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Splits:
    """What is what in the data of a job.

    Attributes:
        forget: F, the training samples that must go, in the order of the data set.
        retain: R, the training samples without F, or a random subset of them.
        tuning: Half of the samples never trained on; methods may look at it.
        verdict: The other half; only the judge looks at it.
        subjects: Data subject of each forget sample, numbered from 0; ``None`` if manifest and data name none.
            A sample of no named subject counts as a subject of its own.
        forgotten_classes: Classes that are requested as a whole, sorted.
        earlier: Training samples of earlier requests that the data still hold; neither in F nor in R.
        earlier_classes: Classes that an earlier request named as a whole, sorted.
        sealed: The two halves were set apart before training and are in the record; else they are the held-out split.
    """

    forget: Samples
    retain: Samples
    tuning: Samples
    verdict: Samples
    subjects: Int64[Tensor, " forget"] | None
    forgotten_classes: tuple[int, ...]
    earlier: Samples
    earlier_classes: tuple[int, ...] = ()
    sealed: bool = False

    @classmethod
    def make(
        cls,
        manifest: ForgetManifest,
        train: ImageData,
        heldout: ImageData,
        *,
        seed: int,
        retain_fraction: float = 1.0,
        sealed: SealedIds | None = None,
        earlier: Sequence[ForgetManifest] = (),
    ) -> "Splits":
        """Find the samples of a request and split the rest.

        Without sealed controls the held-out samples are halved at random within each class; the halves depend on the
        data and the seed alone, never on the request. Where a class has an odd number, the verdict gets the extra one.

        Args:
            manifest: The request.
            train: What the model was trained on.
            heldout: What it was never trained on.
            seed: Where the halves and the subset of R come from.
            retain_fraction: Share of each class of R that is kept, in (0, 1]; at least one sample of each.
            sealed: Samples of `train` that training did not see; the controls are then these, and `heldout` is not
                used.
            earlier: Requests that the model was cleaned of before. What they name is not in R any more, nor in F; a
                sample or class that is not in the data any more was deleted, as it should be.

        Returns:
            The splits.

        Raises:
            UnlearnError: With everything at once that does not fit between request and data.
        """
        if not 0 < retain_fraction <= 1:
            raise UnlearnError(f"A retain fraction of {retain_fraction} is out of range; take one above 0 and up to 1.")
        generator = torch.Generator().manual_seed(seed)
        tuning, verdict = _controls(train, heldout, sealed, generator)
        findings = _check_names(manifest, train, heldout) + _check_sealed(manifest, sealed)
        untrained = torch.zeros(len(train), dtype=torch.bool)
        untrained[[train.row_of[name] for name in _names_of(sealed)]] = True
        chosen, classes, owners = _choose(manifest, train)
        gone, earlier_classes = _choose_earlier(earlier, train, untrained)
        findings += _check_again(manifest, train, gone)
        chosen &= ~(untrained | gone)
        kept = ~(chosen | untrained | gone)
        labels = torch.cat([tuning.labels, verdict.labels])
        findings += _check_parts(train, labels, chosen, kept, names_fit=not findings)
        if findings:
            raise UnlearnError.of(findings)
        retain = _thin(kept.nonzero().flatten(), train.labels, retain_fraction, generator)
        forget = Samples(train, chosen.nonzero().flatten())
        return cls(
            forget=forget,
            retain=Samples(train, retain),
            tuning=tuning,
            verdict=verdict,
            subjects=_number_subjects(forget.rows.tolist(), owners) if owners else None,
            forgotten_classes=tuple(sorted(classes)),
            earlier=Samples(train, gone.nonzero().flatten()),
            earlier_classes=earlier_classes,
            sealed=sealed is not None,
        )

    @property
    def one_subject(self) -> bool:
        """Whether all samples of F are of one named data subject."""
        return self.subjects is not None and not bool(self.subjects.any())

    @property
    def request(self) -> Request:
        """What kind of request this is."""
        return kind_of_request(self.forgotten_classes, one_subject=self.one_subject)

    def largely_requested(self) -> tuple[int, ...]:
        """Classes, none of them requested as a whole, of which a tenth or more of the training samples is in F."""
        labels = self.forget.data.labels
        requested, there, gone = (
            torch.bincount(part, minlength=int(labels.max()) + 1)
            for part in (self.forget.labels, labels, self.earlier.labels)
        )
        there -= gone
        found = (requested > 0) & (requested >= _LARGE_PART * there)
        return tuple(label for label in found.nonzero().flatten().tolist() if label not in self.forgotten_classes)

    def copies(self) -> Samples | None:
        """Find retained samples that show exactly the picture of a forgotten one, under another name.

        Returns:
            Those of `retain`; ``None`` if it was not looked, because the images are too many to keep in memory.
        """
        if not self.retain.data.fits_in_memory:
            return None
        forgotten = set(_fingerprints(self.forget))
        same = [position for position, seen in enumerate(_fingerprints(self.retain)) if seen in forgotten]
        return self.retain.select(same)


def _controls(
    train: ImageData, heldout: ImageData, sealed: SealedIds | None, generator: torch.Generator
) -> tuple[Samples, Samples]:
    if sealed is None:
        tuning, verdict = _halve(heldout.labels, generator)
        return Samples(heldout, tuning), Samples(heldout, verdict)
    missing = sorted(name for name in _names_of(sealed) if name not in train.row_of)
    if missing:
        raise UnlearnError(
            f"{len(missing)} samples of the record's holdout are not in the training data given, such as "
            f"{missing[0]!r}; give the same --data-dir and split."
        )
    tuning, verdict = (
        torch.tensor([train.row_of[name] for name in names], dtype=torch.int64).sort().values
        for names in (sealed.tuning, sealed.verdict)
    )
    return Samples(train, tuning), Samples(train, verdict)


def _names_of(sealed: SealedIds | None) -> set[str]:
    return set() if sealed is None else {*sealed.tuning, *sealed.verdict}


def _check_sealed(manifest: ForgetManifest, sealed: SealedIds | None) -> list[str]:
    apart = _names_of(sealed)
    entries = [entry for entry in manifest.entries if entry.kind == "id" and entry.name in apart]
    if not entries:
        return []
    return [
        f"{len(entries)} requested ids are in the holdout of the record, never trained on: {_cite(entries, ())}; take "
        f"them out."
    ]


def _check_again(manifest: ForgetManifest, train: ImageData, gone: Bool[Tensor, " n"]) -> list[str]:
    entries = [entry for entry in manifest.entries if entry.kind == "id" and entry.name in train.row_of]
    again = [entry for entry in entries if gone[train.row_of[entry.name]]]
    if not again:
        return []
    return [f"{len(again)} requested ids were named by an earlier request: {_cite(again, ())}; take them out."]


def _check_names(manifest: ForgetManifest, train: ImageData, heldout: ImageData) -> list[str]:
    ids = [entry for entry in manifest.entries if entry.kind == "id" and entry.name not in train.row_of]
    held = [entry for entry in ids if entry.name in heldout.row_of]
    outside = [entry for entry in ids if entry not in held and _is_outside(entry.name)]
    unknown = [entry for entry in ids if entry not in held and entry not in outside]
    groups = [entry for entry in manifest.entries if entry.kind == "class"]
    people = tuple(dict.fromkeys(filter(None, train.subjects)))
    nobody = [entry for entry in manifest.entries if entry.kind == "subject" and entry.name not in people]
    strange = [entry for entry in groups if entry.name not in train.classes]
    present = {train.classes[label] for label in set(train.labels.tolist())}
    empty = [entry for entry in groups if entry not in strange and entry.name not in present]
    return [
        f"{len(entries)} {what}: {_cite(entries, known)}; {remedy}."
        for entries, what, known, remedy in (
            (unknown, "requested ids are not in the training data", train.ids, "correct them or take them out"),
            (held, "requested ids are held-out data, never trained on", (), "take them out or name the right splits"),
            (outside, "requested ids are paths outside the data", (), f"write them like {train.ids[0]!r}"),
            (strange, "requested classes are not in the data", train.classes, "correct them or take them out"),
            (empty, "requested classes have no training sample", (), "take them out"),
            (nobody, "requested subjects are not in the column 'subject' of the training data", people, "correct them"),
        )
        if entries
    ]


def _is_outside(name: str) -> bool:
    return Path(name).is_absolute() or PureWindowsPath(name).is_absolute() or ".." in PureWindowsPath(name).parts


def _cite(entries: Sequence[ForgetEntry], known: Sequence[str]) -> str:
    cited = []
    for number, entry in enumerate(entries):
        near = difflib.get_close_matches(entry.name, known[:_COMPARED], n=2) if number < _NEAREST else []
        hint = f", nearest: {' or '.join(repr(name) for name in near)}" if near else ""
        cited.append(f"{entry.name!r} (line {entry.line}{hint})")
    return list_some(cited)


def _choose(manifest: ForgetManifest, train: ImageData) -> tuple[Bool[Tensor, " n"], set[int], dict[int, str]]:
    """Mark the requested rows; also the whole classes, and whose data a row is where the request says so."""
    chosen = torch.zeros(len(train), dtype=torch.bool)
    classes: set[int] = set()
    named = {row: subject for row, subject in enumerate(train.subjects) if subject}
    owners: dict[int, str] = {}
    order = ("class", "subject", "id")  # what a manifest says of a sample itself wins
    for entry in sorted(manifest.entries, key=lambda entry: order.index(entry.kind)):
        if entry.kind == "id":
            rows = [train.row_of[entry.name]] if entry.name in train.row_of else []
        elif entry.kind == "subject":
            rows = [row for row, subject in named.items() if subject == entry.name]
        elif entry.name in train.classes:
            classes.add(train.classes.index(entry.name))
            rows = (train.labels == train.classes.index(entry.name)).nonzero().flatten().tolist()
        else:
            rows = []
        owners.update({row: named[row] for row in rows if row in named})
        chosen[rows] = True
        owners.update(dict.fromkeys(rows, entry.subject) if entry.subject else {})
    return chosen, classes, owners


def _choose_earlier(
    earlier: Sequence[ForgetManifest], train: ImageData, untrained: Bool[Tensor, " n"]
) -> tuple[Bool[Tensor, " n"], tuple[int, ...]]:
    """Mark the trained rows that any earlier request named; also the whole classes, sorted."""
    gone = torch.zeros(len(train), dtype=torch.bool)
    classes: set[int] = set()
    for request in earlier:
        rows, whole, _ = _choose(request, train)
        gone |= rows
        classes |= whole
    return gone & ~untrained, tuple(sorted(classes))


def _check_parts(
    train: ImageData,
    control_labels: Int64[Tensor, " c"],
    chosen: Bool[Tensor, " n"],
    kept: Bool[Tensor, " n"],
    *,
    names_fit: bool,
) -> list[str]:
    """See that there is something to forget, something to keep, and something to judge with."""
    findings = []
    if names_fit and not bool(chosen.any()):
        findings.append("Earlier requests named all that this one names, so there is nothing to do.")
    if not bool(kept.any()):
        findings.append("The request names all of the training data, so nothing is left to keep; delete the model.")
    return findings or (_check_controls(train, control_labels, chosen) if names_fit else [])


def _check_controls(train: ImageData, controls: Int64[Tensor, " controls"], chosen: Bool[Tensor, " n"]) -> list[str]:
    requested = set(train.labels[chosen].tolist())
    counts = torch.bincount(controls, minlength=len(train.classes)).tolist()
    few = [f"{train.classes[label]!r} ({counts[label]})" for label in sorted(requested) if counts[label] < 2]
    if not few:
        return []
    return [
        f"The held-out data have too few samples of requested classes, and two of each are needed to compare with: "
        f"{list_some(few)}; give more held-out data."
    ]


def _halve(labels: Int64[Tensor, " n"], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    first, second = [labels[:0]], [labels[:0]]
    for label in sorted(set(labels.tolist())):
        rows = _shuffle((labels == label).nonzero().flatten(), generator)
        first.append(rows[: len(rows) // 2])
        second.append(rows[len(rows) // 2 :])
    return torch.cat(first).sort().values, torch.cat(second).sort().values


def _thin(rows: Tensor, labels: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    if fraction == 1:
        return rows
    kept = []
    for label in sorted(set(labels[rows].tolist())):
        mine = _shuffle(rows[labels[rows] == label], generator)
        kept.append(mine[: max(1, round(fraction * len(mine)))])
    return torch.cat(kept).sort().values


def _shuffle(rows: Tensor, generator: torch.Generator) -> Tensor:
    return rows[torch.randperm(len(rows), generator=generator)]


def _number_subjects(rows: list[int], owners: Mapping[int, str]) -> Int64[Tensor, " n"]:
    numbers: dict[object, int] = {}
    return torch.tensor([numbers.setdefault(owners.get(row, row), len(numbers)) for row in rows])


def _fingerprints(samples: Samples) -> Iterator[bytes]:
    for images, _, _ in samples.loader(256):
        for image in images:
            yield hashlib.blake2b(image.numpy().tobytes(), digest_size=16).digest()
