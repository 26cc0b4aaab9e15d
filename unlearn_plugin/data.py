"""Data of a job: images, labels and stable ids, read the same way every time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.checkpoint import Checkpoint
from unlearn_plugin.listing import DataSource, Listed
from unlearn_plugin.reading import MapDataset, call_function, open_split

__all__ = ["DataSource", "ImageData", "Samples", "load_data"]

MEMORY_BUDGET = 2**30  # bytes of decoded images one data set may keep in memory

Batch = tuple[Float32[Tensor, "n c h w"], Int64[Tensor, " n"], Int64[Tensor, " n"]]


@dataclass(frozen=True, eq=False)
class ImageData:
    """One whole data set: training or held-out.

    A row is the place of a sample in this object and nothing more; another reader may sort the same folder
    differently (torchvision sorts ``10`` before ``2``, timm after it). Matching is by id, never by row.

    Attributes:
        dataset: Gives (float image (c, h, w), int label) by row.
        ids: Stable name of each row.
        labels: Class index of each row.
        classes: Names of the classes; a label is a position in it.
        deterministic: The same row gives the same image every time. Such images are decoded once and kept
            in memory when all of them fit into `MEMORY_BUDGET`.
        subjects: Whose picture each row is, ``""`` where that is not said; empty if the data name nobody.
    """

    dataset: MapDataset
    ids: tuple[str, ...]
    labels: Int64[Tensor, " n"]
    classes: tuple[str, ...]
    deterministic: bool
    subjects: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Row of each id."""
        return {name: row for row, name in enumerate(self.ids)}

    @property
    def fits_in_memory(self) -> bool:
        """Whether images are decoded once and kept."""
        return self._kept is not None

    @cached_property
    def _kept(self) -> tuple[Tensor, Tensor] | None:
        """Room for all images and which rows are in it already; ``None`` where they are read anew each time."""
        if not self.deterministic or not self.ids:
            return None
        first = self._read(0)
        if first.numel() * first.element_size() * len(self) > MEMORY_BUDGET:
            return None
        with torch.inference_mode(mode=False):  # whoever asks first: later ones may not write to inference tensors
            return torch.empty((len(self), *first.shape)), torch.zeros(len(self), dtype=torch.bool)

    def _read(self, row: int) -> Float32[Tensor, "c h w"]:
        image, label = self.dataset[row]
        if not isinstance(image, Tensor) or image.ndim != 3 or not image.is_floating_point():
            what = f"{image.dtype} {tuple(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
            raise UnlearnError(
                f"The image of {self.ids[row]!r} is {what}; the data set must give float tensors of shape "
                f"(channels, height, width), normalised as in training."
            )
        if int(label) != int(self.labels[row]):
            raise UnlearnError(
                f"The data set says label {int(label)} for {self.ids[row]!r} now and said {int(self.labels[row])} "
                f"when it was listed. Give a data set whose rows do not change."
            )
        return image.float()

    def images(self, rows: Int64[Tensor, " n"]) -> Float32[Tensor, "n c h w"]:
        """Images of some rows.

        Args:
            rows: Which rows, in which order; repeats are fine.

        Returns:
            The images as the model gets them.

        Raises:
            UnlearnError: If an image cannot be read or has another size than the others.
        """
        if self._kept is None:
            return _stack([self._read(row) for row in rows.tolist()], [self.ids[row] for row in rows.tolist()])
        images, known = self._kept
        for row in rows[~known[rows]].tolist():
            image = self._read(row)
            _stack([images[0], image], [self.ids[0], self.ids[row]])  # a wrong size would be broadcast silently
            images[row] = image
            known[row] = True
        return images[rows]


def _stack(images: Sequence[Tensor], ids: Sequence[str]) -> Tensor:
    for image, name in zip(images, ids, strict=True):
        if image.shape != images[0].shape:
            raise UnlearnError(
                f"The image of {name!r} has shape {tuple(image.shape)} and that of {ids[0]!r} has "
                f"{tuple(images[0].shape)}. Let the data set resize all images to one size."
            )
    return torch.stack(list(images))


