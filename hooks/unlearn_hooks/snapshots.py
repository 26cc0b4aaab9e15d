"""Whole states of the training at a few passes over the data, and the random states at all of them: for `replay`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unlearn_hooks.collector import Batch, Collector, Pass, Run, Seen, Step
from unlearn_hooks.copies import Blocks
from unlearn_hooks.description import describe_recipe
from unlearn_hooks.plan import parse_bytes, stride
from unlearn_hooks.randomness import RandomStates
from unlearn_hooks.tensor_bytes import STORABLE, is_sharded
from unlearn_hooks.training_record import RecordWriter, Shard, TrainingRecord

__all__ = ["RecordedPass", "Snapshot", "SnapshotsCollector", "recorded_passes", "recorded_snapshots"]

_PASS = "pass"
_WEIGHT, _STATE = "weight/", "state/"


@dataclass(frozen=True)
class _Waiting:
    """A shard that is not handed over yet."""

    kind: str
    begun: Pass
    tensors: Mapping[str, Tensor]
    meta: dict[str, Any]


class SnapshotsCollector(Collector):
    """Weights, buffers and optimizer state at evenly spread passes; the random states at the beginning of each.

    The passes chosen are 0, k, 2k, …, where k doubles as that of the updates does: the initial state is always among
    them, and costs little, since the optimizer has no state yet. Everything is copied before the first step of the
    pass, as it is and in its own type. A pass that begins in the midst of a step is never chosen: gradients are
    not recorded. Random states are those of this process; weights and optimizer are written by the first one.
    """

    kind = "snapshot"

    def start(self, run: Run, first_step: int) -> None:
        """Get ready; see the base class."""
        super().start(run, first_step)
        self._persistent = frozenset(run.model.state_dict())
        self._keep, self._largest = run.plan.snapshots, 0
        self._number: int | None = None
        self._written: RandomStates | None = None
        self._waiting: list[_Waiting] = []

    @torch.no_grad()
    def pass_begin(self, begun: Pass, out: RecordWriter) -> None:
        """Keep the random states, and the state of the training if this pass is one of those chosen."""
        earlier = (int(shard.meta["pass"]) for shard in out.shards(_PASS))
        number = max(earlier, default=-1) + 1 if self._number is None else self._number + 1
        self._number = number
        self._waiting.append(_Waiting(_PASS, begun, *self._random(begun, number)))
        if out.rank == 0 and self._is_chosen(number) and begun.carried == 0:
            self._take(begun, number, out)
        self._hand_over(out, _PASS)

    def _is_chosen(self, number: int) -> bool:
        return self._keep > 0 and number % stride(number + 1, self._keep) == 0

    def _take(self, begun: Pass, number: int, out: RecordWriter) -> None:
        tensors = self._tensors()
        self._fit(tensors, number, out)
        self._thin(stride(number + 1, self._keep) if self._keep else 0, out)
        if self._is_chosen(number):
            copies = Blocks().copy({name: (tensor, None) for name, tensor in tensors.items()})
            meta = {"pass": number, "epoch": begun.epoch, **_settings(self.run)}
            self._waiting.append(_Waiting(self.kind, begun, copies.tensors, meta))

    def _tensors(self) -> dict[str, Tensor]:
        """Name everything a state is made of; constants that the model makes itself are left out."""
        model, optimizer = self.run.model, self.run.optimizer
        tensors: dict[str, Tensor] = {_WEIGHT + name: parameter for name, parameter in model.named_parameters()}
        tensors |= {_WEIGHT + name: buffer for name, buffer in model.named_buffers() if name in self._persistent}
        for name, parameter in self.run.parameters.items():
            state = optimizer.state.get(parameter, {}).items()
            tensors |= {f"{_STATE}{name}/{key}": value for key, value in state if isinstance(value, Tensor)}
        return tensors

    def _fit(self, tensors: Mapping[str, Tensor], number: int, out: RecordWriter) -> None:
        """Keep fewer if 2 K - 1 states do not fit the budget, and say so in the journal; the initial one is cheaper."""
        budget, problem = parse_bytes(self.run.plan.budget), _problem(tensors)
        self._largest = max(self._largest, sum(tensor.nbytes for tensor in tensors.values()))
        fitting = max((budget // max(self._largest, 1) + 1) // 2, 1 if number else 0)
        keep = 0 if problem else min(self._keep, fitting)
        if keep < self._keep:
            out.note("snapshots_limited", snapshots=keep, **({"reason": problem} if problem else {"budget": budget}))
            self._keep = keep

    def _thin(self, k: int, out: RecordWriter) -> None:
        for shard in out.shards(self.kind):
            if k == 0 or shard.meta["pass"] % k:
                out.drop(shard)
        self._waiting = [one for one in self._waiting if one.kind == _PASS or (k and one.meta["pass"] % k == 0)]

    def _random(self, begun: Pass, number: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a pass begins with; states of `random` and numpy that did not change are left out."""
        meta = {"pass": number, "epoch": begun.epoch, "carried": begun.carried, "ahead": begun.ahead}
        beginning = begun.beginning
        if beginning is None:
            return {}, meta
        tensors = beginning.states.tensors()
        before = {} if self._written is None else self._written.tensors()
        self._written = beginning.states
        same = [name for name in ("python", "numpy") if _equal(tensors.get(name), before.get(name))]
        tensors = {name: tensor for name, tensor in tensors.items() if name not in same}
        tensors |= {} if beginning.seed is None else {"seed": beginning.seed}
        return tensors, meta | {"workers": beginning.workers, "own_init": beginning.own_init}

    def batch(self, batch: Batch, seen: Seen) -> None:
        """Note which modules are in evaluation mode while training; see the base class."""
        for one in self._waiting:
            if one.kind == self.kind and "evaluating" not in one.meta:
                modules = self.run.model.named_modules()
                one.meta["evaluating"] = [name for name, module in modules if not module.training]

    def step(self, step: Step, out: RecordWriter) -> None:
        """Hand over what the first step of the pass has made complete; see the base class."""
        self._hand_over(out)

    def flush(self, out: RecordWriter) -> None:
        """Write what could not be handed over before; see the base class."""
        self._hand_over(out)

    def _hand_over(self, out: RecordWriter, kind: str | None = None) -> None:
        if not self._waiting:
            return
        left = []
        for one in self._waiting:
            step = one.begun.step
            wanted = kind in (None, one.kind)
            if not wanted or out.append(one.kind, one.tensors, first=step, last=step, meta=one.meta) is None:
                left.append(one)
        self._waiting = left


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one, other)


