"""What every method must keep, whatever it computes; runs on every method the family finds."""

import copy
import dataclasses
import json
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import World
from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.training_record import weights_digest
from unlearn_plugin.registry import unlearners
from unlearn_plugin.splits import Need

FORGET, OTHERS = torch.arange(0, 20), torch.arange(30, 50)


@dataclass
class Ran:
    """One run of a method with default options, and everything that was seen on the way."""

    model: nn.Module
    facts: dict[str, object] = field(default_factory=dict)
    random_state_kept: bool = False
    world_kept: bool = False
    copies: list[tuple[nn.Module, str, str]] = field(default_factory=list)  # of the model; digests at the start
    built: list[nn.Module] = field(default_factory=list)  # fresh ones
    optimised: set[int] = field(default_factory=set)


def world_digest(world: World) -> str:
    rows = torch.arange(len(world.train))
    tensors = {"images": world.train.images(rows), "labels": world.train.labels, **world.trained.state_dict()}
    return weights_digest(tensors)


def digests(model: nn.Module) -> tuple[str, str]:
    """Digest of the parameters, and of the buffers."""
    return weights_digest(dict(model.named_parameters())), weights_digest(dict(model.named_buffers()))


def unlearn(name: str, world: World, forget: Tensor = FORGET) -> nn.Module:
    model = world.model()
    unlearners().create(name, {}).unlearn(model, world.evidence(forget))
    return model


@pytest.fixture(scope="module", params=unlearners().names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def ran(name: str, world: World) -> Ran:
    """The method's run, watched: what it copies, builds and optimises."""
    ran, before = Ran(world.model()), world_digest(world)
    evidence = world.evidence(FORGET)
    fresh, plain_copy, plain_init = evidence.fresh, copy.deepcopy, torch.optim.Optimizer.__init__

    def watched_fresh(seed: int) -> nn.Module:
        ran.built.append(fresh(seed))
        return ran.built[-1]

    def watched_copy(thing: object, *more: object) -> object:
        made = plain_copy(thing, *more)
        if thing is ran.model and isinstance(made, nn.Module):
            ran.copies.append((made, *digests(made)))
        return made

    def watched_init(self: torch.optim.Optimizer, *args: object, **kwargs: object) -> None:
        plain_init(self, *args, **kwargs)
        ran.optimised.update(id(parameter) for group in self.param_groups for parameter in group["params"])

    torch.manual_seed(99)
    state = torch.random.get_rng_state()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copy, "deepcopy", watched_copy)
        patch.setattr(torch.optim.Optimizer, "__init__", watched_init)
        evidence = dataclasses.replace(evidence, fresh=watched_fresh)
        ran.facts = dict(unlearners().create(name, {}).unlearn(ran.model, evidence))
    ran.random_state_kept = torch.equal(torch.random.get_rng_state(), state)
    ran.world_kept = world_digest(world) == before
    return ran


def test_names_shapes_and_dtypes_stay(ran: Ran, world: World) -> None:
    before, after = world.trained.state_dict(), ran.model.state_dict()
    assert list(after) == list(before)
    assert all(after[key].shape == value.shape and after[key].dtype == value.dtype for key, value in before.items())


def test_every_number_is_finite(ran: Ran) -> None:
    assert all(bool(value.isfinite().all()) for value in ran.model.state_dict().values())


def test_the_weights_changed(ran: Ran, world: World) -> None:
    pairs = zip(ran.model.parameters(), world.trained.parameters(), strict=True)
    assert any(not torch.equal(after, before) for after, before in pairs)


