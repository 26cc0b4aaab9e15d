"""``unlearn methods``: what unlearners there are."""

import click

__all__ = ["methods"]


@click.command(short_help="What unlearners there are, what each needs, and its options.")
@click.argument("name", required=False)
def methods(name: str | None) -> None:
    """List the unlearners; with NAME, what it needs, its options with their defaults, and its source."""
    from unlearn_plugin.registry import unlearners

    family = unlearners()
    if name:
        click.echo(family.describe(name))
        return
    for known in family.names():
        click.echo(f"{known:<14}{family.get(known).summary}")
