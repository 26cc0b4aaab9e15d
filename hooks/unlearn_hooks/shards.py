"""The samples in WebDataset shards, by name and by place, so that a stream has rows."""

import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from unlearn_hooks.errors import UnlearnError

__all__ = ["ShardSample", "index_shards", "shard_keys"]

_KEY = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")  # what stands before the first dot of the file name, and after it
_META = re.compile(r"__[^/]*__($|/)")


class ShardSample(NamedTuple):
    """One sample of a shard: files that stand one after the other and share a key.

    Attributes:
        key: What WebDataset calls ``__key__``.
        shard: The tar file.
        files: Offset and size in bytes of each file in the shard, by extension in lower case.
    """

    key: str
    shard: str
    files: Mapping[str, tuple[int, int]]


def shard_keys(shards: Iterable[str | os.PathLike[str]]) -> tuple[str, ...]:
    """Name all samples of WebDataset shards: what ``record(..., key=...)`` needs to know the samples of a stream.

    Args:
        shards: The tar files, uncompressed, in any order.

    Returns:
        The ``__key__`` of every sample, shard by shard.

    Raises:
        UnlearnError: As `index_shards`.
    """
    return tuple(sample.key for sample in index_shards(shards))


def index_shards(shards: Iterable[str | os.PathLike[str]]) -> list[ShardSample]:
    """List the samples of WebDataset shards by reading the headers of the tar files, and no content.

    Args:
        shards: The tar files, uncompressed, in any order.

    Returns:
        The samples, shard by shard.

    Raises:
        UnlearnError: If a shard cannot be read, holds no sample, or holds a file of a sample twice.

    Source: ``webdataset.tariterators`` (``base_plus_ext``, ``group_by_keys``), whose keys these are.
    """
    return [sample for shard in shards for sample in _index_shard(os.fspath(shard))]


def _index_shard(shard: str) -> list[ShardSample]:
    samples: list[ShardSample] = []
    files: dict[str, tuple[int, int]] = {}
    for name, place in _members(shard):
        match = _KEY.fullmatch(name)
        if match is None:  # no dot in its name, so no key: WebDataset passes it by, too
            continue
        key, extension = match[1], match[2].lower()
        if not samples or samples[-1].key != key:
            files = {}
            samples.append(ShardSample(key, shard, files))
        if extension in files:
            raise UnlearnError(f"The shard {shard!r} holds {name!r} twice; write it again with one of each.")
        files[extension] = place
    if not samples:
        raise UnlearnError(
            f"The shard {shard!r} holds no file named KEY.EXTENSION, so it holds no sample; leave it out."
        )
    return samples


def _members(shard: str) -> Iterator[tuple[str, tuple[int, int]]]:
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                if member.isreg() and not _META.match(member.name):
                    yield member.name, (member.offset_data, member.size)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UnlearnError(
            f"The shard {shard!r} cannot be read ({error}); shards are plain, uncompressed tar files."
        ) from error
