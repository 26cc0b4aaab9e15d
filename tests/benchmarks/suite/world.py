"""Worlds: a recorded training with a sealed holdout and reference pairs, requests, and really retrained models.

    from tests.benchmarks.suite.world import Suite

    suite = Suite(cache, root)                         # root: data for torchvision.datasets; not needed when cached
    world = suite.world("fashion_mnist", "test_resnet", seed=0)
    request = world.request("random")                  # class, classes, part, second
    model = copy.deepcopy(world.original)
    unlearners().create("finetune", {}).unlearn(model, world.evidence(request))
    models = [world.retrained(request, seed) for seed in world.reference_seeds]

Everything that takes time is made once and kept in the cache; processes may share it. Seeds 0 to 9 share one draw of
the data, the same requests and so the same retrained models; seeds 10 to 19 another one: settings are chosen on seeds
10 and 11, and what is reported are seeds 0 to 2.
"""

import fcntl
import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from tests.benchmarks.suite.meter import Meter
from tests.benchmarks.suite.tasks import TASKS, Drawn, Rows, Task, drawn
from tests.benchmarks.suite.training import BATCH, Numbered, make_optimizer, step, train, without
from unlearn_hooks import Plan, record
from unlearn_hooks.controls import Half, Holdout, halves, holdout, recorded_holdout
from unlearn_hooks.references import add_reference, without_judge
from unlearn_hooks.training_record import SCHEMA, TrainingRecord
from unlearn_plugin.data import ImageData, Samples
from unlearn_plugin.progress import Progress
from unlearn_plugin.registry import unlearners
from unlearn_plugin.splits import _thin
from unlearn_plugin.unlearners.base import Evidence

PLAN = Plan(steps=12)
_TRAINED_OF_EACH = 7
PAIRS = {0: "judge", 1: "method"}  # of half models, by number


@dataclass(frozen=True)
class Request:
    """What has to go.

    Attributes:
        kind: ``random``: 10 %; ``class``: all of one class; ``classes``: of two; ``part``: 40 % of the second half of
            the classes; ``second``: 5 %, and once they are gone another 5 %; ``subject``: all pictures of a person.
        parts: Rows by order of arrival, each sorted; one part but for ``second``.
        classes: Those requested as a whole.
    """

    kind: str
    parts: tuple[Tensor, ...]
    classes: tuple[int, ...] = ()

    @property
    def rows(self) -> Tensor:
        """All requested rows, sorted."""
        return torch.cat(self.parts).sort().values


class Retrained(NamedTuple):
    """A model trained on the rest alone, the processor seconds it took, and its peak memory in bytes."""

    model: nn.Module
    seconds: float
    steps: float  # the same in training steps of the network, timed beside it: comparable on a busy machine
    peak: int | None

    @property
    def costs(self) -> dict[str, float | int | None]:
        """All but the model, by name."""
        return {"seconds": self.seconds, "steps": self.steps, "peak": self.peak}


