"""Outputs of a classifier on a set of samples: logits, features, labels."""

from dataclasses import dataclass

import torch
from accelerate import Accelerator
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from unlearn_hooks.capture import head_input
from unlearn_hooks.references import log_odds as margin
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
        """Margin of the true class: its log-odds."""
        return margin(self.logits, self.labels)

    @property
    def correct(self) -> Tensor:
        """Whether the largest logit is the label's; bool (n,)."""
        return self.logits.argmax(1) == self.labels


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
