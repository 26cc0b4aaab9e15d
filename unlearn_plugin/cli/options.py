"""Options of ``unlearn apply``, made from the fields of `Job`, and the job made from what was given."""

import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import click
from click.shell_completion import CompletionItem

from unlearn_plugin.cli.command import Option
from unlearn_plugin.job import Job, Setting, Shape, settings
from unlearn_plugin.values import as_text

__all__ = ["job_options", "make_job"]

F = TypeVar("F", bound=Callable[..., Any])


def job_options(command: F) -> F:
    """Give a command one option for each field of `Job`.

    Args:
        command: Receives what was given on the command line, by the field's name; ``None`` or ``()`` is "not given".

    Returns:
        The command.
    """
    for setting in reversed(settings().values()):
        command = _option(setting)(command)
    return command


def make_job(given: Mapping[str, Any], config: Path | None = None) -> Job:
    """Make the job.

    Args:
        given: What `job_options` passed on.
        config: A job file; what is given goes before it, and an option of the method before the same one in the file.

    Returns:
        The job, with the defaults of `Job` for what neither gives.

    Raises:
        UsageError: If something that has no default was not given.
        UnlearnError: If the file is not one, or an option of the method is not of the form KEY=VALUE.
    """
    from unlearn_plugin.job_file import read_job_file

    values = read_job_file(config) if config else {}
    options = {**values.get("options", {}), **_method_options(given["options"])}
    values |= {name: value for name, value in given.items() if value is not None and value != ()}
    values["options"] = options
    missing = [setting.spelling for setting in settings().values() if setting.required and setting.name not in values]
    if missing:
        raise click.UsageError(f"Missing {', '.join(missing)}.", click.get_current_context())
    return Job(**values)


def _option(setting: Setting) -> Callable[[F], F]:
    words = [setting.spelling]
    kind = setting.kind
    if setting.shape is Shape.MAPPING:
        words = ["-o", "--option", setting.name]
    elif kind is bool:
        words = [f"{setting.spelling}/--no-{setting.spelling[2:]}"]
    elif typing.get_origin(kind) is Literal:
        kind = click.Choice(typing.get_args(kind))
    elif setting.flag.path:
        kind = click.Path()  # nothing is checked here; it tells a shell what to complete
    default = "" if setting.default in (None, "") else f"default: {as_text(setting.default)}"
    return click.option(
        *words,
        cls=_MethodOption if setting.shape is Shape.MAPPING else Option,
        metavar=None if isinstance(kind, click.Choice) else setting.flag.metavar,
        help=setting.flag.help,
        type=kind,
        multiple=setting.shape is not Shape.ONE,
        default=None,
        group=setting.flag.group.value,
        values=_method_names if setting.name == "method" else None,
        extra="required" if setting.required else default,
    )


def _method_names() -> Sequence[str]:
    from unlearn_plugin.registry import unlearners

    return unlearners().names()


class _MethodOption(Option):
    """``-o``: completes the options of the method that was chosen, each with its default."""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from unlearn_plugin.registry import unlearners

        if ctx.params.get("method") not in _method_names():
            return []
        options = unlearners().facts(ctx.params["method"])["options"]
        items = [(f"{option['name']}={as_text(option['default'])}", option["help"]) for option in options]
        return [CompletionItem(word, help=text) for word, text in items if word.startswith(incomplete)]


def _method_options(given: tuple[str, ...]) -> dict[str, str]:
    from unlearn_hooks.errors import UnlearnError

    options = {}
    for option in given:
        key, equals, value = option.partition("=")
        if not equals or not key:
            raise UnlearnError(f"The option -o {option!r} is not of the form KEY=VALUE, such as -o epochs=5.")
        options[key] = value
    return options
