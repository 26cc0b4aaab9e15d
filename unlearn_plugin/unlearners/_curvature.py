"""Curvature of the loss from the way that training took: one number, one number per weight, or secants.

Between two recorded steps, H s = y with s = theta_2 - theta_1 and y = g_2 - g_1. Where the gradients come from
different batches, the noise of the batch behind g_1 is in s and in y: s holds -(its travel) g_1. So y is compared along
z = s + travel g_1, which the noise of g_1 does not reach while the stride is short against 1 / h. In a longer one part
of it has been pulled back already: then z holds some of it the other way round, and too little curvature is found.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from unlearn_plugin.unlearners._recursion import Product, Rule, Tensors, dot, scaled

__all__ = ["Pair", "Point", "curvature_along", "moment_scale", "pairs_of", "secant_curvature"]

_DEPENDENT = 1e-6  # steps whose part apart from the others is shorter than this share say nothing of their own
_FLAT = 1e-4  # directions with less than this share of the largest curvature count as flat, and so do negative ones


@dataclass(frozen=True, kw_only=True)
class Point:
    """A recorded step.

    Attributes:
        step: Number t in the whole run.
        rates: Learning rate of each parameter.
        weights: theta_t.
        gradient: g_t, without weight decay.
        preconditioner: P of Adam; ``None`` for SGD.
        same_samples: The gradients of all points come from the same samples, so that no noise is in their differences.
    """

    step: int
    rates: Mapping[str, float]
    weights: Tensors
    gradient: Tensors
    preconditioner: Tensors | None = None
    same_samples: bool = False


@dataclass(frozen=True)
class Pair:
    """What two neighbours say: H `way` = `change`.

    Attributes:
        way: s.
        change: y.
        stretched: P s, what curvature 1 makes of the way; s itself for SGD.
        noise: travel g_1; ``None`` where there is no noise.
    """

    way: Tensors
    change: Tensors
    stretched: Tensors
    noise: Tensors | None = None

    @property
    def clean(self) -> Tensors:
        """The way without the noise of the first gradient: z."""
        if self.noise is None:
            return self.way
        return {name: value + self.noise[name] for name, value in self.way.items()}


def pairs_of(points: Iterable[Point], rules: Mapping[str, Rule]) -> Iterator[Pair]:
    """Pair each recorded step with the next.

    Args:
        points: Recorded steps, ascending; two of them are held at a time.
        rules: Optimizer rule of each parameter.

    Yields:
        One pair for each two neighbours.
    """
    for first, second in pairwise(points):
        s = {name: second.weights[name] - value for name, value in first.weights.items()}
        y = {name: second.gradient[name] - value for name, value in first.gradient.items()}
        roots = first.preconditioner
        stretched = s if roots is None else {name: roots[name] * value for name, value in s.items()}
        if first.same_samples:
            yield Pair(s, y, stretched)
            continue
        noise, steps = {}, second.step - first.step
        for name, g in first.gradient.items():
            rule = rules[name]  # momentum spreads a gradient over the steps to come; some of it is still to be made
            travel = first.rates[name] * rule.gain * (1.0 - math.pow(rule.momentum, steps))
            noise[name] = travel * (g if roots is None else g / roots[name])
        yield Pair(s, y, stretched, noise)


def curvature_along(pairs: Iterable[Pair]) -> float | None:
    """One number h with P^-1 H = h along the way that training took: h = sum <z, y> / sum <z, P s>.

    Args:
        pairs: Of neighbours.

    Returns:
        h, at least 0; ``None`` without a pair or a measurable way.
    """
    return _bend(pairs, lambda pair: pair.stretched)


def moment_scale(pairs: Iterable[Pair], moments: Tensors) -> float | None:
    """The factor k that turns mean squared gradients m into a diagonal curvature diag(k m).

    Squared gradients show how curvature is spread over the weights: for a likelihood, the variance of a gradient over
    samples is the curvature (Fisher's information), up to the factor that batches, wrong models and shrunken residuals
    bring. That factor is measured: k = sum <z, y> / sum <z, m s>, so that along the way training took the diagonal has
    the curvature that was found there.

    Args:
        pairs: Of neighbours.
        moments: m of each weight, at least 0.

    Returns:
        k, at least 0; ``None`` without a pair or a measurable way.
    """
    return _bend(pairs, lambda pair: {name: moments[name] * value for name, value in pair.way.items()})


def _bend(pairs: Iterable[Pair], unit: Callable[[Pair], Tensors]) -> float | None:
    """How often the change of the gradient holds what a curvature of one would make: sum <z, y> / sum <z, unit>."""
    slope = length = 0.0
    for pair in pairs:
        clean = pair.clean
        slope += dot(clean, pair.change)
        length += dot(clean, unit(pair))
    return max(0.0, slope / length) if length > 0 else None


def secant_curvature(pairs: Sequence[Pair]) -> Product | None:
    """Curvature from all pairs at once, as a product: L-BFGS's matrix B itself, not its inverse.

    With S the ways and Y the changes as columns, and C such that U = S C is orthonormal and U^T Y C = Lambda is
    diagonal: B = h (I - U U^T) + (Y C) Lambda^-1 (Y C)^T, where h is the mean curvature along the ways. It is BFGS's
    update of h I by pairs that were made conjugate first, which keeps every secant, B S = Y, and not the last alone; on
    a quadratic loss it is H as soon as the ways span the space. Directions without positive curvature are skipped.

    Pairs with noise are not taken at their word: Y is replaced by U T U^T S, with T = (Z^T U)^-1 Z^T Y (U^T S)^-1 the
    curvature within the ways, which the noise leaves right on average. Nothing is then said of directions outside.

    Args:
        pairs: Of neighbours; two vectors of each are kept.

    Returns:
        v -> B v, symmetric and positive semi-definite; ``None`` if there is no way or it shows no curvature.

    Source: Byrd, Nocedal and Schnabel 1994, doi:10.1007/BF01582063, for limited-memory matrices in compact form; all
    secants at once: Gao and Goldfarb 2018, arXiv 1609.00318. The treatment of noise is ours.
    """
    ways, changes = [pair.way for pair in pairs], [pair.change for pair in pairs]
    gram = _inner(ways, ways)
    sizes, turns = torch.linalg.eigh(gram)
    kept = sizes > _DEPENDENT * sizes[-1] if len(pairs) else sizes > 0
    if not kept.any():
        return None
    basis = turns[:, kept] / sizes[kept].sqrt()  # U = S basis
    noisy = any(pair.noise is not None for pair in pairs)
    if noisy:
        clean = [pair.clean for pair in pairs]
        inside = _symmetric(
            torch.linalg.pinv(_inner(clean, ways) @ basis, rtol=1e-3)
            @ _inner(clean, changes)
            @ torch.linalg.pinv(basis.T @ gram, rtol=1e-3)
        )
    else:
        inside = _symmetric(basis.T @ _inner(ways, changes) @ basis)
    bends, axes = torch.linalg.eigh(inside)
    steep = bends > max(0.0, _FLAT * float(bends[-1]))
    if not steep.any():
        return None
    h = float(bends.clamp(min=0.0).mean())
    turned = basis @ axes[:, steep]
    flat = [_combined(ways, column) for column in turned.T]
    if noisy:
        bent = [scaled(vector, float(bend)) for vector, bend in zip(flat, bends[steep], strict=True)]
    else:
        bent = [_combined(changes, column) for column in turned.T]
    return _low_rank(h, flat, bent, bends[steep].tolist())


def _low_rank(h: float, flat: list[Tensors], bent: list[Tensors], bends: list[float]) -> Product:
    """Make v -> h (v - U U^T v) + (Y C) Lambda^-1 (Y C)^T v."""

    def product(vector: Tensors) -> Tensors:
        result = scaled(vector, h)
        for u, w, bend in zip(flat, bent, bends, strict=True):
            lost, gained = -h * dot(u, vector), dot(w, vector) / bend
            result = {name: value + lost * u[name] + gained * w[name] for name, value in result.items()}
        return result

    return product


def _inner(first: Sequence[Tensors], second: Sequence[Tensors]) -> Tensor:
    products = [dot(a, b) for a in first for b in second]
    return torch.tensor(products, dtype=torch.float64).reshape(len(first), len(second))


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.T) / 2


def _combined(tensors: Sequence[Tensors], factors: Tensor) -> Tensors:
    total = scaled(tensors[0], float(factors[0]))
    for one, factor in zip(tensors[1:], factors[1:].tolist(), strict=True):
        total = {name: value + factor * one[name] for name, value in total.items()}
    return total
