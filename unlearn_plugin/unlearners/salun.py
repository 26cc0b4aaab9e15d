"""salun: random labels, on the weights that matter to F alone."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from unlearn_plugin.splits import Need
from unlearn_plugin.unlearners._derivatives import Derivatives
from unlearn_plugin.unlearners._steps import check_options, required
from unlearn_plugin.unlearners.base import Evidence, Facts
from unlearn_plugin.unlearners.random_label import RandomLabel

__all__ = ["SalUn", "saliency_masks"]


def saliency_masks(gradients: Mapping[str, Tensor], sparsity: float) -> dict[str, Bool[Tensor, "..."]]:
    """Which weights are salient: those whose absolute gradient lies above a quantile taken over all weights together.

    Formula: m = 1(|grad L_F| > gamma), gamma the `sparsity` quantile. Weights that tie with gamma are not salient, so
    that weights without any gradient stay where they are.

    Args:
        gradients: Gradient of the loss on F, by parameter name.
        sparsity: Share of the weights that is not salient, in [0, 1).

    Returns:
        True where a weight may move, by parameter name.
    """
    sizes = torch.cat([gradient.abs().flatten() for gradient in gradients.values()])
    rank = math.ceil(sparsity * len(sizes))
    gamma = float(sizes.kthvalue(rank).values) if rank else -1.0
    return {name: gradient.abs() > gamma for name, gradient in gradients.items()}


@dataclass(frozen=True, kw_only=True)
class SalUn(RandomLabel):
    """Random labels with all weights frozen but those with the largest gradient on F.

    Formula: the loss of `random_label`; after every step theta = m * theta + (1 - m) * theta_o with the mask m of
    `saliency_masks` at the original weights theta_o. Weights outside the mask stay bit-identical, weight decay and
    momentum or not. BatchNorm running statistics are no weights and follow R.

    Source: Fan et al. 2024, arXiv 2310.12508, eqs. 3 to 6. We differ as in `random_label`.
    """

    needs: ClassVar[Need] = Need.FORGET | Need.RETAIN
    summary: ClassVar[str] = "Random labels for what goes, on the weights that matter to it alone."
    source: ClassVar[str] = "Fan et al. 2024, arXiv 2310.12508"

    sparsity: float = field(
        default=0.5, metadata={"help": "share of the weights that may not move", "search": (0.1, 0.9, "linear")}
    )

    def __post_init__(self) -> None:
        check_options(self, sparsity=("at least 0 and below 1", 0 <= self.sparsity < 1))
        super().__post_init__()

    def unlearn(self, model: nn.Module, evidence: Evidence) -> Facts:
        """Find the salient weights, then step with the others put back; see `Unlearner.unlearn`."""
        forget = required(evidence.forget, "forget", self)
        model.to(evidence.accelerator.device)
        trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        derivatives = Derivatives(model, tuple(trainable), evidence.accelerator, by_batch=False)
        masks = saliency_masks(derivatives.gradient(forget, self.batch_size), self.sparsity)
        originals = {name: parameter.detach().clone() for name, parameter in trainable.items()}

        @torch.no_grad()
        def put_back() -> None:
            for name, parameter in trainable.items():
                parameter.copy_(torch.where(masks[name], parameter, originals[name]))

        facts = self.step_through(model, evidence, self.relabelled(evidence), after_step=put_back)
        salient = sum(int(mask.sum()) for mask in masks.values())
        return {**facts, "salient_share": salient / sum(mask.numel() for mask in masks.values())}
