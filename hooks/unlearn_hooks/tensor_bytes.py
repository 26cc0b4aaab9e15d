"""Tensors as bytes: a safetensors file made of them without copying them."""

import json
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["STORABLE", "is_sharded", "safetensors_parts", "tensor_bytes"]

_NAMES = {
    torch.float64: "F64", torch.int64: "I64", torch.float32: "F32", torch.int32: "I32", torch.bfloat16: "BF16",
    torch.float16: "F16", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
STORABLE = frozenset(_NAMES)  # types of tensors that can be written


def tensor_bytes(tensor: Tensor) -> memoryview:
    """Look at the raw bytes of a tensor; only a tensor of another device or layout is copied for that.

    Args:
        tensor: Any tensor of a plain dtype.

    Returns:
        Its elements in C order, as a flat view of bytes.
    """
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def safetensors_parts(tensors: Mapping[str, Tensor]) -> Sequence[bytes | memoryview]:
    """Make a safetensors file in parts, which hold the tensors' own memory.

    ``safetensors.torch.save`` makes the same file and copies everything three times, which for a whole network costs
    more than writing it.

    Args:
        tensors: Named tensors of float, bfloat16, integer or bool types.

    Returns:
        The header and the bytes of the tensors, widest type first so that all of them are aligned.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header, end = {}, 0
    for name in order:
        tensor, start = tensors[name], end
        end += tensor.nbytes
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little") + text, *(tensor_bytes(tensors[name]) for name in order)]


def is_sharded(tensors: Iterable[Tensor]) -> bool:
    """Say whether any tensor has its parts in several processes, as a DTensor of FSDP has.

    Args:
        tensors: Such as the parameters of a model.

    Returns:
        Whether one is. It is told by its method: importing its class takes most of a second.
    """
    return any(hasattr(tensor, "to_local") for tensor in tensors)
