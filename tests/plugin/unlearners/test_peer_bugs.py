"""Bugs that were found, by running or reading, in other implementations of unlearning; none may be in ours.

Every check is run twice: on a small copy of the bug, which it has to flag, and on ours.

| bug | check |
|---|---|
| SCRUB optimises the teacher, and the returned student never moves | `moved` |
| the teacher is a shallow copy: the divergence stays 0, the student is put into evaluation mode | `slope_on_f` |
| "retrain" resets the direct children only, so most tensors keep what they learnt | `independent_of_the_original` |
| the gold standard of random requests is taken to be FA = 0 | `nearest_to_unseen` |
| a candidate is chosen by the largest RA - FA, or by the lowest FA | `nearest_to_unseen` |
| an option is stored and never read (SCRUB's msteps) | `unread_options` |
| the default weight of R is 0, so that R is not kept | `weighs_retained` |
| a score takes log p for log(1 - p), and whole columns for single labels (modified entropy) | `log_odds_by_hand` |
| importance is the squared mean gradient of a batch: batch size and order change it | `spread_of_importance` |
| `kl_div` with the mean over classes and samples: ten classes make a tenth of the loss | `divergence_of_coins` |
| a default without annotation is no field, and is lost when the options are written down | `lost_defaults` |
| `.cuda()` in a method that is told its device | `device_literals` |
| a divergence averaged over classes crowds scores together (ZRF; we have none) | `divergence_of_coins` |
| the time of a method contains that of the measurements | `seconds_of_the_method` |

More of the kind: the same for every method in tests/test_contracts.py (copies, optimised parameters, seeds, BatchNorm),
weights outside a saliency mask bit for bit under weight decay and momentum in test_salun.py.
"""

import ast
import copy
import dataclasses
import inspect
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.conftest import fresh_net
from tests.plugin.conftest import job_for
from tests.plugin.unlearners.small_world import SmallWorld, make_world
from unlearn_hooks.training_record import weights_digest
from unlearn_plugin import pipeline
from unlearn_plugin.cost import Cost
from unlearn_plugin.data import Samples
from unlearn_plugin.job import Job
from unlearn_plugin.job_file import read_job, write_job_file
from unlearn_plugin.outputs import margin
from unlearn_plugin.registry import unlearners
from unlearn_plugin.training import cross_entropy
from unlearn_plugin.unlearners import scrub
from unlearn_plugin.unlearners._steps import ForgetBatch, frozen_copy
from unlearn_plugin.unlearners._subspace import masked_divergence
from unlearn_plugin.unlearners.neg_grad_plus import NegGradPlus
from unlearn_plugin.unlearners.random_label import RandomLabel
from unlearn_plugin.unlearners.retrain import Retrain
from unlearn_plugin.unlearners.scrub import Scrub, distillation
from unlearn_plugin.unlearners.ssd import importance

METHODS = [unlearners().get(name) for name in unlearners().names()]
PACKAGE = Path(inspect.getfile(scrub)).parents[1]
SHORT = {"epochs": 1, "msteps": 1, "batch_size": 64, "forget_steps": 2}


def moved(unlearn: Callable[[nn.Module], nn.Module], model: nn.Module) -> bool:
    """Whether the weights that come back are others; running statistics drift by themselves and count for nothing."""
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    return any(not torch.equal(value, before[name]) for name, value in unlearn(model).named_parameters())