def _problem(tensors: Mapping[str, Tensor]) -> str | None:
    if is_sharded(tensors.values()):
        return "parameters are sharded over processes"
    strange = sorted({str(tensor.dtype) for tensor in tensors.values() if tensor.dtype not in STORABLE})
    return f"tensors of type {', '.join(strange)} cannot be written" if strange else None


def _settings(run: Run) -> dict[str, Any]:
    """Optimizer, settings of its groups, and what of its state is no tensor."""
    optimizer = run.optimizer
    scalars: dict[str, dict[str, Any]] = {}
    lost: set[str] = set()
    for name, parameter in run.parameters.items():
        state = run.optimizer.state.get(parameter, {})
        plain = {key: value for key, value in state.items() if isinstance(value, (int, float, bool, str, type(None)))}
        scalars |= {name: plain} if plain else {}
        lost |= {str(key) for key, value in state.items() if key not in plain and not isinstance(value, Tensor)}
    return {
        "optimizer": f"{type(optimizer).__module__}.{type(optimizer).__qualname__}",
        "groups": describe_recipe(optimizer, run.parameters, None)["groups"],
        "state": scalars,
        "lost": sorted(lost),
    }


@dataclass(frozen=True)
class RecordedPass:
    """How one pass over the data began.

    Attributes:
        number: Counted from 0 over the whole run.
        step: Step to come.
        epoch: Epoch that began.
        carried: Micro-batches of that step that belong to the pass before.
        ahead: How many further batches the loop had read when the first one arrived.
        states: Random states when loader and sampler had drawn what they draw first; ``None`` if not seen.
        seed: State of the generator that the workers' seed was drawn from; ``None`` without new workers.
        workers: Number of worker processes.
        own_init: The loader had a ``worker_init_fn`` of its own.
    """

    number: int
    step: int
    epoch: int
    carried: int
    ahead: int
    states: RandomStates | None
    seed: Tensor | None
    workers: int
    own_init: bool


