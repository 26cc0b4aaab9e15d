"""Progress bars: shown when something takes longer than two seconds, on standard error, without sample names."""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from tqdm.auto import tqdm

__all__ = ["Progress"]

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """Wraps loops in a bar.

    Attributes:
        enabled: Show bars at all; they are never shown where standard error is no terminal.
        delay: Seconds before a bar appears.
    """

    enabled: bool = True
    delay: float = 2.0

    def __call__(self, iterable: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        """Iterate over `iterable` under a bar labelled `what`.

        Args:
            iterable: What to go through.
            what: A few words on what is being done.
            total: Number of items, if `iterable` does not know.

        Yields:
            The items, unchanged.
        """
        off = not self.enabled or not sys.stderr.isatty()
        yield from tqdm(iterable, desc=what, total=total, delay=self.delay, disable=off, leave=False)
