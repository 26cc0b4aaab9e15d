"""Does a JSON value fit a JSON Schema? Only the keywords our own schemas use: a whole validator is a heavy dependency.

A keyword that is not known here is an error of ours, so that no rule of a schema is ever skipped in silence.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from typing import Any

__all__ = ["misfits", "report_schema"]

_Rule = Mapping[str, Any]
_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, Mapping),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: _is_number(value),
    "integer": lambda value: _is_number(value) and value == int(value),
}
_SAYS_NOTHING = {"$schema", "$id", "$defs", "title", "description"}


def report_schema() -> dict[str, Any]:
    """Read the schema of report.json that comes with the package.

    Returns:
        A JSON Schema, draft 2020-12.
    """
    return dict(json.loads((files(__package__) / "report-1.schema.json").read_text(encoding="utf-8")))


def misfits(value: Any, schema: _Rule) -> list[str]:  # noqa: ANN401  # any JSON
    """Find where a JSON value does not fit a schema.

    Args:
        value: As `json.loads` gives it. A number that is not finite fits nothing: JSON has none.
        schema: Of the keywords our schemas use.

    Returns:
        One clause for each place, such as ``overall.margin is 0.7, more than 0.5``; empty if all fits.

    Raises:
        RuntimeError: If the schema has a keyword that is not known here.

    Source: JSON Schema, draft 2020-12, https://json-schema.org/draft/2020-12.
    """
    return list(_Check(schema).walk(value, schema, ""))


def _is_number(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _same(one: Any, other: Any) -> bool:  # noqa: ANN401
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)  # in Python, 1 == True


def _at(where: str, key: object) -> str:
    return f"{where}.{key}".lstrip(".")


class _Check:
    """One method for each keyword that needs more than a line; `root` is where references lead."""

    def __init__(self, root: _Rule) -> None:
        self.root = root

    def walk(self, value: Any, rule: _Rule, where: str) -> Iterator[str]:  # noqa: ANN401
        here = where or "the whole"
        for keyword, wanted in rule.items():
            match keyword:
                case "type":
                    kinds = [wanted] if isinstance(wanted, str) else wanted
                    if not any(_TYPES[kind](value) for kind in kinds):
                        yield f"{here} is {_short(value)}, not of type {' or '.join(kinds)}"
                case "const" | "enum":
                    allowed = [wanted] if keyword == "const" else wanted
                    if not any(_same(value, one) for one in allowed):
                        yield f"{here} is {_short(value)}, not {' or '.join(map(str, allowed))}"
                case "pattern" | "minLength" if isinstance(value, str):
                    yield from self._text(value, keyword, wanted, here)
                case "minimum" if _is_number(value) and value < wanted:
                    yield f"{here} is {value}, less than {wanted}"
                case "maximum" if _is_number(value) and value > wanted:
                    yield f"{here} is {value}, more than {wanted}"
                case "items" if isinstance(value, list):
                    for number, item in enumerate(value):
                        yield from self.walk(item, wanted, _at(where, number))
                case "required" if isinstance(value, Mapping):
                    yield from (f"{_at(where, name)} is missing" for name in wanted if name not in value)
                case "$ref":
                    yield from self.walk(value, self.root["$defs"][wanted.removeprefix("#/$defs/")], where)
                case "anyOf":
                    tried = [list(self.walk(value, one, where)) for one in wanted]
                    yield from tried[0] if all(tried) else ()  # the first is what is mostly meant
                case _ if keyword not in _KNOWN:
                    raise RuntimeError(f"the schema's keyword {keyword!r} is not known here")
        if isinstance(value, Mapping):
            yield from self._fields(value, rule, where)

    def _text(self, value: str, keyword: str, wanted: Any, here: str) -> Iterator[str]:  # noqa: ANN401
        if keyword == "minLength":
            if len(value) < wanted:
                yield f"{here} has {len(value)} characters, less than {wanted}"
        elif not re.search(wanted.replace("$", r"\Z"), value, re.ASCII):  # Python's $ lets a line's end pass
            yield f"{here} is {_short(value)}, not of the form {wanted}"

    def _fields(self, value: Mapping[str, Any], rule: _Rule, where: str) -> Iterator[str]:
        named, patterns = rule.get("properties", {}), rule.get("patternProperties", {})
        others = rule.get("additionalProperties", True)
        for key, inner in value.items():
            rules = [named[key]] if key in named else []
            rules += [one for pattern, one in patterns.items() if re.search(pattern, key)]
            if not rules and others is False:
                yield f"{_at(where, key)} is not a field of it"
            for one in rules or ([others] if isinstance(others, Mapping) else []):
                yield from self.walk(inner, one, _at(where, key))


_KNOWN = _SAYS_NOTHING | {
    *("type", "const", "enum", "pattern", "minLength", "minimum", "maximum", "items", "required", "$ref", "anyOf"),
    *("properties", "patternProperties", "additionalProperties"),
}


def _short(value: Any) -> str:  # noqa: ANN401
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
