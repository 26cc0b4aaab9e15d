"""The program as a whole."""

from tests.plugin.cli.invoke import invoke


def test_a_wrong_flag_is_a_usage_error() -> None:
    assert invoke("apply", "--modle", "x").exit_code == 2
