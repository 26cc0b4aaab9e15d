"""The command line, called from a test."""

from click.testing import CliRunner, Result

from unlearn_plugin.cli import main


def invoke(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))