class Suite:
    """All worlds of one cache.

    Args:
        cache: Where models and records are kept.
        root: A folder that torchvision.datasets reads without downloading.
    """

    def __init__(self, cache: Path, root: Path | None = None) -> None:
        self.cache, self.root = Path(cache), root

    def world(self, dataset: str, arch: str, seed: int) -> "World":
        """A world, trained now if it is not there yet."""
        return World.open(TASKS[dataset], f"{dataset}-{arch}", arch, seed, self.cache, self.root)

    @staticmethod
    def reference_seeds(seed: int) -> tuple[int, ...]:
        """Seeds of the retrained models of a world: three where results are reported, two where settings are chosen."""
        first = 500 + 10 * (seed // 10)
        return tuple(range(first, first + (3 if seed < 10 else 2)))


@dataclass(frozen=True)
class World:
    """What one training leaves behind.

    Attributes:
        name: Data set and architecture.
        data: Training samples and controls, as one data set; the record says which are which.
        trained: Rows the original was trained on.
        persons: Whose picture each row is, -1 where it is not said.
        unused: Rows never trained on that show persons of the training data; empty where nobody is shown.
        original: The network trained on all of `trained`, in evaluation mode.
        record: What its training left behind, references included.
        folder: Of this draw of the data.
    """

    task: Task
    name: str
    arch: str
    seed: int
    data: ImageData
    trained: Tensor
    persons: Tensor
    unused: Tensor
    original: nn.Module
    record: TrainingRecord
    folder: Path

    @classmethod
    def open(cls, task: Task, name: str, arch: str, seed: int, cache: Path, root: Path | None) -> "World":
        draw = seed // 10
        folder = cache / name / f"draw-{draw}"
        with only_one(folder):
            found = drawn(task, root, folder / "data.safetensors", draw)
        rows = Rows(found["images"], found["labels"], task.classes)
        persons = found.get("persons")
        held = holdout(rows, task.held_out, seed=draw, subjects=None if persons is None else persons.tolist())
        kept = held.train.indices if persons is None else _some_of_each(held.train.indices, persons)
        trained = torch.tensor(sorted(kept))
        unused = torch.tensor(sorted({*held.train.indices} - {*kept}), dtype=torch.int64)
        persons = torch.full((len(rows),), -1) if persons is None else persons
        maker = _Maker(task, arch, rows, trained, persons, held, folder)
        original, place = maker.original(seed)
        ids = tuple(str(row) for row in range(len(rows)))
        data = ImageData(rows, ids, rows.labels, tuple(rows.classes), deterministic=True)
        recorded = TrainingRecord.open(place)
        return cls(task, name, arch, seed, data, trained, persons, unused, original, recorded, folder)

    @property
    def draw(self) -> int:
        return self.seed // 10

    @property
    def reference_seeds(self) -> tuple[int, ...]:
        return Suite.reference_seeds(self.seed)

    def fresh(self, seed: int) -> nn.Module:
        return self.task.fresh(self.arch, seed)

    def request(self, kind: str) -> Request:
        """A request; the same for all seeds of a draw."""
        labels, half = self.data.labels[self.trained], self.task.classes // 2
        generator = torch.Generator().manual_seed(7000 + self.draw)
        order, first = torch.randperm(len(labels), generator=generator), self.draw % half
        whole = {"class": (first,), "classes": (first + 1, first + 1 + half - 1)}.get(kind, ())
        if whole:
            return Request(kind, (self.trained[torch.isin(labels, torch.tensor(whole))],), whole)
        tenth = len(labels) // 10
        if kind == "subject":
            return Request(kind, (self.trained[self.persons[self.trained] == self.persons[self.trained][order[0]]],))
        if kind == "random":
            chosen: tuple[Tensor, ...] = (order[:tenth],)
        elif kind == "second":
            chosen = (order[-tenth // 2 :], order[-tenth : -tenth // 2])
        elif kind == "part":
            pools = [order[labels[order] == label] for label in range(half, self.task.classes)]
            chosen = (torch.cat([pool[: round(0.4 * len(pool))] for pool in pools]),)
        else:
            raise ValueError(f"There is no request {kind!r}; there are: {', '.join(self.task.requests)}.")
        return Request(kind, tuple(self.trained[part.sort().values] for part in chosen))

    def retained(self, request: Request, part: int = -1) -> Tensor:
        """Rows that stay once a request is answered up to some part; by default all of it."""
        gone = torch.cat(request.parts[: part % len(request.parts) + 1])
        return self.trained[~torch.isin(self.trained, gone)]

    def validation(self, request: Request) -> Tensor | None:
        """Pictures never trained on of the persons who stay; ``None`` where the controls are as good."""
        gone = torch.isin(self.persons[self.unused], self.persons[request.rows])
        return self.unused[~gone] if len(self.unused) else None

    def evidence(
        self, request: Request, seed: int | None = None, part: int = -1, *, retain_fraction: float = 1.0
    ) -> Evidence:
        """What a method sees when one part of a request arrives; by default the last."""
        generator = torch.Generator().manual_seed(self.seed)
        retained = _thin(self.retained(request, part), self.data.labels, retain_fraction, generator)
        before = request.parts[: part % len(request.parts)]
        return Evidence(
            forget=Samples(self.data, request.parts[part]),
            retain=Samples(self.data, retained),
            tuning=Samples(self.data, recorded_holdout(self.record).tuning),
            record=without_judge(self.record),
            classes=self.task.classes,
            forgotten_classes=request.classes,
            one_subject=request.kind == "subject",
            earlier=Samples(self.data, torch.cat(before).sort().values) if before else None,
            fresh=self.fresh,
            accelerator=Accelerator(cpu=True),
            seed=self.seed + 100 if seed is None else seed,
            progress=Progress(enabled=False),
        )

    def retrained(self, request: Request, seed: int) -> Retrained:
        """A model trained on the rest alone by the method `retrain`, which follows the record."""
        # what is left unused without being sealed, as of the faces, the record would count as trained on
        method = unlearners().create("retrain", {"epochs": str(self.task.trained_for(self.arch))})
        return self._made_once(
            self.folder / request.kind / f"retrained-{seed}.safetensors",
            self.fresh(seed),
            lambda model: method.unlearn(model, self.evidence(request, seed)),
        )

    def left_out(self, request: Request, seed: int) -> Retrained:
        """The training of the original of a seed, in every batch of which the requested rows are left out."""

        def again(model: nn.Module) -> None:
            torch.manual_seed(seed)
            rows = Numbered(self.data.dataset, self.trained.tolist())
            loader: DataLoader[Any] = DataLoader(rows, batch_size=BATCH, shuffle=True)
            train(self.task, self.arch, model, loader, around=without(request.rows))

        place = self.folder / request.kind / f"left-out-{seed}.safetensors"
        return self._made_once(place, self.fresh(seed), again)

    def _made_once(self, place: Path, model: nn.Module, make: Callable[[nn.Module], object]) -> Retrained:
        with only_one(place.parent):
            if not place.exists():
                with Meter(self.time_of_a_step) as meter:
                    make(model)
                place.with_suffix(".json").write_text(json.dumps(meter.costs))
                _save(model, place)
        model.load_state_dict(load_file(place))
        return Retrained(model.eval(), **json.loads(place.with_suffix(".json").read_text()))

    @cached_property
    def _probe(self) -> tuple[nn.Module, Tensor, Tensor]:
        return self.fresh(0), self.data.images(self.trained[:BATCH]), self.data.labels[self.trained[:BATCH]]

    def time_of_a_step(self) -> float:
        """Processor seconds of one plain training step now, the median of three."""
        model, images, labels = self._probe
        optimizer, times = make_optimizer(self.arch, model), []
        for _ in range(3):
            started = time.process_time()
            step(model, optimizer, images, labels)
            times.append(time.process_time() - started)
        return sorted(times)[1]


class _Maker:
    """Trains what a world needs, and keeps it."""

    def __init__(
        self, task: Task, arch: str, rows: Rows, trained: Tensor, persons: Tensor, held: Holdout, folder: Path
    ) -> None:
        self.task, self.arch, self.rows, self.trained, self.persons = task, arch, rows, trained, persons
        self.held, self.folder, self.draw = held, folder, held.seed

    def original(self, seed: int) -> tuple[nn.Module, Path]:
        """The model and its record; recorded anew when what is recorded by default has changed."""
        model, place = self.task.fresh(self.arch, seed), self.folder / f"seed-{seed}"
        weights, recorded = place / "model.safetensors", place / f"record-{_recorder_version()}"
        with only_one(place):
            if not recorded.exists():
                partial = recorded.with_suffix(".partial")
                shutil.rmtree(partial, ignore_errors=True)
                self._record(model, seed, partial)
                if weights.exists() and not _same(model, load_file(weights)):
                    raise RuntimeError(f"{weights} was not trained again bit by bit; was the recipe changed?")
                _save(model, weights)
                shown = self.persons[self.trained].tolist() if int(self.persons.max()) >= 0 else None
                for pair, purpose in PAIRS.items():
                    for half in halves(self._part(), pair, self.draw, subjects=shown):
                        add_reference(partial, self._half(half), self.rows, half, purpose=purpose)
                partial.rename(recorded)
        model.load_state_dict(load_file(weights))
        return model.eval(), recorded

    def _part(self) -> "Subset[tuple[Tensor, int]]":
        return Subset(self.rows, self.trained.tolist())

    def _half(self, half: Half) -> nn.Module:
        """A half model; it never sees the original, so all originals of a draw share it."""
        model = self.task.fresh(self.arch, 900 + 2 * half.pair + half.side)
        place = self.folder / "halves" / f"{half.pair}-{half.side}.safetensors"
        with only_one(place.parent):
            if not place.exists():
                torch.manual_seed(900 + 2 * half.pair + half.side)
                train(self.task, self.arch, model, DataLoader(half, batch_size=BATCH, shuffle=True))
                _save(model, place)
        model.load_state_dict(load_file(place))
        return model.eval()

    def _record(self, model: nn.Module, seed: int, folder: Path) -> None:
        torch.manual_seed(seed)
        loader, optimizer = DataLoader(self._part(), batch_size=BATCH, shuffle=True), make_optimizer(self.arch, model)
        with record(folder, model, optimizer, plan=PLAN, holdout=self.held) as recorder:
            train(self.task, self.arch, model, loader, optimizer, recorder.batches)


def _some_of_each(rows: Sequence[int], persons: Tensor) -> list[int]:
    """The first seven pictures of each person; the others show what the network makes of new pictures of them."""
    seen: Counter[int] = Counter()
    kept = []
    for row in rows:
        person = int(persons[row])
        seen[person] += 1
        kept += [row] if seen[person] <= _TRAINED_OF_EACH else []
    return kept


def _recorder_version() -> str:
    """Changes with what a record holds by default."""
    return hashlib.sha256(json.dumps([SCHEMA, PLAN.as_dict()]).encode()).hexdigest()[:8]


def _save(model: nn.Module, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_suffix(".partial")
    save_file(model.state_dict(), partial)
    partial.rename(place)


def _same(model: nn.Module, weights: Drawn) -> bool:
    return all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Let one process at a time make what belongs into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
