"""``unlearn methods``: what unlearners there are."""

import click
from click.shell_completion import CompletionItem

from unlearn_plugin.cli.command import Command, answer, json_option

__all__ = ["methods"]


def _complete(ctx: click.Context, argument: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from unlearn_plugin.registry import unlearners

    return [CompletionItem(name) for name in unlearners().names() if name.startswith(incomplete)]


@click.command(cls=Command, short_help="What unlearners there are, what each needs, and its options.")
@click.argument("name", required=False, shell_complete=_complete)
@json_option
def methods(name: str | None) -> None:
    """List the unlearners; with NAME, what it needs, its options with their defaults, and its source.

    \b
    Examples:
      unlearn methods
      unlearn methods mini
    """  # noqa: D301  # click knows \b as a character
    from unlearn_plugin.registry import unlearners

    family = unlearners()
    found = [family.facts(one) for one in ([name] if name else family.names())]
    answer("methods", methods=found)
    if name:
        click.echo(family.describe(name))
        return
    for about in found:
        click.echo(f"{about['name']:<15}{about['summary']}")
