"""Relearning: a shallow edit is undone by training on R alone, and nothing of the user's is touched."""

import copy
import dataclasses

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from tests.conftest import Net, digits, image_data
from tests.plugin.trials import HeadOnly, make_trial
from unlearn_plugin.data import Samples
from unlearn_plugin.metrics.base import Trial
from unlearn_plugin.metrics.membership import Membership
from unlearn_plugin.metrics.relearning import Relearning
from unlearn_plugin.progress import Progress
from unlearn_plugin.training import Recipe, train

TRAINED, FORGET = 200, 60


def learnt(trial: Trial, samples: Samples) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = Net()
    recipe = Recipe(learning_rate=0.1, epochs=40, batch_size=32)
    train(model, samples, recipe, accelerator=trial.accelerator, seed=0, progress=trial.progress)
    return model.eval()


@pytest.fixture(scope="module")
def trial() -> Trial:
    images, labels = digits()
    data = image_data(images, labels)
    made = Trial(
        forget=Samples(data, torch.arange(FORGET)),
        retain=Samples(data, torch.arange(FORGET, TRAINED)),
        controls=Samples(data, torch.arange(TRAINED, 1200)),
        classes=data.classes,
        original=Net(),
        accelerator=Accelerator(cpu=True),
        progress=Progress(enabled=False),
    )
    return dataclasses.replace(made, original=learnt(made, Samples(data, torch.arange(TRAINED))))


def pushed_away(trial: Trial) -> nn.Module:
    """Gradient ascent on F until the plain test sees nothing any more."""
    model = copy.deepcopy(trial.original)
    images, labels, _ = trial.forget.__getitems__(range(FORGET))
    optimizer = torch.optim.SGD(model.parameters(), 0.02)
    for _ in range(400):
        if Membership().measure(model, dataclasses.replace(trial, _outputs={})).value <= 0.5:
            break
        optimizer.zero_grad()
        (-nn.functional.cross_entropy(model(images), labels)).backward()
        optimizer.step()
    return model


def test_what_was_only_pushed_away_comes_back_without_f(trial: Trial) -> None:
    hidden = pushed_away(trial)
    assert Membership().measure(hidden, trial).value <= 0.5
    found = Relearning().measure(hidden, trial)
    assert found.low > 0.5
    assert found.details["p_value"] < 0.025


def test_a_model_that_never_saw_f_does_not_learn_it(trial: Trial) -> None:
    found = Relearning().measure(learnt(trial, trial.retain), trial)
    assert found.low < 0.5
    assert found.details["p_value"] > 0.025
    assert found.n == FORGET


def test_the_model_its_modes_and_the_random_state_are_left_alone(trial: Trial) -> None:
    model = copy.deepcopy(trial.original)
    model[1].train()
    model[0].bias.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    Relearning().measure(model, trial)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert [module.training for module in model.modules()] == modes
    assert [name for name, value in model.named_parameters() if not value.requires_grad] == ["0.bias"]
    assert all(value.grad is None for value in model.parameters())


def test_the_seed_decides_and_the_global_random_state_does_not(trial: Trial) -> None:
    values = []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number)
        values.append(Relearning().measure(trial.original, dataclasses.replace(trial, seed=seed)))
    assert values[0] == values[1]
    assert values[0].value != values[2].value


def test_the_budget_ends_training_by_epochs_or_by_steps(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    plain = torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self, *more: (made.append(1), plain(self, *more))[1])
    Relearning().measure(trial.original, trial)
    assert len(made) == 2 * 3  # 140 samples make three batches of 64
    made.clear()
    Relearning(steps=4).measure(trial.original, trial)
    assert len(made) == 4


@pytest.mark.parametrize(("layer", "optimizer"), [(nn.LayerNorm(4), "adamw"), (nn.BatchNorm2d(4), "sgd")])
def test_networks_with_layer_norm_are_trained_by_adamw(layer: nn.Module, optimizer: str) -> None:
    assert Relearning()._recipe(nn.Sequential(layer)).optimizer == optimizer


def test_it_is_asked_for_by_its_tier_and_not_repeatable_elsewhere() -> None:
    assert Relearning.tier == "B"
    assert not Relearning.repeatable
    assert Membership.repeatable


def test_what_cannot_be_trained_or_compared_gives_no_number() -> None:
    model = HeadOnly(2, 2)
    few = (torch.randn(4, 2), [0, 1, 0, 1])
    some = make_trial(few, few, few, original=model, classes=2)
    nobody = dataclasses.replace(some, retain=some.retain.select([]))
    assert "could not be trained" in Relearning().measure(model, nobody).note
    assert "held-out" in Relearning().measure(model, some).note
