"""Outputs: the margin against its two closed forms, and a forward pass that leaves no trace."""

import copy

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from tests.plugin.trials import HeadOnly, samples_of, with_margins
from unlearn_plugin.outputs import Outputs, compute_outputs, margin
from unlearn_plugin.progress import Progress

QUIET = Progress(enabled=False)


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


class SmallNet(nn.Module):
    """A convolution, BatchNorm, dropout and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.fc = nn.Linear(4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.drop(self.norm(self.conv(images)).mean((2, 3))))


def test_the_margin_is_the_log_odds_of_the_true_class() -> None:
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) % 7
    chance = logits.double().softmax(1).gather(1, labels[:, None]).squeeze(1)
    assert torch.allclose(margin(logits, labels), (chance.log() - (1 - chance).log()).float(), atol=1e-5)


def test_with_two_classes_the_margin_is_the_difference_of_the_logits() -> None:
    assert margin(torch.tensor([[3.0, 1.0], [0.0, 4.0]]), torch.tensor([0, 0])).tolist() == pytest.approx([2.0, -4.0])


def test_the_margin_stays_finite_where_the_probability_rounds_to_one() -> None:
    assert margin(torch.tensor([[500.0, 0.0, 0.0]]), torch.tensor([0])).item() == pytest.approx(499.3069, abs=1e-3)


def test_adding_a_constant_to_all_logits_does_not_move_the_margin() -> None:
    logits, labels = torch.randn(20, 5), torch.arange(20) % 5
    assert torch.allclose(margin(logits, labels), margin(logits + 7, labels), atol=1e-4)


def test_outputs_know_what_is_right() -> None:
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0]])
    assert Outputs(logits, logits, torch.tensor([0, 0, 0])).correct.tolist() == [True, False, True]


def test_all_samples_come_out_in_order_whatever_the_batch_size(accelerator: Accelerator) -> None:
    labels = [2, 0, 1, 1, 0, 2, 2]
    margins = torch.arange(7.0) - 3
    samples = samples_of(with_margins(margins, labels, 3), labels, 3)
    for batch_size in (1, 3, 100):
        found = compute_outputs(HeadOnly(3, 3), samples, accelerator, batch_size=batch_size, progress=QUIET)
        assert torch.allclose(found.margins, margins, atol=1e-5)
        assert found.labels.tolist() == labels
        assert torch.equal(found.features, with_margins(margins, labels, 3))


def test_the_model_is_run_in_evaluation_mode_and_left_as_it_was(accelerator: Accelerator) -> None:
    model = SmallNet()
    model.norm.eval()  # a user may freeze one layer's statistics only
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    images = torch.randn(8, 1, 5, 5)
    samples = samples_of(images.flatten(1), [0, 1, 2, 0, 1, 2, 0, 1], 3)
    samples.data.dataset[:] = [(image, label) for image, (_, label) in zip(images, samples.data.dataset, strict=True)]
    state = torch.get_rng_state()
    found = compute_outputs(model, samples, accelerator, batch_size=3, progress=QUIET)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.fc._forward_pre_hooks
    model.eval()
    assert torch.allclose(found.logits, model(images), atol=1e-6)
    assert torch.allclose(found.logits, model.fc(found.features), atol=1e-6)
    assert not found.logits.requires_grad


def test_modes_come_back_after_an_error(accelerator: Accelerator) -> None:
    model = SmallNet().train()
    with pytest.raises(RuntimeError):
        compute_outputs(model, samples_of(torch.randn(2, 4), [0, 1], 3), accelerator, batch_size=2, progress=QUIET)
    assert all(module.training for module in model.modules())
