"""Records, during an ordinary training, what unlearning needs later."""

from typing import TYPE_CHECKING, Any

from unlearn_hooks.errors import UnlearnError

if TYPE_CHECKING:
    from unlearn_hooks.controls import halves, holdout
    from unlearn_hooks.plan import Plan
    from unlearn_hooks.recorder import Recorder, record
    from unlearn_hooks.references import add_reference
    from unlearn_hooks.training_record import TrainingRecord

__all__ = [
    "Plan",
    "Recorder",
    "TrainingRecord",
    "UnlearnError",
    "add_reference",
    "halves",
    "holdout",
    "record",
]

_PLACES = {
    "Plan": "plan",
    "Recorder": "recorder",
    "TrainingRecord": "training_record",
    "add_reference": "references",
    "halves": "controls",
    "holdout": "controls",
    "record": "recorder",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  # a public name
    """Import a public name when it is first used: the command line needs the errors without waiting for torch."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
