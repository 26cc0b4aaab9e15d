"""One step of Adam(W) in the recursion behind `mini`, with a preconditioner that moves with the run without F."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from unlearn_plugin.unlearners._recursion import Product, Rule, Tensors, scaled

__all__ = ["AdamState", "adam_step"]


@dataclass(frozen=True)
class AdamState:
    """What is carried from step to step besides the deviation of the weights.

    Attributes:
        mean: m of the recorded run, made of the recorded gradients from the first step of the window on.
        seen: 1 - beta_1^n of each parameter after n steps of the window, by which that m is too short.
        mean_deviation: m' - m.
        square_deviation: v' - v.
    """

    mean: Tensors
    seen: Mapping[str, float]
    mean_deviation: Tensors
    square_deviation: Tensors

    @classmethod
    def start(cls, like: Tensors) -> "AdamState":
        """The state before the window's first step: both runs are the same."""
        zero = scaled(like, 0.0)
        return cls(zero, dict.fromkeys(like, 0.0), zero, zero)


def adam_step(
    delta: Tensors,
    state: AdamState,
    impulse: Tensors,
    *,
    weights: Tensors,
    gradient: Tensors,
    preconditioner: Tensors,
    rules: Mapping[str, Rule],
    rates: Mapping[str, float],
    curvature: Product | None = None,
    step: int,
) -> tuple[Tensors, AdamState]:
    """Carry the deviation over one step of Adam(W); exact for a quadratic loss with its own Hessian.

    With g the recorded gradient, e = c + H delta what the run without F has more of it (weight decay in both unless
    decoupled), and hats for the correction of a start at zero:

        m <- beta_1 m + (1 - beta_1) g        m' - m <- beta_1 (m' - m) + (1 - beta_1) e
        v' - v <- beta_2 (v' - v) + (1 - beta_2) (2 g e + e^2)
        delta <- delta - rate (m'^ / P' - m^ / P),   P = sqrt(v^) + eps as recorded,   P' = sqrt(v^ + (v' - v)^) + eps

    Nothing is linearised but the gradient, so the first steps, in which P follows single gradients, are right as well.

    Args:
        delta: Deviation of the weights before the step.
        state: Of the step before.
        impulse: c, mean gradient without F minus recorded mean gradient, both at the recorded weights.
        weights: theta_t.
        gradient: g_t, without weight decay.
        preconditioner: P_t.
        rules: Optimizer rule of each parameter, with `Rule.second`.
        rates: Learning rate of each parameter in this step.
        curvature: H times a deviation; ``None`` takes H = 0.
        step: Number t of the step in the whole run.

    Returns:
        Deviation of the weights and the state after the step.
    """
    bent = curvature(delta) if curvature else scaled(delta, 0.0)
    moved: Tensors = {}
    mean, seen, mean_deviation, square_deviation = dict(state.mean), dict(state.seen), dict(moved), dict(moved)
    for name, old in delta.items():
        rule, rate, first = rules[name], rates[name], rules[name].momentum
        second = 0.0 if rule.second is None else rule.second
        decay = 0.0 if rule.decoupled else rule.weight_decay
        g = gradient[name] + decay * weights[name]
        e = impulse[name] + bent[name] + decay * old
        mean[name] = first * state.mean[name] + (1.0 - first) * g
        seen[name] = first * state.seen[name] + 1.0 - first
        mean_deviation[name] = first * state.mean_deviation[name] + (1.0 - first) * e
        square_deviation[name] = second * state.square_deviation[name] + (1.0 - second) * (2.0 * g + e) * e
        recorded = mean[name] / seen[name]
        other = recorded + mean_deviation[name] / (1.0 - first ** (step + 1))
        square = (preconditioner[name] - rule.eps).square() + square_deviation[name] / (1.0 - second ** (step + 1))
        without = torch.sqrt(square.clamp(min=0.0)) + rule.eps
        kept = old * (1.0 - rate * rule.weight_decay) if rule.decoupled else old
        moved[name] = kept - rate * (other / without - recorded / preconditioner[name])
    return moved, AdamState(mean, seen, mean_deviation, square_deviation)
