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
_KNOWN = {
    *("$schema", "$id", "$defs", "title", "description"),  # these say nothing about a value
    *("type", "const", "enum", "pattern", "minLength", "minimum", "maximum", "items", "required", "$ref", "anyOf"),
    *("properties", "patternProperties", "additionalProperties"),
}


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


def _plain(keyword: str, wanted: Any, value: Any) -> str | None:  # noqa: ANN401
    """What is wrong with a value by a keyword that looks at no other place; None if it fits."""
    number = _is_number(value)
    if keyword in ("const", "enum"):
        allowed = [wanted] if keyword == "const" else wanted
        if not any(_same(value, one) for one in allowed):
            return f"not {' or '.join(map(str, allowed))}"
    if keyword == "type":
        kinds = [wanted] if isinstance(wanted, str) else wanted
        if not any(_TYPES[kind](value) for kind in kinds):
            return f"not of type {' or '.join(kinds)}"
    if keyword == "minimum" and number and value < wanted:
        return f"less than {wanted}"
    if keyword == "maximum" and number and value > wanted:
        return f"more than {wanted}"
    return None


def _text(keyword: str, wanted: Any, value: Any) -> str | None:  # noqa: ANN401
    if keyword == "minLength" and isinstance(value, str) and len(value) < wanted:
        return f"shorter than {wanted}"
    if keyword == "pattern" and isinstance(value, str):
        ends = wanted.replace("$", r"\Z")  # Python's $ lets a line's end pass
        return None if re.search(ends, value, re.ASCII) else f"not of the form {wanted}"
    return None


class _Check:
    """The keywords that lead to other places; `root` is where references lead."""

    def __init__(self, root: _Rule) -> None:
        self.root = root

    def walk(self, value: Any, rule: _Rule, where: str) -> Iterator[str]:  # noqa: ANN401
        for keyword, wanted in rule.items():
            if keyword not in _KNOWN:
                raise RuntimeError(f"the schema's keyword {keyword!r} is not known here")
            problem = _plain(keyword, wanted, value) or _text(keyword, wanted, value)
            if problem:
                yield f"{where or 'the whole'} is {_short(value)}, {problem}"
        if "$ref" in rule:
            yield from self.walk(value, self.root["$defs"][rule["$ref"].removeprefix("#/$defs/")], where)
        if "anyOf" in rule:
            tried = [list(self.walk(value, one, where)) for one in rule["anyOf"]]
            yield from tried[0] if all(tried) else ()  # the first is what is mostly meant
        if "items" in rule and isinstance(value, list):
            for number, item in enumerate(value):
                yield from self.walk(item, rule["items"], _at(where, number))
        if isinstance(value, Mapping):
            yield from (f"{_at(where, name)} is missing" for name in rule.get("required", ()) if name not in value)
            yield from self._fields(value, rule, where)

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


def _short(value: Any) -> str:  # noqa: ANN401
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
