"""Guard: is the changed model fit to be judged at all? Asked before every measurement."""

from typing import Any

import torch
from torch import nn

from unlearn_plugin.metrics.base import Split, Trial
from unlearn_plugin.outputs import Outputs

__all__ = ["inspect_change"]

_ONE_CLASS = 0.95  # share of one predicted class on retained data that counts as collapse ...
_BEYOND = 0.20  # ... if it exceeds that class's share of the labels by this much
_CHANCE_FACTOR = 1.5
_KEPT = 0.5  # of the accuracy before
_BARELY_LOWER = 0.9  # of the accuracy before: a weak model is not collapsed because it was weak


def inspect_change(original: nn.Module, model: nn.Module, trial: Trial) -> dict[str, Any]:
    """Look for weights that must never be written: not finite, unchanged, or collapsed.

    Collapsed means, on the retained data: one class makes up 95 % of the predictions, 20 points more than of the
    labels; or the accuracy is below 1.5 times chance (1 / classes) or half of what it was, and by a tenth lower than
    it was.

    Args:
        original: The model before.
        model: The changed model.
        trial: What the judge looks at; the scores of all its data have to be finite, and collapse is looked for on
            the retained ones.

    Returns:
        The report's ``guard``: ``finite``, ``changed``, ``collapsed`` and ``reasons``, one sentence for each failure;
        no reasons means that the model may be judged.
    """
    finite = all(bool(value.isfinite().all()) for value in model.state_dict().values() if value.is_floating_point())
    changed = _differ(original, model)
    reasons = []
    if not changed:
        reasons.append("The weights are bit for bit those of the model before: the method changed nothing.")
    collapse: list[str] = []
    if finite:
        splits: tuple[Split, ...] = ("retain", "forget", "controls", *(() if trial.tuning is None else ("tuning",)))
        finite = all(bool(trial.outputs(model, split).logits.isfinite().all()) for split in splits)
        collapse = _collapse(trial.outputs(original, "retain"), trial.outputs(model, "retain")) if finite else []
    if not finite:
        reasons.append("The weights or the scores of the changed model are not finite numbers (NaN or infinity).")
    return {
        "finite": finite,
        "changed": changed,
        "collapsed": bool(collapse),
        "reasons": [*reasons, *collapse],
    }


def _differ(original: nn.Module, model: nn.Module) -> bool:
    """Whether any tensor of the state differs in its bytes; NaN equals itself here."""
    old, new = original.state_dict(), model.state_dict()
    if old.keys() != new.keys():
        return True
    return any(not _same_bytes(old[name], new[name]) for name in old)


def _same_bytes(old: torch.Tensor, new: torch.Tensor) -> bool:
    if old.dtype != new.dtype or old.shape != new.shape:
        return False
    first, second = (tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for tensor in (old, new))
    return torch.equal(first, second)


def _collapse(before: Outputs, after: Outputs) -> list[str]:
    reasons = []
    classes = after.logits.shape[1]
    predicted = torch.bincount(after.logits.argmax(1), minlength=classes) / len(after.labels)
    share, label = predicted.max(0)
    usual = float((after.labels == label).double().mean())
    if float(share) >= _ONE_CLASS and float(share) > usual + _BEYOND:
        reasons.append(
            f"The changed model predicts one class for {float(share):.0%} of the retained data, of which "
            f"{usual:.0%} are of that class."
        )
    was, now = (float(outputs.correct.double().mean()) for outputs in (before, after))
    floor = min(max(_CHANCE_FACTOR / classes, _KEPT * was), _BARELY_LOWER * was)
    if now < floor:
        reasons.append(
            f"The changed model is right on {now:.1%} of the retained data, and was on {was:.1%} before; "
            f"below {floor:.1%} it counts as collapsed."
        )
    return reasons
