"""``unlearn inspect``: what is this file or folder?"""

import click

from unlearn_plugin.cli.command import Command, Option, answer, json_option
from unlearn_plugin.cli.display import lines_of

__all__ = ["inspect"]


@click.command(cls=Command, short_help="What is this checkpoint, record, manifest or output folder?")
@click.argument("path", type=click.Path())
@click.option("--arch", cls=Option, group="model", metavar="ARCH", help="Architecture, if PATH is a weights file.")
@json_option
def inspect(path: str, arch: str | None) -> None:
    """Say what PATH is: a checkpoint, a record, a manifest or an output folder; and whether it is sound.

    \b
    Examples:
      unlearn inspect cleaned
      unlearn inspect net.pth --arch resnet18
    """  # noqa: D301  # click knows \b as a character
    from unlearn_plugin.inspection import describe

    facts = describe(path, arch=arch)
    answer("inspection", **facts)
    click.echo(lines_of(facts))
