import copy
import dataclasses
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tests.conftest import BATCH, EPOCHS, World, fresh_net, image_data
from unlearn_hooks import holdout, record
from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.schedule import Group, recorded_schedule
from unlearn_hooks.training_record import TrainingRecord, weights_digest
from unlearn_plugin.data import Samples
from unlearn_plugin.progress import Progress
from unlearn_plugin.training import Recipe, private_randomness, refresh_batchnorm, train

QUIET = Progress(enabled=False)


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def samples(n: int = 20, seed: int = 0) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 1, 8, 8, generator=generator)
    return Samples(image_data(images, torch.arange(n) % 10), torch.arange(n))


def run(model: nn.Module, data: Samples, recipe: Recipe, accelerator: Accelerator, **more: object) -> float:
    return train(model, data, recipe, **{"accelerator": accelerator, "seed": 0, "progress": QUIET, **more})


@pytest.mark.parametrize(
    ("recipe", "kind", "settings"),
    [
        (Recipe(learning_rate=0.1, momentum=0.5, weight_decay=0.01, schedule="constant"), torch.optim.SGD,
         {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.01}),
        (Recipe(learning_rate=0.1, momentum=0.5, nesterov=True, schedule="constant"), torch.optim.SGD,
         {"lr": 0.1, "momentum": 0.5, "weight_decay": 5e-4, "nesterov": True}),
        (Recipe(optimizer="adam", learning_rate=0.01, betas=(0.8, 0.9), eps=1e-3, schedule="constant"),
         torch.optim.Adam, {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 5e-4}),
        (Recipe(optimizer="adamw", learning_rate=0.01, weight_decay=0.1, schedule="constant"), torch.optim.AdamW,
         {"lr": 0.01, "weight_decay": 0.1}),
    ],
)  # fmt: skip
def test_it_is_the_plain_loop_with_torchs_own_optimizer(
    recipe: Recipe, kind: type[torch.optim.Optimizer], settings: dict[str, object], accelerator: Accelerator
) -> None:
    data = samples()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    plain = copy.deepcopy(model)
    recipe = Recipe(**{**recipe.as_facts(), "epochs": 2, "batch_size": 8, "betas": recipe.betas})
    run(model, data, recipe, accelerator)
    optimizer = kind(plain.parameters(), **settings)
    loader = data.loader(8, shuffle=True, seed=0)
    for _ in range(2):
        for images, labels, _ in loader:
            optimizer.zero_grad()
            F.cross_entropy(plain(images), labels).backward()
            optimizer.step()
    for found, wanted in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_cosine_falls_from_the_rate_to_almost_zero() -> None:
    recipe = Recipe(learning_rate=0.4, schedule="cosine")
    rates = [recipe.rates_at(step, 100)[0] for step in range(100)]
    assert rates[0] == 0.4
    assert rates[50] == pytest.approx(0.2)
    assert rates[-1] < 0.001
    assert rates == sorted(rates, reverse=True)
    assert {Recipe(schedule="constant", learning_rate=0.4).rates_at(step, 100) for step in range(100)} == {(0.4,)}


def test_the_recipe_of_a_record_is_that_of_the_training(world: World) -> None:
    recipe = Recipe.of(world.record)
    assert (recipe.optimizer, recipe.epochs, recipe.batch_size, recipe.schedule) == ("sgd", EPOCHS, BATCH, "recorded")
    assert (recipe.learning_rate, recipe.momentum, recipe.weight_decay) == (0.1, 0.9, 5e-4)


def test_what_was_set_apart_before_training_does_not_count_as_an_epoch(tmp_path: Path) -> None:
    images, labels = torch.randn(60, 4), torch.arange(60) % 3
    held = holdout(TensorDataset(images, labels), n=40, seed=0, labels=labels)
    model = torch.nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with record(tmp_path / "record", model, optimizer, holdout=held) as recorder:
        for _ in range(6):
            for batch, wanted in recorder.batches(DataLoader(held.train, batch_size=5)):
                optimizer.zero_grad()
                F.cross_entropy(model(batch), wanted).backward()
                optimizer.step()
    assert Recipe.of(TrainingRecord.open(tmp_path / "record")).epochs == 6


def test_recorded_rates_are_followed_step_by_step_and_stretched_to_shorter_runs(world: World) -> None:
    recipe = Recipe.of(world.record)
    recorded = recorded_schedule(world.record).learning_rates[:, 0].tolist()
    assert [recipe.rates_at(step, len(recorded))[0] for step in range(len(recorded))] == recorded
    half = [recipe.rates_at(step, len(recorded) // 2)[0] for step in range(len(recorded) // 2)]
    assert half == recorded[1::2]


def test_recorded_groups_keep_their_settings_and_what_was_not_trained_stays(
    world: World, accelerator: Accelerator
) -> None:
    schedule = recorded_schedule(world.record)
    groups = (Group(names=("8.weight",), weight_decay=0.3, momentum=0.5), Group(names=("8.bias",), momentum=0.1))
    rates = torch.tensor([[0.1, 0.2]]).double().expand(schedule.steps, 2)
    schedule = dataclasses.replace(schedule, learning_rates=rates, history=((0, groups),))
    recipe = Recipe(schedule="recorded", recorded=schedule, epochs=1, batch_size=8)
    model = fresh_net(0)
    optimizer = recipe.make_optimizer(model)
    assert [(group["weight_decay"], group["momentum"]) for group in optimizer.param_groups] == [(0.3, 0.5), (0.0, 0.1)]
    assert recipe.rates_at(0, 5) == pytest.approx((0.1, 0.2))
    before = copy.deepcopy(model)
    run(model, samples(), recipe, accelerator)
    assert torch.equal(model[0].weight, before[0].weight)
    assert not torch.equal(model[8].bias, before[8].bias)


def test_a_record_by_an_unknown_optimizer_is_refused_with_a_way_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = recorded_schedule(world.record)
    object.__setattr__(schedule, "optimizer", "Lion")
    monkeypatch.setattr("unlearn_plugin.training.recorded_schedule", lambda record: schedule)
    with pytest.raises(UnlearnError, match="optimizer Lion, and known are sgd, adam, adamw; set -o optimizer"):
        Recipe.of(world.record)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"learning_rate": 0.0}, "learning_rate"), ({"learning_rate": math.nan}, "learning_rate"),
        ({"momentum": 1.0}, "momentum"), ({"weight_decay": -1.0}, "weight_decay"), ({"epochs": 0}, "epochs"),
        ({"batch_size": 0}, "batch_size"), ({"nesterov": True, "momentum": 0.0}, "nesterov"),
        ({"schedule": "recorded"}, "needs the record"),
    ],
)  # fmt: skip
def test_a_recipe_that_cannot_be_followed_is_refused(options: dict[str, object], named: str) -> None:
    with pytest.raises(UnlearnError, match=named):
        Recipe(**options)


