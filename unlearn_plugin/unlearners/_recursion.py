"""The recursion behind `mini`: how far a training run without F would have drifted from the recorded one.

Everything here is a pure function of tensors and works for any loss. Deviations are dictionaries from parameter
name to tensor; delta = theta' - theta and nu = v' - v, where a dash marks the counterfactual run.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "Product", "Rule", "Tensors", "along", "dot", "exact_step", "implicit_stride", "norm", "scaled", "spectral_radius",
    "stride", "tail_bound",
]  # fmt: skip

Tensors = dict[str, Tensor]  # by parameter name
Product = Callable[[Tensors], Tensors]  # delta -> curvature times delta
_TINY = torch.finfo(torch.float32).tiny


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
        second: beta_2 of Adam, where P is known to move; ``None`` holds it as recorded.
        eps: What Adam adds to the root of its second moment.
    """

    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    decoupled: bool = False
    bias_corrected: bool = False
    second: float | None = None
    eps: float = 0.0

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
    curvature: float | Mapping[str, Tensor] = 0.0,
    preconditioner: Mapping[str, Tensor] | None = None,
) -> Tensors:
    """Carry the deviation over many steps at once, with one impulse and one curvature for all of them.

    Solves P d delta / d tau = -(h + lambda) delta - c exactly over the time tau = gain x sum of the rates:
    delta <- e^(-k tau) delta - (1 - e^(-k tau)) / k c / P with k = (h + lambda) / P. Momentum is taken to follow at
    once.

    Args:
        delta: Deviation of the weights before.
        impulse: Expected impulse of one step.
        times: tau of each parameter.
        rules: Optimizer rule of each parameter; decoupled weight decay is not divided by P.
        curvature: h of each weight, at least 0; or one number, the curvature in the space that P stretches: P^-1 H.
        preconditioner: P of each parameter, for Adam; 1 otherwise.

    Returns:
        Deviation of the weights after.
    """
    moved = {}
    for name, old in delta.items():
        rule, tau = rules[name], times[name]
        metric = torch.ones_like(old) if preconditioner is None else preconditioner[name]
        bend = curvature if isinstance(curvature, float | int) else curvature[name] / metric
        fading = torch.as_tensor(bend + rule.weight_decay / (1.0 if rule.decoupled else metric)) * tau
        reach = tau * torch.where(fading > 0, -torch.expm1(-fading) / fading.clamp(min=_TINY), 1.0)
        moved[name] = old * torch.exp(-fading) - reach * impulse[name] / metric
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
        inertia[name] = metric / max(times[name], _TINY)
        decay[name] = rule.weight_decay * (metric if rule.decoupled else 1.0)

    def system(x: Tensors) -> Tensors:
        bent = curvature(x)
        return {name: (inertia[name] + decay[name]) * x[name] + bent[name] for name in x}

    target = {name: inertia[name] * delta[name] - impulse[name] for name in delta}
    return _conjugate_gradients(system, target, delta, iterations)


def _conjugate_gradients(system: Product, target: Tensors, start: Tensors, iterations: int) -> Tensors:
    """Solve system(x) = target for a positive definite system, to a relative residual of 1e-4 or in `iterations`."""
    x = start
    applied = system(x)
    residual = {name: target[name] - applied[name] for name in x}
    direction = dict(residual)
    size, enough = dot(residual, residual), 1e-8 * dot(target, target)
    for _ in range(iterations):
        if size <= enough:
            break
        applied = system(direction)
        stiffness = dot(direction, applied)
        if stiffness <= 0:  # rounding; the system itself is positive definite
            break
        length = size / stiffness
        x = {name: x[name] + length * direction[name] for name in x}
        residual = {name: residual[name] - length * applied[name] for name in x}
        new_size = dot(residual, residual)
        direction = {name: residual[name] + new_size / size * direction[name] for name in x}
        size = new_size
    return x


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
    return math.sqrt(dot(tensors, tensors))


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
    length = dot(direction, metric)
    return dot(direction, product(direction)) / length if length > 0 else 0.0


def dot(first: Tensors, second: Tensors) -> float:
    """Inner product over all tensors together, summed in double precision."""
    return math.fsum(float((value * second[name]).sum(dtype=torch.float64)) for name, value in first.items())
