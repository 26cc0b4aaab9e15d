"""The proof: the recursion against runs that really leave F out."""

import math
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unlearn_plugin.unlearners._recursion import (
    Rule,
    Tensors,
    along,
    exact_step,
    implicit_stride,
    norm,
    spectral_radius,
    stride,
    tail_bound,
)

N, DIM, FORGET, BATCH = 60, 5, 9, 12
X = torch.randn(N, DIM, generator=torch.Generator().manual_seed(0)).double()
Y = X @ torch.arange(1.0, DIM + 1).double() + torch.randn(N, generator=torch.Generator().manual_seed(1)).double()
SIGNS = (Y > 0).double()


def squares(theta: Tensor, rows: Tensor) -> Tensor:
    return 0.5 * (X[rows] @ theta - Y[rows]).square().mean()


def logistic(theta: Tensor, rows: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(X[rows] @ theta, SIGNS[rows])


def gradient(loss, theta: Tensor, rows: Tensor) -> Tensor:  # noqa: ANN001
    return torch.func.grad(loss)(theta, rows)


@dataclass
class Run:
    """A training run in plain tensors, with torch's own optimizer, that remembers weights and batches."""

    loss: object
    optimizer: str = "sgd"
    settings: dict | None = None
    steps: int = 120
    forget: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        self.rates = [0.1 * (0.5 + 0.5 * math.cos(math.pi * t / self.steps / 2)) for t in range(self.steps)]
        self.batches, self.weights, self.roots = [], [], []
        theta = torch.ones(DIM, dtype=torch.float64, requires_grad=True)
        kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[self.optimizer]
        optimizer = kind([theta], lr=1.0, **(self.settings or {}))
        for t in range(self.steps):
            rows = torch.randperm(N, generator=torch.Generator().manual_seed(t))[:BATCH]
            self.batches.append(rows)
            self.weights.append(theta.detach().clone())
            theta.grad = gradient(self.loss, theta.detach(), self.kept(rows))
            optimizer.param_groups[0]["lr"] = self.rates[t]
            optimizer.step()
            if "exp_avg_sq" in optimizer.state[theta]:
                moment = optimizer.state[theta]["exp_avg_sq"] / (1 - 0.999 ** (t + 1))
                self.roots.append(moment.sqrt() + 1e-8)
        self.final = theta.detach()

    def kept(self, rows: Tensor) -> Tensor:
        return torch.tensor([row for row in rows.tolist() if row not in self.forget])


def unlearn(run: Run, rule: Rule, *, window: int | None = None, curvature: bool = True) -> Tensor:
    """Correct a run by the recursion over its last steps, with the Hessian of each batch without F."""
    left_out = set(range(FORGET))
    delta: Tensors = {"theta": torch.zeros(DIM).double()}
    velocity = dict(delta)
    for t in range(run.steps - (window or run.steps), run.steps):
        rows, theta = run.batches[t], run.weights[t]
        rest = torch.tensor([row for row in rows.tolist() if row not in left_out])
        impulse = {"theta": gradient(run.loss, theta, rest) - gradient(run.loss, theta, rows)}

        def product(vector: Tensors, theta: Tensor = theta, rest: Tensor = rest) -> Tensors:
            return {"theta": torch.func.hessian(run.loss)(theta, rest) @ vector["theta"]}

        delta, velocity = exact_step(
            delta, velocity, impulse, rules={"theta": rule}, rates={"theta": run.rates[t]},
            curvature=product if curvature else None,
            preconditioner={"theta": run.roots[t]} if run.roots else None, step=t,
        )  # fmt: skip
    return run.final + delta["theta"]


def counterfactual(run: Run) -> Tensor:
    return Run(run.loss, run.optimizer, run.settings, run.steps, frozenset(range(FORGET))).final


def relative(found: Tensor, truth: Tensor) -> float:
    return float((found - truth).norm() / truth.norm())


SGD_CASES = {
    "plain": {"weight_decay": 0.01},
    "momentum": {"momentum": 0.9, "weight_decay": 0.01},
    "nesterov": {"momentum": 0.8, "nesterov": True, "weight_decay": 0.01},
    "dampening": {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01},
}


@pytest.mark.parametrize("case", SGD_CASES)
def test_on_a_quadratic_loss_the_corrected_weights_are_those_of_the_run_without_f(case: str) -> None:
    run = Run(squares, settings=SGD_CASES[case])
    truth = counterfactual(run)
    assert relative(run.final, truth) > 1e-3  # leaving F out does make a difference
    assert relative(unlearn(run, Rule(**SGD_CASES[case])), truth) < 1e-9


def test_it_is_the_solution_of_ridge_regression_without_f_once_training_has_converged() -> None:
    run = Run(squares, settings={"momentum": 0.5, "weight_decay": 0.1})
    everything = torch.arange(N)
    rest = everything[FORGET:]
    theta, velocity, delta, nu = torch.zeros(DIM).double(), torch.zeros(DIM).double(), None, None
    delta = nu = {"theta": torch.zeros(DIM).double()}
    hessian = X[rest].T @ X[rest] / len(rest)
    for t in range(600):  # full batches, so that the run settles
        whole = gradient(squares, theta, everything)
        impulse = {"theta": gradient(squares, theta, rest) - whole}
        delta, nu = exact_step(
            delta, nu, impulse, rules={"theta": Rule(momentum=0.5, weight_decay=0.1)}, rates={"theta": 0.1},
            curvature=lambda v: {"theta": hessian @ v["theta"]}, step=t,
        )  # fmt: skip
        velocity = 0.5 * velocity + whole + 0.1 * theta
        theta = theta - 0.1 * velocity
    solution = torch.linalg.solve(hessian + 0.1 * torch.eye(DIM).double(), X[rest].T @ Y[rest] / len(rest))
    assert relative(theta + delta["theta"], solution) < 1e-5
    assert run.steps == 120


def test_the_error_falls_geometrically_with_the_window_at_the_rate_of_the_contraction() -> None:
    settings = {"momentum": 0.5, "weight_decay": 0.01}
    run = Run(squares, settings=settings, steps=200)
    truth = counterfactual(run)
    windows = [10, 25, 40, 55, 70]
    errors = [relative(unlearn(run, Rule(**settings), window=window), truth) for window in windows]
    assert errors[-1] < 1e-2 * errors[0]
    falls = [math.log(errors[i + 1] / errors[i]) / 15 for i in range(len(errors) - 1)]
    slowest = float(torch.linalg.eigvalsh(X.T @ X / N)[0])
    rate = sum(run.rates[-70:]) / 70
    expected = math.log(spectral_radius(rate, slowest, Rule(**settings)))
    assert all(fall < 0 for fall in falls)
    assert sum(falls) / len(falls) == pytest.approx(expected, rel=0.35)


def test_on_logistic_regression_the_error_is_small_and_falls_as_the_window_grows() -> None:
    settings = {"momentum": 0.9, "weight_decay": 0.05}
    run = Run(logistic, settings=settings, steps=200)
    truth = counterfactual(run)
    errors = [relative(unlearn(run, Rule(**settings), window=window), truth) for window in (10, 30, 90, 200)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.15 * relative(run.final, truth)


def test_without_curvature_the_correction_overshoots() -> None:
    settings = {"momentum": 0.9, "weight_decay": 0.01}
    run = Run(squares, settings=settings)
    assert relative(unlearn(run, Rule(**settings), curvature=False), counterfactual(run)) > 0.1


@pytest.mark.parametrize(("kind", "decoupled"), [("adam", False), ("adamw", True)])
def test_adam_is_corrected_well_with_its_recorded_preconditioner(kind: str, decoupled: bool) -> None:
    run = Run(squares, kind, {"weight_decay": 0.02})
    rule = Rule(momentum=0.9, dampening=0.9, weight_decay=0.02, decoupled=decoupled, bias_corrected=True)
    truth = counterfactual(run)
    assert relative(unlearn(run, rule), truth) < 0.5 * relative(run.final, truth)


def test_adam_is_corrected_exactly_when_the_preconditioner_really_is_the_same() -> None:
    """Two runs of AdamW's rule with one fixed P: the difference has to be what the recursion says."""
    root = torch.rand(DIM, generator=torch.Generator().manual_seed(3)).double() + 0.5
    rule = Rule(momentum=0.9, dampening=0.9, weight_decay=0.05, decoupled=True, bias_corrected=True)

    def go(rows: Tensor) -> list[Tensor]:
        theta, m, seen = torch.ones(DIM).double(), torch.zeros(DIM).double(), []
        for t in range(50):
            seen.append(theta)
            m = 0.9 * m + 0.1 * gradient(squares, theta, rows)
            theta = theta * (1 - 0.1 * 0.05) - 0.1 * m / (1 - 0.9 ** (t + 1)) / root
        return [*seen, theta]

    everything, rest = torch.arange(N), torch.arange(FORGET, N)
    recorded = go(everything)
    hessian = X[rest].T @ X[rest] / len(rest)
    delta = velocity = {"theta": torch.zeros(DIM).double()}
    for t in range(50):
        theta = recorded[t]
        impulse = {"theta": gradient(squares, theta, rest) - gradient(squares, theta, everything)}
        delta, velocity = exact_step(
            delta, velocity, impulse, rules={"theta": rule}, rates={"theta": 0.1}, step=t,
            curvature=lambda v: {"theta": hessian @ v["theta"]}, preconditioner={"theta": root},
        )  # fmt: skip
    assert relative(recorded[-1] + delta["theta"], go(rest)[-1]) < 1e-10


def test_a_stride_is_the_limit_of_many_small_steps() -> None:
    rule = Rule(momentum=0.0, weight_decay=0.1)
    delta = {"w": torch.tensor([1.0, -2.0]).double()}
    impulse = {"w": torch.tensor([0.3, 0.5]).double()}
    small, velocity = dict(delta), {"w": torch.zeros(2).double()}
    for t in range(1, 20_001):
        small, velocity = exact_step(
            small, velocity, impulse, rules={"w": rule}, rates={"w": 1e-4}, step=t,
            curvature=lambda v: {"w": 0.7 * v["w"]},
        )  # fmt: skip
    whole = stride(delta, impulse, times={"w": 2.0}, rules={"w": rule}, curvature=0.7)
    torch.testing.assert_close(whole["w"], small["w"], rtol=1e-3, atol=0)


def test_a_stride_without_curvature_or_decay_adds_up_the_impulses() -> None:
    moved = stride({"w": torch.ones(3)}, {"w": torch.full((3,), 0.5)}, times={"w": 4.0}, rules={"w": Rule()})
    torch.testing.assert_close(moved["w"], torch.full((3,), -1.0))


def test_momentum_multiplies_the_way_of_a_constant_gradient_by_its_gain() -> None:
    rule = Rule(momentum=0.9, dampening=0.3)
    delta, velocity = {"w": torch.zeros(1).double()}, {"w": torch.zeros(1).double()}
    for t in range(1, 400):
        before = delta["w"]
        delta, velocity = exact_step(
            delta, velocity, {"w": torch.ones(1).double()}, rules={"w": rule}, rates={"w": 0.01}, step=t
        )
    assert float(before - delta["w"]) == pytest.approx(0.01 * rule.gain)
    assert rule.gain == pytest.approx(7.0)


def test_an_implicit_stride_solves_its_system_and_never_overshoots() -> None:
    matrix = torch.diag(torch.tensor([100.0, 1.0, 0.0]).double())
    delta, impulse = {"w": torch.ones(3).double()}, {"w": torch.tensor([50.0, 0.5, 0.1]).double()}
    rule = Rule(weight_decay=0.01)
    moved = implicit_stride(
        delta, impulse, times={"w": 1000.0}, rules={"w": rule}, iterations=20,
        curvature=lambda v: {"w": matrix @ v["w"]},
    )  # fmt: skip
    wanted = torch.linalg.solve(matrix + (0.01 + 1e-3) * torch.eye(3).double(), 1e-3 * delta["w"] - impulse["w"])
    torch.testing.assert_close(moved["w"], wanted, rtol=1e-3, atol=1e-6)
    assert float(moved["w"].abs().max()) < 12  # an explicit step of this length would reach 100,000


def test_an_implicit_stride_takes_adams_metric_and_decoupled_decay() -> None:
    root = torch.tensor([0.5, 2.0]).double()
    rule = Rule(weight_decay=0.3, decoupled=True)
    moved = implicit_stride(
        {"w": torch.ones(2).double()}, {"w": torch.tensor([1.0, -1.0]).double()}, times={"w": 2.0}, rules={"w": rule},
        curvature=lambda v: {"w": 3.0 * v["w"]}, preconditioner={"w": root}, iterations=10,
    )  # fmt: skip
    wanted = (root / 2.0 - torch.tensor([1.0, -1.0])) / (root / 2.0 + 3.0 + 0.3 * root)
    torch.testing.assert_close(moved["w"], wanted, rtol=1e-3, atol=1e-6)


def test_a_stretch_without_any_rate_leaves_the_deviation_as_it_is() -> None:
    delta, impulse = {"w": torch.ones(2)}, {"w": torch.ones(2)}
    still = implicit_stride(delta, impulse, times={"w": 0.0}, rules={"w": Rule()}, curvature=lambda v: v, iterations=3)
    torch.testing.assert_close(still["w"], delta["w"])
    torch.testing.assert_close(stride(delta, impulse, times={"w": 0.0}, rules={"w": Rule()})["w"], delta["w"])


def test_a_stride_takes_a_curvature_of_each_weight_and_adams_metric_with_coupled_and_decoupled_decay() -> None:
    """d delta / d tau = -k delta - c / P with k = (h + lambda) / P, or h / P + lambda for AdamW; solved by hand."""
    root, bend = torch.tensor([0.5, 2.0]).double(), torch.tensor([3.0, 0.0]).double()
    delta, impulse = torch.tensor([1.0, -1.0]).double(), torch.tensor([0.4, 0.8]).double()
    for decoupled in (False, True):
        k = bend / root + (0.3 if decoupled else 0.3 / root)
        wanted = (-2.0 * k).exp() * delta - (1 - (-2.0 * k).exp()) / k * impulse / root
        moved = stride(
            {"w": delta}, {"w": impulse}, times={"w": 2.0}, rules={"w": Rule(weight_decay=0.3, decoupled=decoupled)},
            curvature={"w": bend}, preconditioner={"w": root},
        )  # fmt: skip
        torch.testing.assert_close(moved["w"], wanted)


@pytest.mark.parametrize(
    "rule",
    [
        Rule(),
        Rule(momentum=0.9, weight_decay=0.01),
        Rule(momentum=0.9, nesterov=True),
        Rule(momentum=0.9, dampening=0.4),
        Rule(weight_decay=0.1, decoupled=True),
    ],
)
def test_the_spectral_radius_is_the_rate_at_which_a_deviation_fades(rule: Rule) -> None:
    delta, velocity = {"w": torch.ones(1).double()}, {"w": torch.zeros(1).double()}
    sizes = []
    for t in range(1, 301):
        delta, velocity = exact_step(
            delta, velocity, {"w": torch.zeros(1).double()}, rules={"w": rule}, rates={"w": 0.05}, step=t,
            curvature=lambda v: {"w": 0.4 * v["w"]},
        )  # fmt: skip
        sizes.append(norm(delta) + norm(velocity))
    measured = (sizes[-1] / sizes[99]) ** (1 / 200)
    assert spectral_radius(0.05, 0.4, rule) == pytest.approx(measured, abs=5e-3)


def test_too_large_a_rate_does_not_contract() -> None:
    assert spectral_radius(1.0, 3.0, Rule()) == pytest.approx(2.0)


def test_the_tail_bound_is_the_rest_of_a_geometric_series() -> None:
    series = sum(0.9**k * 0.01 for k in range(20, 2000))
    assert tail_bound(0.9, 20, 0.01) == pytest.approx(series)
    assert tail_bound(1.0, 20, 0.01) is None


def test_the_curvature_along_a_direction_is_its_rayleigh_quotient() -> None:
    direction = {"a": torch.tensor([1.0]), "b": torch.tensor([2.0])}
    product = along(direction, lambda v: {"a": 3 * v["a"], "b": 5 * v["b"]})
    assert product == pytest.approx((3 + 20) / 5)
    assert along(direction, lambda v: v, {"a": torch.tensor([2.0]), "b": torch.tensor([2.0])}) == pytest.approx(0.5)
    assert along({"a": torch.zeros(1)}, lambda v: v) == 0.0
