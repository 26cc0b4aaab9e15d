"""Relearning: how many steps on F bring a model back to what it knew? Who remembers needs fewer than who never knew."""

import copy

import torch
from accelerate import Accelerator
from torch import nn

from unlearn_plugin.data import Samples
from unlearn_plugin.progress import Progress
from unlearn_plugin.training import Recipe, train

__all__ = ["MOST_STEPS", "relearning_steps"]

MOST_STEPS = 100
_SOON = 0.95  # of the accuracy on F before unlearning


def relearning_steps(
    model: nn.Module, forget: Samples, accuracy: float, accelerator: Accelerator, *, seed: int, rate: float = 0.05
) -> int:
    """Count the steps of SGD on F after which a copy of a model is as good on F as the original was.

    "As good" is 95 % of the original's accuracy, looked at after every step in evaluation mode.

    Args:
        model: Left as it is; a copy is trained.
        forget: F.
        accuracy: Accuracy of the original on F.
        accelerator: Device and precision.
        seed: Order of the samples.
        rate: Learning rate; momentum 0.9, batches of 32.

    Returns:
        The number of steps: 0 if it is as good already, `MOST_STEPS` if it is not by then.

    Source: Golatkar et al. 2020, arXiv 1911.04933, and the anamnesis index of Chundawat et al. 2023, which is the ratio
    to a retrained model. The ratio says something only beside the spread among retrained models.
    """
    student = copy.deepcopy(model)
    recipe = Recipe(
        learning_rate=rate, weight_decay=0.0, schedule="constant", batch_size=32,
        epochs=-(-MOST_STEPS // max(1, len(forget) // 32)),
    )  # fmt: skip
    images, labels = forget.data.images(forget.rows).to(accelerator.device), forget.labels.to(accelerator.device)
    needed = MOST_STEPS

    def enough(step: int) -> bool:
        nonlocal needed
        student.eval()
        with torch.no_grad():
            found = float((student(images).argmax(1) == labels).float().mean())
        student.train()
        if found >= _SOON * accuracy:
            needed = min(needed, step)
        return found >= _SOON * accuracy or step >= MOST_STEPS

    student.to(accelerator.device)
    if not enough(0):
        train(
            student, forget, recipe, accelerator=accelerator, seed=seed, progress=Progress(enabled=False),
            after_step=enough,
        )  # fmt: skip
    return needed