def scrub_that_optimises_the_teacher(model: nn.Module) -> nn.Module:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    student = copy.deepcopy(model)
    images, labels, _ = next(iter(make_world().evidence.retain.loader(32)))
    for _ in range(2):
        loss = distillation(model(images), student(images)) + F.cross_entropy(student(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return student


def test_the_model_that_comes_back_is_the_one_that_was_trained() -> None:
    world = make_world()
    assert not moved(scrub_that_optimises_the_teacher, copy.deepcopy(world.original))
    assert moved(lambda model: world.forgotten(Scrub(**SHORT)), copy.deepcopy(world.original))


def slope_on_f(copy_of: Callable[[nn.Module], nn.Module]) -> tuple[float, bool]:
    """Largest gradient of the divergence on F once the student has moved, and whether the student can still train."""
    world = make_world()
    student = copy.deepcopy(world.original).train()
    teacher = copy_of(student)
    with torch.no_grad():
        student[-1].bias += 0.1 * torch.arange(10)
    scrub._Losses(Scrub(), teacher).disobey(student, next(iter(world.evidence.forget.loader(60)))).backward()
    return float(student[0].weight.grad.abs().max()), all(module.training for module in student.modules())


def test_the_teacher_does_not_follow_its_student() -> None:
    slope, trains = slope_on_f(lambda model: copy.copy(model).eval())
    assert slope < 1e-6
    assert not trains
    slope, trains = slope_on_f(frozen_copy)
    assert slope > 1e-4
    assert trains


def reset_children_only(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for child in model.children():
        if hasattr(child, "reset_parameters"):
            child.reset_parameters()
    return model


def independent_of_the_original(retrain: Callable[[nn.Module], nn.Module], make: Callable[[], nn.Module]) -> bool:
    """Whether two originals with no number in common give the same bytes."""
    originals = make(), make()
    with torch.no_grad():
        for value in originals[1].state_dict().values():
            value.fill_(3)
    first, second = (weights_digest(retrain(model).state_dict()) for model in originals)
    return first == second


def test_nothing_of_the_original_is_left_after_a_retraining() -> None:
    def small_resnet(seed: int = 0) -> nn.Module:
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            return timm.create_model("test_resnet", num_classes=10, in_chans=1)

    evidence = replace(make_world().evidence, fresh=small_resnet)
    few = replace(evidence, retain=evidence.retain.select(torch.arange(16)))

    def ours(model: nn.Module) -> nn.Module:
        Retrain(epochs=1).unlearn(model, few)
        return model

    assert not independent_of_the_original(reset_children_only, small_resnet)
    assert independent_of_the_original(ours, small_resnet)


def over_forgotten(world: SmallWorld) -> nn.Module:
    """F learnt by heart with wrong labels beside R: its accuracy is far below that of unseen data."""
    model = copy.deepcopy(world.original).eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    kept, (gone,) = next(iter(world.evidence.retain.loader(120))), world.evidence.forget.loader(60)
    for _ in range(30):
        optimizer.zero_grad()
        wrong = F.cross_entropy(model(gone[0]), (gone[1] + 1) % 10)
        (cross_entropy(model, kept) + wrong).backward()
        optimizer.step()
    return model


def nearest_to_unseen(world: SmallWorld, candidates: dict[str, nn.Module]) -> str:
    """How we choose: by how little F can be told from data that was never trained on."""
    return min(candidates, key=lambda name: abs(world.advantage(candidates[name]) - 0.5))


def test_the_gold_standard_of_a_random_request_is_not_to_fail_on_it() -> None:
    world = make_world()
    forget, unseen = world.evidence.forget, world.unseen
    gold = world.accuracy(world.retrained, forget)
    assert gold > 0.4
    assert abs(gold - world.accuracy(world.retrained, unseen)) < 0.15
    candidates = {"original": world.original, "retrained": world.retrained, "destroyed": over_forgotten(world)}
    kept, gone = (
        {name: world.accuracy(model, part) for name, model in candidates.items()}
        for part in (world.evidence.retain, forget)
    )
    assert min(gone, key=gone.__getitem__) == "destroyed"
    assert max(kept, key=lambda name: kept[name] - gone[name]) == "destroyed"
    assert nearest_to_unseen(world, candidates) == "retrained"
    assert world.advantage(world.original) > 0.6
    assert world.advantage(candidates["destroyed"]) < 0.4


def unread_options(cls: type) -> set[str]:
    """Options that no code of the class or its bases reads outside of the check of their range."""
    read: set[str] = set()
    for base in cls.__mro__[:-1]:
        module = ast.parse(Path(inspect.getfile(base)).read_text())
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef) and node.name == "__post_init__":
                node.body = []
        methods = [part for node in module.body if isinstance(node, ast.ClassDef) for part in node.body]
        texts = [part for method in methods if isinstance(method, ast.FunctionDef) for part in ast.walk(method)]
        read |= {text.value for text in texts if isinstance(text, ast.Constant) and isinstance(text.value, str)}
        read |= {node.attr for node in ast.walk(module) if isinstance(node, ast.Attribute)}
    return {option.name for option in dataclasses.fields(cls)} - read


@dataclass(frozen=True, kw_only=True)
class ScrubWithoutMsteps:
    """Stores what it is told and trains as it likes."""

    epochs: int = 5
    unused_option_of_this_test: int = 2

    def __post_init__(self) -> None:
        if self.unused_option_of_this_test < 1:
            raise ValueError

    def unlearn(self) -> int:
        return self.epochs


@pytest.mark.parametrize("cls", METHODS)
def test_every_option_is_read(cls: type) -> None:
    assert unread_options(ScrubWithoutMsteps) == {"unused_option_of_this_test"}
    assert not unread_options(cls)


def test_msteps_is_how_many_epochs_begin_with_a_max_pass() -> None:
    world = make_world()
    few = replace(world.evidence, retain=world.evidence.retain.select(torch.arange(64)))
    options = {**SHORT, "epochs": 3, "hold": False}
    passes = [
        Scrub(**{**options, "msteps": count}).unlearn(copy.deepcopy(world.original), few)["max_passes"]
        for count in (1, 3)
    ]
    assert passes == [1, 3]


def weighs_retained(loss: Callable[[nn.Module, tuple, ForgetBatch], Tensor]) -> bool:
    """Whether the loss pulls on what the model makes of R: its slope by R's images is not zero."""
    evidence = make_world().evidence
    images, labels, rows = next(iter(evidence.retain.loader(8)))
    images.requires_grad_()
    loss(fresh_net(0).eval(), (images, labels, rows), next(iter(evidence.forget.loader(8)))).backward()
    return images.grad is not None and float(images.grad.abs().max()) > 0


@pytest.mark.parametrize("cls", [NegGradPlus, RandomLabel])
def test_the_usual_weight_of_r_is_not_zero(cls: type, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = []
    monkeypatch.setattr(cls, "step_through", lambda self, model, evidence, loss, **_: losses.append(loss) or {})
    cls().unlearn(fresh_net(0), make_world().evidence)
    assert not weighs_retained(lambda model, retain, forget: -cross_entropy(model, forget))
    assert weighs_retained(losses[0])


def log_odds_by_hand(score: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """Whether a score of two rows is log p - log(1 - p) of each row's own label."""
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]])
    wanted = [math.log(0.7 / 0.3), math.log(0.3 / 0.7)]
    return score(p.log(), torch.tensor([0, 2])).tolist() == pytest.approx(wanted, abs=1e-5)


def test_a_score_takes_each_rows_own_label_and_the_other_side_of_the_probability() -> None:
    def columns(logits: Tensor, labels: Tensor) -> Tensor:
        p = logits.softmax(1)
        return (p.log() - (1 - p).log())[:, labels][:, 0]

    def one_sided(logits: Tensor, labels: Tensor) -> Tensor:
        p = logits.softmax(1)
        return (p.log() - p.log())[torch.arange(len(labels)), labels]

    assert not log_odds_by_hand(columns)
    assert not log_odds_by_hand(one_sided)
    assert log_odds_by_hand(margin)


def spread_of_importance(measure: Callable[[Samples, int], dict[str, Tensor]]) -> float:
    """Largest relative change of the importances by batch size and order."""
    samples = make_world().evidence.forget.select(torch.arange(20))
    shuffled = samples.select(torch.randperm(20, generator=torch.Generator().manual_seed(1)))
    flat = [
        torch.cat([value.flatten() for value in measure(*given).values()])
        for given in ((samples, 1), (samples, 5), (shuffled, 5))
    ]
    return max(float((flat[a] - flat[b]).norm() / flat[a].norm()) for a, b in ((0, 1), (1, 2)))


def test_importance_depends_on_neither_batch_size_nor_order() -> None:
    evidence, model = make_world().evidence, fresh_net(4).eval()

    def squared_mean(samples: Samples, batch_size: int) -> dict[str, Tensor]:
        total = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
        for batch in samples.loader(batch_size):
            model.zero_grad()
            cross_entropy(model, batch).backward()
            for name, value in model.named_parameters():
                total[name] += value.grad.square() * len(batch[1]) / len(samples)
        return total

    assert spread_of_importance(squared_mean) > 0.1
    assert spread_of_importance(lambda samples, size: importance(model, samples, evidence, batch_size=size)) < 1e-3


def divergence_of_coins(divergence: Callable[[Tensor, Tensor], Tensor], classes: int) -> float:
    """KL of a 3:1 coin from a fair one, written on `classes` classes of which all but two never come up; 0.1308."""
    never = torch.full((2, classes - 2), -1e4)
    teacher = torch.cat([torch.tensor([[math.log(3.0), 0.0]]).expand(2, 2), never], 1)
    return float(divergence(teacher, torch.cat([torch.zeros(2, 2), never], 1)))


@pytest.mark.parametrize("classes", [2, 10])
def test_a_divergence_is_a_mean_over_samples_and_a_sum_over_classes(classes: int) -> None:
    def mean(teacher: Tensor, student: Tensor) -> Tensor:
        return (teacher.softmax(1) * (teacher.log_softmax(1) - student.log_softmax(1))).mean()  # as F.kl_div does

    wanted = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert divergence_of_coins(mean, classes) != pytest.approx(wanted, rel=0.1)
    assert divergence_of_coins(distillation, classes) == pytest.approx(wanted, rel=1e-4)
    assert divergence_of_coins(lambda t, s: masked_divergence(s, t, ()), classes) == pytest.approx(wanted, rel=1e-4)


def reductions(sources: Iterable[str]) -> list[str]:
    """How each call of `kl_div` is reduced; "mean" where nothing is said."""
    found = []
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("kl_div"):
                said = {word.arg: ast.literal_eval(word.value) for word in node.keywords if word.arg == "reduction"}
                found.append(said.get("reduction", "mean"))
    return found


def device_literals(sources: Iterable[str]) -> list[str]:
    """Calls that put something on a device that nobody named."""
    calls = (node for source in sources for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    found = [ast.unparse(call) for call in calls if isinstance(call.func, ast.Attribute)]
    return [text for text in found if text.endswith(".cuda()") or "to('cuda" in text]


def test_no_source_averages_over_classes_or_chooses_a_device() -> None:
    sources = [path.read_text() for path in sorted(PACKAGE.rglob("*.py"))]
    assert reductions(["F.kl_div(a, b)", "F.kl_div(a, b, reduction='mean')"]) == ["mean", "mean"]
    assert set(reductions(sources)) <= {"batchmean", "sum", "none"}
    assert len(reductions(sources)) >= 2
    assert device_literals(["images.cuda()", "model.to('cuda:0')"]) == ["images.cuda()", "model.to('cuda:0')"]
    assert not device_literals(sources)


def lost_defaults(cls: type) -> set[str]:
    """Plain values of a class that look like options and are no fields."""
    fields = {option.name for option in dataclasses.fields(cls)}
    told = {name for base in cls.__mro__ for name in getattr(base, "__annotations__", {})}
    plain = {
        name for base in cls.__mro__[:-1] for name, value in vars(base).items()
        if not name.startswith("_") and isinstance(value, bool | int | float | str)
    }  # fmt: skip
    return plain - fields - told


@dataclass(frozen=True, kw_only=True)
class WithALostDefault:
    epochs: int = 5
    weight_decay = 5e-4  # no annotation, so no field


@pytest.mark.parametrize("name", unlearners().names())
def test_defaults_survive_being_written_down(name: str, tmp_path: Path) -> None:
    cls = unlearners().get(name)
    assert lost_defaults(WithALostDefault) == {"weight_decay"}
    assert "weight_decay" not in dataclasses.asdict(WithALostDefault())
    assert not lost_defaults(cls)
    said = {option: str(value).lower() for option, value in dataclasses.asdict(cls()).items()}
    job = Job(model="local-dir:model", forget="forget.csv", out="out", method=name, options=said)
    write_job_file(job, tmp_path / "job.yaml")
    assert unlearners().create(name, read_job(tmp_path / "job.yaml").options) == cls()


def seconds_of_the_method(measure_inside: bool, scene: SimpleNamespace, out: Path, patch: pytest.MonkeyPatch) -> float:
    """What the report gives as the method's time, when measuring takes an hour of a clock that we turn."""
    late = [0.0]

    def slow(*_: object, **__: object) -> dict[str, object]:
        late[0] += 3600.0
        return {"reasons": ["stopped here, by the test"]}

    def unlearn(model: nn.Module, evidence: object) -> dict[str, object]:
        if measure_inside:
            slow()
        return {}

    class Stop(Exception):  # noqa: N818  # no error
        pass

    def procedure(prepared: object, facts: object, cost: Cost) -> dict[str, object]:
        raise Stop(cost.seconds)

    real = time.perf_counter
    patch.setattr(time, "perf_counter", lambda: real() + late[0])
    patch.setattr(pipeline, "inspect_change", slow)
    patch.setattr(pipeline, "_procedure", procedure)
    patch.setattr(unlearners().get("finetune"), "unlearn", lambda self, model, evidence: unlearn(model, evidence))
    with pytest.raises(Stop) as caught:
        pipeline.run(job_for(scene, out))
    return float(caught.value.args[0])


def test_the_time_of_a_method_is_its_own(scene: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        assert seconds_of_the_method(True, scene, tmp_path / "a", patch) > 3000
    with pytest.MonkeyPatch.context() as patch:
        assert seconds_of_the_method(False, scene, tmp_path / "b", patch) < 3000
