"""Which samples: stable names of the rows of a data set, and what identifies a batch and the data."""

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import ConcatDataset, IterableDataset, Subset

from unlearn_hooks.errors import UnlearnError

__all__ = [
    "batch_labels",
    "data_fingerprint",
    "dataset_labels",
    "first_tensor",
    "label_checksum",
    "root_count",
    "root_keys",
    "root_rows",
    "sample_keys",
]

_LABEL_KEYS = ("labels", "label", "targets", "target", "y", "cls")


def sample_keys(dataset: Any) -> tuple[str, ...]:  # noqa: ANN401  # any map-style data set
    """Give each row of a data set a name that stays the same from run to run.

    The name is taken from the data set's own `ids`, or is the path relative to the root for a torchvision folder and a
    timm data set with a folder or tar reader, or else the number of the row. Rows of a ``Subset`` or ``ConcatDataset``
    have the names they have in the data set behind it.

    A Hugging Face data set, read by itself or by timm, is named by row numbers: those of the table behind it after
    ``select``, ``shuffle`` or ``train_test_split``. What is not known is where a contiguous slice was cut out
    (``select(range(10, 20))``, ``train[10:20]``): the table itself is shorter then, and counted from 0.

    Args:
        dataset: A map-style data set.

    Returns:
        One name per row.

    Raises:
        UnlearnError: If the data set has no length, as a stream.
    """
    keys = root_keys(dataset)
    return tuple(keys[row] for row in root_rows(dataset, range(_length(dataset))).tolist())


def root_keys(dataset: Any) -> tuple[str, ...]:  # noqa: ANN401  # any map-style data set
    """Name all rows of the data set(s) behind a ``Subset`` or ``ConcatDataset``, in the order of `root_rows`.

    Args:
        dataset: A map-style data set.

    Returns:
        One name per root row; row numbers if names of several roots would collide.

    Raises:
        UnlearnError: If the data set has no length.
    """
    keys = tuple(key for root in _roots(dataset) for key in _own_keys(root))
    return keys if len(set(keys)) == len(keys) else tuple(map(str, range(len(keys))))


def root_count(dataset: Any) -> int:  # noqa: ANN401  # any map-style data set
    """Count the rows of the data set(s) behind a data set.

    Args:
        dataset: A map-style data set.

    Returns:
        How many numbers `root_rows` can give.

    Raises:
        UnlearnError: If the data set has no length.
    """
    return sum(_length(root) for root in _roots(dataset))


def root_rows(dataset: Any, indices: Sequence[int] | Tensor) -> Int64[Tensor, " n"]:  # noqa: ANN401
    """Translate rows of a data set into rows of the root data set(s) behind it.

    Several different roots are numbered one after the other, in the order in which they appear; a root that
    appears twice, as when two parts of a split are joined again, is numbered once.

    Args:
        dataset: A map-style data set, possibly a ``Subset`` or ``ConcatDataset`` of others, to any depth.
        indices: Rows of it.

    Returns:
        The root row of each index.
    """
    offsets, start = {}, 0
    *earlier, last = _roots(dataset)
    for root in earlier:
        offsets[id(root)] = start
        start += _length(root)
    offsets[id(last)] = start
    return _resolve(dataset, torch.as_tensor(indices, dtype=torch.int64).reshape(-1), offsets)


def _resolve(dataset: Any, rows: Tensor, offsets: Mapping[int, int]) -> Tensor:  # noqa: ANN401
    if isinstance(dataset, Subset):
        return _resolve(dataset.dataset, torch.as_tensor(dataset.indices, dtype=torch.int64)[rows], offsets)
    if isinstance(dataset, ConcatDataset):
        ends = torch.tensor(dataset.cumulative_sizes)
        parts = torch.searchsorted(ends, rows, right=True)
        resolved = torch.empty_like(rows)
        for number, part in enumerate(dataset.datasets):
            inside = parts == number
            start = dataset.cumulative_sizes[number - 1] if number else 0
            resolved[inside] = _resolve(part, rows[inside] - start, offsets)
        return resolved
    return rows + offsets[id(dataset)]


