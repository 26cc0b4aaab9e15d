"""``unlearn demo``: the whole story on bundled data."""

from pathlib import Path

import click

from unlearn_plugin.cli.command import Command
from unlearn_plugin.cli.display import comparison

__all__ = ["demo"]


@click.command(cls=Command, short_help="Train, record, forget and verify on real handwritten digits.")
@click.argument("out", type=click.Path(path_type=Path))
def demo(out: Path) -> None:
    """Train, record, forget and verify on real handwritten digits; everything is written to OUT.

    \b
    Example:
      unlearn demo demo-out

    Takes under two minutes on two cores, needs no network, and prints the commands it is equivalent to.
    """  # noqa: D301  # click knows \b as a character
    from unlearn_plugin.demo import play

    outcomes = list(play(out, click.echo))
    click.echo("\n" + comparison([outcome.report for outcome in outcomes]))
    for outcome in outcomes:
        click.echo(f"{outcome.report['procedure']['method']:>8}  {outcome.folder / 'report.html'}")
