import copy

import pytest
import torch
import torch.nn.functional as F

from tests.conftest import World
from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.unlearners.finetune import Finetune


def test_it_is_plain_training_on_retained_data_from_the_original_weights(world: World) -> None:
    evidence = world.evidence(torch.arange(20))
    model, plain = world.model(), world.model().train()
    for each in (model, plain):
        each[7].p = 0.0
    options = {"epochs": 1, "learning_rate": 0.02, "momentum": 0.5, "weight_decay": 0.01, "batch_size": 16}
    facts = Finetune(**options, schedule="constant").unlearn(model, evidence)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.02, momentum=0.5, weight_decay=0.01)
    losses = []
    for images, labels, _ in evidence.retain.loader(16, shuffle=True, seed=0):
        optimizer.zero_grad()
        loss = F.cross_entropy(plain(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    for name, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert facts["last_epoch_loss"] == pytest.approx(sum(losses) / len(losses))


def test_the_forget_data_are_never_looked_at(world: World) -> None:
    first, second = world.evidence(torch.arange(20)), world.evidence(torch.arange(20))
    object.__setattr__(second, "forget", first.forget.select([3]))
    models = [world.model(), world.model()]
    for model, evidence in zip(models, (first, second), strict=True):
        Finetune(epochs=1).unlearn(model, evidence)
    assert all(torch.equal(a, b) for a, b in zip(*(model.parameters() for model in models), strict=True))


@pytest.mark.parametrize("options", [{"epochs": 0}, {"learning_rate": -1.0}, {"schedule": "recorded"}])
def test_options_that_cannot_be_followed_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UnlearnError):
        Finetune(**options)


def test_retained_data_are_needed(world: World) -> None:
    evidence = copy.copy(world.evidence(torch.arange(20)))
    object.__setattr__(evidence, "retain", None)
    with pytest.raises(UnlearnError, match="finetune needs retained data"):
        Finetune().unlearn(world.model(), evidence)
