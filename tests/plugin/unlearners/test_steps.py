"""What the stepping methods share."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import fresh_net, image_data
from tests.plugin.unlearners.small_world import make_world
from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.data import Batch, Samples
from unlearn_plugin.outputs import Outputs
from unlearn_plugin.splits import Need, Request
from unlearn_plugin.training import cross_entropy
from unlearn_plugin.unlearners._steps import (
    ForgetBatch,
    ForgetBatches,
    Pressure,
    SteppedUnlearner,
    advantage,
    check_options,
    forget_cross_entropy,
    frozen_copy,
    looks_apart,
    required,
    statistics_kept,
)
from unlearn_plugin.unlearners.base import Evidence, Facts, Preset


@dataclass(frozen=True, kw_only=True)
class Plain(SteppedUnlearner):
    """CE on R plus a push of CE on F; keeps what it was shown."""

    needs: ClassVar[Need] = Need.FORGET | Need.RETAIN
    summary: ClassVar[str] = "x"
    source: ClassVar[str] = "x"
    presets: ClassVar[Mapping[Request, Preset]] = Preset.table(
        sample={"learning_rate": 0.01}, whole_class={"learning_rate": 0.02}, tuned="nothing"
    )
    push: float = 1.0
    seen: list[tuple[int, int]] = field(default_factory=list)

    def unlearn(self, model: nn.Module, evidence: Evidence) -> Facts:
        def loss(network: nn.Module, retain: Batch, forget: ForgetBatch) -> Tensor:
            self.seen.append((len(retain[1]), len(forget[1])))
            return cross_entropy(network, retain) - self.push * forget_cross_entropy(network, forget)

        return self.step_through(model, evidence, loss)


def outputs_of(margins: list[float], labels: list[int], classes: int = 3) -> Outputs:
    """Outputs whose margin of the label is given: the label's logit is margin + log(classes - 1), the others are 0."""
    logits = torch.zeros(len(labels), classes)
    logits[torch.arange(len(labels)), torch.tensor(labels)] = torch.tensor(margins) + torch.tensor(classes - 1.0).log()
    return Outputs(logits, torch.zeros(len(labels), 1), torch.tensor(labels))


def test_the_advantage_compares_within_a_class() -> None:
    forget = outputs_of([1.0, 5.0], [0, 1])
    heldout = outputs_of([0.0, 2.0, 6.0, 7.0], [0, 0, 1, 1])
    assert advantage(forget, heldout, ()) == pytest.approx((0.5 + 0.0) / 2)


def test_ties_count_half_and_classes_without_heldout_samples_do_not_count() -> None:
    assert advantage(outputs_of([2.0, 9.0], [0, 2]), outputs_of([2.0, 1.0], [0, 0]), ()) == pytest.approx(0.75)
    assert advantage(outputs_of([2.0], [2]), outputs_of([2.0], [0]), ()) is None


def test_a_forgotten_class_is_compared_with_wrong_classes_of_samples_that_stay() -> None:
    heldout = outputs_of([4.0, 4.0], [1, 2])  # class 2 for the first and class 1 for the second are the wrong ones
    wrong = float(torch.tensor([0.0, 4.0 + float(torch.tensor(2.0).log())]).softmax(0)[0])
    assert wrong < 0.03
    assert advantage(outputs_of([1.0], [0]), heldout, (0,)) == 1.0  # still recognised
    assert advantage(outputs_of([-9.0], [0]), heldout, (0,)) == 0.0  # less likely than any wrong class


def test_a_model_trained_on_f_has_an_advantage_and_one_trained_without_has_none() -> None:
    world = make_world()
    assert world.advantage(world.original) > 0.65
    assert abs(world.advantage(world.retrained) - 0.5) < 0.1
    by_class = make_world(3)
    assert by_class.advantage(by_class.original) > 0.9
    assert by_class.advantage(by_class.retrained) < 0.5


def test_batchnorm_normalises_by_the_batch_but_learns_nothing_from_f() -> None:
    net, images = fresh_net(0).train(), torch.randn(8, 1, 8, 8)
    usual = copy.deepcopy(net)
    before = copy.deepcopy(net[1].state_dict())
    torch.manual_seed(0)
    with statistics_kept(net):
        found = net(images)
    torch.manual_seed(0)
    assert torch.equal(found, usual(images))
    assert all(torch.equal(value, before[name]) for name, value in net[1].state_dict().items())
    assert net[1].track_running_stats
    net(images)
    assert not torch.equal(net[1].running_mean, before["running_mean"])


def test_statistics_are_used_in_evaluation_mode_as_ever() -> None:
    net, images = fresh_net(0).eval(), torch.randn(8, 1, 8, 8)
    wanted = net(images)
    with statistics_kept(net):
        assert torch.equal(net(images), wanted)