def recorded_passes(record: TrainingRecord) -> list[RecordedPass]:
    """Read how the passes of a recorded run began, in the first process.

    Args:
        record: What training left behind.

    Returns:
        The passes in order; none if snapshots were not asked for.
    """
    passes = []
    before: dict[str, Tensor] = {}
    shards = [shard for shard in record.shards(_PASS) if shard.rank == 0]
    for shard in sorted(shards, key=lambda shard: int(shard.meta["pass"])):
        tensors, meta = shard.tensors(), shard.meta
        if "torch" in tensors:
            before = {name: before[name] for name in ("python", "numpy") if name in before} | tensors
        passes.append(
            RecordedPass(
                number=meta["pass"],
                step=shard.first,
                epoch=meta["epoch"],
                carried=meta["carried"],
                ahead=meta["ahead"],
                states=RandomStates.of(before) if "torch" in tensors else None,
                seed=tensors.get("seed"),
                workers=meta.get("workers", 0),
                own_init=meta.get("own_init", False),
            )
        )
    return passes


@dataclass(frozen=True)
class Snapshot:
    """The whole state of the training before one step; read from disk when asked.

    Attributes:
        step: The step to come.
        pass_number: Which pass over the data begins with it.
        epoch: Its epoch.
        optimizer: Module and name of the optimizer's class.
        groups: Settings of each parameter group, with ``names`` of its parameters.
        evaluating: Modules that were in evaluation mode in the pass; ``None`` if that was not seen.
        lost: Parts of the optimizer's state that could not be kept.
    """

    step: int
    pass_number: int
    epoch: int
    optimizer: str
    groups: Sequence[Mapping[str, Any]]
    evaluating: Sequence[str] | None
    lost: Sequence[str]
    _shard: Shard = field(repr=False)

    def weights(self) -> dict[str, Tensor]:
        """Read parameters and buffers, by name in the model."""
        tensors = self._shard.tensors()
        return {name.removeprefix(_WEIGHT): value for name, value in tensors.items() if name.startswith(_WEIGHT)}

    def optimizer_state(self) -> dict[str, dict[str, Any]]:
        """Read the optimizer's state of each parameter, by name in the model; empty before the first step."""
        state: dict[str, dict[str, Any]] = {name: dict(plain) for name, plain in self._shard.meta["state"].items()}
        for path, value in self._shard.tensors().items():
            if path.startswith(_STATE):
                name, _, key = path.removeprefix(_STATE).rpartition("/")
                state.setdefault(name, {})[key] = value
        return state


def recorded_snapshots(record: TrainingRecord) -> list[Snapshot]:
    """List the states that a recorded run can be run again from.

    Args:
        record: What training left behind.

    Returns:
        The snapshots, sorted by step; none if none were asked for or the budget was too small.
    """
    return [
        Snapshot(
            step=shard.first,
            pass_number=shard.meta["pass"],
            epoch=shard.meta["epoch"],
            optimizer=shard.meta["optimizer"],
            groups=shard.meta["groups"],
            evaluating=shard.meta.get("evaluating"),
            lost=shard.meta["lost"],
            _shard=shard,
        )
        for shard in record.shards("snapshot")
    ]
