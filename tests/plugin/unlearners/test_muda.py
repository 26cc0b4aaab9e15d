import copy
import math
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn

from tests.conftest import World, digits, image_data
from unlearn_hooks.capture import find_head
from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.features import recorded_features
from unlearn_plugin.data import ImageData, Samples
from unlearn_plugin.outputs import Outputs, compute_outputs
from unlearn_plugin.progress import Progress
from unlearn_plugin.training import Recipe, train
from unlearn_plugin.unlearners import muda as module
from unlearn_plugin.unlearners._subspace import alignment, main_directions
from unlearn_plugin.unlearners.base import Evidence
from unlearn_plugin.unlearners.muda import Muda

QUICK = {"rounds": 2, "forget_steps": 4, "recover_steps": 10}


def outputs(model: nn.Module, samples: Samples) -> Outputs:
    return compute_outputs(model, samples, Accelerator(cpu=True), batch_size=256, progress=Progress(enabled=False))


def alignment_with_retained(model: nn.Module, evidence: Evidence) -> float:
    kept, forgotten = outputs(model, evidence.retain).features, outputs(model, evidence.forget).features
    return float(alignment(forgotten, main_directions(kept.T @ kept / len(kept), 0.8)))


def fresh_resnet(seed: int) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return timm.create_model("test_resnet", num_classes=10, in_chans=1)


def class_request(seed: int) -> tuple[nn.Module, nn.Module, Evidence]:
    """A timm net trained on real digits, the same retrained without one class, and the request for that class."""
    images, labels = digits(seed)
    images = F.interpolate(images[:200], size=(32, 32), mode="bilinear")
    data: ImageData = image_data(images, labels[:200])
    label = seed + 3
    evidence = Evidence(
        forget=Samples(data, (data.labels == label).nonzero().flatten()),
        retain=Samples(data, (data.labels != label).nonzero().flatten()),
        classes=10, forgotten_classes=(label,), fresh=fresh_resnet, accelerator=Accelerator(cpu=True), seed=seed,
        progress=Progress(enabled=False),
    )  # fmt: skip
    models = []
    for samples in (Samples(data, torch.arange(200)), evidence.retain):
        model = fresh_resnet(seed)
        train(
            model, samples, Recipe(learning_rate=0.05, epochs=10, batch_size=32), accelerator=evidence.accelerator,
            seed=seed, progress=evidence.progress,
        )  # fmt: skip
        models.append(model.eval())
    return models[0], models[1], evidence


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_forgotten_class_aligns_with_retained_data_as_in_a_really_retrained_model(seed: int) -> None:
    original, retrained, evidence = class_request(seed)
    model = copy.deepcopy(original)
    facts = Muda(recover_steps=15, batch_size=32).unlearn(model, evidence)
    before, after, wanted = (alignment_with_retained(each, evidence) for each in (original, model, retrained))
    assert before < wanted
    assert abs(after - wanted) < abs(before - wanted)
    assert after > before
    accuracy = {name: float(outputs(model, part).correct.float().mean())
                for name, part in (("forget", evidence.forget), ("retain", evidence.retain))}  # fmt: skip
    assert accuracy["forget"] < 0.1
    assert accuracy["retain"] > 0.9
    assert facts["rounds"] == 4
    assert facts["first_directions_from"] == "retained data"


def test_samples_become_less_certain_and_the_rest_is_kept(world: World) -> None:
    evidence = world.evidence(torch.arange(20))
    model = world.model()
    facts = Muda(rounds=3, recover_steps=15, stop=False).unlearn(model, evidence)
    before, after = outputs(world.model(), evidence.forget), outputs(model, evidence.forget)
    assert float(after.margins.mean()) < float(before.margins.mean())
    assert float(outputs(model, evidence.retain).correct.float().mean()) > 0.9
    assert facts["first_directions_from"] == "record"
    assert 1 <= facts["directions"] < facts["features"] == 256


def test_the_first_directions_are_the_records_without_what_f_put_there(world: World) -> None:
    evidence = world.evidence(torch.arange(20))
    model = world.model()
    rounds = module._Rounds(Muda(), model, evidence, evidence.retain)
    found, origin = rounds._first_subspace()
    basis = found.basis
    statistics = module._one_pass(world.record)
    own = outputs(model, evidence.forget).features.double()
    moment = (statistics.second_moment * statistics.n - statistics.n / 96 * own.T @ own) / statistics.n
    wanted = main_directions(moment.float(), 0.8)
    assert origin == "record"
    assert basis.shape == wanted.shape
    overlap = torch.linalg.matrix_norm(basis.T @ wanted).square() / wanted.shape[1]
    assert float(overlap) > 0.99


