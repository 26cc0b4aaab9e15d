"""Options of ``unlearn apply``, made from the fields of `Job`, and the job made from what was given."""

import collections.abc
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

import click

from unlearn_plugin.job import Flag, Job, flags

__all__ = ["job_options", "make_job", "spelling"]

F = TypeVar("F", bound=Callable[..., Any])


def job_options(command: F) -> F:
    """Give a command one option for each field of `Job`.

    Args:
        command: Receives what was given on the command line, by the field's name; ``None`` or ``()`` is "not given".

    Returns:
        The command.
    """
    for name, (kind, flag) in reversed(flags().items()):
        command = _job_option(name, kind, flag)(command)
    return command


def make_job(given: Mapping[str, Any]) -> Job:
    """Make the job.

    Args:
        given: What `job_options` passed on.

    Returns:
        The job, with the defaults of `Job` for what was not given.

    Raises:
        UsageError: If something that has no default was not given.
        UnlearnError: If an option of the method is not of the form KEY=VALUE.
    """
    values = {name: value for name, value in given.items() if value is not None and value != ()}
    values["options"] = _method_options(given["options"])
    missing = [
        entry.name
        for entry in fields(Job)
        if entry.default is MISSING and entry.default_factory is MISSING and entry.name not in values
    ]
    if missing:
        raise click.UsageError(f"Missing {', '.join(map(spelling, missing))}.", click.get_current_context())
    return Job(**values)


def spelling(name: str) -> str:
    """How a field of `Job` is written on the command line: ``--data-dir`` for ``data_dir``."""
    return "-o" if name == "options" else f"--{name.replace('_', '-')}"


def _job_option(name: str, kind: Any, flag: Flag) -> Callable[[F], F]:  # noqa: ANN401  # any type annotation
    base = next((one for one in typing.get_args(kind) if one is not type(None)), kind) if _optional(kind) else kind
    origin = typing.get_origin(base)
    single = typing.get_args(base)[0] if origin is tuple else str if origin is collections.abc.Mapping else base
    words = ("-o", "--option", name) if name == "options" else (spelling(name),)
    return click.option(*words, metavar=flag.metavar, help=flag.help, type=single, multiple=origin is not None)


def _optional(kind: Any) -> bool:  # noqa: ANN401  # any type annotation
    return type(None) in typing.get_args(kind)


def _method_options(given: tuple[str, ...]) -> dict[str, str]:
    from unlearn_hooks.errors import UnlearnError

    options = {}
    for option in given:
        key, equals, value = option.partition("=")
        if not equals or not key:
            raise UnlearnError(f"The option -o {option!r} is not of the form KEY=VALUE, such as -o epochs=5.")
        options[key] = value
    return options
