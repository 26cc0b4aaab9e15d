"""Data of a job: images, labels and stable ids, read the same way every time."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from unlearn_hooks.errors import UnlearnError

__all__ = ["ImageData", "MapDataset", "Samples"]

MEMORY_BUDGET = 2**30  # bytes of decoded images one data set may keep in memory

Batch = tuple[Float32[Tensor, "n c h w"], Int64[Tensor, " n"], Int64[Tensor, " n"]]


@runtime_checkable
class MapDataset(Protocol):
    """A data set that knows its length and gives (image, label) by row."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> Any: ...


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
    """

    dataset: MapDataset
    ids: tuple[str, ...]
    labels: Int64[Tensor, " n"]
    classes: tuple[str, ...]
    deterministic: bool

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
