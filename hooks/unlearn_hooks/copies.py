"""Copies of weights and gradients, in memory that is used again."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

__all__ = ["Blocks", "Copies"]


@dataclass(frozen=True)
class Copies:
    """Copies of tensors on the CPU, all of them in one block of memory.

    Attributes:
        tensors: The copies by name; views of the block.
        block: Their bytes.
    """

    tensors: Mapping[str, Tensor]
    block: Tensor


class Blocks:
    """Memory for copies: pages fresh from the system cost many times what copying costs, so it is used again."""

    def __init__(self) -> None:
        self._spare: list[Tensor] = []

    def copy(self, wanted: Mapping[str, tuple[Tensor, torch.dtype | None]]) -> Copies:
        """Copy tensors to the CPU, also where several share one storage, as DDP's gradients do.

        Args:
            wanted: Tensors by name, and the dtype of each copy; ``None`` keeps the tensor's own.

        Returns:
            The copies.
        """
        sizes = [tensor.numel() * (dtype or tensor.dtype).itemsize for tensor, dtype in wanted.values()]
        starts = list(accumulate((-(-size // 8) * 8 for size in sizes), initial=0))  # aligned for every dtype
        block = self._take(starts[-1])
        tensors = {}
        for (name, (tensor, dtype)), start, size in zip(wanted.items(), starts, sizes, strict=False):
            view = block[start : start + size].view(dtype or tensor.dtype).view(tensor.shape)
            tensors[name] = view.copy_(tensor.detach())
        return Copies(tensors, block)

    def _take(self, size: int) -> Tensor:
        fits = next((number for number, block in enumerate(self._spare) if len(block) == size), None)
        return torch.empty(size, dtype=torch.uint8) if fits is None else self._spare.pop(fits)

    def give_back(self, *copies: Copies) -> None:
        """Take back the memory of copies that nobody reads any more."""
        self._spare += [one.block for one in copies]
