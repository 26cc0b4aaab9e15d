import dataclasses
from pathlib import Path

import pytest
import torch

from tests.conftest import BATCH, EPOCHS, World, fresh_net
from tests.plugin.unlearners.trained_runs import RecordedRun, linear
from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.plan import Plan
from unlearn_hooks.schedule import recorded_schedule
from unlearn_hooks.training_record import weights_digest
from unlearn_plugin.outputs import compute_outputs
from unlearn_plugin.progress import Progress
from unlearn_plugin.training import Recipe, train
from unlearn_plugin.unlearners import retrain as module
from unlearn_plugin.unlearners.retrain import Retrain

FORGET = torch.arange(20)


def test_nothing_of_the_original_weights_is_in_the_result(world: World) -> None:
    """Another original, the same result: every tensor was initialised anew."""
    evidence = world.evidence(FORGET)
    first, second = world.model(), fresh_net(55)
    with torch.no_grad():
        for value in second.state_dict().values():
            value.fill_(3)
    for model in (first, second):
        Retrain(epochs=1).unlearn(model, evidence)
    assert weights_digest(first.state_dict()) == weights_digest(second.state_dict())


def test_it_is_training_on_retained_data_by_the_recorded_recipe(world: World) -> None:
    evidence = world.evidence(FORGET, seed=4)
    model, plain = world.model(), fresh_net(4)
    facts = Retrain().unlearn(model, evidence)
    train(
        plain, evidence.retain, Recipe.of(world.record), accelerator=evidence.accelerator, seed=4,
        progress=Progress(enabled=False),
    )  # fmt: skip
    assert weights_digest(model.state_dict()) == weights_digest(plain.state_dict())
    recipe = facts["recipe"]
    assert (recipe["epochs"], recipe["batch_size"], recipe["schedule"]) == (EPOCHS, BATCH, "recorded")


def test_the_retained_data_are_learnt_and_f_is_not_more_than_unseen_data(world: World) -> None:
    evidence = world.evidence(FORGET)
    model = world.model()
    Retrain().unlearn(model, evidence)
    forget, retain, unseen = (
        compute_outputs(model, part, evidence.accelerator, batch_size=64, progress=evidence.progress)
        for part in (evidence.forget, evidence.retain, evidence.tuning)
    )
    assert float(retain.correct.float().mean()) > 0.9
    assert abs(float(forget.correct.float().mean()) - float(unseen.correct.float().mean())) < 0.3


def test_a_seed_of_its_own_is_that_seed_and_leaves_the_judge_with_the_jobs(world: World) -> None:
    evidence = dataclasses.replace(world.evidence(FORGET), record=None)
    digests = []
    for method, seed in ((Retrain(epochs=1, seed=5), 0), (Retrain(epochs=1), 5), (Retrain(epochs=1), 0)):
        model = world.model()
        method.unlearn(model, dataclasses.replace(evidence, seed=seed))
        digests.append(weights_digest(model.state_dict()))
    assert digests[0] == digests[1] != digests[2]


def test_without_a_record_it_uses_its_own_recipe(world: World) -> None:
    evidence = world.evidence(FORGET)
    object.__setattr__(evidence, "record", None)
    recipe = Retrain(epochs=2, learning_rate=0.3).recipe(evidence)
    assert (recipe.epochs, recipe.learning_rate, recipe.batch_size, recipe.schedule) == (2, 0.3, 64, "cosine")


def test_what_is_set_wins_over_what_was_recorded(world: World) -> None:
    evidence = world.evidence(FORGET)
    stretched = Retrain(epochs=3).recipe(evidence)
    assert (stretched.epochs, stretched.schedule, stretched.weight_decay) == (3, "recorded", 5e-4)
    faster = Retrain(learning_rate=0.7).recipe(evidence)
    assert (faster.learning_rate, faster.schedule, faster.momentum, faster.epochs) == (0.7, "cosine", 0.9, EPOCHS)
    assert faster.rates_at(0, 9) == (0.7,)
    looser = Retrain(weight_decay=0.0).recipe(evidence)
    assert looser.recorded is None
    assert (looser.weight_decay, looser.batch_size) == (0.0, BATCH)
    other = Retrain(optimizer="adamw", learning_rate=1e-3).recipe(evidence)
    assert (other.optimizer, other.recorded, other.epochs) == ("adamw", None, 30)


def test_a_record_by_an_unknown_optimizer_needs_the_options_to_be_set(world: World, tmp_path: Path) -> None:
    run = RecordedRun(tmp_path / "record", kind=torch.optim.RMSprop, settings={"lr": 1e-3}, epochs=1)
    evidence = world.evidence(FORGET)
    object.__setattr__(evidence, "record", run.record)
    with pytest.raises(UnlearnError, match="optimizer RMSprop"):
        Retrain().recipe(evidence)
    assert Retrain(optimizer="sgd").recipe(evidence).optimizer == "sgd"


def test_a_training_that_began_with_given_weights_is_repeated_from_them(tmp_path: Path) -> None:
    run = RecordedRun(tmp_path / "record", start=linear(77).float(), epochs=2)
    evidence = dataclasses.replace(run.evidence(), fresh=lambda seed: linear(seed).float())
    model, plain = linear(0).float(), linear(77).float()
    Retrain(start="recorded").unlearn(model, evidence)
    train(
        plain, evidence.retain, Recipe.of(run.record), accelerator=evidence.accelerator, seed=0,
        progress=Progress(enabled=False),
    )  # fmt: skip
    assert weights_digest(model.state_dict()) == weights_digest(plain.state_dict())


def test_a_start_that_was_not_recorded_is_refused(world: World, tmp_path: Path) -> None:
    run = RecordedRun(tmp_path / "record", plan=Plan(updates=False), epochs=1)
    for record in (run.record, None):
        evidence = dataclasses.replace(world.evidence(FORGET), record=record)
        with pytest.raises(UnlearnError, match="start=recorded needs a record that holds all weights"):
            Retrain(start="recorded").unlearn(world.model(), evidence)


def test_a_training_of_the_head_alone_is_not_repeated_on_a_random_body(tmp_path: Path) -> None:
    start = linear(0)
    start[1].weight.requires_grad_(False)
    run = RecordedRun(tmp_path / "record", start=start, epochs=1)
    schedule = recorded_schedule(run.record)
    bias_only = dataclasses.replace(schedule.groups[0], names=("1.bias",))
    recipe = dataclasses.replace(
        Recipe.of(run.record), recorded=dataclasses.replace(schedule, history=((0, (bias_only,)),))
    )
    with pytest.raises(UnlearnError, match="left 1 of 2 parameters as they were, such as '1.weight'.*start=recorded"):
        module._check_all_trained(recipe, linear(1))
    module._check_all_trained(Recipe(), linear(1))


def test_it_calls_itself_exact() -> None:
    assert Retrain.exact


@pytest.mark.parametrize(
    "options", [{"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"weight_decay": -1.0}, {"seed": -1}]
)
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UnlearnError):
        Retrain(**options)
