"""What a compiled model shows: one opaque operation, which torch.compile neither looks into, moves nor leaves out.

Recording code that torch.compile traced would become part of the user's graph, and be compiled anew at every step. The
operation only reads a tensor and gives nothing back, so what the model computes does not depend on it.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

__all__ = ["SHOWS_COMPILED", "Show", "shown"]

Show = Callable[[str, Tensor | None], None]
"""Called with what is shown and the tensor, which is free to be used again afterwards, or ``None``."""

_watching: dict[str, Show] = {}
_numbers = itertools.count()


# some backends run the operation where what it calls would be compiled as well
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _tell(watcher: str, what: str, tensor: Tensor | None) -> None:
    watch = _watching.get(watcher)  # a compiled graph outlives the recording
    if watch is not None:
        watch(what, tensor)


@torch.library.custom_op("unlearn_hooks::show", mutates_args=())
def _show(watcher: str, what: str, tensor: Tensor | None) -> None:
    _tell(watcher, what, tensor)


@_show.register_fake
def _(watcher: str, what: str, tensor: Tensor | None) -> None:
    return None


def _keep_its_place() -> bool:
    """Declare that the operation has an effect; without, a compiler may leave out what gives nothing back."""
    register: Any = getattr(_show, "register_effect", None)
    effects: Any = getattr(getattr(torch._library, "effects", None), "EffectType", None)
    if register is None or effects is None:
        return False
    register(effects.ORDERED)
    return True


SHOWS_COMPILED = _keep_its_place()
"""Whether this torch can show what a compiled model computes; releases before the declaration existed cannot."""


@contextmanager
def shown(watch: Show) -> Iterator[Show]:
    """Listen to what a model shows while it runs compiled.

    Args:
        watch: Called each time the compiled model comes to the place where something is shown.

    Yields:
        What a traced hook calls at that place; afterwards it does nothing, also in graphs that were compiled before.
    """
    name = str(next(_numbers))
    _watching[name] = watch

    def show(what: str, tensor: Tensor | None) -> None:
        if SHOWS_COMPILED:
            torch.ops.unlearn_hooks.show(name, what, None if tensor is None else tensor.detach())

    try:
        yield show
    finally:
        del _watching[name]
