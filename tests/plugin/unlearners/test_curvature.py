import math

import pytest
import torch
from torch import Tensor

from unlearn_plugin.unlearners._curvature import Pair, Point, curvature_along, moment_scale, pairs_of, secant_curvature
from unlearn_plugin.unlearners._recursion import Rule, Tensors, norm

DIM = 6
MOMENTUM = Rule(momentum=0.9)


def bowl(seed: int = 0) -> Tensor:
    """A positive definite Hessian with curvatures from 0.1 to 10."""
    turn, _ = torch.linalg.qr(torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(seed)).double())
    return turn @ torch.diag(torch.logspace(-1, 1, DIM).double()) @ turn.T


def point(step: int, theta: Tensor, gradient: Tensor, rate: float = 0.01, **options: object) -> Point:
    return Point(step=step, rates={"w": rate}, weights={"w": theta}, gradient={"w": gradient}, **options)


def clean_pairs(hessian: Tensor, count: int) -> list[Pair]:
    """Pairs of `count` + 1 random places on a quadratic, without noise."""
    places = torch.randn(count + 1, DIM, generator=torch.Generator().manual_seed(2)).double()
    points = [point(step, theta, hessian @ theta, same_samples=True) for step, theta in enumerate(places)]
    return list(pairs_of(points, {"w": Rule()}))


def as_matrix(product) -> Tensor:  # noqa: ANN001
    return torch.stack([product({"w": row})["w"] for row in torch.eye(DIM).double()])


def noisy_points(curvatures: Tensor, noise: Tensor, steps: int, every: int, rate: float = 0.01) -> list[Point]:
    """SGD with momentum on 1/2 theta diag(curvatures) theta, each gradient with noise of its own scale per weight."""
    generator = torch.Generator().manual_seed(5)
    theta, velocity, points = 3.0 * torch.ones_like(curvatures), torch.zeros_like(curvatures), []
    for t in range(steps):
        gradient = curvatures * theta + noise * torch.randn(theta.shape, generator=generator).double()
        if t % every == 0:
            points.append(point(t, theta, gradient, rate))
        velocity = 0.9 * velocity + gradient
        theta = theta - rate * velocity
    return points


def test_the_curvature_along_the_way_is_found_in_spite_of_noisy_gradients() -> None:
    points = noisy_points(torch.full((2000,), 2.0).double(), torch.full((2000,), 0.3).double(), 40, 4)
    pairs = list(pairs_of(points, {"w": MOMENTUM}))
    assert curvature_along(pairs) == pytest.approx(2.0, rel=0.02)


def test_taken_along_the_way_itself_noise_would_look_like_curvature() -> None:
    """At the bottom of the bowl there is noise alone: plain least squares finds several times the curvature."""
    bend, noise = torch.full((2000,), 2.0).double(), torch.full((2000,), 3.0).double()
    points = noisy_points(bend, noise, 400, 2, rate=0.001)[-100:]
    pairs = list(pairs_of(points, {"w": MOMENTUM}))
    naive = [Pair(pair.way, pair.change, pair.way) for pair in pairs]
    assert curvature_along(naive) > 10.0
    assert curvature_along(pairs) < 6.0


def test_adams_curvature_is_that_of_the_space_which_its_preconditioner_stretches() -> None:
    """P^-1 H = 3 exactly, and the noise of the first gradient is taken out through P as well."""
    root = torch.tensor([0.5, 2.0]).double()
    places = torch.tensor([[1.0, 1.0], [0.4, 0.9], [0.1, -0.2]]).double()
    points = [point(step, theta, 3.0 * root * theta, preconditioner={"w": root}) for step, theta in enumerate(places)]
    assert curvature_along(list(pairs_of(points, {"w": Rule()}))) == pytest.approx(3.0)
    (first, _) = pairs_of(points, {"w": Rule()})
    torch.testing.assert_close(first.clean["w"], places[1] - places[0] + 0.01 * 3.0 * places[0])


def test_the_curvature_of_one_step_alone_is_not_known() -> None:
    pairs = list(pairs_of([point(3, torch.ones(2), torch.ones(2))], {"w": Rule()}))
    assert not pairs
    assert curvature_along(pairs) is None
    assert moment_scale(pairs, {"w": torch.ones(2)}) is None
    assert secant_curvature(pairs) is None


def test_curvature_is_never_negative() -> None:
    points = [point(0, torch.zeros(1), torch.zeros(1), same_samples=True), point(1, torch.ones(1), -torch.ones(1))]
    pairs = list(pairs_of(points, {"w": Rule()}))
    assert curvature_along(pairs) == 0.0
    assert moment_scale(pairs, {"w": torch.ones(1)}) == 0.0
    assert secant_curvature(pairs) is None


