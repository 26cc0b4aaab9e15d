"""l1_sparse: finetune with a penalty that makes weights sparse."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from unlearn_plugin.data import Batch
from unlearn_plugin.splits import Need, Request
from unlearn_plugin.training import cross_entropy, train
from unlearn_plugin.unlearners._steps import TUNED_ON_DIGITS, TrainedUnlearner, check_options, required
from unlearn_plugin.unlearners.base import Evidence, Facts, Preset

__all__ = ["L1Sparse", "l1_norm"]


def l1_norm(model: nn.Module) -> Tensor:
    """Sum of the absolute values of all trainable parameters, fp32; the penalty of `l1_sparse`.

    Args:
        model: With at least one trainable parameter.

    Returns:
        A scalar with a gradient.
    """
    return torch.stack([each.abs().sum() for each in model.parameters() if each.requires_grad]).sum()


@dataclass(frozen=True, kw_only=True)
class L1Sparse(TrainedUnlearner):
    """Fine-tuning on R under a penalty on the absolute values of the weights, which fades out linearly.

    Formula: L_t = CE(R) + gamma (1 - t / T) ||theta||_1 in step t of T; the cross-entropy is the mean of a batch, in
    nats.
    It never looks at F.

    Source: Jia et al. 2023, arXiv 2304.04934, eq. 5 and the linearly decaying schedule of section 4. We differ in that
    gamma fades per step, not per epoch.
    """

    needs: ClassVar[Need] = Need.RETAIN
    summary: ClassVar[str] = "Go on training on the retained data, under an L1 penalty that fades."
    source: ClassVar[str] = "Jia et al. 2023, arXiv 2304.04934"
    presets: ClassVar[Mapping[Request, Preset]] = Preset.table(
        sample={"learning_rate": 0.07}, whole_class={"learning_rate": 0.15}, tuned=TUNED_ON_DIGITS
    )

    gamma: float = field(
        default=5e-4, metadata={"help": "Weight of the penalty at the first step.", "search": (5e-5, 5e-3, "log")}
    )

    def __post_init__(self) -> None:
        check_options(self, gamma=("at least 0 and finite", 0 <= self.gamma < math.inf))
        super().__post_init__()

    def unlearn(self, model: nn.Module, evidence: Evidence) -> Facts:
        """Finetune under the penalty; see `Unlearner.unlearn`."""
        retain = required(evidence.retain, "retained", self)
        made = 0

        def loss(network: nn.Module, batch: Batch) -> Tensor:
            fading = max(0.0, 1.0 - made / (self.epochs * len(retain) / self.batch_size))
            return cross_entropy(network, batch) + self.gamma * fading * l1_norm(network)

        def count(step: int) -> bool:
            nonlocal made
            made = step
            return False

        before = float(l1_norm(model).detach())
        recipe = self.settled(evidence.request, model).recipe()
        last = train(
            model, retain, recipe, accelerator=evidence.accelerator, seed=evidence.seed,
            progress=evidence.progress, loss=loss, after_step=count,
        )  # fmt: skip
        return {
            "learning_rate": recipe.learning_rate,
            "last_epoch_loss": last,
            "l1_norm_before": before,
            "l1_norm_after": float(l1_norm(model).detach()),
        }