def test_all_that_is_wrong_with_a_recipe_is_told_at_once() -> None:
    with pytest.raises(UnlearnError) as error:
        Recipe(epochs=0, batch_size=0, momentum=2.0)
    assert len(error.value.findings) == 3


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(accelerator: Accelerator) -> None:
    digests = []
    for seed in (1, 1, 2):
        model = fresh_net(0)
        torch.manual_seed(len(digests))
        run(model, samples(), Recipe(epochs=1), accelerator, seed=seed)
        digests.append(weights_digest(model.state_dict()))
    assert digests[0] == digests[1] != digests[2]


def test_random_state_modes_gradients_and_forward_are_left_as_they_were(accelerator: Accelerator) -> None:
    model = fresh_net(0).eval()
    model[1].train()
    state = torch.random.get_rng_state()
    run(model, samples(), Recipe(epochs=1), accelerator)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [layer.training for layer in model] == [index == 1 for index in range(len(model))]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert "forward" not in vars(model)


def test_modes_come_back_after_an_error_too(accelerator: Accelerator) -> None:
    model = fresh_net(0).eval()

    def fail(_: nn.Module, __: object) -> Tensor:
        raise KeyError

    with pytest.raises(KeyError):
        run(model, samples(), Recipe(), accelerator, loss=fail)
    assert not any(module.training for module in model.modules())


def test_a_frozen_parameter_is_not_trained(accelerator: Accelerator) -> None:
    model = fresh_net(0)
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    run(model, samples(), Recipe(epochs=1, weight_decay=0.5), accelerator)
    assert torch.equal(model[0].weight, before)


def test_a_last_batch_of_one_is_left_out(accelerator: Accelerator) -> None:
    sizes = []

    def look(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        sizes.append(len(batch[1]))
        return F.cross_entropy(model(batch[0]), batch[1])

    run(fresh_net(0), samples(17), Recipe(epochs=1, batch_size=8), accelerator, loss=look)
    run(fresh_net(0), samples(18), Recipe(epochs=1, batch_size=8), accelerator, loss=look)
    assert sizes == [8, 8, 8, 8, 2]


def test_after_step_may_end_the_training(accelerator: Accelerator) -> None:
    seen: list[int] = []

    def stop(step: int) -> bool:
        seen.append(step)
        return step == 3

    run(fresh_net(0), samples(40), Recipe(epochs=9, batch_size=8), accelerator, after_step=stop)
    assert seen == [1, 2, 3]


def test_the_mean_loss_of_the_last_epoch_comes_back(accelerator: Accelerator) -> None:
    values = iter([9.0, 9.0, 1.0, 3.0])

    def told(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        return model(batch[0]).sum() * 0 + next(values)

    assert run(fresh_net(0), samples(16), Recipe(epochs=2, batch_size=8), accelerator, loss=told) == 2.0


def test_training_that_diverges_says_so(accelerator: Accelerator) -> None:
    with pytest.raises(UnlearnError, match="diverged.*smaller learning rate than 1e\\+30"):
        run(fresh_net(0), samples(), Recipe(learning_rate=1e30, epochs=3), accelerator)


def test_nothing_to_train_on_is_said(accelerator: Accelerator) -> None:
    with pytest.raises(UnlearnError, match="no samples to train on"):
        run(fresh_net(0), samples().select([]), Recipe(), accelerator)


def test_batchnorm_is_measured_as_the_mean_over_retained_batches(accelerator: Accelerator) -> None:
    model, data = fresh_net(0).eval(), samples(32)
    counter = model[1].num_batches_tracked.clone()
    weights = [parameter.clone() for parameter in model.parameters()]
    assert refresh_batchnorm(model, data, accelerator=accelerator, seed=0, batch_size=16)
    images = model[0](torch.cat([batch[0] for batch in data.loader(32)]))
    torch.testing.assert_close(model[1].running_mean, images.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), weights, strict=True))
    assert model[1].momentum == 0.1
    assert torch.equal(model[1].num_batches_tracked, counter)
    assert not model[1].training


def test_a_model_without_batchnorm_has_nothing_to_measure(accelerator: Accelerator) -> None:
    assert not refresh_batchnorm(nn.Linear(2, 2), samples(), accelerator=accelerator, seed=0)


def test_private_randomness_ends_at_its_block(accelerator: Accelerator) -> None:
    torch.manual_seed(4)
    wanted = torch.rand(2)
    torch.manual_seed(4)
    with private_randomness(accelerator, 1):
        first = torch.rand(1)
    with private_randomness(accelerator, 1):
        assert torch.equal(torch.rand(1), first)
    assert torch.equal(torch.rand(2), wanted)
