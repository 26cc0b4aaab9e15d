"""Bars change nothing and stay silent where nobody looks."""

import pytest

from unlearn_plugin.progress import Progress


def test_items_come_out_unchanged_and_in_order() -> None:
    assert list(Progress()(range(5), "counting")) == [0, 1, 2, 3, 4]


def test_nothing_is_printed_where_standard_error_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    list(Progress(delay=0.0)(range(5), "counting"))
    assert capsys.readouterr().err == ""


def test_a_terminal_sees_a_bar_unless_it_is_switched_off(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    list(Progress(delay=0.0)(iter(range(3)), "counting", total=3))
    assert "counting" in capsys.readouterr().err
    list(Progress(enabled=False, delay=0.0)(range(3), "counting"))
    assert capsys.readouterr().err == ""
