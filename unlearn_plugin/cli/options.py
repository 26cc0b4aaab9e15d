"""Options of ``unlearn apply``, made from the fields of `Job`, and the job made from what was given."""

import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import click
from click.shell_completion import CompletionItem

from unlearn_plugin.cli.command import Option
from unlearn_plugin.job import Job, Setting, Shape, settings
from unlearn_plugin.values import as_text

__all__ = ["comparison_options", "config_option", "job_options", "make_job", "sign_option"]

F = TypeVar("F", bound=Callable[..., Any])

_SEVERAL = {  # what differs where several methods are asked for: name of the value, and help
    "method": ("NAME,NAME", "The unlearners, with commas; NAME:KEY=VALUE:... for one with options of its own."),
    "options": ("[NAME.]KEY=VALUE", "Option of the methods that have it, or of NAME alone; repeatable."),
    "out": ("OUT", "Folder to write: one output folder per method, compare.json and compare.html."),
}

config_option = click.option(
    "--config",
    cls=Option,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Job file (.yaml, .json) with any of these flags by name; the command line wins over it.",
)
sign_option = click.option(
    "--sign-key", cls=Option, type=click.Path(path_type=Path), metavar="KEY.pem", help="Sign what is written."
)


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


def comparison_options(command: F) -> F:
    """Give a command the options of `job_options`, for several methods at once.

    Args:
        command: As for `job_options`.

    Returns:
        The command.
    """
    for setting in reversed(settings().values()):
        if setting.name in _SEVERAL:
            metavar, text = _SEVERAL[setting.name]
            setting = replace(setting, flag=replace(setting.flag, metavar=metavar, help=text))
        command = _option(setting, _MethodsOption if setting.name == "method" else Option)(command)
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


def _option(setting: Setting, plain: type[Option] = Option) -> Callable[[F], F]:
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
    default = "" if setting.default in (None, "", ()) else f"default: {as_text(setting.default)}"
    return click.option(
        *words,
        cls=_MethodOption if setting.shape is Shape.MAPPING else plain,
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


class _MethodsOption(Option):
    """``--method`` for several: completes the last name, or the options that stand behind it."""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        before, comma, last = incomplete.rpartition(",")
        name, colon, _ = last.partition(":")
        if not colon:
            words = [CompletionItem(value) for value in _method_names()]
        else:
            start = last.rpartition(":")[0]
            words = [CompletionItem(f"{start}:{item.value}", help=item.help) for item in _options_of(name)]
        return [
            CompletionItem(before + comma + word.value, help=word.help) for word in words if word.value.startswith(last)
        ]


class _MethodOption(Option):
    """``-o``: completes the options of the methods that were chosen, each with its default."""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        chosen = [entry.partition(":")[0] for entry in (ctx.params.get("method") or "").split(",")]
        items = {item.value: item for name in chosen for item in _options_of(name)}
        for name in chosen if len(chosen) > 1 else []:
            items |= {f"{name}.{item.value}": item for item in _options_of(name)}
        return [CompletionItem(word, help=item.help) for word, item in items.items() if word.startswith(incomplete)]


def _options_of(method: str) -> list[CompletionItem]:
    from unlearn_plugin.registry import unlearners

    if method not in _method_names():
        return []
    options = unlearners().facts(method)["options"]
    return [CompletionItem(f"{option['name']}={as_text(option['default'])}", help=option["help"]) for option in options]


def _method_options(given: tuple[str, ...]) -> dict[str, str]:
    from unlearn_hooks.errors import UnlearnError

    options = {}
    for option in given:
        key, equals, value = option.partition("=")
        if not equals or not key:
            raise UnlearnError(f"The option -o {option!r} is not of the form KEY=VALUE, such as -o epochs=5.")
        options[key] = value
    return options
