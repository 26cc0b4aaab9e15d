"""Family: a folder of methods in which the file's name is the method's name; third parties join by entry point."""

import dataclasses
import enum
import importlib
import importlib.util
import inspect
import pkgutil
import textwrap
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.values import allowed_values, as_text, nearest, read_value

__all__ = ["SEARCH", "Family", "metrics", "searchable", "unlearners"]

SEARCH = "search"  # an option that every method with ranges has, and none declares


@dataclass(frozen=True)
class Family:
    """All methods of one kind. Nothing is imported before a method is asked for.

    A method is a file of `package` whose name starts with no underscore and is not ``base``, or an entry point of
    `group` that names a class. It is a dataclass whose fields are its options.

    Attributes:
        package: Dotted name of the folder; its module ``base`` holds the base class.
        base: Name of the base class, such as ``"Unlearner"``.
        group: Entry-point group by which other packages join.
    """

    package: str
    base: str
    group: str

    @property
    def noun(self) -> str:
        """What one member is called in messages."""
        return self.base.lower()

    def names(self) -> tuple[str, ...]:
        """Names of all methods, sorted; found from file names and entry points, without importing any.

        Raises:
            UnlearnError: If a name exists twice.
        """
        return tuple(sorted(self._places))

    def get(self, name: str) -> type[Any]:
        """Load the class of a method.

        Args:
            name: One of `names`.

        Returns:
            The class; a concrete subclass of the base class.

        Raises:
            UnlearnError: If there is no such method, or its file does not hold exactly one.
        """
        places = self._places
        if name not in places:
            raise UnlearnError(
                f"There is no {self.noun} called {name!r}{nearest(name, places)}; there are: "
                f"{', '.join(sorted(places))}."
            )
        base = getattr(importlib.import_module(f"{self.package}.base"), self.base)
        place = places[name]
        if isinstance(place, EntryPoint):
            found = [place.load()]
        else:
            module = importlib.import_module(place)
            found = [value for value in vars(module).values() if getattr(value, "__module__", None) == place]
        classes = [
            cls for cls in found if inspect.isclass(cls) and issubclass(cls, base) and not inspect.isabstract(cls)
        ]
        if len(classes) != 1:
            held = ", ".join(cls.__name__ for cls in classes) or "none"
            where = place.value if isinstance(place, EntryPoint) else place
            raise UnlearnError(
                f"{where} must define exactly one {self.base}, and it defines {held}; write one {self.noun} per file."
            )
        return typing.cast("type[Any]", classes[0])

    def create(self, name: str, options: Mapping[str, str]) -> Any:  # noqa: ANN401  # an instance of the base class
        """Make a method from options written as text.

        Args:
            name: One of `names`.
            options: Values by option name, as on the command line: ``{"epochs": "5"}``.

        Returns:
            The method, with every option converted to its field's type.

        Raises:
            UnlearnError: If the method, an option or a value is unknown, with everything that is wrong at once.
        """
        cls = self.get(name)
        kinds = _option_kinds(cls)
        values, findings = {}, []
        for option, text in options.items():
            if option not in kinds:
                there = ", ".join(kinds) or "none"
                findings.append(
                    f"The {self.noun} {name!r} has no option {option!r}{nearest(option, kinds)}; "
                    f"its options are: {there}."
                )
                continue
            try:
                values[option] = read_value(text, kinds[option])
            except ValueError:
                allowed = allowed_values(kinds[option])
                findings.append(f"The option {option}={text!r} of {name!r} is not valid; it takes {allowed}.")
        if findings:
            raise UnlearnError.of(findings)
        return cls(**values)

    def describe(self, name: str) -> str:
        """Say in plain text what a method does, what it needs, and what its options are.

        Args:
            name: One of `names`.

        Returns:
            Several lines, as ``unlearn methods NAME`` shows them.

        Raises:
            UnlearnError: If there is no such method.
        """
        about = self.facts(name)
        lines = [f"{name}: {about['summary']}", ""]
        if about["needs"]:
            lines.append("needs   " + ", ".join(about["needs"]))
        if about["exact"]:
            lines.append("exact   yes: trains without the forget data, so the process itself is the evidence")
        lines += _paragraph("source  ", about["source"])
        lines += ["", "options (-o NAME=VALUE):" if about["options"] else "no options"]
        for option in about["options"]:
            lines.append(f"  {option['name']}={as_text(option['default'])}  ({option['allowed']})")
            lines += _paragraph(" " * 6, option["help"] + _searched(option["search"]))
        return "\n".join(lines + _preset_lines(about["presets"]))

    def facts(self, name: str) -> dict[str, Any]:
        """What `describe` says, as JSON values.

        Args:
            name: One of `names`.

        Returns:
            ``name``, ``summary``, ``needs``, ``exact``, ``source``, ``options``: ``name``, ``default``, ``allowed`` in
            words, ``help`` and ``search`` (low, high, scale) of each, and ``presets`` by kind of request: ``options``
            that take a value where they are left open, and what these were ``tuned`` on.

        Raises:
            UnlearnError: If there is no such method.
        """
        cls = self.get(name)
        needs = getattr(cls, "needs", None)
        kinds = _option_kinds(cls)
        return {
            "name": name,
            "summary": getattr(cls, "summary", None) or getattr(cls, "title", ""),
            "needs": [str(need.name).lower() for need in type(needs) if need in needs]
            if isinstance(needs, enum.Flag)
            else [],
            "exact": getattr(cls, "exact", False),
            "source": cls.source,
            "options": [
                {
                    "name": field.name,
                    "default": field.default,
                    "allowed": allowed_values(kinds[field.name]),
                    "help": field.metadata.get("help", ""),
                    "search": list(field.metadata["search"]) if "search" in field.metadata else None,
                }
                for field in dataclasses.fields(cls)
                if field.name in kinds
            ]
            + ([_search_option()] if searchable(cls) else []),
            "presets": {
                kind: {"options": dict(preset.options), "tuned": preset.tuned}
                for kind, preset in getattr(cls, "presets", {}).items()
            },
        }

    @cached_property
    def _places(self) -> dict[str, str | EntryPoint]:
        """Module or entry point of every method, by name; looking through all installed packages takes its time."""
        spec = importlib.util.find_spec(self.package)
        folders = (spec.submodule_search_locations if spec else None) or []
        places: dict[str, str | EntryPoint] = {
            module.name: f"{self.package}.{module.name}"
            for module in pkgutil.iter_modules(folders)
            if not module.name.startswith("_") and module.name != "base"
        }
        for entry in entry_points(group=self.group):
            if entry.name in places:
                other = places[entry.name]
                raise UnlearnError(
                    f"Two {self.noun}s are called {entry.name!r}: {getattr(other, 'value', other)} and {entry.value}; "
                    f"rename or uninstall one of them."
                )
            places[entry.name] = entry
        return places


