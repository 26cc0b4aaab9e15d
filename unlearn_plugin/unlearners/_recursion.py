"""The recursion behind `mini`: how far a training run without F would have drifted from the recorded one.

Everything here is a pure function of tensors and works for any loss. Deviations are dictionaries from parameter
name to tensor; delta = theta' - theta and nu = v' - v, where a dash marks the counterfactual run.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "Product", "Rule", "Tensors", "along", "curvature_along", "exact_step", "implicit_stride", "norm", "scaled",
    "spectral_radius", "stride", "tail_bound",
]  # fmt: skip

Tensors = dict[str, Tensor]  # by parameter name
Product = Callable[[Tensors], Tensors]  # delta -> curvature times delta


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How the optimizer turns the gradient of one parameter into a step; SGD and Adam(W) in one form.

    e = g + weight_decay theta; v <- momentum v + (1 - dampening) e; theta <- theta - rate d / P with d = v, or
    d = e + momentum v for Nesterov. Adam is momentum = dampening = beta_1, P = sqrt(v_hat) + eps, and v divided by
    1 - beta_1^(t+1); P is held as recorded.

    Attributes:
        momentum: mu, or beta_1 of Adam.
        dampening: Share of the gradient kept out of the momentum; beta_1 for Adam.
        nesterov: Look ahead along the momentum.
        weight_decay: lambda.
        decoupled: Weight decay shrinks the weights themselves (AdamW).
        bias_corrected: Adam's correction of a momentum that starts at zero.
    """

    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    decoupled: bool = False
    bias_corrected: bool = False

    @property
    def gain(self) -> float:
        """How far a constant gradient moves the weights per step and unit of rate: (1 - dampening) / (1 - momentum)."""
        return (1.0 - self.dampening) / (1.0 - self.momentum)


def exact_step(
    delta: Tensors,
    velocity: Tensors,
    impulse: Tensors,
    *,
    rules: Mapping[str, Rule],
    rates: Mapping[str, float],
    curvature: Product | None = None,
    preconditioner: Mapping[str, Tensor] | None = None,
    step: int,
) -> tuple[Tensors, Tensors]:
    """Carry the deviation over one optimizer step; exact for a quadratic loss with its own Hessian.

    nu <- mu nu + (1 - dampening) (c + H delta + lambda delta); delta <- delta - rate nu; others as in `Rule`.

    Args:
        delta: Deviation of the weights before the step.
        velocity: Deviation nu of the momentum before the step.
        impulse: c, mean gradient without F minus recorded mean gradient, both at the recorded weights.
        rules: Optimizer rule of each parameter.
        rates: Learning rate of each parameter in this step.
        curvature: H times a deviation, H being that of the batch without F; ``None`` takes H = 0.
        preconditioner: P of each parameter, for Adam.
        step: Number t of the step in the whole run; SGD does not dampen its very first gradient.

    Returns:
        Deviation of the weights and of the momentum after the step.
    """
    bent = curvature(delta) if curvature else None
    new_delta, new_velocity = {}, {}
    for name, old in delta.items():
        rule, rate = rules[name], rates[name]
        error = impulse[name] if bent is None else impulse[name] + bent[name]
        if not rule.decoupled:
            error = error + rule.weight_decay * old
        undamped = step == 0 and not rule.bias_corrected
        v = rule.momentum * velocity[name] + (1.0 if undamped else 1.0 - rule.dampening) * error
        direction = error + rule.momentum * v if rule.nesterov else v
        if rule.bias_corrected:
            direction = v / (1.0 - rule.momentum ** (step + 1))
        if preconditioner is not None:
            direction = direction / preconditioner[name]
        kept = old * (1.0 - rate * rule.weight_decay) if rule.decoupled else old
        new_delta[name], new_velocity[name] = kept - rate * direction, v
    return new_delta, new_velocity


