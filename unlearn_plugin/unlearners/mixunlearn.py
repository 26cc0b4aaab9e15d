"""mixunlearn: a generator mixes what goes with what stays so that the unlearner fails; the unlearner learns from it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from unlearn_plugin.data import Batch
from unlearn_plugin.splits import Need, Request
from unlearn_plugin.training import private_randomness
from unlearn_plugin.unlearners._mixblock import EarlyFeatures, MixBlock
from unlearn_plugin.unlearners._steps import (
    TUNED_ON_DIGITS,
    ForgetBatch,
    SteppedUnlearner,
    check_options,
    frozen_copy,
    required,
    statistics_kept,
)
from unlearn_plugin.unlearners.base import Evidence, Facts, Preset

__all__ = ["MixUnlearn", "contrast", "sharpen", "sim_loss"]

Mixing = Literal["generator", "mixup", "none"]

_SAMPLE_TAU, _CLASS_TAU = 1.0, 0.2  # the denominators reward pushing F ever further, and small taus the more so
_USUAL_TAUS = f"none: {_CLASS_TAU:g} for class requests, {_SAMPLE_TAU:g} for samples."


def sim_loss(first: Float[Tensor, "... c"], second: Float[Tensor, "... c"]) -> Float[Tensor, "..."]:
    """How unlike two probability vectors are.

    Formula: SimLoss(a, b) = 1 - cos(a, b).

    Args:
        first: Probabilities; may be broadcast against `second`.
        second: Probabilities.

    Returns:
        One number per pair, in [0, 1]: 0 for the same direction, 1 for no class in common.
    """
    return 1.0 - F.cosine_similarity(first, second, dim=-1)


def sharpen(probabilities: Float[Tensor, "n c"], temperature: float) -> Float[Tensor, "n c"]:
    """Make predictions more certain.

    Formula: p_i^(1 / T) / sum_j p_j^(1 / T).

    Args:
        probabilities: Rows sum to 1.
        temperature: T; 1 changes nothing, smaller is sharper.

    Returns:
        Probabilities.
    """
    return (probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log() / temperature).softmax(1)


def contrast(kept: Float[Tensor, " r"], gone: Float[Tensor, "... f"], *, share: float, tau: float) -> Float[Tensor, ""]:
    """Be like the targets of R and unlike the targets of F; minimising it does.

    Formula: A = 1/|B_R| sum_r log( exp((1 - lambda) kept_r) / sum_f exp(lambda gone_rf / tau) ).

    Args:
        kept: SimLoss to the target of each sample of R.
        gone: SimLoss to the targets of F; one row per sample of R, or one row for all.
        share: lambda, the share of F in the mixed sample.
        tau: Temperature; the smaller, the more the sample of F counts that is already most unlike its target.

    Returns:
        A scalar in nats, the mean over the batch of R; at least -lambda / tau - log |B_F|.
    """
    return ((1.0 - share) * kept - (share * gone / tau).logsumexp(-1)).mean()


@dataclass(frozen=True, kw_only=True)
class MixUnlearn(SteppedUnlearner):
    """Contrastive unlearning on samples mixed from F and R by a generator that is trained to make it fail.

    Formula, for a batch of R and one of F, p the target of a sample, f the probabilities of the model:
      x_mix  = x_f * M + x_r * (1 - M),  M = MixBlock(h(x_f), h(x_r), lambda),  lambda ~ Beta(beta, beta)
      L_mix  = A(lambda; SimLoss(f(x_mix), p(x_r)), SimLoss(f(x_mix), p(x_f)), tau_mix), A as in `contrast`
      L_real = 1/|B_R| sum_r log( exp(SimLoss(f(x_r), p(x_r))) / sum_f exp(SimLoss(f(x_f), p(x_f)) / tau_real) )
      L      = L_mix + omega L_real, for the unlearner, the mask being fixed
      L_gen  = -A(lambda'; ..., tau_gen), for the generator, through a slowly following copy of the unlearner
    h are early feature maps of the frozen original. p is the one-hot label, or without labels the sharpened prediction
    of the original. While F looks held out, only SimLoss(f(x_r), p(x_r)) is minimised.

    Source: MixUnlearn, ICLR 2025, arXiv 2502.10288; the MixBlock is that of AutoMix, Liu et al. 2022, arXiv 2103.13027.
    The published eq. 5 sums over B_F on the outside, every use of it needs B_R, as in eq. 3. We differ in means over
    the batch instead of sums, in `hold`, in a mask that starts at lambda everywhere, which is plain mixup, and in rates
    and temperatures, which are ours.
    """

    needs: ClassVar[Need] = Need.FORGET | Need.RETAIN
    summary: ClassVar[str] = "Learn to forget from adversarially mixed samples, with or without labels."
    source: ClassVar[str] = "MixUnlearn, ICLR 2025, arXiv 2502.10288"
    presets: ClassVar[Mapping[Request, Preset]] = Preset.table(
        sample={"learning_rate": 0.02, **dict.fromkeys(("tau_mix", "tau_real", "tau_gen"), _SAMPLE_TAU)},
        whole_class={"learning_rate": 0.02, **dict.fromkeys(("tau_mix", "tau_real", "tau_gen"), _CLASS_TAU)},
        tuned=TUNED_ON_DIGITS,
    )

    label_aware: bool = field(
        default=True, metadata={"help": "Targets are labels; otherwise the original's predictions."}
    )
    sharpening: float = field(default=0.3, metadata={"help": "T of the sharpened predictions, without labels."})
    omega: float = field(default=1.0, metadata={"help": "Weight of L_real; 0 leaves it out."})
    tau_mix: float | None = field(
        default=None, metadata={"help": "Temperature of L_mix; " + _USUAL_TAUS, "search": (0.2, 5.0, "factor")}
    )
    tau_real: float | None = field(
        default=None, metadata={"help": "Temperature of L_real; " + _USUAL_TAUS, "search": (0.2, 5.0, "factor")}
    )
    tau_gen: float | None = field(
        default=None, metadata={"help": "Temperature of the generator's loss; " + _USUAL_TAUS}
    )
    beta: float = field(default=0.75, metadata={"help": "Both parameters of lambda's beta distribution."})
    mixing: Mixing = field(
        default="generator",
        metadata={"help": "generator; mixup: a mask of lambda everywhere; none leaves L_mix out."},
    )
    generator_rate: float = field(default=1e-3, metadata={"help": "Learning rate of the generator (Adam)."})
    generator_interval: int = field(default=2, metadata={"help": "Steps of the unlearner per step of the generator."})
    generator_momentum: float = field(default=0.999, metadata={"help": "How slowly the copy follows the unlearner."})
    layer: str | None = field(
        default=None, metadata={"help": "Module whose output is h; none takes an early stage of the network."}
    )

    def __post_init__(self) -> None:
        positive = ("sharpening", "tau_mix", "tau_real", "tau_gen", "beta", "generator_rate")
        above = {name: getattr(self, name) for name in positive if getattr(self, name) is not None}
        check_options(
            self,
            **{name: ("above 0 and finite", 0 < value < math.inf) for name, value in above.items()},
            omega=("at least 0 and finite, and above 0 with mixing=none",
                   0 <= self.omega < math.inf and (self.omega > 0 or self.mixing != "none")),
            mixing=(" or ".join(get_args(Mixing)), self.mixing in get_args(Mixing)),
            generator_interval=("1 or more", self.generator_interval >= 1),
            generator_momentum=("at least 0 and at most 1", 0 <= self.generator_momentum <= 1),
        )  # fmt: skip
        super().__post_init__()

    def unlearn(self, model: nn.Module, evidence: Evidence) -> Facts:
        """Step through R with F beside it and both mixed; see `Unlearner.unlearn`."""
        required(evidence.forget, "forget", self)
        game = _Game(self, model, evidence)
        facts = self.step_through(model, evidence, game.loss, relaxed=game.relaxed_loss)
        return {**facts, "generator_steps": game.generator_steps}


class _Game:
    """Unlearner and generator, playing against each other."""

    def __init__(self, options: MixUnlearn, model: nn.Module, evidence: Evidence) -> None:
        self._options, self._model, self._evidence = options, model.to(evidence.accelerator.device), evidence
        self._original, self._follower = frozen_copy(model), frozen_copy(model)
        usual = _CLASS_TAU if evidence.forgotten_classes else _SAMPLE_TAU
        self._tau_mix, self._tau_real, self._tau_gen = (
            usual if tau is None else tau for tau in (options.tau_mix, options.tau_real, options.tau_gen)
        )
        self._random = torch.Generator().manual_seed(evidence.seed)
        self._features = EarlyFeatures(self._original, options.layer)
        self._block, self._adam = self._make_generator()
        self._step = 0
        self.generator_steps = 0

    def loss(self, network: nn.Module, retain: Batch, forget: ForgetBatch) -> Tensor:
        """L = L_mix + omega L_real; every few steps the generator takes one first."""
        kept, gone = self._targets(retain), self._targets(forget)
        total = self._options.omega * self._real_loss(network, retain, kept, forget, gone)
        if self._options.mixing == "none":
            return total
        pairs = retain[0], forget[0][self._partners(len(kept), len(gone))]
        if self._options.mixing == "generator" and self._step % self._options.generator_interval == 0:
            self._train_generator(*pairs, kept, gone)
        self._step += 1
        share = self._draw_share()
        with torch.no_grad():
            mask = self._mask(*pairs, share)
        with statistics_kept(network):
            return total + self._mixed_loss(network, *pairs, mask, kept, gone, share, self._tau_mix)

    def relaxed_loss(self, network: nn.Module, retain: Batch) -> Tensor:
        """What is left of L while F looks held out."""
        return sim_loss(_probabilities(network, retain[0]), self._targets(retain)).mean()

    @torch.no_grad()
    def _targets(self, batch: Batch) -> Float[Tensor, "n k"]:
        if self._options.label_aware:
            return F.one_hot(batch[1], self._evidence.classes).float()
        return sharpen(_probabilities(self._original, batch[0]), self._options.sharpening)

    def _real_loss(
        self, network: nn.Module, retain: Batch, kept: Tensor, forget: ForgetBatch, gone: Tensor
    ) -> Float[Tensor, ""]:
        like = sim_loss(_probabilities(network, retain[0]), kept)
        with statistics_kept(network):
            unlike = sim_loss(_probabilities(network, forget[0]), gone)
        return (like - (unlike / self._tau_real).logsumexp(0)).mean()

    def _mixed_loss(
        self, network: nn.Module, retain: Tensor, forget: Tensor, mask: Tensor, kept: Tensor, gone: Tensor,
        share: float, tau: float,
    ) -> Float[Tensor, ""]:  # fmt: skip
        found = _probabilities(network, forget * mask + retain * (1.0 - mask))
        return contrast(sim_loss(found, kept), sim_loss(found[:, None], gone), share=share, tau=tau)

    def _train_generator(self, retain: Tensor, forget: Tensor, kept: Tensor, gone: Tensor) -> None:
        self._follow()
        share = self._draw_share()
        mask = self._mask(retain, forget, share)
        loss = -self._mixed_loss(self._follower, retain, forget, mask, kept, gone, share, self._tau_gen)
        self._adam.zero_grad()
        self._evidence.accelerator.backward(loss)
        self._adam.step()
        self.generator_steps += 1

    def _mask(self, retain: Tensor, forget: Tensor, share: float) -> Tensor:
        if self._options.mixing == "mixup":
            return torch.full_like(retain[:, :1], share)
        size = retain.shape[2], retain.shape[3]
        mask: Tensor = self._block(self._features(forget), self._features(retain), share, size)
        return mask

    def _make_generator(self) -> tuple[MixBlock, torch.optim.Optimizer]:
        accelerator = self._evidence.accelerator
        images, _, _ = next(iter(self._evidence.forget.loader(1)))
        channels = self._features(images.to(accelerator.device)).shape[1]
        with private_randomness(accelerator, self._evidence.seed):
            block = MixBlock(channels).to(accelerator.device)
        return block, torch.optim.Adam(block.parameters(), lr=self._options.generator_rate)

    @torch.no_grad()
    def _follow(self) -> None:
        """Let the copy follow the unlearner a little."""
        new, momentum = self._model.state_dict(), self._options.generator_momentum
        for name, slow in self._follower.state_dict().items():
            slow.copy_(slow.lerp(new[name], 1.0 - momentum) if slow.is_floating_point() else new[name])

    def _partners(self, kept: int, gone: int) -> Int64[Tensor, " r"]:
        """Which sample of F goes with each sample of R; all equally often."""
        return torch.randperm(kept, generator=self._random) % gone

    def _draw_share(self) -> float:
        """lambda; from torch's global generator, which belongs to the training here."""
        drawn = torch.distributions.Beta(self._options.beta, self._options.beta).sample()
        return float(drawn.clamp(1e-3, 1.0 - 1e-3))


def _probabilities(model: nn.Module, images: Tensor) -> Float[Tensor, "n c"]:
    probabilities: Tensor = model(images).float().softmax(1)
    return probabilities