def test_squared_gradients_scaled_by_the_way_are_the_diagonal_hessian_of_a_likelihood() -> None:
    """Least squares with noise in the labels: the variance of a weight's gradient is in proportion to its curvature."""
    curvatures = torch.logspace(-1, 1, 3000).double()
    points = noisy_points(curvatures, 20 * curvatures.sqrt(), 400, 2, rate=0.001)
    moments = {"w": sum(point.gradient["w"].square() for point in points) / len(points)}
    scale = moment_scale(list(pairs_of(points, {"w": MOMENTUM})), moments)
    found = scale * moments["w"]
    assert scale == pytest.approx(1 / 400, rel=0.2)
    by_size = found.reshape(10, 300).mean(1)
    torch.testing.assert_close(by_size, curvatures.reshape(10, 300).mean(1), rtol=0.2, atol=0)


def test_every_secant_is_kept_and_the_rest_has_the_mean_curvature_of_the_ways() -> None:
    pairs = clean_pairs(bowl(), 3)
    product = secant_curvature(pairs)
    for pair in pairs:
        torch.testing.assert_close(product(pair.way)["w"], pair.change["w"])
    ways = torch.stack([pair.way["w"] for pair in pairs], 1)
    basis, _ = torch.linalg.qr(ways)
    mean = float((basis.T @ bowl() @ basis).trace() / 3)
    aside = torch.randn(DIM, generator=torch.Generator().manual_seed(3)).double()
    changes = torch.stack([pair.change["w"] for pair in pairs], 1)
    aside -= ways @ torch.linalg.solve(ways.T @ ways, ways.T @ aside)
    told = changes @ torch.linalg.solve(changes.T @ ways, changes.T @ aside)
    torch.testing.assert_close(product({"w": aside})["w"], mean * aside + told)
    matrix = as_matrix(product)
    torch.testing.assert_close(matrix, matrix.T)
    assert float(torch.linalg.eigvalsh(matrix)[0]) > 0


@pytest.mark.parametrize("count", [DIM, DIM + 3])
def test_on_a_quadratic_it_is_the_hessian_once_the_ways_span_the_space(count: int) -> None:
    torch.testing.assert_close(as_matrix(secant_curvature(clean_pairs(bowl(), count))), bowl(), rtol=1e-6, atol=1e-8)


def test_recorded_gradients_of_a_quadratic_without_noise_give_the_hessian_as_well() -> None:
    """The other road: instruments instead of the ways themselves, with momentum between the recorded steps."""
    points = []
    for seed in range(DIM + 2):
        theta = torch.randn(DIM, generator=torch.Generator().manual_seed(seed)).double()
        points.append(point(20 * seed, theta, bowl() @ theta))
    found = as_matrix(secant_curvature(list(pairs_of(points, {"w": MOMENTUM}))))
    torch.testing.assert_close(found, bowl(), rtol=1e-4, atol=1e-6)


def test_the_noise_of_batches_is_not_taken_for_curvature() -> None:
    """Taken at their word, noisy differences bend 2,000 weights of curvature 2 by many times as much."""
    points = noisy_points(torch.full((2000,), 2.0).double(), torch.full((2000,), 0.3).double(), 60, 6)
    pairs = list(pairs_of(points, {"w": MOMENTUM}))
    product = secant_curvature(pairs)
    direction = {"w": torch.ones(2000).double()}
    assert norm(product(direction)) / norm(direction) == pytest.approx(2.0, rel=0.15)
    believed = secant_curvature([Pair(pair.way, pair.change, pair.way) for pair in pairs])
    assert norm(believed(pairs[-1].change)) > 5 * norm(product(pairs[-1].change))


def test_directions_without_positive_curvature_are_skipped() -> None:
    hessian = torch.diag(torch.tensor([4.0, -1.0, 2.0, 1.0, 1.0, 1.0]).double())
    matrix = as_matrix(secant_curvature(clean_pairs(hessian, DIM)))
    assert float(torch.linalg.eigvalsh(matrix)[0]) >= 0
    assert matrix[0, 0] == pytest.approx(4.0)
    assert matrix[1, 1] == pytest.approx((4 + 2 + 1 + 1 + 1) / 6)  # the mean of the ways, negative ones as 0


def test_steps_along_one_line_count_once() -> None:
    line, hessian = torch.arange(1.0, DIM + 1).double(), bowl()
    points = [point(t, t**1.5 * line, hessian @ (t**1.5 * line), same_samples=True) for t in range(5)]
    product = secant_curvature(list(pairs_of(points, {"w": Rule()})))
    torch.testing.assert_close(product({"w": line})["w"], hessian @ line)
    assert math.isfinite(norm(product(tensors())))


def tensors() -> Tensors:
    return {"w": torch.randn(DIM, generator=torch.Generator().manual_seed(9)).double()}
