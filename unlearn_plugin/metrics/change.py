"""Change: what was changed in the model, and by how much?"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unlearn_hooks.capture import find_head
from unlearn_plugin.measurement import Measurement
from unlearn_plugin.metrics.base import Goal, Metric, Trial

__all__ = ["Change"]

_LAYERS = 60  # rows of the report's profile


@dataclass(frozen=True, kw_only=True)
class Change(Metric):
    """Distance of the weights from the original, where it lies, and how many predictions differ.

    Formula: value = |theta - theta_0| / |theta_0| over all parameters. ``head_share`` is the head's part of the squared
    distance: near 1 means that the features were left as they are. ``agreement`` is the share of controls with the same
    prediction as the original's. ``per_layer`` lists at most 60 layers, those with the largest relative change, in the
    model's order. A large distance is no proof of anything, and neither is a small one.

    Source: standard; the share of the head as a warning sign after arXiv 2604.08271.
    """

    about_forget = False
    goal = Goal.CONTEXT
    title = "Change"
    explanation = "How far the weights moved, relative to their size."
    source = "standard"

    def measure(self, model: nn.Module, trial: Trial) -> Measurement:
        """Compare `model` with the original.

        Args:
            model: The model before, after, or the reference.
            trial: What the judge looks at.

        Returns:
            The relative distance of the weights.
        """
        old = {name: parameter.detach().double().cpu() for name, parameter in trial.original.named_parameters()}
        moved = {name: parameter.detach().double().cpu() - old[name] for name, parameter in model.named_parameters()}
        total = _norm(list(moved.values()))
        head = find_head(trial.original)[0]
        in_head = _norm([delta for name, delta in moved.items() if name.startswith(f"{head}.")])
        now, before = (trial.outputs(each, "controls").logits.argmax(1) for each in (model, trial.original))
        same = now == before
        relative = _relative(total, _norm(list(old.values())))
        details = {
            "relative_norm": relative,
            "head_share": (in_head / total) ** 2 if total else None,
            "tensors_changed": sum(bool(delta.any()) for delta in moved.values()),
            "tensors": len(moved),
            "batchnorm_changed": _statistics_differ(model, trial.original),
            "agreement": float(same.double().mean()),
            "per_layer": _per_layer(old, moved),
        }
        return Measurement(value=relative, n=len(same), details=details)


def _norm(tensors: list[Tensor]) -> float:
    return math.sqrt(sum(float((tensor**2).sum()) for tensor in tensors))


def _relative(change: float, size: float) -> float | None:
    return change / size if size else None


def _per_layer(old: dict[str, Tensor], moved: dict[str, Tensor]) -> list[dict[str, Any]]:
    layers: dict[str, list[str]] = {}
    for name in old:
        layers.setdefault(name.rpartition(".")[0] or name, []).append(name)
    moves = {
        layer: _relative(_norm([moved[name] for name in names]), _norm([old[name] for name in names]))
        for layer, names in layers.items()
    }
    largest = set(sorted(moves, key=lambda layer: -(moves[layer] or 0.0))[:_LAYERS])
    return [{"name": layer, "relative_norm": move} for layer, move in moves.items() if layer in largest]


def _statistics_differ(model: nn.Module, original: nn.Module) -> bool:
    """Whether a running mean or variance differs."""
    old = dict(original.named_buffers())
    return any(
        not torch.equal(buffer.cpu(), old[name].cpu())
        for name, buffer in model.named_buffers()
        if name.endswith(("running_mean", "running_var"))
    )
