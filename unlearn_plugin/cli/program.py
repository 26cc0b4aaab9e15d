"""The group of all commands, and what becomes of an error."""

from typing import Any

import click

from unlearn_plugin.cli.apply import apply
from unlearn_plugin.cli.audit import audit
from unlearn_plugin.cli.demo import demo
from unlearn_plugin.cli.inspect import inspect
from unlearn_plugin.cli.keygen import keygen
from unlearn_plugin.cli.methods import methods
from unlearn_plugin.cli.push import push
from unlearn_plugin.cli.sign import sign
from unlearn_plugin.cli.verify import verify

__all__ = ["main"]


class _Commands(click.Group):
    """Turns an UnlearnError into its message and exit code 1; bugs keep their traceback."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401  # as in click
        from unlearn_hooks.errors import UnlearnError

        try:
            return super().invoke(ctx)
        except UnlearnError as error:
            raise click.ClickException(str(error)) from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order of use, not of the alphabet


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="unlearn-plugin")
def main() -> None:
    """Take someone's data out of a trained image classifier, and show what came of it.

    \b
    Start with        unlearn demo demo-out
    Then, your own    unlearn apply --model local-dir:MODEL --data-dir DATA --forget forget.csv \\
                          --record RECORD --method mini --out cleaned

    Exit codes: 0 done; 1 something to mend, said in one sentence; 2 wrong usage; 3 done, but the verdict
    refuses release.
    """  # noqa: D301  # click knows \b as a character


for command in (demo, apply, verify, audit, sign, keygen, push, inspect, methods):
    main.add_command(command)
