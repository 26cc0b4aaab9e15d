"""Change: distances that can be worked out by hand."""

import copy

import pytest
import torch
from torch import nn

from tests.plugin.trials import HeadOnly, make_trial, with_margins
from unlearn_plugin.metrics.change import Change


class Net(nn.Module):
    """A layer, BatchNorm without parameters of its own, and a head."""

    def __init__(self, layers: int = 1) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.body = nn.ModuleList([nn.Linear(2, 2, bias=False) for _ in range(layers)])
        self.norm = nn.BatchNorm1d(2, affine=False)
        self.fc = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            for module in [*self.body, self.fc]:
                module.weight.copy_(torch.eye(2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.flatten(images)
        for module in self.body:
            features = module(features)
        return self.fc(self.norm(features))


def trial_of(original: nn.Module):
    labels = [0, 1] * 5
    part = (with_margins(torch.arange(10.0) - 4.5, labels, 2), labels)
    return make_trial(part, part, part, original=original, classes=2)


def test_the_original_has_not_changed() -> None:
    model = Net()
    found = Change().measure(model, trial_of(model))
    assert found.value == 0.0
    assert found.details["head_share"] is None
    assert (found.details["tensors_changed"], found.details["tensors"]) == (0, 2)
    assert found.details["batchnorm_changed"] is False
    assert found.details["agreement"] == 1.0


def test_distance_head_share_and_layers_are_what_they_are_by_hand() -> None:
    original = Net()
    model = copy.deepcopy(original)
    with torch.no_grad():
        model.body[0].weight[0, 0] += 3.0
        model.fc.weight[1, 1] += 4.0
    found = Change().measure(model, trial_of(original))
    assert found.value == found.details["relative_norm"] == pytest.approx(5 / 2)  # |delta| 5, |theta| sqrt(2 + 2)
    assert found.details["head_share"] == pytest.approx(16 / 25)
    assert found.details["tensors_changed"] == 2
    assert found.details["per_layer"] == [
        {"name": "body.0", "relative_norm": pytest.approx(3 / 2**0.5)},
        {"name": "fc", "relative_norm": pytest.approx(4 / 2**0.5)},
    ]


def test_running_statistics_that_differ_are_told() -> None:
    original = Net()
    model = copy.deepcopy(original)
    model.norm.running_mean += 1
    found = Change().measure(model, trial_of(original))
    assert found.details["batchnorm_changed"] is True
    assert found.value == 0.0


def test_agreement_is_the_share_of_equal_predictions_on_the_controls() -> None:
    original = HeadOnly(2, 2)
    trial = trial_of(original)
    turned = HeadOnly(2, 2, weight=torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    assert Change().measure(turned, trial).details["agreement"] == 0.0
    stubborn = HeadOnly(2, 2, weight=torch.tensor([[0.0, 0.0], [0.0, 0.0]]))
    zero = (trial.outputs(original, "controls").logits.argmax(1) == 0).double().mean().item()
    assert Change().measure(stubborn, trial).details["agreement"] == zero


def test_a_layer_of_zeros_has_no_relative_change() -> None:
    original, model = HeadOnly(2, 2, weight=torch.zeros(2, 2)), HeadOnly(2, 2)
    found = Change().measure(model, trial_of(original))
    assert found.value is None
    assert found.details["per_layer"] == [{"name": "fc", "relative_norm": None}]


def test_only_the_sixty_layers_that_moved_most_are_listed_in_model_order() -> None:
    original = Net(layers=80)
    model = copy.deepcopy(original)
    with torch.no_grad():
        for place, module in enumerate(model.body):
            module.weight += 0.001 * place
    rows = Change().measure(model, trial_of(original)).details["per_layer"]
    assert [row["name"] for row in rows] == [f"body.{place}" for place in range(20, 80)]
