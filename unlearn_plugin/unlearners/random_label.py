"""random_label: train F on wrong labels, R on its own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.data import Batch
from unlearn_plugin.splits import Need, Request
from unlearn_plugin.training import cross_entropy
from unlearn_plugin.unlearners._steps import (
    TUNED_ON_DIGITS,
    ForgetBatch,
    PairLoss,
    SteppedUnlearner,
    check_options,
    forget_cross_entropy,
)
from unlearn_plugin.unlearners.base import Evidence, Facts, Preset

__all__ = ["RandomLabel", "draw_other_labels"]


def draw_other_labels(
    labels: Int64[Tensor, " n"], classes: int, forgotten_classes: tuple[int, ...] = ()
) -> Int64[Tensor, " n"]:
    """Wrong labels, uniform among the other classes that stay; from torch's global generator.

    Args:
        labels: True class of each sample.
        classes: How many there are.
        forgotten_classes: Classes that are to be forgotten as a whole; never drawn.

    Returns:
        One label per sample, never its own.

    Raises:
        UnlearnError: If a sample has no other class to get.
    """
    allowed = 1.0 - torch.eye(classes)
    allowed[:, list(forgotten_classes)] = 0.0
    if not bool(allowed[labels].any(1).all()):
        raise UnlearnError("There is no other class for a wrong label; random labels need two classes that stay.")
    return torch.multinomial(allowed[labels], 1).flatten()


@dataclass(frozen=True, kw_only=True)
class RandomLabel(SteppedUnlearner):
    """Fine-tuning with F relabelled.

    Formula: L = CE(F, y') + alpha CE(R, y), mean cross-entropies of a batch each, in nats. y' is uniform among the
    other classes that stay and is drawn afresh every time a sample comes up, so that no wrong label is learnt by heart.

    Source: Golatkar et al. 2020, arXiv 1911.04933; Graves et al. 2021, arXiv 2010.10981 (amnesiac unlearning); with R
    as in Fan et al. 2024, arXiv 2310.12508, eq. 6. We differ in `hold`, in one joint step instead of F first and R
    after it, and in that BatchNorm statistics come from R alone.
    """

    needs: ClassVar[Need] = Need.FORGET | Need.RETAIN
    summary: ClassVar[str] = "Train what goes on random wrong labels, what stays on its own."
    source: ClassVar[str] = "Golatkar et al. 2020, arXiv 1911.04933; Graves et al. 2021, arXiv 2010.10981"
    presets: ClassVar[Mapping[Request, Preset]] = Preset.table(
        sample={"learning_rate": 0.005}, whole_class={"learning_rate": 0.02}, tuned=TUNED_ON_DIGITS
    )

    alpha: float = field(default=1.0, metadata={"help": "weight of R", "search": (0.3, 10.0, "log")})

    def __post_init__(self) -> None:
        check_options(self, alpha=("at least 0", self.alpha >= 0))
        super().__post_init__()

    def unlearn(self, model: nn.Module, evidence: Evidence) -> Facts:
        """Step through R with the relabelled F beside it; see `Unlearner.unlearn`."""
        return self.step_through(model, evidence, self.relabelled(evidence))

    def relabelled(self, evidence: Evidence) -> PairLoss:
        """The loss, for a batch of R and a batch of F."""

        def loss(network: nn.Module, retain: Batch, forget: ForgetBatch) -> Tensor:
            images, labels, rows = forget
            wrong = draw_other_labels(labels.cpu(), evidence.classes, evidence.forgotten_classes).to(labels.device)
            return forget_cross_entropy(network, (images, wrong, rows)) + self.alpha * cross_entropy(network, retain)

        return loss