def test_the_directions_follow_the_weights_from_round_to_round(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    plain = module._Rounds._forget_loss

    def watched(self: object, model: nn.Module, batch: object) -> torch.Tensor:
        seen.append(self.subspace)
        return plain(self, model, batch)

    monkeypatch.setattr(module._Rounds, "_forget_loss", watched)
    Muda(**QUICK, stop=False).unlearn(world.model(), world.evidence(torch.arange(20)))
    assert len(seen) == 2 * 4
    assert all(subspace is seen[0] for subspace in seen[:4])  # fixed within a round
    assert seen[4] is not seen[0]


def test_the_teacher_is_the_original_to_the_last_bit_and_shares_nothing(world: World) -> None:
    model, evidence = world.model(), world.evidence(torch.arange(20))
    rounds = module._Rounds(Muda(**QUICK), model, evidence, evidence.retain)
    rounds.run()
    for name, value in rounds.original.state_dict().items():
        assert torch.equal(value, world.trained.state_dict()[name])
    own = {value.untyped_storage().data_ptr() for value in model.state_dict().values()}
    assert own.isdisjoint(value.untyped_storage().data_ptr() for value in rounds.original.state_dict().values())
    assert not any(parameter.requires_grad for parameter in rounds.original.parameters())
    assert rounds.original_head is find_head(rounds.original)[1]


def test_the_forget_loss_moves_the_model_and_nothing_else(world: World) -> None:
    model, evidence = world.model().train(), world.evidence(torch.arange(20))
    rounds = module._Rounds(Muda(), model, evidence, evidence.retain)
    rounds.subspace = rounds._measured_subspace()
    batch = next(iter(evidence.forget.loader(8)))
    rounds._forget_loss(model, batch).backward()
    assert all(float(parameter.grad.abs().max()) > 0 for parameter in model.parameters() if parameter.ndim > 1)
    assert all(parameter.grad is None for parameter in rounds.original.parameters())


def test_the_forget_phase_raises_the_alignment_with_the_directions_of_its_round(world: World) -> None:
    model, evidence = world.model(), world.evidence(torch.arange(20))
    rounds = module._Rounds(Muda(alpha=0.0), model, evidence, evidence.retain)
    rounds.subspace = rounds._measured_subspace()
    before = rounds._alignment_of_forget()
    rounds._phase(evidence.forget, 10, rounds._forget_loss)
    assert rounds._alignment_of_forget() > before + 0.01


def test_the_record_is_read_back_over_one_epoch_and_no_further(world: World) -> None:
    newest = module._one_pass(world.record)
    assert newest.n >= len(world.train)
    assert newest.last == recorded_features(world.record).last


def test_it_stops_when_f_looks_like_data_never_seen(world: World) -> None:
    evidence = world.evidence(torch.arange(20))
    object.__setattr__(evidence, "tuning", evidence.retain)  # as sure of it as of F from the start
    facts = Muda(rounds=6, forget_steps=6, recover_steps=3).unlearn(world.model(), evidence)
    assert facts["rounds"] < 6
    assert Muda(**QUICK, stop=False).unlearn(world.model(), evidence)["rounds"] == 2


def test_without_retained_data_it_says_what_is_missing(world: World) -> None:
    evidence = world.evidence(torch.arange(20))
    object.__setattr__(evidence, "retain", evidence.retain.select([]))
    with pytest.raises(UnlearnError, match="muda needs retained data"):
        Muda().unlearn(world.model(), evidence)


@pytest.mark.parametrize(
    "options",
    [{"rounds": 0}, {"forget_steps": 0}, {"recover_steps": 0}, {"learning_rate": 0.0}, {"alpha": -1.0},
     {"energy": 0.0}, {"energy": 1.1}, {"distill": -1.0}, {"batch_size": 1}, {"alpha": math.inf},
     {"align": -1.0}, {"directions": 0}],
)  # fmt: skip
def test_options_out_of_range_are_refused_by_name(options: dict[str, object]) -> None:
    with pytest.raises(UnlearnError, match=f"{next(iter(options))}=.*is out of range"):
        Muda(**options)


def test_a_record_without_features_is_no_obstacle(world: World, tmp_path: Path) -> None:
    from tests.plugin.unlearners.trained_runs import RecordedRun

    run = RecordedRun(tmp_path / "record", epochs=1)
    evidence = world.evidence(torch.arange(20))
    object.__setattr__(evidence, "record", run.record)
    facts = Muda(rounds=1, forget_steps=1, recover_steps=1).unlearn(world.model(), evidence)
    assert facts["first_directions_from"] == "retained data"


def prepared(world: World, *, forgotten_classes: tuple[int, ...] = (), **options: object) -> module._Rounds:
    """A run that has its first directions and has not begun."""
    evidence = world.evidence(torch.arange(20), forgotten_classes=forgotten_classes)
    rounds = module._Rounds(Muda(**options), world.model(), evidence, evidence.retain)
    rounds.subspace, _ = rounds._first_subspace()
    return rounds


def test_the_teacher_can_be_chosen(world: World) -> None:
    """By hand, on samples of which some belong to a class that is requested as a whole."""
    label = int(world.train.labels[0])
    images, labels = world.train.images(torch.arange(8)), world.train.labels[:8]
    made = {
        teacher: prepared(world, forgotten_classes=(label,), teacher=teacher)
        for teacher in ("auto", "masked", "projected", "original")
    }
    found = {teacher: rounds._teacher(images, labels) for teacher, rounds in made.items()}
    plain = world.model()(images)
    features = nn.Sequential(*world.model().children())[:-1].eval()(images)
    basis = made["projected"].subspace.basis
    projected = world.model()[-1](features @ basis @ basis.T)
    torch.testing.assert_close(found["original"], plain)
    torch.testing.assert_close(found["masked"], plain)
    torch.testing.assert_close(found["projected"], projected)
    torch.testing.assert_close(found["auto"], torch.where((labels == label)[:, None], plain, projected))
    assert [made[teacher]._masked() for teacher in found] == [(label,), (label,), (), ()]


def test_a_masked_teacher_needs_a_class_request(world: World) -> None:
    with pytest.raises(UnlearnError, match="teacher=masked .* take teacher=projected"):
        Muda(teacher="masked").unlearn(world.model(), world.evidence(torch.arange(20)))


def test_first_directions_come_from_where_they_are_wanted(world: World) -> None:
    evidence = world.evidence(torch.arange(20))
    rounds = module._Rounds(Muda(directions_from="retain"), world.model(), evidence, evidence.retain)
    assert rounds._first_subspace()[1] == "retained data"
    rounds = module._Rounds(Muda(directions_from="record"), world.model(), evidence, evidence.retain)
    assert rounds._first_subspace()[1] == "record"
    object.__setattr__(evidence, "record", None)
    with pytest.raises(UnlearnError, match="directions_from=record needs a record"):
        rounds._first_subspace()


def test_directions_are_counted_or_centred_as_asked(world: World) -> None:
    assert prepared(world, directions=7).subspace.basis.shape == (256, 7)
    plain, centred = prepared(world), prepared(world, centred=True)
    assert not bool(plain.subspace.centre.any())
    kept = outputs(world.model(), centred.retain).features
    assert float((centred.subspace.centre - kept.mean(0)).norm()) < 0.5 * float(kept.mean(0).norm())
    assert centred.subspace.basis.shape[1] > plain.subspace.basis.shape[1]  # the mean alone holds much of the energy


def test_directions_that_are_not_refreshed_stay(world: World) -> None:
    rounds = prepared(world, **QUICK, stop=False, refresh=False)
    first = rounds.subspace.basis
    measured: list[int] = []
    rounds._measured_subspace = lambda: measured.append(1)
    rounds.run()
    assert not measured
    torch.testing.assert_close(rounds.subspace.basis, first)


@pytest.mark.parametrize("mixed", [True, False])
def test_f_is_shown_among_retained_samples_or_alone(world: World, mixed: bool) -> None:
    rounds, shown = prepared(world, mixed=mixed), []
    rounds.model.register_forward_pre_hook(lambda _, given: shown.append(len(given[0])))
    rounds._forget_loss(rounds.model.train(), next(iter(rounds.evidence.forget.loader(8))))
    assert shown == [16 if mixed else 8]


def test_each_weight_takes_its_term_out(world: World) -> None:
    batch = next(iter(world.evidence(torch.arange(20)).forget.loader(8)))
    losses = {}
    for name, weights in {"both": {}, "align": {"alpha": 0.0}, "alpha": {"align": 0.0}}.items():
        rounds = prepared(world, mixed=False, **weights)
        losses[name] = float(rounds._forget_loss(rounds.model.eval(), batch))
    assert losses["both"] == pytest.approx(losses["align"] + losses["alpha"], rel=1e-5)
    assert min(losses.values()) > 0
    with pytest.raises(UnlearnError, match="align=0.0 is out of range"):
        Muda(align=0.0, alpha=0.0)


def test_one_retained_sample_of_each_class_is_enough_to_run(world: World) -> None:
    evidence = world.evidence(torch.arange(20))
    labels = evidence.retain.labels
    few = evidence.retain.select([int((labels == label).nonzero()[0]) for label in labels.unique()])
    object.__setattr__(evidence, "retain", few)
    model = world.model()
    facts = Muda(rounds=1, forget_steps=2, recover_steps=2).unlearn(model, evidence)
    assert facts["directions"] <= len(few) <= 10
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())
