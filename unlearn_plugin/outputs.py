"""Outputs of a classifier on a set of samples: logits, features, labels; and the margin."""

from dataclasses import dataclass

import torch
from accelerate import Accelerator
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from unlearn_hooks.capture import head_input
from unlearn_plugin.data import Samples
from unlearn_plugin.progress import Progress

__all__ = ["Outputs", "compute_outputs", "margin"]


@dataclass(frozen=True)
class Outputs:
    """What one model says about n samples; fp32, on the CPU."""

    logits: Float32[Tensor, "n c"]
    features: Float32[Tensor, "n d"]
    labels: Int64[Tensor, " n"]

    @property
    def margins(self) -> Float32[Tensor, " n"]:
        """Margin of the true class, see `margin`."""
        return margin(self.logits, self.labels)

    @property
    def correct(self) -> Tensor:
        """Whether the largest logit is the label's; bool (n,)."""
        return self.logits.argmax(1) == self.labels


def margin(logits: Float32[Tensor, "n c"], labels: Int64[Tensor, " n"]) -> Float32[Tensor, " n"]:
    """Logit-scaled confidence of the true class.

    Formula: phi(x) = z_y - log sum_(j != y) exp(z_j) = log p_y - log(1 - p_y), computed without leaving log space.

    Args:
        logits: Scores before the softmax.
        labels: True class of each row.

    Returns:
        One margin per row, in nats; 0 where the true class has probability one half.

    Source: Carlini et al. 2022 (LiRA), arXiv 2112.03570, section V-A.
    """
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return logits.gather(1, labels[:, None]).squeeze(1) - others.logsumexp(1)


@torch.no_grad()
def compute_outputs(
    model: nn.Module, samples: Samples, accelerator: Accelerator, *, batch_size: int, progress: Progress
) -> Outputs:
    """Run `model` in evaluation mode over `samples`.

    Args:
        model: Put back into the mode it was in.
        samples: What to run it on, in order.
        accelerator: Device and precision.
        batch_size: Samples per forward pass.
        progress: Wraps the loop in a bar.

    Returns:
        Logits, features and labels of all samples, in order.
    """
    was_training = [module for module in model.modules() if module.training]
    model.to(accelerator.device).eval()
    logits, features, labels = [], [], []
    try:
        with head_input(model) as seen:
            for images, targets, _ in progress(samples.loader(batch_size), "looking at samples"):
                with accelerator.autocast():
                    scores = model(images.to(accelerator.device))
                logits.append(scores.float().cpu())
                features.append(seen.features.float().cpu())
                labels.append(targets)
    finally:
        for module in was_training:
            module.training = True
    return Outputs(torch.cat(logits), torch.cat(features), torch.cat(labels))