def test_the_running_statistics_of_batchnorm_are_those_of_the_new_weights(ran: Ran, world: World) -> None:
    """They have to be near what retained images really give with these weights."""
    retain = world.evidence(FORGET).retain
    measured = copy.deepcopy(ran.model).eval()
    layers = [layer for layer in measured.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in layers:
        layer.train()
        layer.momentum = 1.0
    measured(next(iter(retain.loader(len(retain))))[0])
    kept = [layer for layer in ran.model.modules() if isinstance(layer, nn.BatchNorm2d)]
    for mine, true in zip(kept, layers, strict=True):
        assert float((mine.running_var.log() - true.running_var.log()).abs().mean()) < 0.5
        assert float(((mine.running_mean - true.running_mean) / true.running_var.sqrt()).abs().mean()) < 0.5


def test_gradients_are_cleared_and_no_hook_or_wrapper_is_left(ran: Ran) -> None:
    assert all(parameter.grad is None for parameter in ran.model.parameters())
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    assert not any(getattr(module, kind) for module in ran.model.modules() for kind in kinds)
    assert "forward" not in vars(ran.model)  # Accelerate wraps it for mixed precision


def test_the_global_random_state_is_left_alone(ran: Ran) -> None:
    assert ran.random_state_kept


def test_whoever_else_holds_the_original_and_the_data_finds_them_unchanged(ran: Ran) -> None:
    assert ran.world_kept


def test_copies_of_the_model_share_no_storage_with_it(ran: Ran) -> None:
    """A teacher that shares storage with the student is always of its opinion."""
    own = {value.untyped_storage().data_ptr() for value in ran.model.state_dict().values()}
    for made, *_ in ran.copies:
        assert own.isdisjoint(value.untyped_storage().data_ptr() for value in made.state_dict().values())


def test_a_teacher_is_bit_identical_afterwards(ran: Ran) -> None:
    """Its BatchNorm too. A frozen copy whose parameters moved is a running mean of the student, and no teacher."""
    for made, parameters, buffers in ran.copies:
        frozen = not any(parameter.requires_grad for parameter in made.parameters())
        if frozen and digests(made)[0] == parameters:
            assert digests(made)[1] == buffers


def test_every_optimised_parameter_is_the_students_own(ran: Ran) -> None:
    """An optimizer that holds another copy's parameters trains that one, and the returned model stays as it was."""
    teachers = {id(p) for made, *_ in ran.copies for p in made.parameters() if not p.requires_grad}
    assert ran.optimised.isdisjoint(teachers)
    if ran.optimised:
        students = {id(parameter) for each in (ran.model, *ran.built) for parameter in each.parameters()}
        assert ran.optimised & students


def test_the_facts_are_plain_json(ran: Ran) -> None:
    assert json.loads(json.dumps(ran.facts, allow_nan=False)) == ran.facts


def test_the_same_seed_gives_the_same_bytes(name: str, ran: Ran, world: World) -> None:
    torch.manual_seed(12345)  # the method may not take its randomness from here
    assert weights_digest(unlearn(name, world).state_dict()) == weights_digest(ran.model.state_dict())


def test_another_forget_set_gives_other_weights(name: str, ran: Ran, world: World) -> None:
    assert weights_digest(unlearn(name, world, OTHERS).state_dict()) != weights_digest(ran.model.state_dict())


def test_modes_and_requires_grad_stay(name: str, world: World) -> None:
    model = world.model().train()
    model[1].eval()
    model[0].bias.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    unlearners().create(name, {}).unlearn(model, world.evidence(FORGET))
    assert [module.training for module in model.modules()] == modes
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == ["0.bias"]


@pytest.mark.parametrize(("need", "part"), [(Need.RETAIN, "retain"), (Need.RECORD, "record")])
def test_a_missing_need_is_told_by_the_method(name: str, need: Need, part: str, world: World) -> None:
    if need not in unlearners().get(name).needs:
        pytest.skip("not needed")
    evidence = dataclasses.replace(world.evidence(FORGET), **{part: None})
    with pytest.raises(UnlearnError, match=name):
        unlearners().create(name, {}).unlearn(world.model(), evidence)


def test_a_method_is_a_frozen_dataclass_that_explains_itself(name: str) -> None:
    cls = unlearners().get(name)
    method = cls()
    assert unlearners().describe(name).startswith(f"{name}: {cls.summary}")
    assert cls.source
    assert all(option.metadata.get("help") for option in dataclasses.fields(cls))
    for option in dataclasses.fields(cls):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(method, option.name, None)