def _roots(dataset: Any) -> list[Any]:  # noqa: ANN401  # any map-style data set
    if isinstance(dataset, Subset):
        return _roots(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        found = [root for part in dataset.datasets for root in _roots(part)]
        return list({id(root): root for root in found}.values())
    return [dataset]


def _length(dataset: Any) -> int:  # noqa: ANN401  # any map-style data set
    try:
        if not isinstance(dataset, IterableDataset):  # some streams tell a length, which is a guess or padded
            return len(dataset)
    except TypeError:
        pass
    raise UnlearnError(
        f"{type(dataset).__name__} has no length or is a stream, so its samples cannot be numbered; give a map-style "
        f"data set, or the names of all samples with key=, or tell the rows of each batch with rec.ids(rows)."
    )


def _own_keys(root: Any) -> Sequence[str]:  # noqa: ANN401  # any map-style data set
    """Name the rows of a data set that is no view of another; duck-typed, since torchvision and timm may be absent."""
    n = _length(root)
    ids = getattr(root, "ids", None)
    if ids is not None and len(ids) == n:
        return [str(key) for key in ids]
    table = _hugging_face(root)
    if table is not None:
        indices = getattr(table, "_indices", None)  # private, and the only place where select and shuffle are kept
        return [str(row) for row in (range(n) if indices is None else indices.column(0).to_pylist())]
    numbers = [str(row) for row in range(n)]
    samples, folder = getattr(root, "samples", None), getattr(root, "root", None)
    if folder is not None and isinstance(samples, Sequence) and len(samples) == n and _are_paths(samples):
        paths = [Path(path) for path, *_ in samples]
        inside = all(path.is_relative_to(folder) for path in paths)
        return [path.relative_to(folder).as_posix() for path in paths] if inside else numbers
    name = getattr(getattr(root, "reader", None), "filename", None)
    files: list[Any] = [name(row, basename=False, absolute=False) for row in range(n)] if callable(name) else [None]
    return numbers if None in files else [Path(file).as_posix() for file in files]


def _are_paths(samples: Sequence[Any]) -> bool:
    return len(samples) == 0 or (isinstance(samples[0], (tuple, list)) and isinstance(samples[0][0], (str, Path)))


def _hugging_face(root: Any) -> Any:  # noqa: ANN401  # any map-style data set
    """Find the ``datasets.Dataset`` that a data set is or that timm's reader in it reads, if there is one."""
    for found in (root, getattr(getattr(root, "reader", None), "dataset", None)):
        if any(kind.__module__ == "datasets.arrow_dataset" for kind in type(found).__mro__):  # need not be installed
            return found
    return None


def dataset_labels(dataset: Any) -> Int64[Tensor, " n"] | None:  # noqa: ANN401  # any map-style data set
    """Look up the class of every root row without loading an image.

    Args:
        dataset: A map-style data set.

    Returns:
        Labels of all root rows, or ``None`` if the data set does not tell.
    """
    parts = [_own_labels(root) for root in _roots(dataset)]
    known = [part for part in parts if part is not None]
    return torch.cat(known) if len(known) == len(parts) else None


def _own_labels(root: Any) -> Tensor | None:  # noqa: ANN401  # any map-style data set
    candidates = [getattr(root, "targets", None), getattr(root, "labels", None), *getattr(root, "tensors", ())[1:2]]
    table = _hugging_face(root)
    for name in _LABEL_KEYS if table is not None else ():
        if name in table.column_names:  # plain values: a transform of the user's would ask for the image, too
            candidates.append(table.with_format(None)[name][:])
    for owner in (root, getattr(root, "reader", None)):  # torchvision's folders, timm's readers
        samples = getattr(owner, "samples", None)
        if isinstance(samples, Sequence) and samples and isinstance(samples[0], (tuple, list)):
            candidates.append([sample[1] for sample in samples if len(sample) > 1])
    for values in candidates:
        try:
            labels = torch.as_tensor(values)
        except (TypeError, ValueError, RuntimeError):
            continue
        if labels.ndim == 1 and len(labels) == _length(root) and _counts(labels):
            return labels.to(torch.int64)
    return None


def data_fingerprint(labels: Int64[Tensor, " n"]) -> str:
    """Tell training sets apart: hex sha256 over n and the labels in the order of the rows.

    Args:
        labels: Class of every row of the root data set.

    Returns:
        Hex digest of n and the labels as little-endian 64-bit integers.
    """
    digest = hashlib.sha256(len(labels).to_bytes(8, "little"))
    digest.update(labels.cpu().numpy().astype("<i8").tobytes())
    return digest.hexdigest()


def batch_labels(batch: Any) -> Tensor | None:  # noqa: ANN401  # whatever the user's loader gives
    """Find the class indices in a batch.

    Args:
        batch: ``(images, labels, ...)``, or a mapping with one of the usual names.

    Returns:
        The batch's own label tensor if it holds one integer per sample, else ``None`` (soft, multiple or no labels).
    """
    found = None
    if isinstance(batch, Mapping):
        found = next((batch[key] for key in _LABEL_KEYS if key in batch), None)
    elif isinstance(batch, (tuple, list)) and len(batch) > 1:
        found = batch[1]
    return found if isinstance(found, Tensor) and found.ndim == 1 and _counts(found) else None


def _counts(labels: Tensor) -> bool:
    return not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)


def first_tensor(batch: Any) -> Tensor | None:  # noqa: ANN401  # whatever the user's loader gives
    """Find the first tensor in a batch, usually the images, that has a row per sample; ``None`` if it holds none."""
    if isinstance(batch, Tensor):
        return batch if batch.ndim else None
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (tuple, list)) else ()
    return next((found for part in parts if (found := first_tensor(part)) is not None), None)


def label_checksum(labels: Tensor | None) -> int | None:
    """Compute the CRC-32 of labels, the same for every integer type and device; ``None`` for none."""
    return None if labels is None else zlib.crc32(labels.detach().to("cpu", torch.int64).numpy().tobytes())
