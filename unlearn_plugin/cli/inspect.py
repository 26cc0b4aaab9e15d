"""``unlearn inspect``: what is this file or folder?"""

import click

__all__ = ["inspect"]


@click.command(short_help="What is this checkpoint, record, manifest or output folder?")
@click.argument("path")
@click.option("--arch", metavar="ARCH", help="Architecture, if PATH is a weights file.")
def inspect(path: str, arch: str | None) -> None:
    """Say what PATH is: a checkpoint, a record, a manifest or an output folder; and whether it is sound."""
    from unlearn_plugin.inspection import describe

    for name, value in describe(path, arch=arch):
        click.echo(f"{name:<22}{value}")
