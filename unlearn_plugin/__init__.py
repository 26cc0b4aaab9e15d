"""Take someone's data out of a trained image classifier, and show what came of it.

The command line is ``unlearn``; the same words work from Python::

    import unlearn_plugin

    outcome = unlearn_plugin.apply(model="local-dir:model", data_dir="data", forget="forget.csv",
                                   method="mini", record="record", out="cleaned")
    print(outcome.verdict.status)
    print(unlearn_plugin.verify("cleaned").findings)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unlearn_plugin.api import apply, compare, inspect, methods, push, verify
    from unlearn_plugin.comparison import Comparison
    from unlearn_plugin.job import Job
    from unlearn_plugin.pipeline import Outcome, run
    from unlearn_plugin.verification import Verification

__all__ = [
    "Comparison", "Job", "Outcome", "Verification", "apply", "compare", "inspect", "methods", "push", "run", "verify",
]  # fmt: skip
__version__ = "0.1.0"

_HOMES = {
    **dict.fromkeys(("apply", "compare", "inspect", "methods", "push", "verify"), "api"),
    "Comparison": "comparison",
    "Job": "job",
    **dict.fromkeys(("Outcome", "run"), "pipeline"),
    "Verification": "verification",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  # any public name
    """Load a public name on first use, so that ``unlearn --help`` need not load torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Public names, also those not loaded yet."""
    return [*globals(), *__all__]
