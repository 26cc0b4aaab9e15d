"""Opening data sets of every kind; here those that timm's readers and torchvision open, and the user's own function."""

import random
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from PIL import Image
from timm.data import ImageDataset, create_dataset
from torch import Tensor
from torch.utils.data import IterableDataset

from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.ids import dataset_labels, root_rows, sample_keys
from unlearn_plugin.hugging_face import list_hugging_face
from unlearn_plugin.listing import DataSource, Listed, MapDataset, find_split, read_image
from unlearn_plugin.tables import TABLES, list_table
from unlearn_plugin.user_code import load_function
from unlearn_plugin.web_shards import list_shards

__all__ = ["DataSource", "Listed", "MapDataset", "call_function", "open_split"]

_READERS: dict[str, Callable[[DataSource, str], Listed]] = {
    **dict.fromkeys(TABLES, list_table),
    **dict.fromkeys(
        ("hfds", "hfids"), list_hugging_face
    ),  # the rows of a stream are those of the table it is read from
    "wds": list_shards,
}
_FOLDERS = ("torch/image_folder", "torch/folder")  # class folders as well, in torchvision's order
_MODES = {1: "L", 3: "RGB"}
_CANNOT_OPEN = (RuntimeError, ValueError, TypeError, LookupError, OSError, ImportError, AssertionError)
# What Pillow raises on files that are damaged, cut off, too large or no images at all.
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def open_split(source: DataSource, split: str, channels: int) -> Listed:
    """List one split of a folder or of a data set timm can open.

    timm's own data set answers with the next image when one cannot be read; here that is an error.

    Args:
        source: Where the data are.
        split: Name of the split.
        channels: Image channels the model takes: grey or colour.

    Returns:
        The split, giving Pillow images of that many channels.

    Raises:
        UnlearnError: If it cannot be opened, is a stream, is empty, or has ids that are not unique.
    """
    if channels not in _MODES:
        raise UnlearnError(
            f"The model takes images of {channels} channels, and image files have 1 or 3; "
            f"give the data with --data package.module:function."
        )
    listed = _READERS.get(source.kind, _list_timm)(source, split)
    _check_ids(listed, split)
    if "" in listed.classes:
        loose = listed.ids[int((listed.labels == listed.classes.index("")).nonzero()[0])]
        raise UnlearnError(f"The image {loose!r} lies in no class folder; put it into one, or take it out.")

    def open_image(row: int) -> tuple[Image.Image, Any]:
        try:
            image, label = listed.open(row)
            return image.convert(_MODES[channels]), label
        except _UNREADABLE as error:
            raise UnlearnError(
                f"The image {listed.ids[row]!r} cannot be read ({error}); bring it back from a copy. "
                f"It is not skipped, since the samples after it would be mistaken for it."
            ) from error

    return replace(listed, open=open_image)


def call_function(function: str | tuple[MapDataset, MapDataset]) -> tuple[Listed, Listed, bool]:
    """Ask the user's function for the data.

    Args:
        function: ``package.module:function``, called without arguments; or what it returns: (train, held-out), two
            map-style data sets of (image tensor, label), with ``ids``, ``classes`` and ``subjects`` (one for each
            sample, ``None`` where it is not known) if they have them.

    Returns:
        Training data, held-out data, and whether a row gives the same image every time.

    Raises:
        UnlearnError: If there is no such function, or it returns something else.
    """
    pair = load_function(function, "--data")() if isinstance(function, str) else function
    name = f"--data {function!r} returned" if isinstance(function, str) else "data is"
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise UnlearnError(f"{name} {type(pair).__name__}; give (train, held-out).")
    for dataset in pair:
        if isinstance(dataset, IterableDataset) or not isinstance(dataset, MapDataset):
            raise UnlearnError(
                f"{name} {type(dataset).__name__}; give data sets with __len__ and "
                f"__getitem__ that give (image tensor, label)."
            )
    with _random_state_kept():
        train, heldout = (_list(dataset) for dataset in pair)
        for listed, split in ((train, "train"), (heldout, "held-out")):
            _check_ids(listed, split)
        return train, heldout, all(_is_deterministic(dataset) for dataset in pair)


