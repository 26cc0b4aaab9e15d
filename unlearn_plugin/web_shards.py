"""Data sets in WebDataset shards: tar files, indexed once, so that a sample can be read by its row."""

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.shards import ShardSample, index_shards
from unlearn_plugin.listing import DataSource, Listed, number_labels, read_image, split_names

__all__ = ["find_shards", "list_shards"]

_INFO = ("_info.json", "info.json")  # as timm's tools write them
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def list_shards(source: DataSource, split: str) -> Listed:
    """List one split that is a set of WebDataset shards; the id of a sample is its ``__key__``.

    The label is the number or name in ``KEY.cls``, or a field of ``KEY.json`` that `DataSource.target_key` names.

    Args:
        source: Where the data are.
        split: Which shards, see `find_shards`.

    Returns:
        The split, giving Pillow images.

    Raises:
        UnlearnError: If there are no shards, or a sample has no image or no label.
    """
    if source.id_key:
        raise UnlearnError("--id-key goes with columns, and samples in shards are named by their key; leave it out.")
    samples = index_shards(find_shards(source.root, split))
    ids = tuple(sample.key for sample in samples)
    images = [_image_place(sample, source.input_key) for sample in samples]
    labels, classes = number_labels(list(_labels(samples, source.target_key)), ids, class_map=source.class_map)

    def open_image(row: int) -> tuple[Any, int]:
        with Path(samples[row].shard).open("rb") as shard:
            return read_image(BytesIO(_read(shard, images[row]))), int(labels[row])

    return Listed(open_image, ids, labels, classes)


def find_shards(root: Path, split: str) -> list[Path]:
    """Find the shards of a split.

    Args:
        root: Folder of the shards.
        split: Pattern of the files below it (``train-{0000..0012}.tar``, ``train-*.tar``; what follows a ``|``, the
            number of samples timm is told there, is not needed); or a name that ``_info.json`` explains, or that
            the files begin with (``train-0000.tar``) or the folder they lie in has.

    Returns:
        The tar files, sorted by name, or as ``_info.json`` lists them.

    Raises:
        UnlearnError: If there are none, or one is missing.
    """
    pattern = split.partition("|")[0]
    listed = _info(root)
    for name in split_names(pattern):
        if name in listed:
            found = [root / file for file in listed[name]["filenames"]]
        elif name.endswith(".tar"):
            found = [place for one in _expand(name) for place in (sorted(root.glob(one)) or [root / one])]
        else:
            found = sorted([*root.glob(f"{name}-*.tar"), *root.glob(f"{name}.tar"), *root.glob(f"{name}/*.tar")])
        if found:
            missing = [place.name for place in found if not place.is_file()]
            if missing:
                raise UnlearnError(
                    f"{len(missing)} shards of {split!r} are not there, such as {missing[0]!r}; check --data-dir."
                )
            return found
    raise UnlearnError(
        f"The folder {str(root)!r} has no shards of the split {split!r}; give their pattern, such as "
        f"'{split_names(split)[0]}-{{0000..0012}}.tar', with --train-split or --val-split."
    )


def _info(root: Path) -> dict[str, Any]:
    for name in _INFO:
        if (root / name).is_file():
            try:
                found: dict[str, Any] = json.loads((root / name).read_bytes())["splits"]
                return {split: entry for split, entry in found.items() if entry["filenames"]}
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise UnlearnError(
                    f"{name!r} does not list the shards of splits ({error!r}); mend or remove it."
                ) from error
    return {}


def _expand(pattern: str) -> list[str]:
    """Write out ranges in braces, as ``{0000..0012}``; a glob knows no ranges."""
    match = _RANGE.search(pattern)
    if match is None:
        return [pattern]
    numbers = [f"{number:0{len(match[1])}d}" for number in range(int(match[1]), int(match[2]) + 1)]
    return [one for number in numbers for one in _expand(pattern[: match.start()] + number + pattern[match.end() :])]


def _image_place(sample: ShardSample, input_key: str | None) -> tuple[int, int]:
    wanted = input_key.lower().split(";") if input_key else [ending[1:] for ending in Image.registered_extensions()]
    found = [name for name in sample.files if name in wanted]
    if len(found) != 1:
        raise UnlearnError(
            f"The sample {sample.key!r} has {len(found)} images among its files ({', '.join(sample.files)}); "
            f"give the extension of the image with --input-key."
        )
    return sample.files[found[0]]


def _labels(samples: Sequence[ShardSample], target_key: str | None) -> Iterator[Any]:
    name = "json" if target_key else "cls"
    for shard, group in itertools.groupby(samples, key=lambda sample: sample.shard):
        with Path(shard).open("rb") as file:
            for sample in group:
                if name not in sample.files:
                    raise UnlearnError(
                        f"The sample {sample.key!r} has no file {name!r} that holds its label; name the field of its "
                        f"JSON with --target-key, or leave that out to read 'cls'."
                    )
                text = _read(file, sample.files[name])
                yield _field(text, target_key, sample.key) if target_key else _decode(text, sample.key)


def _read(shard: Any, place: tuple[int, int]) -> bytes:  # noqa: ANN401  # an open file
    shard.seek(place[0])
    content: bytes = shard.read(place[1])
    return content


def _decode(text: bytes, key: str) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise UnlearnError(f"The label of {key!r} is not UTF-8; write it as a number or a name.") from error


def _field(text: bytes, name: str, key: str) -> Any:  # noqa: ANN401  # checked where labels are numbered
    try:
        return json.loads(text)[name]
    except (ValueError, LookupError, TypeError) as error:
        raise UnlearnError(f"The JSON of the sample {key!r} has no field {name!r}; check --target-key.") from error