def unlearners() -> Family:
    """The methods that change a model."""
    return Family("unlearn_plugin.unlearners", "Unlearner", "unlearn_plugin.unlearners")


def metrics() -> Family:
    """The measurements that judge one."""
    return Family("unlearn_plugin.metrics", "Metric", "unlearn_plugin.metrics")


def _option_kinds(cls: type[Any]) -> dict[str, Any]:
    """Type of every field a user may set."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def searchable(cls: type[Any]) -> bool:
    """Whether ``-o search=N`` can be given: the method is not exact, and an option of it declares a range."""
    ranges = any(SEARCH in field.metadata for field in dataclasses.fields(cls))
    return ranges and not getattr(cls, "exact", False)


def _search_option() -> dict[str, Any]:
    return {
        "name": SEARCH,
        "default": 0,
        "allowed": "a whole number",
        "help": "Trials of other values of the options that name a range; the best by tuning data is kept. 0: none.",
        "search": None,
    }


def _searched(reach: list[Any] | None) -> str:
    """Say where search=N looks for a value."""
    if reach is None:
        return ""
    low, high, scale = reach
    return f" Searched from {low:g} to {high:g}" + (" times the usual value." if scale == "factor" else f" ({scale}).")


def _preset_lines(presets: Mapping[str, Any]) -> list[str]:
    """The presets as a table, with a word where nothing was tuned."""
    if not presets:
        return []
    rows = [
        (
            kind,
            ", ".join(f"{name}={_short(value)}" for name, value in preset["options"].items()),
            f"tuned on {preset['tuned']}" if preset["tuned"] else "not tuned",
        )
        for kind, preset in presets.items()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return [
        "",
        "presets (what options left at none become, by the kind of request):",
        *(f"  {kind:<{widths[0]}}  {values:<{widths[1]}}  {tuned}" for kind, values, tuned in rows),
    ]


def _short(value: Any) -> str:  # noqa: ANN401  # any plain value
    return f"{value:.3g}" if isinstance(value, float) else as_text(value)


def _paragraph(indent: str, text: str) -> list[str]:
    return textwrap.wrap(text, 110, initial_indent=indent, subsequent_indent=" " * len(indent))
