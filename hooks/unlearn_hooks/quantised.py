"""Tensors in one byte per number: blocks with a scale of their own, rounded so that the errors of many steps cancel."""

import torch
from jaxtyping import Float32, Int8
from torch import Tensor

__all__ = ["BLOCK", "dequantise", "quantise", "quantised_bytes"]

BLOCK = 128  # numbers that share a scale
_LARGEST = 127
_WORD = 2**32
_BY_PLACE = 2654435769  # 2^32 over the golden ratio


def quantised_bytes(count: int) -> int:
    """Bytes of `count` numbers: one each, and four for the scale of each block."""
    return count + 4 * -(-count // BLOCK)


def quantise(tensor: Tensor, step: int) -> tuple[Int8[Tensor, "*shape"], Float32[Tensor, " blocks"]]:
    """Round a tensor to int8, block by block: q = round(x / s + u) with s = max |x| / 127 of the block.

    u is a number between -1/2 and 1/2 that depends on the place in the tensor and on the step alone, and that the
    reader takes off again. So an error is at most s / 2, it does not depend on x, and over steps it is spread so evenly
    that the errors in a mean over K steps cancel like 1 / K: what carrying each error over to the next step would do.
    Carrying needs the step before to be kept, however; this has no memory, so it holds as well for every k-th step of a
    run, k a power of two, and for a run that went on from a checkpoint.

    Args:
        tensor: Floating point, any shape and device; computed in fp32. A block with a number that is not finite comes
            back without any that is.
        step: t, which step the tensor belongs to.

    Returns:
        The codes q, in the tensor's shape, and the scales s of its blocks in C order.

    Source: subtractive dither, Roberts 1962, doi:10.1109/TIT.1962.1057702. u is the golden-ratio sequence over places,
    turned from step to step by van der Corput's sequence in base 3: powers of two have no factor 3, so of any 3^n kept
    steps in a row each turn comes up once.
    """
    flat = tensor.detach().to(torch.float32).reshape(-1)
    padded = torch.nn.functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    scales = padded.abs().amax(1) / _LARGEST
    steps = padded / torch.where(scales == 0, 1.0, scales)[:, None] + _dither(padded, step)
    codes = steps.round_().clamp_(-_LARGEST - 1, _LARGEST).to(torch.int8)
    return codes.view(-1)[: len(flat)].view(tensor.shape), scales


def dequantise(
    codes: Int8[Tensor, "*shape"], scales: Float32[Tensor, " blocks"], step: int
) -> Float32[Tensor, "*shape"]:
    """Read a tensor back: x = (q - u) s.

    Args:
        codes: q.
        scales: s of each block.
        step: The step it was written for.

    Returns:
        The tensor, in fp32, each number off by half a scale at most.
    """
    flat = codes.reshape(-1).to(torch.float32)
    padded = torch.nn.functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    read = (padded - _dither(padded, step)) * scales[:, None]
    return read.view(-1)[: len(flat)].view(codes.shape)


def _dither(blocks: Tensor, step: int) -> Tensor:
    """Compute u of every place, in integers up to the last division, so that every machine finds the same."""
    rows = torch.arange(len(blocks), device=blocks.device)[:, None] * (BLOCK * _BY_PLACE % _WORD)
    columns = torch.arange(BLOCK, device=blocks.device)[None] * _BY_PLACE
    return ((rows + columns + _turn(step)) % _WORD).to(torch.float32) / _WORD - 0.5


def _turn(step: int) -> int:
    """The digits of the step in base 3, mirrored at the point: 0, 1/3, 2/3, 1/9, 4/9, ... of a full turn."""
    mirrored, unit = 0, 1
    while step:
        step, digit = divmod(step, 3)
        mirrored, unit = 3 * mirrored + digit, 3 * unit
    return mirrored * _WORD // unit