def stride(
    delta: Tensors,
    impulse: Tensors,
    *,
    times: Mapping[str, float],
    rules: Mapping[str, Rule],
    curvature: float = 0.0,
    preconditioner: Mapping[str, Tensor] | None = None,
) -> Tensors:
    """Carry the deviation over many steps at once, with one impulse and one curvature for all of them.

    Solves d delta / d tau = -(h + lambda) delta - c exactly over the time tau = gain x sum of the rates:
    delta <- e^(-(h + lambda) tau) delta - (1 - e^(-(h + lambda) tau)) / (h + lambda) c. Momentum is taken to follow
    at once.

    Args:
        delta: Deviation of the weights before.
        impulse: Expected impulse of one step.
        times: tau of each parameter.
        rules: Optimizer rule of each parameter.
        curvature: h, at least 0.
        preconditioner: P of each parameter, for Adam; h is then the curvature in the preconditioned space.

    Returns:
        Deviation of the weights after.
    """
    moved = {}
    for name, old in delta.items():
        fading = torch.tensor((curvature + rules[name].weight_decay) * times[name], dtype=torch.float64)
        reach = times[name] * (float(-torch.expm1(-fading) / fading) if fading > 0 else 1.0)
        push = impulse[name] if preconditioner is None else impulse[name] / preconditioner[name]
        moved[name] = old * float(torch.exp(-fading)) - reach * push
    return moved


def implicit_stride(
    delta: Tensors,
    impulse: Tensors,
    *,
    times: Mapping[str, float],
    rules: Mapping[str, Rule],
    curvature: Product,
    preconditioner: Mapping[str, Tensor] | None = None,
    iterations: int,
) -> Tensors:
    """Carry the deviation over many steps at once, with the curvature in every direction; it cannot overshoot.

    One implicit Euler step of P d delta / d tau = -(G + lambda) delta - c, that is (P / tau + G + lambda) delta' =
    P delta / tau - c, solved by conjugate gradients from `delta`. G must be positive semi-definite, as Gauss-Newton
    matrices are; then the step contracts for every tau, however large.

    Args:
        delta: Deviation of the weights before.
        impulse: Expected impulse of one step.
        times: tau of each parameter.
        rules: Optimizer rule of each parameter.
        curvature: G times a deviation.
        preconditioner: P of each parameter, for Adam; 1 otherwise.
        iterations: Most conjugate-gradient iterations; each costs one product.

    Returns:
        Deviation of the weights after.
    """
    inertia: dict[str, Tensor | float] = {}
    decay: dict[str, Tensor | float] = {}
    for name, rule in rules.items():
        metric = 1.0 if preconditioner is None else preconditioner[name]
        inertia[name] = metric / max(times[name], torch.finfo(torch.float32).tiny)
        decay[name] = rule.weight_decay * (metric if rule.decoupled else 1.0)

    def system(x: Tensors) -> Tensors:
        bent = curvature(x)
        return {name: (inertia[name] + decay[name]) * x[name] + bent[name] for name in x}

    target = {name: inertia[name] * delta[name] - impulse[name] for name in delta}
    return _conjugate_gradients(system, target, delta, iterations)


def _conjugate_gradients(system: Product, target: Tensors, start: Tensors, iterations: int) -> Tensors:
    """Solve system(x) = target for a positive definite system, to a relative residual of 1e-4 or in `iterations`."""
    x = dict(start)
    applied = system(x)
    residual = {name: target[name] - applied[name] for name in x}
    direction = dict(residual)
    size, enough = _dot(residual, residual), 1e-8 * _dot(target, target)
    for _ in range(iterations):
        if size <= enough:
            break
        applied = system(direction)
        stiffness = _dot(direction, applied)
        if stiffness <= 0:  # rounding; the system itself is positive definite
            break
        length = size / stiffness
        x = {name: x[name] + length * direction[name] for name in x}
        residual = {name: residual[name] - length * applied[name] for name in x}
        new_size = _dot(residual, residual)
        direction = {name: residual[name] + new_size / size * direction[name] for name in x}
        size = new_size
    return x


