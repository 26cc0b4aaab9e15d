"""Runs: what is to be done, done once, and written down line by line."""

import ast
import copy
import hashlib
import importlib.util
import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

from tests.benchmarks.suite.measure import Judge
from tests.benchmarks.suite.meter import Meter
from tests.benchmarks.suite.world import Request, Suite, World
from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.registry import unlearners

PUBLISHED = ("mini", "muda", "mixunlearn")  # compared with `finetune` at equal cost
YARDSTICKS = ("original", "retrain", "left_out")
_EPOCHS = 5  # of `finetune` by default
_FOLLOWED = ("unlearn_plugin.unlearners.", "unlearn_plugin.training")

Line = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One line of the results.

    Attributes:
        method: ``original``, ``retrain``, ``left_out`` (the recorded training again, F left out of every batch) or a
            method of the registry.
        options: Those that differ from the defaults, ``key=value,key=value``; ``retain_fraction`` is the share of R
            that the method is given, as of `unlearn apply`.
        seed: Of the world; for ``retrain`` that of the retrained model.
    """

    dataset: str
    arch: str
    request: str
    method: str
    options: str
    seed: int

    def key(self) -> dict[str, Any]:
        return {**self.__dict__, "code": version(self.method)}

    def made_of(self, line: Mapping[str, Any]) -> bool:
        """Whether a line is of this run, by whatever version of the code."""
        return all(line[name] == value for name, value in self.__dict__.items())


def methods() -> tuple[str, ...]:
    """All methods there are but `retrain`, which is the yardstick."""
    return tuple(name for name in unlearners().names() if name != "retrain")


@cache
def version(method: str) -> str:
    """Digest of a method's code and of what it imports of the methods' own code, comments and docstrings aside."""
    seen: dict[str, str] = {}
    waiting = [f"unlearn_plugin.unlearners.{'retrain' if method in YARDSTICKS else method}"]
    while waiting:
        name = waiting.pop()
        spec = importlib.util.find_spec(name) if name not in seen else None
        if spec is None or spec.origin is None:
            continue
        tree = ast.parse(Path(spec.origin).read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(_FOLLOWED):
                waiting.append(node.module)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
        seen[name] = ast.unparse(tree)
    return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()[:8]


def planned(dataset: str, arch: str, request: str, seeds: Sequence[int], named: Iterable[str]) -> Iterator[Run]:
    """The runs of some methods on one request: each method for all seeds, then the next."""
    for text in named:
        method, _, options = text.partition(":")
        for seed in seeds:
            yield Run(dataset, arch, request, method, options, seed)


def read(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def perform(runs: Iterable[Run], suite: Suite, out: Path, *, verdicts: bool = True) -> None:
    """Do what is not done yet; every result is appended at once, so that nothing is lost when it ends early."""
    judges: dict[tuple[str, ...], Judge] = {}
    for run in runs:
        if any(line.items() >= run.key().items() for line in read(out)):
            continue
        seed = _world_seed(run)
        place = (run.dataset, run.arch, run.request, str(seed))
        if place not in judges:
            world = suite.world(run.dataset, run.arch, seed)
            judges[place] = Judge.of(world, world.request(run.request))
        line = {**run.key(), **_perform(run, judges[place], verdicts)}
        with out.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(
            {name: round(value, 3) if isinstance(value, float) else value for name, value in line.items()}, flush=True
        )


def equal_cost(lines: Sequence[Line], method: str) -> str | None:
    """Options that let `finetune` take as long as a method did on the same request; ``None`` if either is missing."""
    mine, baseline = (
        [line["steps"] for line in lines if line["method"] == name and not line["options"] and "steps" in line]
        for name in (method, "finetune")
    )
    if not mine or not baseline:
        return None
    epochs = max(1, round(_EPOCHS * statistics.mean(mine) / statistics.mean(baseline)))
    return "" if epochs == _EPOCHS else f"epochs={epochs}"


def _world_seed(run: Run) -> int:
    """Retrained models are measured on the first world of their draw."""
    return 10 * (run.seed // 10 - 50) if run.method == "retrain" else run.seed


def _perform(run: Run, judge: Judge, verdicts: bool) -> Line:
    world, request = judge.world, judge.request
    if run.method == "original":
        return judge.measure(world.original, verdict=False)
    if run.method in YARDSTICKS:
        model, *_ = found = (world.retrained if run.method == "retrain" else world.left_out)(request, run.seed)
        return {**judge.measure(model, exact=True, verdict=verdicts), **found.costs}
    try:
        model, costs = unlearned(run, world, request)
    except UnlearnError as error:
        return {"failed": str(error)}
    exact = unlearners().get(run.method).exact
    line = {**judge.measure(model, exact=exact, verdict=verdicts), **costs}
    return {**line, "off": farthest(model, world.left_out(request, run.seed).model)} if exact else line


def farthest(model: nn.Module, other: nn.Module) -> float:
    """The largest difference between two values of the same name."""
    theirs = other.state_dict()
    return max(
        float((value.double() - theirs[name].double()).abs().max()) for name, value in model.state_dict().items()
    )


def unlearned(run: Run, world: World, request: Request) -> tuple[nn.Module, dict[str, float | int | None]]:
    """The model after all parts of a request, one after the other, and what that cost."""
    options = dict(pair.split("=") for pair in run.options.split(",") if pair)
    share = float(options.pop("retain_fraction", 1.0))
    method = unlearners().create(run.method, options)
    model, meters = copy.deepcopy(world.original), []
    for part in range(len(request.parts)):
        with Meter(world.time_of_a_step) as meter:
            method.unlearn(model, world.evidence(request, part=part, retain_fraction=share))
        meters.append(meter)
    peaks = [meter.peak for meter in meters if meter.peak is not None]
    return model.eval(), {
        "seconds": sum(meter.seconds for meter in meters),
        "steps": sum(meter.steps for meter in meters),
        "peak": max(peaks, default=None),
    }
