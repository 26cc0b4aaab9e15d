"""scrub, and the ways in which ports of it were found not to forget."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.plugin.unlearners.small_world import make_world, outputs
from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.training_record import weights_digest
from unlearn_plugin.unlearners import scrub
from unlearn_plugin.unlearners.scrub import Scrub, distillation

FINE = {"batch_size": 32}


def test_the_divergence_is_a_mean_over_samples_and_a_sum_over_classes() -> None:
    teacher, student = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]]), torch.zeros(2, 2)
    by_hand = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert float(distillation(teacher, student)) == pytest.approx(by_hand / 2)
    assert float(distillation(teacher, teacher)) == pytest.approx(0.0, abs=1e-7)


def test_it_is_the_teacher_first_and_temperatures_keep_the_scale() -> None:
    teacher, student = torch.tensor([[3.0, 0.0, -1.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    assert float(distillation(teacher, student)) != pytest.approx(float(distillation(student, teacher)), rel=0.01)
    soft = 4.0 * float(distillation(teacher / 2, student / 2))
    assert float(distillation(teacher, student, 2.0)) == pytest.approx(soft)


@pytest.mark.slow
def test_the_teacher_shares_nothing_with_the_student_and_is_bit_identical_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, teachers = make_world(), []
    real = scrub.frozen_copy
    monkeypatch.setattr(scrub, "frozen_copy", lambda model: teachers.append(real(model)) or teachers[-1])
    model = copy.deepcopy(world.original)
    Scrub(**FINE).unlearn(model, world.evidence)
    (teacher,) = teachers
    assert weights_digest(teacher.state_dict()) == weights_digest(world.original.state_dict())
    own = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    assert own.isdisjoint(tensor.untyped_storage().data_ptr() for tensor in teacher.state_dict().values())
    assert not any(torch.equal(a, b) for a, b in zip(model.parameters(), teacher.parameters(), strict=True))


def test_max_passes_really_lead_away_from_the_teacher() -> None:
    """The gradient of the divergence is zero only in the very first step, where student and teacher agree."""
    world = make_world()
    only_max = {"alpha": 0.0, "gamma": 0.0, "weight_decay": 0.0, "epochs": 1, "msteps": 1, "hold": False}
    far = world.forgotten(Scrub(**only_max, max_rate=0.4))
    before, after = (outputs(model, world.evidence.forget).logits for model in (world.original, far))
    assert float(distillation(before, after)) > 0.1


def test_the_gradient_on_f_is_not_zero_once_the_student_has_moved() -> None:
    world = make_world()
    student = copy.deepcopy(world.original).eval()
    with torch.no_grad():
        student[-1].bias += 0.1 * torch.arange(10)
    losses = scrub._Losses(Scrub(), world.original)
    batch = next(iter(world.evidence.forget.loader(60)))
    losses.disobey(student, batch).backward()
    assert float(student[0].weight.grad.abs().max()) > 1e-4
    assert all(parameter.grad is None for parameter in world.original.parameters())


def test_min_passes_optimise_the_student_with_cross_entropy_and_divergence() -> None:
    world = make_world()
    batch = next(iter(world.evidence.retain.loader(40)))
    logits = world.original.eval()(batch[0])
    shifted = copy.deepcopy(world.original).eval()
    with torch.no_grad():
        shifted[-1].bias += 0.3 * torch.arange(10)
    found = scrub._Losses(Scrub(alpha=0.25, gamma=2.0), world.original).obey(shifted, batch)
    wanted = 2.0 * nn.functional.cross_entropy(shifted(batch[0]), batch[1]) + 0.25 * distillation(
        logits, shifted(batch[0])
    )
    assert float(found) == pytest.approx(float(wanted), rel=1e-5)


@pytest.mark.slow
def test_it_moves_membership_towards_the_retrained_model_and_keeps_r() -> None:
    world = make_world()
    after = world.forgotten(Scrub(batch_size=32, max_rate=0.2))
    assert world.accuracy(after, world.evidence.forget) < 0.95
    assert world.advantage(after) < world.advantage(world.original) - 0.08
    assert world.accuracy(after, world.evidence.retain) > 0.85


def test_it_forgets_a_class_and_keeps_the_others() -> None:
    world = make_world(3)
    after = world.forgotten(Scrub(**FINE))
    assert world.accuracy(after, world.evidence.forget) < 0.1
    assert world.accuracy(after, world.evidence.retain) > 0.9


def test_no_max_pass_is_made_where_f_already_looks_held_out() -> None:
    world = make_world()
    facts = Scrub(epochs=1, msteps=1).unlearn(copy.deepcopy(world.retrained), world.evidence)
    assert facts["max_passes"] == 0
    blind = replace(world.evidence, tuning=None)
    assert Scrub(epochs=2, msteps=2).unlearn(copy.deepcopy(world.retrained), blind)["max_passes"] == 2


def test_a_max_pass_has_its_number_of_steps_whatever_the_size_of_f() -> None:
    world = make_world()
    chosen = Scrub(forget_steps=9, forget_batch_size=10)._some(world.evidence.forget, 0)
    assert sorted(chosen.rows.bincount().tolist()) == [1] * 30 + [2] * 30


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(UnlearnError, match="msteps=9 is out of range; it must be 1 to epochs=5"):
        Scrub(msteps=9)
    with pytest.raises(UnlearnError) as caught:
        Scrub(alpha=-1.0, gamma=-1.0, temperature=0.0, max_rate=0.0, forget_batch_size=0, forget_steps=0)
    assert len(caught.value.findings) == 6
