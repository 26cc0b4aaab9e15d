"""Data sets of the Hugging Face library `datasets`: saved folders, Parquet and image folders, and the Hub."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.ids import sample_keys
from unlearn_plugin.listing import (
    ROW_NUMBER,
    DataSource,
    Listed,
    choose_column,
    find_split,
    number_labels,
    read_image,
    split_names,
)

__all__ = ["list_hugging_face"]

_IMAGES = ("image", "images", "img", "picture")
_LABELS = ("label", "labels", "target", "class", "category", "fine_label")


def list_hugging_face(source: DataSource, split: str) -> Listed:
    """List one split of a Hugging Face data set.

    The id is the column that `DataSource.id_key` names, else the number of the row. A column ``subject`` says whose
    picture it is.

    Args:
        source: Where the data are: ``hfds/NAME`` with the cache as folder, or ``hfds`` with the data set as folder.
        split: Name of the split, or a slice of it such as ``train[:80%]``.

    Returns:
        The split, giving Pillow images.

    Raises:
        UnlearnError: If the library or the data set is not there, or a column is not.
    """
    try:
        import datasets
    except ImportError as error:
        raise UnlearnError(
            f"--dataset {source.dataset!r} is read by the package 'datasets', which is not installed; "
            f"install it with: pip install 'unlearn-plugin[datasets]'."
        ) from error
    table = _open(datasets, source, split)
    features = table.features
    columns = list(features)
    pictures = [name for name in columns if isinstance(features[name], datasets.Image)]
    grouped = [name for name in columns if isinstance(features[name], datasets.ClassLabel)]
    image = _column(columns, source.input_key, pictures, _IMAGES, "--input-key", "image")
    label = _column(columns, source.target_key, grouped, _LABELS, "--target-key", "label")
    plain = table.with_format(None)
    ids = _ids(plain, columns, source.id_key)
    names = getattr(features[label], "names", ())
    labels, classes = number_labels(plain[label][:], ids, names, source.class_map)
    files = plain.select_columns([image]).cast_column(image, datasets.Image(decode=False))

    def open_image(row: int) -> tuple[Any, int]:
        file = files[row][image] or {"bytes": b""}
        return read_image(file["path"] if file["bytes"] is None else BytesIO(file["bytes"])), int(labels[row])

    subjects = tuple("" if one is None else str(one) for one in plain["subject"]) if "subject" in columns else ()
    return Listed(open_image, ids, labels, classes, subjects)


def _column(
    columns: list[str], given: str | None, typed: list[str], usual: tuple[str, ...], flag: str, what: str
) -> str:
    """Choose a column by its type where that is clear, else by its name."""
    return typed[0] if len(typed) == 1 and not given else choose_column(columns, given, usual, flag, what)


def _ids(table: Any, columns: list[str], id_key: str | None) -> tuple[str, ...]:  # noqa: ANN401  # a datasets.Dataset
    if not id_key or (id_key == ROW_NUMBER and ROW_NUMBER not in columns):
        return sample_keys(table)
    ids = table[choose_column(columns, id_key, (), "--id-key", "id")][:]
    if None in ids:
        raise UnlearnError(
            f"Row {ids.index(None)} has nothing in the column {id_key!r}; fill it in, or leave --id-key out."
        )
    return tuple(map(str, ids))


def _open(datasets: Any, source: DataSource, split: str) -> Any:  # noqa: ANN401  # the module; a datasets.Dataset
    name = source.dataset.partition("/")[2]
    place = Path(name) if name else source.root
    if source.data_dir and name:
        source.root  # noqa: B018  # the cache must exist: a mistyped folder would be made anew and filled
    what = f"The split {split!r} of {str(name or source.data_dir)!r}"
    if (place / "state.json").is_file():
        raise UnlearnError(f"{str(place)!r} is one split of a saved data set; give the folder that holds its splits.")
    if any(place.glob("*/state.json")):
        folder = find_split(place, split, "", lambda found: (found / "state.json").is_file())
        return _called(lambda: datasets.load_from_disk(str(folder)), datasets, what)
    target, cache = str(name or place), source.data_dir if name else None
    if "[" in split or "+" in split:
        return _called(lambda: datasets.load_dataset(target, split=split, cache_dir=cache), datasets, what)
    found = _called(lambda: datasets.load_dataset(target, cache_dir=cache), datasets, what)
    there = next((one for one in split_names(split) if one in found), None)
    if there is None:
        raise UnlearnError(
            f"{what} is not there; it has {', '.join(map(repr, found))}: name one with --train-split or --val-split."
        )
    return found[there]


def _called(load: Callable[[], Any], datasets: Any, what: str) -> Any:  # noqa: ANN401  # the module; a datasets.Dataset
    errors = (OSError, ValueError, TypeError, LookupError, RuntimeError, datasets.exceptions.DatasetsError)
    try:
        return load()
    except errors as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnlearnError(f"{what} cannot be opened ({reason[:300]}); check --dataset and --data-dir.") from error
