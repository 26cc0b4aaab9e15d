"""Values as people write them: text on the command line and in files, read as what a field's type says."""

import difflib
import types
import typing
from collections.abc import Iterable
from typing import Any, Literal

__all__ = ["allowed_values", "as_text", "nearest", "read_value"]

_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def read_value(text: str, kind: Any) -> Any:  # noqa: ANN401  # any type annotation, any plain value
    """Read a text as a value of a type.

    Args:
        text: What was written.
        kind: ``int``, ``float``, ``bool``, ``str``, a ``Literal``, or a union of these and ``None``.

    Returns:
        The value.

    Raises:
        ValueError: If it is none of that type.
    """
    alternatives = _alternatives(kind)
    if type(None) in alternatives and text.lower() == "none":
        return None
    for one in alternatives:
        if typing.get_origin(one) is Literal:
            for value in typing.get_args(one):
                if str(value) == text:
                    return value
        elif one is bool and text.lower() in _TRUTHS:
            return _TRUTHS[text.lower()]
        elif one in (int, float):
            try:
                return one(text)
            except ValueError:
                continue
        elif one is str:
            return text
    raise ValueError(text)


def allowed_values(kind: Any) -> str:  # noqa: ANN401  # any type annotation
    """Say in words what `read_value` takes.

    Args:
        kind: As for `read_value`.

    Returns:
        Such as "a whole number or none".
    """
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "none"}
    said = []
    for one in _alternatives(kind):
        said += [str(value) for value in typing.get_args(one)] if typing.get_origin(one) is Literal else [words[one]]
    return " or ".join(said)


def as_text(value: Any) -> str:  # noqa: ANN401  # any plain value
    """Write a value as `read_value` reads it.

    Args:
        value: A number, a truth value, text or ``None``.

    Returns:
        The text; floats with as many digits as they need.
    """
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def nearest(name: str, known: Iterable[str]) -> str:
    """Find the name someone may have meant.

    Args:
        name: What was written.
        known: What there is.

    Returns:
        " (did you mean 'x'?)" with the nearest name, or nothing if none is near.
    """
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _alternatives(kind: Any) -> tuple[Any, ...]:  # noqa: ANN401  # any type annotation
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return typing.get_args(kind) if union else (kind,)
