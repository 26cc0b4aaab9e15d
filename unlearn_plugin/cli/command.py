"""How every command behaves: help in groups, errors in a sentence, and one JSON document where it is asked for."""

import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

__all__ = ["Command", "Option", "answer", "json_option"]

_NARROW = 60  # columns; below, an option and its explanation do not fit side by side
_OTHERS = "more"
_JSON = "unlearn_plugin.json"  # names in click's own store of a running command
_ANSWER = "unlearn_plugin.answer"


class Option(click.Option):
    """An option that stands under a heading and knows what it takes.

    Attributes:
        group: The heading.
        values: Gives the values to name in the help and to complete; asked only then, for it may be slow.
        extra: What the help says in brackets after the sentence.
    """

    def __init__(
        self,
        *words: Any,  # noqa: ANN401  # as in click
        group: str = "output",
        values: Callable[[], Sequence[str]] | None = None,
        extra: str = "",
        **more: Any,  # noqa: ANN401  # as in click
    ) -> None:
        super().__init__(*words, **more)
        self.group, self.values, self.extra = group, values, extra

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Term and explanation, with what is allowed and what holds when nothing is given."""
        record = super().get_help_record(ctx)
        if record is None:
            return None
        term, text = record
        if self.values:
            text = f"{text} One of: {', '.join(self.values())}."
        return term, f"{text}  [{self.extra}]" if self.extra else text

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """What may stand here."""
        if self.values:
            return [CompletionItem(value) for value in self.values() if value.startswith(incomplete)]
        return super().shell_complete(ctx, incomplete)


class Command(click.Command):
    """Turns an UnlearnError into its message and exit code 1; bugs keep their traceback.

    With ``--json`` all that is meant for people, and all that other code prints, goes to standard error; standard
    output holds one document, also when something is to mend. The sentences may name samples, so the document does
    not repeat them.
    """

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401  # as in click
        """Run the command."""
        from unlearn_hooks.errors import UnlearnError

        document = sys.stdout
        elsewhere = contextlib.redirect_stdout(sys.stderr) if _JSON in ctx.meta else contextlib.nullcontext()
        try:
            with elsewhere:
                return super().invoke(ctx)
        except UnlearnError as error:
            if _ANSWER not in ctx.meta:
                answer("error", command=self.name, findings=len(error.findings))
            raise click.ClickException(str(error)) from error
        finally:
            if _JSON in ctx.meta and _ANSWER in ctx.meta:
                click.echo(json.dumps(ctx.meta[_ANSWER], indent=2), file=document)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options under their headings."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx)
            if record and record[1]:  # some versions of click list arguments as well, without a word on them
                groups.setdefault(option.group if isinstance(option, Option) else _OTHERS, []).append(record)
        others = groups.pop(_OTHERS, [])
        column = max(len(term) for records in [*groups.values(), others] for term, _ in records)
        for group, records in [*groups.items(), (_OTHERS, others)]:
            with formatter.section(group.capitalize()):
                _write_options(formatter, [(term.ljust(column), text) for term, text in records])


def answer(about: str, /, **content: Any) -> None:  # noqa: ANN401  # JSON values
    """Set the document that ``--json`` prints when the command ends; without ``--json`` it is dropped.

    Args:
        about: Its name in the schema.
        content: JSON values, without sample ids.
    """
    click.get_current_context().meta[_ANSWER] = {"schema": f"urn:unlearn-plugin:{about}:1", **content}


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``--json``.

    Args:
        command: Calls `answer`.

    Returns:
        The command.
    """

    def keep(ctx: click.Context, option: click.Parameter, given: bool) -> None:
        if given:
            ctx.meta[_JSON] = True

    text = "Print one JSON document; what is meant for people goes to standard error."
    return click.option("--json", cls=Option, is_flag=True, expose_value=False, callback=keep, help=text)(command)


def _write_options(formatter: click.HelpFormatter, records: list[tuple[str, str]]) -> None:
    if formatter.width >= _NARROW:
        formatter.write_dl(records, col_max=26)
        return
    for term, text in records:
        formatter.write_text(term.rstrip())
        with formatter.indentation():
            formatter.write_text(text)
