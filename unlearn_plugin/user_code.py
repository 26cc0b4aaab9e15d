"""Code of the user's own, named on the command line as ``package.module:function``."""

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from unlearn_hooks.errors import UnlearnError

__all__ = ["OWN_CODE", "is_function_name", "load_function", "without_names_of_code"]

OWN_CODE = "code of the user's own"  # published in place of its name


def is_function_name(name: str) -> bool:
    """Whether `name` has the form ``package.module:function``.

    Args:
        name: What the user wrote.

    Returns:
        Whether both sides of one colon are dotted Python names.
    """
    module, colon, function = name.partition(":")
    return bool(colon) and all(part.isidentifier() for part in [*module.split("."), *function.split(".")])


def load_function(name: str, flag: str) -> Callable[..., Any]:
    """Import a function or class by its name; the current folder is looked through last, as with ``python -m``.

    Args:
        name: ``package.module:function``.
        flag: The flag it was given to, for the message.

    Returns:
        What the name stands for.

    Raises:
        UnlearnError: If there is no such module or function in it.
    """
    if not is_function_name(name):
        raise UnlearnError(f"{flag} {name!r} is no name of a function; write it as package.module:function.")
    module_name, _, function_name = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise UnlearnError(
            f"{flag} {name!r} cannot be imported ({error}); run the command in the folder that holds "
            f"{module_name.partition('.')[0]!r}, or install the package."
        ) from error
    for part in function_name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        there = [key for key, value in vars(sys.modules[module_name]).items() if callable(value) and key[0] != "_"]
        raise UnlearnError(
            f"{flag} {name!r}: the module {module_name!r} has no function {function_name!r}; "
            f"it has {', '.join(sorted(there)) or 'none at all'}."
        )
    return found  # type: ignore[no-any-return]  # checked to be callable just above


def without_names_of_code(options: Mapping[str, Any]) -> dict[str, Any]:
    """Take out how somebody's own code is called.

    Args:
        options: Of a method, as values or as text.

    Returns:
        The options, with `OWN_CODE` for every ``package.module:function``.
    """
    return {
        name: OWN_CODE if isinstance(value, str) and is_function_name(value) else value
        for name, value in options.items()
    }
