import copy

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from tests.conftest import fresh_net, image_data
from unlearn_plugin.data import Samples
from unlearn_plugin.unlearners._derivatives import Derivatives

GENERATOR = torch.Generator().manual_seed(2)
IMAGES = torch.randn(24, 1, 8, 8, generator=GENERATOR)
DATA = image_data(IMAGES, torch.arange(24) % 10)
ALL = Samples(DATA, torch.arange(24))
FORGET, RETAIN = ALL.select(range(6)), ALL.select(range(6, 24))


def linear() -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).double()


class Deep(nn.Module):
    """A smooth net, for which the Hessian differs from the Gauss-Newton matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(64, 3), nn.Linear(3, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images.flatten(1)).tanh())


def derivatives(model: nn.Module, *, by_batch: bool = True, names: tuple[str, ...] | None = None) -> Derivatives:
    names = names or tuple(name for name, _ in model.named_parameters())
    return Derivatives(model, names, Accelerator(cpu=True), by_batch=by_batch)


def mean_gradient(model: nn.Module, samples: Samples) -> dict[str, Tensor]:
    dtype = next(model.parameters()).dtype
    loss = F.cross_entropy(model(IMAGES[samples.rows].to(dtype)), samples.labels)
    return dict(zip(dict(model.named_parameters()), torch.autograd.grad(loss, list(model.parameters())), strict=True))


def close(found: dict[str, Tensor], wanted: dict[str, Tensor], **tolerance: float) -> None:
    assert found.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], **{"rtol": 1e-6, "atol": 1e-9, **tolerance})


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_the_mean_gradient_does_not_depend_on_the_batch_size(batch_size: int) -> None:
    model = linear()
    close(derivatives(model).gradient(ALL, batch_size), mean_gradient(model, ALL))


def test_derivatives_are_taken_at_the_weights_that_were_placed() -> None:
    model, other = linear(), linear()
    with torch.no_grad():
        other[1].weight.mul_(3)
    found = derivatives(model)
    found.place(other.state_dict())
    close(found.gradient(ALL, 8), mean_gradient(other, ALL))


def test_the_contrast_is_the_difference_of_both_mean_gradients() -> None:
    model = linear()
    forget, retain = mean_gradient(model, FORGET), mean_gradient(model, RETAIN)
    close(derivatives(model).contrast(FORGET, RETAIN), {name: retain[name] - forget[name] for name in forget})


def test_the_impulse_is_what_leaving_the_forget_samples_out_changes() -> None:
    model = linear()
    whole, rest = mean_gradient(model, ALL), mean_gradient(model, RETAIN)
    found = derivatives(model).impulse(FORGET, RETAIN)
    close(found, {name: rest[name] - whole[name] for name in whole})
    own = mean_gradient(model, FORGET)
    close(found, {name: 6 / 18 * (whole[name] - own[name]) for name in whole})  # the formula k / (b - k) (g - g_F)


def test_a_batch_of_forget_samples_alone_loses_its_whole_gradient() -> None:
    model = linear()
    whole = mean_gradient(model, FORGET)
    close(derivatives(model).impulse(FORGET, RETAIN.select([])), {name: -value for name, value in whole.items()})


def dense(product, model: nn.Module) -> Tensor:  # noqa: ANN001
    """The whole matrix, column by column."""
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    sizes = [shape.numel() for shape in shapes.values()]
    columns = []
    for place in range(sum(sizes)):
        unit = torch.zeros(sum(sizes)).double()
        unit[place] = 1
        parts = zip(shapes.items(), unit.split(sizes), strict=True)
        result = product({name: part.reshape(shape) for (name, shape), part in parts})
        columns.append(torch.cat([result[name].flatten() for name in shapes]))
    return torch.stack(columns, 1)


def true_hessian(model: nn.Module, samples: Samples) -> Tensor:
    names = list(dict(model.named_parameters()))
    shapes = [parameter.shape for parameter in model.parameters()]

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split([shape.numel() for shape in shapes])
        weights = {name: part.reshape(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        logits = torch.func.functional_call(model, weights, IMAGES[samples.rows].double())
        return F.cross_entropy(logits, samples.labels)

    flat = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    return torch.autograd.functional.hessian(loss, flat)


def test_hessian_products_are_those_of_the_hessian() -> None:
    model = Deep().double()
    torch.testing.assert_close(dense(derivatives(model).hessian(FORGET), model), true_hessian(model, FORGET))


def test_gauss_newton_is_the_hessian_of_a_linear_model() -> None:
    model = linear()
    product = derivatives(model).gauss_newton(FORGET)
    vector = {name: torch.randn_like(parameter) for name, parameter in model.named_parameters()}
    close(product(vector), derivatives(model).hessian(FORGET)(vector))


def test_gauss_newton_is_positive_semi_definite_where_the_hessian_is_not() -> None:
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        model = Deep().double()
    gauss_newton = dense(derivatives(model).gauss_newton(FORGET), model)
    torch.testing.assert_close(gauss_newton, gauss_newton.T)
    assert float(torch.linalg.eigvalsh(gauss_newton)[0]) > -1e-12
    assert float(torch.linalg.eigvalsh(true_hessian(model, FORGET))[0]) < -1e-4


def test_products_pass_fused_attention() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.head = nn.Linear(8, 24), nn.Linear(8, 10)

        def forward(self, images: Tensor) -> Tensor:
            q, k, v = self.mix(images[:, 0]).chunk(3, -1)
            return self.head(F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0].mean(1))

    model = Attention()
    vector = {name: torch.ones_like(parameter) for name, parameter in model.named_parameters()}
    for product in (derivatives(model).hessian(FORGET), derivatives(model).gauss_newton(FORGET)):
        assert all(bool(value.isfinite().all()) for value in product(vector).values())


def test_batchnorm_normalises_by_the_batch_or_by_its_statistics_as_asked() -> None:
    model = fresh_net(0).eval()
    frozen = derivatives(model, by_batch=False).gradient(ALL, 24)
    close(frozen, mean_gradient(model, ALL), rtol=1e-4, atol=1e-6)
    trained = copy.deepcopy(model).train()
    trained[7].eval()  # dropout stays off
    close(derivatives(model).gradient(ALL, 24), mean_gradient(trained, ALL), rtol=1e-4, atol=1e-6)


def test_the_model_itself_is_never_touched() -> None:
    model = fresh_net(0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = derivatives(model)
    found.place(fresh_net(1).state_dict())
    found.gradient(ALL, 8)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_only_the_named_parameters_are_differentiated() -> None:
    found = derivatives(fresh_net(0), names=("8.bias",)).gradient(ALL, 8)
    assert list(found) == ["8.bias"]
