"""The group of all commands, and what becomes of an error."""

import click

from unlearn_plugin.cli.apply import apply
from unlearn_plugin.cli.audit import audit
from unlearn_plugin.cli.compare import compare
from unlearn_plugin.cli.completion import completion
from unlearn_plugin.cli.demo import demo
from unlearn_plugin.cli.inspect import inspect
from unlearn_plugin.cli.keygen import keygen
from unlearn_plugin.cli.methods import methods
from unlearn_plugin.cli.push import push
from unlearn_plugin.cli.sign import sign
from unlearn_plugin.cli.verify import verify
from unlearn_plugin.values import nearest

__all__ = ["main"]


class _Commands(click.Group):
    """The commands in the order of use; a wrong one is answered with the nearest."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing:
            ctx.fail(
                f"There is no command {args[0]!r}{nearest(args[0], self.commands)}; see {ctx.command_path} --help."
            )
        return super().resolve_command(ctx, args)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="unlearn-plugin")
def main() -> None:
    """Take someone's data out of a trained image classifier, and show what came of it.

    \b
    Start with:
      unlearn demo demo-out
    Then, your own:
      unlearn apply --model local-dir:MODEL --data-dir DATA \\
          --forget forget.csv --record RECORD --method mini --out cleaned

    Exit codes: 0 done; 1 something to mend, said in one sentence; 2 wrong usage; 3 done, but the verdict
    refuses release.
    """  # noqa: D301  # click knows \b as a character


for command in (demo, apply, compare, verify, audit, sign, keygen, push, inspect, methods, completion):
    main.add_command(command)
