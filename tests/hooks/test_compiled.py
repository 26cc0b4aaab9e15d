"""Recording a model that torch.compile runs: real trainings, each once with and once without the recorder."""

import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import TensorDataset as Tensors

from unlearn_hooks import TrainingRecord, record
from unlearn_hooks.capture import watch_training_entry, watch_training_forward
from unlearn_hooks.compiled import SHOWS_COMPILED, shown
from unlearn_hooks.features import recorded_features
from unlearn_hooks.run import Launcher
from unlearn_hooks.samples import recorded_samples
from unlearn_hooks.schedule import recorded_schedule
from unlearn_hooks.training_record import weights_digest

pytestmark = [
    pytest.mark.skipif(not SHOWS_COMPILED, reason="this torch cannot declare that an operation has an effect"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
N, BATCH, CLASSES = 24, 8, 3
IMAGES = torch.randn(N, 2, 4, 4, generator=torch.Generator().manual_seed(1))
COMPILER = next(filter(shutil.which, (os.environ.get("CXX", "g++"), "clang++")), None)
BACKENDS = [
    "aot_eager",
    pytest.param("inductor", marks=pytest.mark.skipif(COMPILER is None, reason="inductor needs a C++ compiler")),
]


@pytest.fixture(autouse=True)
def _compiles_anew() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
        self.drop, self.fc = nn.Dropout(0.2), nn.Linear(4, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.drop(self.norm(self.body(images)).relu().mean((2, 3))))
        return logits


class Training:
    """An ordinary loop; `compile` makes of the model what the loop calls."""

    def __init__(self, folder: Path, compile: Callable[[nn.Module], Any], *, drop: float = 0.2) -> None:
        self.folder, self.model = folder, Net()
        self.model.drop.p = drop
        self.called = compile(self.model)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.scaler = torch.amp.GradScaler("cpu", enabled=False)
        self.poisoned = -1
        self.loader = DataLoader(Tensors(IMAGES, torch.arange(N) % CLASSES), BATCH, shuffle=True)

    def epochs(self, number: int, *, on: bool = True) -> "Training":
        if not on:
            return self._run(self.loader, number)
        with record(self.folder, self.model, self.optimizer) as rec:
            return self._run(rec.batches(self.loader), number)

    def _run(self, batches: Any, number: int) -> "Training":
        step = 0
        for _ in range(number):
            for images, labels in batches:
                self.optimizer.zero_grad()
                loss = nn.functional.cross_entropy(self.called(images), labels)
                self.scaler.scale(loss * (torch.inf if step == self.poisoned else 1)).backward()
                self.scaler.step(self.optimizer)
                self.scaler.update()
                step += 1
        return self

    def end(self) -> tuple[str, list[int]]:
        return weights_digest(self.model.state_dict()), torch.get_rng_state().tolist()


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_compiled_training_ends_bit_by_bit_where_it_ends_without_the_recorder(tmp_path: Path, backend: str) -> None:
    graphs = []

    def compile(model: nn.Module) -> Any:
        return torch.compile(model, backend=backend, fullgraph=True)

    ends = []
    for on in (True, False):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        ends.append(Training(tmp_path / "rec", compile).epochs(7, on=on).end())
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert ends[0] == ends[1]
    assert graphs[1] == 1
    assert graphs[0] <= 2  # whatever the number of steps; torch compiles what follows the outermost forward apart
    found = TrainingRecord.open(tmp_path / "rec")
    assert found.complete
    assert recorded_features(found).n == 7 * N
    assert [epoch.rows.tolist() for epoch in recorded_samples(found)] == [list(range(N))] * 7


def test_what_is_recorded_is_what_an_uncompiled_training_shows(tmp_path: Path) -> None:
    found = []
    for name, compile in (
        ("plain", lambda model: model),
        ("compiled", lambda model: torch.compile(model, backend="aot_eager")),
        ("in place", lambda model: model.compile(backend="aot_eager") or model),
    ):
        Training(tmp_path / name, compile, drop=0.0).epochs(2)
        found.append(TrainingRecord.open(tmp_path / name))
    plain, *compiled = found
    for other in compiled:
        first, second = recorded_features(plain), recorded_features(other)
        assert torch.allclose(first.mean, second.mean, atol=1e-5)
        assert torch.allclose(first.second_moment, second.second_moment, atol=1e-5)
        assert second.class_counts is not None
        assert first.class_counts.tolist() == second.class_counts.tolist()
        for one, two in zip(recorded_samples(plain), recorded_samples(other), strict=True):
            assert torch.allclose(one.loss, two.loss, atol=2e-3)
        assert [recorded_schedule(plain).rows(step).tolist() for step in range(6)] == [
            recorded_schedule(other).rows(step).tolist() for step in range(6)
        ]


def test_a_step_that_the_scaler_left_out_is_recorded_as_left_out(tmp_path: Path) -> None:
    for name, compile in (("plain", lambda model: model), ("compiled", partial(torch.compile, backend="aot_eager"))):
        training = Training(tmp_path / name, compile)
        training.scaler, training.poisoned = torch.amp.GradScaler("cpu", init_scale=4.0), 1
        training.epochs(2)
        found = TrainingRecord.open(tmp_path / name)
        assert recorded_schedule(found).skipped.tolist() == [False, True, False, False, False, False]
        assert recorded_features(found).n == 2 * N - BATCH


def test_of_a_model_that_ran_compiled_before_all_but_the_features_is_recorded_and_it_says_so(tmp_path: Path) -> None:
    training = Training(tmp_path, lambda model: torch.compile(model, backend="eager"))
    training.called(IMAGES[:BATCH])
    with pytest.warns(RuntimeWarning, match="the model ran compiled before record") as told:
        training.epochs(2)
    assert len(told) == 1
    found = TrainingRecord.open(tmp_path)
    assert not found.shards("features")
    assert [epoch.rows.tolist() for epoch in recorded_samples(found)] == [list(range(N))] * 2


def test_a_graph_that_outlives_the_recording_shows_nothing_more(tmp_path: Path) -> None:
    training = Training(tmp_path / "rec", lambda model: torch.compile(model, backend="aot_eager")).epochs(1)
    before = TrainingRecord.open(tmp_path / "rec").digest()
    training.epochs(1, on=False)
    assert TrainingRecord.open(tmp_path / "rec").digest() == before
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in training.model.modules())


class Losing(Net):
    """Gives no logits back."""

    def forward(self, images: Tensor) -> Any:
        return {"loss": super().forward(images).square().sum()}


def test_features_are_seen_where_there_are_no_logits_and_the_entry_is_told_first() -> None:
    model, told = Losing(), []
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with (
        watch_training_entry(lambda module, args: told.append((module, args)), model),
        watch_training_forward(model, model.fc, lambda *seen: told.append(seen) or (lambda: told.append("back"))),
    ):
        compiled(IMAGES)["loss"].backward()
        with torch.no_grad():
            compiled(IMAGES)
        model.eval()
        compiled(IMAGES)
    (module, arguments), (features, logits), back = told
    assert module is model
    assert arguments == ()
    assert features.shape == (N, 4)
    assert not features.requires_grad
    assert logits is None
    assert back == "back"


def test_what_is_shown_reaches_who_listens_and_nobody_afterwards() -> None:
    heard: list[tuple[str, Tensor | None]] = []
    with shown(lambda what, tensor: heard.append((what, tensor))) as show, shown(lambda *other: heard.append(other)):
        show("logits", IMAGES.requires_grad_())
        show("entry", None)
    IMAGES.requires_grad_(False)
    show("logits", IMAGES)
    assert [what for what, _ in heard] == ["logits", "entry"]
    assert heard[0][1] is not None
    assert not heard[0][1].requires_grad


SCRIPT = """
import torch
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(0)
data = TensorDataset(torch.randn(24, 12), torch.arange(24) % 3)
model = torch.nn.Sequential(torch.nn.Linear(12, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
compiled = torch.compile(model, backend="aot_eager")
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(2):
    for images, labels in DataLoader(data, 8, shuffle=True):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(compiled(images), labels).backward()
        optimizer.step()
"""


def test_a_script_that_compiles_its_model_is_recorded_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        Launcher(tmp_path / "rec").run(str(tmp_path / "train.py"))
    found = TrainingRecord.open(tmp_path / "rec")
    assert found.complete
    assert recorded_features(found).n == 48
    assert [epoch.rows.tolist() for epoch in recorded_samples(found)] == [list(range(24))] * 2
