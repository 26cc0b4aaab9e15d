"""neg_grad_plus: descend on what stays, ascend on what goes, in the same step."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from unlearn_plugin.data import Batch
from unlearn_plugin.splits import Need, Request
from unlearn_plugin.training import cross_entropy
from unlearn_plugin.unlearners._steps import (
    TUNED_ON_DIGITS,
    ForgetBatch,
    SteppedUnlearner,
    check_options,
    forget_cross_entropy,
)
from unlearn_plugin.unlearners.base import Evidence, Facts, Preset

__all__ = ["NegGradPlus"]


@dataclass(frozen=True, kw_only=True)
class NegGradPlus(SteppedUnlearner):
    """Weighted descent on R and ascent on F.

    Formula: L = alpha CE(R) - (1 - alpha) CE(F), mean cross-entropies of a batch each, in nats; alpha = 1 is
    finetuning.

    Source: Kurmanji et al. 2023, arXiv 2302.09880, the baseline NegGrad+. We differ in `hold`, and in that BatchNorm
    statistics come from R alone.
    """

    needs: ClassVar[Need] = Need.FORGET | Need.RETAIN
    summary: ClassVar[str] = "Descend on what stays and ascend on what goes, in the same step."
    source: ClassVar[str] = "Kurmanji et al. 2023, arXiv 2302.09880 (the baseline NegGrad+)"
    presets: ClassVar[Mapping[Request, Preset]] = Preset.table(
        sample={"learning_rate": 0.05}, whole_class={"learning_rate": 0.01}, tuned=TUNED_ON_DIGITS
    )

    alpha: float = field(
        default=0.8, metadata={"help": "weight of R; F is pushed with 1 - alpha", "search": (0.5, 0.99, "linear")}
    )

    def __post_init__(self) -> None:
        check_options(self, alpha=("above 0 and at most 1", 0 < self.alpha <= 1))
        super().__post_init__()

    def unlearn(self, model: nn.Module, evidence: Evidence) -> Facts:
        """Step through R with F beside it; see `Unlearner.unlearn`."""

        def loss(network: nn.Module, retain: Batch, forget: ForgetBatch) -> Tensor:
            kept, pushed = cross_entropy(network, retain), forget_cross_entropy(network, forget)
            return self.alpha * kept - (1.0 - self.alpha) * pushed

        return self.step_through(model, evidence, loss)
