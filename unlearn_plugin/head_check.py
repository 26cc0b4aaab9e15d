"""Is a model one that can be worked on? Its logits must come through one head, whose input is the feature."""

import copy

import torch
from torch import Tensor, nn

from unlearn_hooks.capture import find_head
from unlearn_hooks.errors import UnlearnError

__all__ = ["check_head"]


@torch.no_grad()
def check_head(model: nn.Module, input_size: tuple[int, int, int]) -> None:
    """Refuse a model that methods or measurements would silently get wrong.

    A copy whose head has zero weights looks at two random images. If its logits still tell them apart, they do not
    come through that head alone: there is a second one (for distillation, or at an earlier stage), or the module that
    was taken for the head is none. Both in evaluation and in training mode.

    Args:
        model: Stays as it is.
        input_size: (c, h, w) of an image.

    Raises:
        UnlearnError: If the model cannot look at such images, gives no (n, classes) logits, or has no single head.
    """
    kind = type(model).__name__
    name, head = find_head(model)
    classes = len(head.weight)  # type: ignore[arg-type]  # heads are linear layers or 1x1 convolutions
    if classes < 2:
        raise UnlearnError(f"The head {name!r} of {kind} has one output; a classifier needs one for each class.")
    silent = copy.deepcopy(model)
    for parameter in silent.get_submodule(name).parameters():
        parameter.zero_()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        images = torch.randn(2, *input_size)
        for training in (False, True):
            logits = _look(silent.train(training), images)
            if not isinstance(logits, Tensor) or logits.shape != (2, classes):
                what = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
                raise UnlearnError(
                    f"{kind} gives {what} for 2 images in {'training' if training else 'evaluation'} mode; it must "
                    f"give one tensor of logits (2, {classes}): build it without auxiliary outputs."
                )
            if not torch.allclose(logits[0], logits[1]):
                raise UnlearnError(
                    f"The logits of {kind} do not come through the head {name!r} alone, so there are two heads (as "
                    f"for distillation) or another one; give a model with a single head."
                )
            if torch.allclose(logits.float().sum(1), torch.ones(2)):
                raise UnlearnError(f"{kind} gives probabilities; it must give logits: leave the softmax out.")


def _look(model: nn.Module, images: Tensor) -> object:
    try:
        return model(images)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UnlearnError(
            f"{type(model).__name__} cannot look at images of size {tuple(images.shape[1:])} ({reason}); give the "
            f"size it was trained with as --input-size."
        ) from error
