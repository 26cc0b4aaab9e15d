import io
import tarfile
from pathlib import Path

import pytest

from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.shards import index_shards, shard_keys


def shard(path: Path, *files: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_a_sample_is_the_files_that_share_a_key_and_its_bytes_lie_where_it_is_said(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", ("d/x.PNG", b"picture"), ("d/x.cls", b"7"), ("d/y.seg.png", b"mask"))
    first, second = index_shards([path])
    assert (first.key, second.key, list(first.files)) == ("d/x", "d/y", ["png", "cls"])
    assert list(second.files) == ["seg.png"]
    offset, size = first.files["png"]
    assert path.read_bytes()[offset : offset + size] == b"picture"


def test_the_keys_are_those_that_webdataset_gives(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="webdataset is in the test extra")
    names = ["a/b.c/x.1.png", "a/b.c/x.cls", "__meta__", "__index__/i.json", "README", "a.b.c", "z.cls", "y/.hidden"]
    paths = [shard(tmp_path / f"{n}.tar", *[(f"{n}{name}", b"1") for name in names], *[(name, b"1") for name in names])
             for n in range(2)]  # fmt: skip
    stream = webdataset.WebDataset([str(path) for path in paths], shardshuffle=False)
    assert list(shard_keys(paths)) == [sample["__key__"] for sample in stream]
    assert len(shard_keys(paths)) > 6


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], "holds no file named KEY.EXTENSION"),
        ([("README", b"")], "no sample; leave it out"),
        ([("x.cls", b"1"), ("x.CLS", b"2")], "holds 'x.CLS' twice"),
    ],
)
def test_a_shard_without_samples_or_with_a_file_twice_is_refused(
    tmp_path: Path, files: list[tuple[str, bytes]], words: str
) -> None:
    with pytest.raises(UnlearnError, match=words):
        index_shards([shard(tmp_path / "a.tar", *files)])


def test_a_shard_that_is_missing_compressed_or_cut_off_is_refused(tmp_path: Path) -> None:
    whole = shard(tmp_path / "a.tar", *[(f"{n}.cls", b"1" * 3000) for n in range(9)])
    (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[:9000])
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as archive:
        archive.add(whole, "x.cls")
    for name in ("none.tar", "cut.tar", "packed.tar"):
        with pytest.raises(UnlearnError, match=rf"{name}' cannot be read .*uncompressed tar files"):
            index_shards([tmp_path / name])