def test_a_frozen_copy_shares_nothing_and_cannot_learn() -> None:
    net = fresh_net(0).train()
    teacher = frozen_copy(net)
    own = {tensor.untyped_storage().data_ptr() for tensor in net.state_dict().values()}
    assert own.isdisjoint(tensor.untyped_storage().data_ptr() for tensor in teacher.state_dict().values())
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert net.training
    assert net[0].weight.requires_grad


def test_forget_batches_never_end_and_show_every_sample_equally_often() -> None:
    evidence = make_world().evidence
    batches = ForgetBatches(evidence, 25)
    rows = torch.cat([next(batches)[2] for _ in range(6)])  # two passes of 25, 25 and 10
    assert torch.equal(rows.bincount(), torch.full((60,), 2))
    assert not torch.equal(rows[:60], rows[60:])


def test_the_pressure_ends_when_f_looks_held_out_and_returns_when_it_does_not() -> None:
    world = make_world()
    model = copy.deepcopy(world.original)
    pressure = Pressure(world.evidence, model, 64, follow=True)
    assert pressure.on
    pressure.look(0)
    assert pressure.on
    model.load_state_dict(world.retrained.state_dict())
    pressure.look(7)
    assert not pressure.on
    assert pressure.facts()["steps_until_forget_looked_heldout"] == 7
    model.load_state_dict(world.original.state_dict())
    pressure.look(8)
    assert pressure.on


@pytest.mark.parametrize("blind", [{"follow": False}, {"follow": True, "tuning": None}])
def test_without_looking_or_without_tuning_data_the_pressure_stays(blind: dict[str, object]) -> None:
    world = make_world()
    evidence = replace(world.evidence, tuning=None) if "tuning" in blind else world.evidence
    pressure = Pressure(evidence, world.retrained, 64, follow=bool(blind["follow"]))
    pressure.look(0)
    assert pressure.on
    assert pressure.facts() == {"steps_until_forget_looked_heldout": None, "forget_advantage_on_tuning": None}


def test_every_step_sees_a_batch_of_r_and_a_batch_of_f() -> None:
    world, method = make_world(), Plain(epochs=2, batch_size=50, hold=False)
    world.forgotten(method)
    assert method.seen == [(50, 50), (50, 10), (50, 50), (50, 10), (40, 50)] + [
        (50, 10), (50, 50), (50, 10), (50, 50), (40, 10)
    ]  # fmt: skip


def test_f_is_left_alone_where_the_model_never_saw_it() -> None:
    world, method = make_world(), Plain(epochs=1, batch_size=50)
    method.unlearn(copy.deepcopy(world.retrained), world.evidence)
    assert len(method.seen) < 3


def test_holding_keeps_f_from_standing_out_on_the_other_side() -> None:
    world = make_world()
    options = {"epochs": 10, "batch_size": 16, "learning_rate": 0.05, "push": 0.5}
    held = world.advantage(world.forgotten(Plain(**options)))
    pushed = world.advantage(world.forgotten(Plain(**options, hold=False)))
    assert pushed < held - 0.1
    assert abs(held - 0.5) < 0.15


def test_the_usual_rate_depends_on_the_kind_of_request_and_an_option_beats_it() -> None:
    net = fresh_net(0)
    rates = [Plain().settled(request, net).recipe().learning_rate for request in ("sample", "class", "subject")]
    assert rates == [0.01, 0.02, 0.01]
    assert Plain(learning_rate=0.5).settled("class", net).recipe().learning_rate == 0.5


def test_networks_with_layer_norm_get_adamw_at_a_rate_that_suits_it() -> None:
    normed = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    usual, normed = (Plain().settled("sample", model).recipe() for model in (fresh_net(0), normed))
    assert (usual.optimizer, usual.learning_rate) == ("sgd", 0.01)
    assert (normed.optimizer, normed.learning_rate) == ("adamw", pytest.approx(1e-4))
    assert Plain(optimizer="sgd").settled("sample", nn.LayerNorm(2)).optimizer == "sgd"


def test_a_settled_method_stays_as_it_is_and_leaves_nothing_open() -> None:
    once = Plain().settled("class", nn.LayerNorm(2))
    assert (once.optimizer, once.learning_rate) == ("adamw", 2e-4)
    assert once.settled("sample", fresh_net(0)) == once


def test_options_out_of_range_are_refused_together() -> None:
    with pytest.raises(UnlearnError, match="learning_rate=-1.0") as caught:
        Plain(learning_rate=-1.0, batch_size=0)
    assert len(caught.value.findings) == 2
    with pytest.raises(UnlearnError, match=r"push=1.0 is out of range; it must be small\."):
        check_options(Plain(), push=("small", False), epochs=("any", True))


def test_missing_samples_are_told_by_the_methods_name() -> None:
    empty = Samples(image_data(torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64)), torch.arange(0))
    for samples in (None, empty):
        with pytest.raises(UnlearnError, match="test_steps needs retained data"):
            required(samples, "retained", Plain())


def test_eight_looks_an_epoch_but_never_more_than_one_a_step() -> None:
    assert looks_apart(6400, 64) == 13
    assert looks_apart(10, 64) == 1
