"""The command ``unlearn``: one module per command. Heavy imports happen inside, so that ``--help`` answers at once."""

from unlearn_plugin.cli.program import main

__all__ = ["main"]
