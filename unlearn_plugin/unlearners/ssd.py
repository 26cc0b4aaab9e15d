"""ssd: dampen the weights that matter much more to F than to the rest; nothing is trained."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from unlearn_plugin.data import Samples
from unlearn_plugin.splits import Need, Request
from unlearn_plugin.training import modes_kept, refresh_batchnorm
from unlearn_plugin.unlearners._steps import TUNED_ON_DIGITS, check_options, required
from unlearn_plugin.unlearners.base import Evidence, Facts, Preset, Unlearner

__all__ = ["SSD", "dampening", "importance"]

_USUAL_ALPHA = 10.0  # the paper's
_SAMPLE_REACH = 2 / 3  # of the largest ratio there can be; samples share their weights with R


def importance(
    model: nn.Module, samples: Samples, evidence: Evidence, *, batch_size: int
) -> dict[str, Float[Tensor, "..."]]:
    """How much each weight matters to some samples: the diagonal of the empirical Fisher information.

    Formula: I_i = 1/n sum_x (d CE(x) / d theta_i)^2. Squares are taken sample by sample, not of the mean over a batch,
    so neither the batch size nor the order matters. The model is in evaluation mode.

    Args:
        model: Put back into the modes it was in.
        samples: At least one.
        evidence: Device and progress.
        batch_size: Samples per pass, each with a gradient of its own in memory.

    Returns:
        Importance by parameter name, for trainable parameters.

    Source: Foster et al. 2024, arXiv 2308.07707, eq. 5.
    """
    device = evidence.accelerator.device
    weights = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}

    def loss(trained: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(model, trained, (image[None],))
        return F.cross_entropy(logits.float(), label[None])

    gradients = vmap(grad(loss), in_dims=(None, 0, 0))
    total = {name: torch.zeros_like(value) for name, value in weights.items()}
    with modes_kept(model):
        model.eval()
        for images, labels, _ in evidence.progress(samples.loader(batch_size), "weighing parameters"):
            for name, each in gradients(weights, images.to(device), labels.to(device)).items():
                total[name] += each.square().sum(0) / len(samples)
    return total


def dampening(
    everywhere: Mapping[str, Float[Tensor, "..."]],
    forget: Mapping[str, Float[Tensor, "..."]],
    *,
    alpha: float,
    dampening_constant: float,
) -> dict[str, Float[Tensor, "..."]]:
    """What each weight is multiplied by.

    Formula: beta = min(lambda I_D / I_F, 1) where I_F > alpha I_D, else 1.

    Args:
        everywhere: I_D, importance for all of the training data, by parameter name.
        forget: I_F, importance for F.
        alpha: How many times more a weight must matter to F to be selected.
        dampening_constant: lambda.

    Returns:
        Factors in [0, 1], by parameter name; 1 where a weight is not selected.

    Source: Foster et al. 2024, arXiv 2308.07707, eqs. 6 and 7.
    """
    return {
        name: torch.where(
            own > alpha * everywhere[name], (dampening_constant * everywhere[name] / own).clamp(max=1.0), 1.0
        )
        for name, own in forget.items()
    }


@dataclass(frozen=True, kw_only=True)
class SSD(Unlearner):
    """Selective synaptic dampening.

    Weights whose importance for F exceeds alpha times that for D are multiplied by `dampening`; D is F and R together.
    Since F is a part of D, I_F / I_D cannot exceed |D| / |F|: an alpha above that selects nothing, whatever the data.
    The BatchNorm statistics are then measured anew on R.

    A random set of samples needs no weights of its own: hardly any is selected, and F is remembered as before. This is
    how the method is, not a fault of the settings; the facts say how many weights were selected. If none was, the model
    comes back as it was, and will be refused.

    Source: Foster et al. 2024, arXiv 2308.07707. We differ in squares of per-sample gradients, where their code squares
    the mean of a batch, in the usual alpha, and in the new BatchNorm statistics.
    """

    needs: ClassVar[Need] = Need.FORGET | Need.RETAIN
    summary: ClassVar[str] = "Dampen weights that matter to the forget data alone; hardly touches random samples."
    source: ClassVar[str] = "Foster et al. 2024, arXiv 2308.07707"
    presets: ClassVar[Mapping[Request, Preset]] = Preset.table(
        sample={"reach": _SAMPLE_REACH}, whole_class={"reach": 1 / 3}, tuned=TUNED_ON_DIGITS
    )

    alpha: float | None = field(
        default=None,
        metadata={
            "help": "How many times more a weight must matter to F to be selected; none: 10, or if that is less "
            "reach |D| / |F|; at least 1."
        },
    )
    reach: float | None = field(
        default=None,
        metadata={
            "help": "For alpha=none: the largest alpha, as a share of the largest ratio that there can be.",
            "search": (0.1, 1.0, "linear"),
        },
    )
    dampening_constant: float = field(
        default=1.0, metadata={"help": "lambda; smaller dampens more.", "search": (0.1, 1.0, "log")}
    )
    batch_size: int = field(
        default=16, metadata={"help": "Samples per pass, which needs memory for as many gradients; changes no result."}
    )

    def __post_init__(self) -> None:
        check_options(
            self,
            alpha=("at least 1 and finite, or none", self.alpha is None or 1 <= self.alpha < math.inf),
            reach=("above 0 and at most 1, or none", self.reach is None or 0 < self.reach <= 1),
            dampening_constant=("at least 0 and finite", 0 <= self.dampening_constant < math.inf),
            batch_size=("1 or more", self.batch_size >= 1),
        )

    def unlearn(self, model: nn.Module, evidence: Evidence) -> Facts:
        """Weigh every weight for F and for D, and dampen; see `Unlearner.unlearn`."""
        forget, retain = required(evidence.forget, "forget", self), required(evidence.retain, "retained", self)
        model.to(evidence.accelerator.device)
        own, rest = (importance(model, each, evidence, batch_size=self.batch_size) for each in (forget, retain))
        share = len(forget) / (len(forget) + len(retain))
        everywhere = {name: share * own[name] + (1.0 - share) * rest[name] for name in own}
        reach = self.settled(evidence.request, model).reach or _SAMPLE_REACH
        alpha = self.alpha or max(1.0, min(_USUAL_ALPHA, reach / share))
        factors = dampening(everywhere, own, alpha=alpha, dampening_constant=self.dampening_constant)
        selected = sum(int((factor < 1).sum()) for factor in factors.values())
        if selected:  # otherwise the model must come back bit for bit, so that the guard sees that nothing was done
            with torch.no_grad():
                for name, factor in factors.items():
                    model.get_parameter(name).mul_(factor)
            refresh_batchnorm(model, retain, accelerator=evidence.accelerator, seed=evidence.seed)
        return {
            "alpha": alpha,
            "largest_possible_ratio": 1.0 / share,
            "selected_weights": selected,
            "selected_share": selected / sum(factor.numel() for factor in factors.values()),
            "outcome": _say(selected, alpha, share, evidence),
        }


def _say(selected: int, alpha: float, share: float, evidence: Evidence) -> str:
    if not selected:
        why = f"which is impossible above {1.0 / share:.1f}" if alpha >= 1.0 / share else "and none did"
        return (
            f"Nothing was done: a weight had to matter {alpha:g} times more to the forget data than to all data, "
            f"{why}. Set a smaller alpha; random samples are better forgotten by another method."
        )
    if evidence.forgotten_classes:
        return "Weights of the requested classes were dampened."
    return "Weights were dampened; random samples share theirs with the rest, so expect little forgetting of them."
