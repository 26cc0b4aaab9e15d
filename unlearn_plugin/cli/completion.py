"""``unlearn completion``: the script that lets a shell complete commands, options and methods."""

import click
from click.shell_completion import get_completion_class

from unlearn_plugin.cli.command import Command

__all__ = ["completion"]


@click.command(cls=Command, short_help="Print the script with which a shell completes all this.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script with which SHELL (bash, zsh or fish) completes commands, options, methods and their options.

    \b
    Add one line to your shell's start-up file:
      eval "$(unlearn completion bash)"      ~/.bashrc; bash 4.4 or newer
      eval "$(unlearn completion zsh)"       ~/.zshrc, after compinit
      unlearn completion fish | source       ~/.config/fish/config.fish
    """  # noqa: D301  # click knows \b as a character
    made = get_completion_class(shell)
    if made is None:
        raise click.UsageError(f"This version of click cannot complete in {shell}.")
    click.echo(made(ctx.find_root().command, {}, "unlearn", "_UNLEARN_COMPLETE").source())
