"""Rounding: do the requested data come back in a copy whose weights were rounded for deployment?"""

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from unlearn_plugin.measurement import Measurement
from unlearn_plugin.metrics._contest import NOT_COMPARABLE, Contest, without_p_value
from unlearn_plugin.metrics.base import Goal, Metric, Trial

__all__ = ["Rounding", "round_weight", "rounded_copy"]

_FORMATS = {"bf16": None, "int8": 8, "int4": 4}


@dataclass(frozen=True, kw_only=True)
class Rounding(Metric):
    """The membership test once more, on copies of the model with coarser weights.

    A small edit of the weights can vanish when they are rounded, and what it hid comes back. The value is the AUC on
    the copy with 8-bit weights, the usual one; ``details`` hold all three and ``p_value``, the smallest of their
    p-values times their number (Bonferroni), so that three looks raise no more false alarms than one.

    Attributes:
        samples: Samples of F, and controls, that are looked at, at most.

    Source: Zhang et al., arXiv 2410.16454 (language models; for image classifiers the effect is plausible and cheap to
    test). Weights alone are rounded, and no data are used to calibrate.
    """

    samples: int = 2000

    goal = Goal.LIKE_REFERENCE
    title = "After rounding"
    explanation = (
        "Whether the requested pictures can be told apart again once the model is rounded to fewer bits, as is usual "
        "before it is put to use: 0.5 means not at all, 1 means always."
    )
    source = "https://arxiv.org/abs/2410.16454"

    def measure(self, model: nn.Module, trial: Trial) -> Measurement:
        """Attack three rounded copies of `model`.

        Args:
            model: The model before, after, or the reference; left as it is.
            trial: What the judge looks at.

        Returns:
            The AUC on the 8-bit copy; missing when no class of F has enough controls.
        """
        contest = Contest.of(trial, self.samples)
        found = {name: contest.attack(rounded_copy(model, bits), trial) for name, bits in _FORMATS.items()}
        told = {name: one for name, one in found.items() if one}
        if not told:
            return Measurement.missing(NOT_COMPARABLE)
        p_value = min(1.0, len(told) * min(one["p_value"] for one in told.values()))
        main = told["int8"]
        details = {**{name: without_p_value(one) for name, one in told.items()}, "p_value": p_value}
        return Measurement(value=main["value"], low=main["low"], high=main["high"], n=main["n"], details=details)


def rounded_copy(model: nn.Module, bits: int | None) -> nn.Module:
    """A copy whose weights are rounded and which still computes as before.

    Args:
        model: Left as it is.
        bits: Of the weights of linear and convolutional layers, each output channel with a scale of its own; ``None``
            rounds every floating-point number of the model to bfloat16.

    Returns:
        The copy.
    """
    copied = copy.deepcopy(model)
    with torch.no_grad():
        if bits is None:
            for value in copied.state_dict().values():
                if value.is_floating_point():
                    value.copy_(value.to(torch.bfloat16))
        else:
            for module in copied.modules():
                if isinstance(module, nn.Linear | _ConvNd):
                    channels = 1 if isinstance(module, _ConvTransposeNd) else 0
                    module.weight.copy_(round_weight(module.weight, bits, channels))
    return copied


def round_weight(weight: Float[Tensor, "..."], bits: int, channels: int = 0) -> Float[Tensor, "..."]:
    """Round symmetrically, per output channel.

    Formula: w -> s round(w / s) with s = max |w| / (2^(bits - 1) - 1) over each channel, so that nothing is clipped.

    Args:
        weight: Of a layer.
        bits: Of the whole numbers that w / s is rounded to.
        channels: Dimension of the output channels.

    Returns:
        The rounded weight, in the type it came in.
    """
    others = [dimension for dimension in range(weight.ndim) if dimension != channels]
    scale = weight.abs().amax(dim=others, keepdim=True) / (2 ** (bits - 1) - 1)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))  # a channel of zeros stays one
    return (weight / scale).round() * scale
