"""A training loader that a framework iterates over itself, followed from outside."""

from collections import deque
from contextlib import ExitStack
from typing import Any

from torch import Tensor

from unlearn_hooks.feed import Arrival, Feed, Origin, Tag
from unlearn_hooks.ids import batch_labels
from unlearn_hooks.loader_tags import dispatch_problem, listening, training_data

__all__ = ["FollowedLoader"]


class FollowedLoader:
    """Tells the rows of the batches that a framework takes from its training loader, however far it reads ahead.

    Nothing stands in for the loader, since frameworks look at its type and set its attributes. Instead the iterators
    that begin between `expect` and the first `arrive` are tagged; the last of them over the training data is the pass.

    Args:
        loader: The framework's outermost training loader.
        problem: Why no rows can be told, if that is known beforehand.

    Attributes:
        dataset: The training data; ``None`` if no rows can be told.
        expecting: Whether a pass was announced of which no batch has arrived.
    """

    def __init__(self, loader: Any, problem: str | None = None) -> None:  # noqa: ANN401  # the user's
        self._problem = problem or dispatch_problem(loader)
        self.dataset = None if self._problem else training_data(loader)
        self._feed = Feed(self._problem)
        self._labels: deque[Tensor | None] = deque()
        self._origin: Origin | None = None
        self.expecting = False
        self._window = ExitStack()

    def expect(self) -> None:
        """Listen for the pass that is about to begin."""
        self.close()
        self._window.enter_context(listening(self._push))
        self.expecting = True

    def arrive(self, batch: Any = None) -> Arrival:  # noqa: ANN401  # whatever the user's loader gives
        """Match the batch that is trained on now with the oldest one that the loader gave and nobody asked about.

        Args:
            batch: What enters the model; ``None`` if that is not seen, then its turn alone says which one it is.

        Returns:
            Its rows and labels, as far as they are sure.
        """
        self.close()
        labels = self._labels.popleft() if self._labels else None
        return self._feed.match(None, labels) if batch is None else self._feed.arrive(batch)

    def close(self) -> None:
        """Listen to no further iterators; the pass that has begun is still followed."""
        self._window.close()
        self.expecting = False

    def _push(self, origin: Origin, tag: Tag, batch: Any) -> None:  # noqa: ANN401  # whatever the user's loader gives
        if self.expecting and origin is not self._origin and origin.dataset is self.dataset:
            self._origin, self._feed = origin, Feed(self._problem)
            self._labels.clear()
        if origin is self._origin:
            self._feed.push(origin, tag, batch)
            labels = batch_labels(batch)
            self._labels.append(None if labels is None else labels.clone())  # the loop may change its own
