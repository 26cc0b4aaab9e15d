"""States of the random number generators that a training draws from: read, kept as tensors, and set again."""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

__all__ = ["RandomStates", "random_states_kept"]


@dataclass(frozen=True, eq=False)
class RandomStates:
    """Where torch, Python's `random` and numpy's global generator stand. Reading them draws nothing.

    Attributes:
        torch: Of torch's generator on the CPU.
        python: The 624 words of `random` and the place in them.
        numpy: The 624 words of `numpy.random`, the place in them, and whether half of a pair of normal deviates is
            kept; ``None`` if it is no Mersenne twister.
        gauss: The kept normal deviates of `random` and of `numpy.random`; nan where there is none.
        cuda: Of the current CUDA device; ``None`` where CUDA is not in use.
    """

    torch: UInt8[Tensor, " bytes"]
    python: Tensor
    numpy: Tensor | None
    gauss: Tensor
    cuda: UInt8[Tensor, " bytes"] | None

    @classmethod
    def now(cls) -> "RandomStates":
        """Read the states as they are."""
        _, words, kept = random.getstate()
        state: Any = np.random.get_state(legacy=False)
        twister = state["bit_generator"] == "MT19937"
        numbers = [*state["state"]["key"].tolist(), state["state"]["pos"], state["has_gauss"]] if twister else []
        cached = float(state["gauss"]) if twister and state["has_gauss"] else math.nan
        return cls(
            torch=torch.get_rng_state(),
            python=_as_tensor(words),
            numpy=_as_tensor(numbers) if twister else None,
            gauss=torch.tensor([math.nan if kept is None else kept, cached], dtype=torch.float64),
            cuda=torch.cuda.get_rng_state() if _uses_cuda() else None,
        )

    def set(self) -> None:
        """Let every generator go on from here; that of a CUDA device only where CUDA is in use."""
        kept, cached = self.gauss.tolist()
        torch.set_rng_state(self.torch)
        if self.numpy is not None:
            *key, place, has_gauss = _as_numbers(self.numpy)
            words = np.array(key, dtype=np.uint32)
            np.random.set_state(("MT19937", words, place, has_gauss, cached if has_gauss else 0.0))
        if self.cuda is not None and _uses_cuda():
            torch.cuda.set_rng_state(self.cuda)
        # last, since what checks signatures while tests run draws from it
        random.setstate((3, tuple(_as_numbers(self.python)), None if math.isnan(kept) else kept))

    def tensors(self) -> dict[str, Tensor]:
        """Give the states by name, to be kept in a file."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "RandomStates":
        """Make the states of what `tensors` gave.

        Args:
            tensors: By name.

        Returns:
            The states.
        """
        return cls(
            torch=tensors["torch"],
            python=tensors["python"],
            numpy=tensors.get("numpy"),
            gauss=tensors["gauss"],
            cuda=tensors.get("cuda"),
        )


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Put all random states back afterwards.

    Yields:
        Nothing.
    """
    before = RandomStates.now()
    try:
        yield
    finally:
        before.set()


def _uses_cuda() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]  # torch's


def _as_tensor(words: Sequence[int]) -> Tensor:
    return torch.from_numpy(np.array(words, dtype=np.uint32).view(np.int32))


def _as_numbers(words: Tensor) -> list[int]:
    numbers: list[int] = words.numpy().view(np.uint32).tolist()
    return numbers
