"""What every method must keep, whatever it computes; runs on every method the family finds."""

import copy

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import World
from unlearn_hooks.training_record import weights_digest
from unlearn_plugin.registry import unlearners
from unlearn_plugin.splits import Need
from unlearn_plugin.unlearners.base import Evidence, Unlearner

FORGET = torch.arange(0, 20)
OTHERS = torch.arange(30, 50)


def method(name: str) -> Unlearner:
    return unlearners().create(name, {})


def run(name: str, world: World, forget: Tensor = FORGET, **changes: int) -> nn.Module:
    model = world.model()
    method(name).unlearn(model, world.evidence(forget, **changes))
    return model


def hooks_of(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


@pytest.fixture(scope="module", params=unlearners().names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def changed(name: str, world: World) -> nn.Module:
    """The model after one run with default options and seed 0; tests look at it and leave it alone."""
    return run(name, world)


def test_names_shapes_and_dtypes_stay(changed: nn.Module, world: World) -> None:
    before, after = world.trained.state_dict(), changed.state_dict()
    assert {key: (value.shape, value.dtype) for key, value in after.items()} == {
        key: (value.shape, value.dtype) for key, value in before.items()
    }


def test_every_number_is_finite(changed: nn.Module) -> None:
    assert all(bool(value.isfinite().all()) for value in changed.state_dict().values())


def test_something_changed(changed: nn.Module, world: World) -> None:
    assert weights_digest(changed.state_dict()) != weights_digest(world.trained.state_dict())
    moved = [not torch.equal(a, b) for a, b in zip(changed.parameters(), world.trained.parameters(), strict=True)]
    assert any(moved)


def test_batchnorm_statistics_are_sound(changed: nn.Module, world: World) -> None:
    """Its statistics have to be those of the new weights: within a factor of what retained images really give."""
    evidence = world.evidence(FORGET)
    images, _, _ = next(iter(evidence.retain.loader(len(evidence.retain))))
    copied = copy.deepcopy(changed).eval()
    for layer in copied.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.train()
            layer.momentum = 1.0
    copied(images)
    for layer, measured in zip(changed.modules(), copied.modules(), strict=True):
        if isinstance(layer, nn.BatchNorm2d):
            assert bool((layer.running_var > 0).all())
            ratio = layer.running_var.log() - measured.running_var.log()
            assert float(ratio.abs().mean()) < 0.5
            spread = measured.running_var.sqrt()
            assert float(((layer.running_mean - measured.running_mean) / spread).abs().mean()) < 0.5


def test_gradients_are_cleared_and_no_hook_is_left(changed: nn.Module) -> None:
    assert all(parameter.grad is None for parameter in changed.parameters())
    assert hooks_of(changed) == 0
    assert "forward" not in vars(changed)  # Accelerate wraps it for mixed precision


def test_the_same_seed_gives_the_same_bytes(name: str, changed: nn.Module, world: World) -> None:
    torch.manual_seed(12345)  # the method may not take its randomness from here
    assert weights_digest(run(name, world).state_dict()) == weights_digest(changed.state_dict())


def test_the_global_random_state_is_left_alone(name: str, world: World) -> None:
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    run(name, world)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_forget_set_matters(name: str, changed: nn.Module, world: World) -> None:
    assert weights_digest(run(name, world, OTHERS).state_dict()) != weights_digest(changed.state_dict())


def test_modes_and_requires_grad_stay(name: str, world: World) -> None:
    model = world.model().train()
    model[1].eval()
    model[0].bias.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    method(name).unlearn(model, world.evidence(FORGET))
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted


def test_whoever_else_holds_the_original_finds_it_unchanged(name: str, world: World) -> None:
    original = weights_digest(world.trained.state_dict())
    images = world.train.images(torch.arange(len(world.train))).clone()
    labels = world.train.labels.clone()
    run(name, world)
    assert weights_digest(world.trained.state_dict()) == original
    assert torch.equal(world.train.images(torch.arange(len(world.train))), images)
    assert torch.equal(world.train.labels, labels)


def test_copies_a_method_makes_share_no_storage_and_never_change(
    name: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A teacher that shares storage with the student, or that an optimizer also steps, makes distillation a no-op."""
    copies: list[tuple[nn.Module, str, bool]] = []
    real = copy.deepcopy
    model = world.model()

    def watched(thing: object, *more: object) -> object:
        made = real(thing, *more)
        if thing is model and isinstance(made, nn.Module):
            frozen = not any(parameter.requires_grad for parameter in real(made).requires_grad_(False).parameters())
            copies.append((made, weights_digest(made.state_dict()), frozen))
        return made

    monkeypatch.setattr(copy, "deepcopy", watched)
    method(name).unlearn(model, world.evidence(FORGET))
    own = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    for made, _, _ in copies:
        assert own.isdisjoint(tensor.untyped_storage().data_ptr() for tensor in made.state_dict().values())


def test_every_optimised_parameter_belongs_to_the_model_that_comes_back(
    name: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An optimizer built on another copy trains that one, and the returned model stays as it was."""
    stepped: set[int] = set()
    real = torch.optim.Optimizer.__init__

    def watched(self: torch.optim.Optimizer, *args: object, **kwargs: object) -> None:
        real(self, *args, **kwargs)
        stepped.update(p.data_ptr() for group in self.param_groups for p in group["params"])

    monkeypatch.setattr(torch.optim.Optimizer, "__init__", watched)
    copies: list[nn.Module] = []
    copied_by = copy.deepcopy
    monkeypatch.setattr(copy, "deepcopy", lambda thing, *more: copies.append(copied_by(thing, *more)) or copies[-1])
    model = world.model()
    held: list[nn.Module] = []
    evidence = world.evidence(FORGET)
    fresh = evidence.fresh
    object.__setattr__(evidence, "fresh", lambda seed: held.append(fresh(seed)) or held[-1])
    method(name).unlearn(model, evidence)
    owned = {parameter.data_ptr() for each in [model, *held] for parameter in each.parameters()}
    copied = {parameter.data_ptr() for each in copies if isinstance(each, nn.Module) for parameter in each.parameters()}
    assert not stepped & copied - owned
    assert stepped & owned or not stepped  # besides it a method may train a network of its own, such as a generator


def test_a_missing_need_is_told_in_one_sentence(name: str, world: World) -> None:
    from unlearn_hooks.errors import UnlearnError

    needs = unlearners().get(name).needs
    for need, field in ((Need.RETAIN, "retain"), (Need.RECORD, "record")):
        if need in needs:
            evidence = world.evidence(FORGET)
            object.__setattr__(evidence, field, None)
            with pytest.raises(UnlearnError, match=name):
                method(name).unlearn(world.model(), evidence)


def test_the_facts_are_plain_json_and_name_no_sample(name: str, world: World) -> None:
    import json

    model, evidence = world.model(), world.evidence(FORGET)
    facts = method(name).unlearn(model, evidence)
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts


def test_a_method_describes_itself(name: str) -> None:
    text = unlearners().describe(name)
    cls = unlearners().get(name)
    assert text.startswith(f"{name}: {cls.summary}")
    assert cls.source
    import dataclasses

    assert all(field.metadata.get("help") for field in dataclasses.fields(cls))
    assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    _ = Evidence