def curvature_along(
    steps: Sequence[int], rates: Sequence[float], weights: Sequence[Tensors], gradients: Sequence[Tensors], rule: Rule
) -> float | None:
    """Curvature of the loss along the way that training took, from recorded weights and gradients alone.

    Between two recorded steps, H s = y with s = theta_2 - theta_1 and y = g_2 - g_1. Plain least squares
    <s, y> / <s, s> is biased, since the noise of the batch behind g_1 is in s and in y: s holds -(its travel) g_1. So
    y is compared along z = s + travel g_1, which the noise of g_1 does not reach: h = sum <z, y> / sum <z, s> over all
    pairs of neighbours.

    Args:
        steps: Numbers of the recorded steps, ascending.
        rates: Learning rate at each.
        weights: Weights before each.
        gradients: Gradient of each step, without weight decay.
        rule: How gradients move weights.

    Returns:
        h, at least 0; ``None`` with fewer than two steps or no measurable way.
    """
    slope = length = 0.0
    for first in range(len(steps) - 1):
        second = first + 1
        gap = steps[second] - steps[first]
        travel = rates[first] * rule.gain * (1.0 - math.pow(rule.momentum, gap))
        s = {name: weights[second][name] - value for name, value in weights[first].items()}
        y = {name: gradients[second][name] - value for name, value in gradients[first].items()}
        z = {name: value + travel * gradients[first][name] for name, value in s.items()}
        slope += _dot(z, y)
        length += _dot(z, s)
    return max(0.0, slope / length) if length > 0 else None


def spectral_radius(rate: float, curvature: float, rule: Rule) -> float:
    """Contraction factor of one step along a direction of curvature h.

    The largest absolute eigenvalue of the transition (delta, nu) -> (delta, nu) of `exact_step`, a 2 x 2 matrix.

    Args:
        rate: Learning rate.
        curvature: h.
        rule: Optimizer rule.

    Returns:
        rho; below 1 the past fades, from 1 on it does not.
    """
    bend = curvature + (0.0 if rule.decoupled else rule.weight_decay)
    keep = 1.0 - rate * rule.weight_decay if rule.decoupled else 1.0
    taken = 1.0 - rule.dampening
    ahead = rule.momentum if rule.nesterov else 1.0
    own = bend if rule.nesterov else 0.0
    transition = torch.tensor(
        [
            [keep - rate * (own + ahead * taken * bend), -rate * ahead * rule.momentum],
            [taken * bend, rule.momentum],
        ],
        dtype=torch.float64,
    )
    return float(torch.linalg.eigvals(transition).abs().max())


def tail_bound(rho: float, steps: int, largest: float) -> float | None:
    """Bound on what the steps before a window of K steps would still have contributed.

    Formula: rho^K max ||rate c|| / (1 - rho), the geometric series of the impulses that were cut off.

    Args:
        rho: Contraction factor of one step.
        steps: K, steps of the window.
        largest: Largest max ||rate c|| of a step, gain included.

    Returns:
        The bound in units of weights; ``None`` if rho is 1 or more, when there is none.
    """
    return math.pow(rho, steps) * largest / (1.0 - rho) if rho < 1.0 else None


def norm(tensors: Tensors) -> float:
    """Euclidean norm over all tensors together."""
    return math.sqrt(_dot(tensors, tensors))


def scaled(tensors: Tensors, factor: float) -> Tensors:
    """All tensors times one factor."""
    return {name: factor * value for name, value in tensors.items()}


def along(direction: Tensors, product: Product, preconditioner: Mapping[str, Tensor] | None = None) -> float:
    """Curvature along one direction: <d, H d> / <d, P d>.

    Args:
        direction: d.
        product: H times a direction.
        preconditioner: P, for Adam; 1 otherwise.

    Returns:
        h; 0 for a direction of length 0.
    """
    metric = direction if preconditioner is None else {k: preconditioner[k] * v for k, v in direction.items()}
    length = _dot(direction, metric)
    return _dot(direction, product(direction)) / length if length > 0 else 0.0


def _dot(first: Tensors, second: Tensors) -> float:
    return math.fsum(float((value * second[name]).sum(dtype=torch.float64)) for name, value in first.items())
