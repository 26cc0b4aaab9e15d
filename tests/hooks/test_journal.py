import binascii
import json
import stat
from pathlib import Path

import pytest

from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.journal import journal_line, read_journal, write_file, write_json


def test_a_line_is_crc_space_compact_json() -> None:
    body = b'{"event":"drop","n":1}'
    assert journal_line({"event": "drop", "n": 1}) == f"{binascii.crc32(body):08x} ".encode() + body + b"\n"


def test_events_are_read_back_and_a_torn_end_is_left_out(tmp_path: Path) -> None:
    events = [{"event": "a"}, {"event": "b", "meta": {"x": [1.5, None]}}]
    whole = b"".join(map(journal_line, events))
    for torn in (b"", b"f", b'00000000 {"event":"c"}\n', journal_line({"event": "c"})[:-1]):
        (tmp_path / "journal").write_bytes(whole + torn)
        assert read_journal(tmp_path / "journal") == (events, len(whole))


def test_no_journal_is_an_empty_one(tmp_path: Path) -> None:
    assert read_journal(tmp_path / "journal") == ([], 0)


def test_a_damaged_line_before_the_last_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "journal").write_bytes(b"damaged\n" + journal_line({"event": "a"}))
    with pytest.raises(UnlearnError, match=r"damaged at line 1, so what follows cannot be trusted"):
        read_journal(tmp_path / "journal")


def test_json_is_replaced_whole_and_only_the_owner_may_read_it(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"n": 1})
    write_json(tmp_path / "a.json", {"n": 2})
    assert json.loads((tmp_path / "a.json").read_text()) == {"n": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o600


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_file(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