@dataclass(frozen=True, eq=False)
class Samples(Dataset[Batch]):
    """Some rows of a data set, in a fixed order.

    Attributes:
        data: Where they come from.
        rows: Which rows of it, in order.
    """

    data: ImageData
    rows: Int64[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> Batch:
        return self.__getitems__([position])

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        """One whole batch at once, which is what makes epochs over kept images fast.

        Args:
            positions: Places among these samples.

        Returns:
            Images, labels and rows.
        """
        rows = self.rows[torch.as_tensor(positions, dtype=torch.int64)]
        return self.data.images(rows), self.data.labels[rows], rows

    @property
    def labels(self) -> Int64[Tensor, " n"]:
        """Class index of each sample."""
        return self.data.labels[self.rows]

    @property
    def ids(self) -> tuple[str, ...]:
        """Stable name of each sample."""
        return tuple(self.data.ids[row] for row in self.rows.tolist())

    def record_rows(self, row_of: Mapping[str, int] | None) -> Int64[Tensor, " n"]:
        """Row of each sample in a record.

        Args:
            row_of: `TrainingRecord.row_of`; without names, rows and places in the data are the same.

        Returns:
            The rows, in the order of the samples.
        """
        return self.rows if row_of is None else torch.tensor([row_of[name] for name in self.ids], dtype=torch.int64)

    def select(self, positions: Int64[Tensor, " k"] | Sequence[int]) -> "Samples":
        """Some of these samples.

        Args:
            positions: Places among these samples (not rows of the data set).

        Returns:
            The chosen samples, in the order of `positions`.
        """
        return Samples(self.data, self.rows[torch.as_tensor(positions, dtype=torch.int64)])

    def loader(
        self, batch_size: int, *, shuffle: bool = False, seed: int = 0, drop_last: bool = False
    ) -> "DataLoader[Batch]":
        """Go through the samples in batches of (images float32 (n, c, h, w), labels int64 (n,), rows int64 (n,)).

        The order comes from a generator of its own: the same seed gives the same orders, every pass over one
        loader another order, and the global random state is not touched.

        Args:
            batch_size: Samples per batch.
            shuffle: Draw a new order for every pass.
            seed: Where the orders come from.
            drop_last: Leave out the last batch if it is smaller.

        Returns:
            A loader to iterate over, any number of times.
        """
        return DataLoader(
            self,
            batch_size=batch_size,
            shuffle=shuffle and len(self) > 0,
            drop_last=drop_last,
            generator=torch.Generator().manual_seed(seed),  # also without shuffling: the loader itself draws a number
            collate_fn=_as_it_is,
        )


def _as_it_is(batch: Any) -> Any:
    return batch


@dataclass(frozen=True)
class _Prepared:
    """A listed split whose images become tensors and whose labels are the positions of the model's outputs."""

    listed: Listed
    transform: Callable[[Any], Any]
    position: Mapping[int, int]

    def __len__(self) -> int:
        return len(self.listed.ids)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        image, label = self.listed.open(row)
        return self.transform(image), self.position[int(label)]


def load_data(source: DataSource, checkpoint: Checkpoint) -> tuple[ImageData, ImageData]:
    """Open the training and the held-out data as the model sees them, nothing random.

    A label becomes the position of its class among the model's outputs. Where the checkpoint names its outputs
    with the names of the class folders, in whatever order, the names decide; otherwise the data set's own order does.

    Args:
        source: Where the data are.
        checkpoint: Whose input and outputs they must suit.

    Returns:
        Training data and held-out data, with the same classes.

    Raises:
        UnlearnError: If something cannot be opened or does not suit the model, with all findings at once.
    """
    if source.function:
        *splits, deterministic = call_function(source.function)
        transform: Callable[[Any], Any] = _as_it_is
    else:
        splits, transform = _open_both(source, checkpoint.data_config), checkpoint.transform
        deterministic = True
    train, heldout = splits
    classes = _match_classes(train, heldout, checkpoint, mapped=source.class_map is not None)
    return _assemble(train, transform, classes, deterministic), _assemble(heldout, transform, classes, deterministic)


def _open_both(source: DataSource, config: Mapping[str, Any]) -> list[Listed]:
    if not config["input_size"]:
        raise UnlearnError(
            "The checkpoint does not say how large its images are; give --input-size in pixels (and --mean and --std, "
            "if they are not ImageNet's)."
        )
    findings: list[str] = []
    splits = []
    for split in (source.train_split, source.val_split):
        try:
            splits.append(open_split(source, split, config["input_size"][0]))
        except UnlearnError as error:
            findings.extend(error.findings)
    if findings:
        raise UnlearnError.of(list(dict.fromkeys(findings)))
    return splits


def _match_classes(train: Listed, heldout: Listed, checkpoint: Checkpoint, *, mapped: bool) -> tuple[str, ...]:
    """Names of the model's outputs; a finding where the data have other classes."""
    outputs, named = checkpoint.num_classes, checkpoint.label_names
    classes = train.classes or named or tuple(str(number) for number in range(outputs))
    if named and set(named) == set(classes):
        classes = named
    findings = []
    if mapped and len(classes) < outputs:  # a class map may leave outputs out on purpose
        classes += tuple(str(number) for number in range(len(classes), outputs))
    if len(classes) != outputs:
        known = set(named or ()) & set(classes)
        unknown = [name for name in classes if known and name not in known]
        findings.append(
            f"The data have {len(classes)} classes and the model has {outputs} outputs"
            f"{f' without a name such as {unknown[0]!r}' if unknown else ''}; give the data the model was "
            f"trained on, or --class-map with the names of all {outputs} outputs."
        )
    for what, split in (("training", train), ("held-out", heldout)):
        strange = sorted({_name(split, label, classes) for label in set(split.labels.tolist())} - set(classes))
        if strange:
            findings.append(
                f"The {what} data have classes that the model's data do not have: "
                f"{', '.join(repr(name) for name in strange[:5])}{' …' * (len(strange) > 5)}."
            )
    if findings:
        raise UnlearnError.of(findings)
    return classes


def _name(split: Listed, label: int, classes: tuple[str, ...]) -> str:
    names = split.classes or classes  # without names of its own, a label is a position already
    return names[label] if label < len(names) else str(label)


def _assemble(
    split: Listed, transform: Callable[[Any], Any], classes: tuple[str, ...], deterministic: bool
) -> ImageData:
    position = {label: classes.index(_name(split, label, classes)) for label in set(split.labels.tolist())}
    labels = torch.tensor([position[label] for label in split.labels.tolist()])
    return ImageData(_Prepared(split, transform, position), split.ids, labels, classes, deterministic, split.subjects)