def _list_timm(source: DataSource, split: str) -> Listed:
    """List what timm's own readers and torchvision's data sets read."""
    given = [name for name in ("input_key", "target_key", "id_key") if getattr(source, name)]
    if given:
        raise UnlearnError(
            f"--{given[0].replace('_', '-')} goes with --dataset {', '.join(_READERS)}, and these data are "
            f"{source.dataset or 'class folders'!r}; leave it out."
        )
    root = source.root
    if "/" not in source.dataset or source.dataset.lower() in _FOLDERS:
        root = find_split(root, split, ".tar")
    class_map = {"class_map": source.class_map} if source.class_map else {}
    try:
        dataset = create_dataset(source.dataset, root=str(root), split=split, search_split=False, **class_map)
    except _CANNOT_OPEN as error:
        what = f"The split {split!r} of {source.dataset or 'the class folders'!r} in {source.data_dir!r}"
        raise UnlearnError(f"{what} cannot be opened ({error or type(error).__name__}).") from error
    if isinstance(dataset, IterableDataset):
        raise UnlearnError(
            f"--dataset {source.dataset!r} is a stream, in which no sample has a place of its own; "
            f"give class folders, a torch/ data set, or --dataset {', '.join(_READERS)}."
        )
    return _list(dataset)


def _check_ids(listed: Listed, split: str) -> None:
    if not listed.ids:
        raise UnlearnError(f"The split {split!r} is empty; both training and held-out data are needed.")
    if len(set(listed.ids)) < len(listed.ids):
        twice, times = Counter(listed.ids).most_common(1)[0]
        raise UnlearnError(f"The id {twice!r} stands for {times} samples of {split!r}; give ids that are unique.")


def _read(dataset: Any, row: int) -> tuple[Any, Any]:
    """Read a row around timm's data set, which would answer with the next one if the file is damaged."""
    if not isinstance(dataset, ImageDataset):
        image, label = dataset[row]
        return image, label
    file, label = dataset.reader[row]
    with file:
        return read_image(file), label


def _list(dataset: Any) -> Listed:
    ids = sample_keys(dataset)
    subjects = tuple("" if one is None else str(one) for one in getattr(dataset, "subjects", ()))
    if subjects and len(subjects) != len(ids):
        raise UnlearnError(
            f"The data set has {len(ids)} samples and names {len(subjects)} subjects; name one for each."
        )
    return Listed(lambda row: _read(dataset, row), ids, _labels(dataset, ids), _classes(dataset), subjects)


def _labels(dataset: Any, ids: Sequence[str]) -> Int64[Tensor, " n"]:
    reader: Any = getattr(dataset, "reader", None)
    if hasattr(reader, "iter_targets"):
        found = list(reader.iter_targets())
    elif hasattr(reader, "targets"):
        found = list(reader.targets)
    elif (known := dataset_labels(dataset)) is not None:
        found = known[root_rows(dataset, range(len(ids)))].tolist()
    else:
        found = [_read(dataset, row)[1] for row in range(len(ids))]
    try:
        labels = torch.tensor([int(label) for label in found], dtype=torch.int64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UnlearnError(f"A label is {found[0]!r}; every sample must have one whole number as its label.") from error
    if len(labels) and int(labels.min()) < 0:
        raise UnlearnError(f"The sample {ids[int(labels.argmin())]!r} has no label; take it out of the data.")
    return labels


def _classes(dataset: Any) -> tuple[str, ...]:
    reader = getattr(dataset, "reader", None)
    index = getattr(reader, "class_to_idx", None) or getattr(reader, "class_name_to_idx", None)
    if index:
        names = {number: name for name, number in index.items()}
        return tuple(str(names.get(number, number)) for number in range(max(names) + 1))
    return tuple(str(name) for name in getattr(dataset, "classes", ()))


def _is_deterministic(dataset: Any) -> bool:
    """Whether the first rows are the same when they are read twice; random augmentation shows within sixteen."""
    rows = range(min(16, len(dataset)))
    return all(torch.equal(torch.as_tensor(dataset[row][0]), torch.as_tensor(dataset[row][0])) for row in rows)


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Looking at the user's data must not change what their program draws next."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
