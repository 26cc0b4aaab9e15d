"""What every kind of data set comes to: a list of samples with ids, labels and class names, listed but not read."""

import difflib
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int64
from PIL import Image
from timm.data.readers.class_map import load_class_map
from torch import Tensor

from unlearn_hooks.errors import UnlearnError

__all__ = [
    "DataSource",
    "Listed",
    "MapDataset",
    "choose_column",
    "find_split",
    "number_labels",
    "read_image",
    "split_names",
]

ROW_NUMBER = "row"  # as --id-key, where no column is called so
_SPLITS = {"train": ("train", "training"), "validation": ("val", "valid", "validation", "eval", "evaluation", "test")}


@runtime_checkable
class MapDataset(Protocol):
    """A data set that knows its length and gives (image, label) by row."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """Where the data are; the fields are the flags of the command line.

    Attributes:
        data_dir: Folder with one folder (or file) per split; or the root of `dataset`.
        dataset: Kind of data: ``hfds/cifar10``, ``wds``, ``csv``, a timm reader name such as ``torch/cifar10``; empty
            for class folders.
        train_split: The split the model was trained on.
        val_split: A split it was never trained on.
        class_map: Text file with one class name per line, in the order of the model's outputs.
        input_key: Column, or extension in a shard, that holds the image.
        target_key: Column, or field of a shard's JSON, that holds the label.
        id_key: Column that names the sample; ``row`` for the number of the row.
        function: ``package.module:function`` that returns (train, held-out), or that pair, instead of
            all above.
    """

    data_dir: str | None = None
    dataset: str = ""
    train_split: str = "train"
    val_split: str = "validation"
    class_map: str | None = None
    input_key: str | None = None
    target_key: str | None = None
    id_key: str | None = None
    function: str | tuple[MapDataset, MapDataset] | None = None

    @property
    def kind(self) -> str:
        """What stands before the slash of `dataset`; such prefixes are the same in upper and lower case."""
        return self.dataset.partition("/")[0].lower()

    @property
    def root(self) -> Path:
        """The folder of the data.

        Raises:
            UnlearnError: If there is none.
        """
        if not self.data_dir or not Path(self.data_dir).exists():
            raise UnlearnError(f"There is no folder {self.data_dir!r}; check --data-dir.")
        return Path(self.data_dir)


@dataclass(frozen=True, eq=False)
class Listed:
    """One split, listed but not read.

    Attributes:
        open: Gives (image, label) of a row as the data set has them.
        ids: Stable name of each row.
        labels: Label of each row, as the data set counts them.
        classes: Names of the classes, as the data set counts them; empty if it has no names.
        subjects: Whose picture each row is, ``""`` where that is not said; empty if the data set names nobody.
    """

    open: Callable[[int], tuple[Any, Any]]
    ids: tuple[str, ...]
    labels: Int64[Tensor, " n"]
    classes: tuple[str, ...]
    subjects: tuple[str, ...] = ()


def split_names(split: str) -> tuple[str, ...]:
    """The names a split may go by, the one asked for first.

    Args:
        split: What the user calls it.

    Returns:
        That name, and those that timm takes for the same.
    """
    known = next((names for names in _SPLITS.values() if split in names), ())
    return tuple(dict.fromkeys((split, *known)))


def find_split(root: Path, split: str, suffix: str, fits: Callable[[Path], bool] = Path.exists) -> Path:
    """Find the folder or file of a split as timm does, but never take the whole folder for one of its splits.

    Args:
        root: Folder of all splits.
        split: Name of the split, or of its file below `root`.
        suffix: How a file of a split ends.
        fits: Whether something of the right name is one; a table ``train.csv`` may lie beside the folder ``train``.

    Returns:
        Where it is.

    Raises:
        UnlearnError: If it is not there.
    """
    for name in split_names(split):
        for place in (root / name, root / f"{name}{suffix}"):
            if fits(place):
                return place
    raise UnlearnError(
        f"The folder {str(root)!r} has no {'file' if fits is Path.is_file else 'sub-folder'} "
        f"{' or '.join(repr(name + suffix * (fits is Path.is_file)) for name in split_names(split))}; "
        f"name the one there is with --train-split or --val-split."
    )


def choose_column(there: Sequence[str], given: str | None, usual: Sequence[str], flag: str, what: str) -> str:
    """Find a column: the one the user names, or the only one with a usual name.

    Args:
        there: Columns of the data set.
        given: What the user gave to `flag`.
        usual: Names such a column usually has; compared without regard to case.
        flag: The flag that names the column.
        what: What the column holds.

    Returns:
        Its name.

    Raises:
        UnlearnError: If it is not there, or several could be meant.
    """
    fitting = [name for name in there if (name == given if given else name.strip().lower() in usual)]
    if len(fitting) == 1:
        return fitting[0]
    columns = f"the columns are {', '.join(map(repr, there))}"
    if given:
        raise UnlearnError(f"The data have no column {given!r} for {flag}; {columns}.")
    found = (
        f"several columns that could hold the {what} ({', '.join(fitting)})"
        if fitting
        else f"no column called {usual[0]!r}"
    )
    raise UnlearnError(f"The data have {found}; name the one of the {what} with {flag}: {columns}.")


def number_labels(
    found: Sequence[Any], ids: Sequence[str], names: Sequence[str] = (), class_map: str | None = None
) -> tuple[Int64[Tensor, " n"], tuple[str, ...]]:
    """Turn labels into numbers: whole numbers stay what they are, names are counted in alphabetical order.

    A class map decides instead, where there is one: by name, or where labels are numbers without names, by position.

    Args:
        found: Label of each sample, a whole number or a name.
        ids: Name of each sample.
        names: Names of the numbers, if the data set has them.
        class_map: Text file with one class name per line, in the order of the model's outputs.

    Returns:
        The numbers, and the names of the classes; no names for numbers that have none.

    Raises:
        UnlearnError: If a label is missing, neither a number nor a name, or not in the class map.
    """
    labels: list[Any] = [_plain(label, name) for label, name in zip(found, ids, strict=True)]
    if names:
        labels = [names[label] if isinstance(label, int) and label < len(names) else label for label in labels]
    if all(isinstance(label, int) or label.isdecimal() for label in labels) and not names and not class_map:
        return torch.tensor([int(label) for label in labels], dtype=torch.int64), ()
    number = {str(name): row for row, name in enumerate(names or sorted(set(map(str, labels))))}
    if class_map:
        number = {str(name): int(row) for name, row in load_class_map(class_map).items()}
    positions = set(number.values())
    numbered = []
    for label, name in zip(labels, ids, strict=True):
        place = number.get(str(label), int(label) if str(label).isdecimal() and not names else -1)
        if place not in positions:
            near = difflib.get_close_matches(str(label), list(number), n=1)
            hint = f", nearest: {near[0]!r}" if near else ""
            raise UnlearnError(
                f"The label {str(label)!r} of {name!r} is no class of the data{hint}; correct the label or --class-map."
            )
        numbered.append(place)
    called = {place: name for name, place in number.items()}
    classes = tuple(called.get(place, str(place)) for place in range(max(called) + 1))
    return torch.tensor(numbered, dtype=torch.int64), classes


def _plain(label: Any, name: str) -> int | str:  # noqa: ANN401  # whatever a data set has for a label
    if isinstance(label, numbers.Integral) and not isinstance(label, bool):
        label = int(label)
    elif isinstance(label, str):
        label = label.strip()
    elif label is not None:
        raise UnlearnError(f"The label of {name!r} is {label!r}; every sample must have one whole number or one name.")
    if label is None or label == "" or label == -1:
        raise UnlearnError(f"The sample {name!r} has no label; take it out of the data.")
    return label  # type: ignore[no-any-return]  # an int or a str by now


def read_image(file: Any) -> Image.Image:  # noqa: ANN401  # as Pillow takes it
    """Read one image file as it is stored: an orientation in its metadata is not applied, as in timm.

    Args:
        file: Its path, or the open file.

    Returns:
        The decoded image; the file is closed.
    """
    with Image.open(file) as image:
        image.load()
        return image
