"""Weights and mean gradients at chosen steps: the pairs (theta_t, g_t), evenly spread over the run."""

import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch.optim import Adam

from unlearn_hooks.collector import Batch, Collector, Run, Seen, Step
from unlearn_hooks.copies import Blocks, Copies
from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.plan import Dtype, Plan, parse_bytes, stride
from unlearn_hooks.quantised import dequantise, quantise, quantised_bytes
from unlearn_hooks.tensor_bytes import is_sharded
from unlearn_hooks.training_record import RecordWriter, Shard, TrainingRecord

__all__ = ["Update", "UpdatesCollector", "recorded_updates"]

_DTYPES: dict[Dtype, torch.dtype | None] = {"bf16": torch.bfloat16, "fp32": torch.float32, "native": None}  # and int8
_MOST_IN_MEMORY = 2**28  # bytes of steps that are not on disk yet
_SECONDS = 60.0  # between two writings at epoch ends: what a crash can lose, unless a checkpoint was made
_WEIGHT, _GRADIENT, _PRECONDITIONER = "weight/", "gradient/", "preconditioner/"
_CODES, _SCALES = "int8/", "scale/"  # stand before the names of what is quantised


def _life(step: int) -> int:
    """Return the largest power of two in a step's number: until the stride is larger than this, it is kept."""
    return step & -step or sys.maxsize


@dataclass(frozen=True)
class _Weights:
    """Copy of theta_t, and the versions of the parameters it was made from."""

    step: int
    copies: Copies
    versions: list[int]


@dataclass(frozen=True)
class _Pair:
    """One step as it will be written."""

    step: Step
    copies: tuple[Copies, ...]

    @property
    def bytes(self) -> int:
        return sum(copies.block.nbytes for copies in self.copies)


class UpdatesCollector(Collector):
    """Pairs (theta_t, g_t) at evenly spread steps and at the last ones; Adam's preconditioner with them.

    theta_t is copied before step t, to the CPU, buffers such as those of BatchNorm included; g_t is `p.grad` after the
    step: clipped, unscaled, averaged over micro-batches and processes as it was applied, before weight decay. A
    parameter without gradient is absent, not zero. Skipped steps are never recorded.

    Of the steps chosen early most are dropped again as the run grows longer, so they wait in memory and are written
    when a checkpoint is made, at the end, at epoch ends but at most once a minute, and when they are too many bytes.
    """

    kind = "update"

    def start(self, run: Run, first_step: int) -> None:
        """Choose what fits the budget and copy the weights; see the base class.

        Args:
            run: What is being trained.
            first_step: Number of the step to come.

        Raises:
            UnlearnError: If the plan's patterns fit no parameter.
        """
        super().start(run, first_step)
        self._parameters = _matching(run.parameters, run.plan.parameters)
        self._buffers = _state(run.model)
        self._adam = isinstance(run.optimizer, Adam)
        self._keep, self._note = self._fit(run.plan)
        if is_sharded(self._parameters.values()):
            self._parameters, self._note = {}, {"reason": "parameters are sharded over processes"}
        self._tail: deque[int] = deque(maxlen=run.plan.tail)
        self._blocks = Blocks()
        self._waiting: dict[int, _Pair] = {}
        self._written_at = time.monotonic()
        self._weights: _Weights | None = None
        self._expect(first_step)

    def _fit(self, plan: Plan) -> tuple[int, dict[str, object] | None]:
        """Shrink K, then the parameters, until 2K + tail pairs fit the budget; say so if anything had to shrink."""
        budget = parse_bytes(plan.budget)
        sizes = {name: self._bytes(parameter) for name, parameter in self._parameters.items()}
        buffers = dict(self.run.model.named_buffers())
        pair = sum(sizes.values()) + sum(buffers[name].nbytes for name in self._buffers)
        most = (budget // max(pair, 1) - plan.tail) // 2
        if most >= 1:
            keep = most if plan.steps is None else min(plan.steps, most)
            return keep, None if plan.steps in (None, keep) else {"budget": budget, "steps": keep}
        left, names = budget // (2 + plan.tail), []
        for name in reversed(sizes):
            left -= sizes[name]
            if left < 0:
                break
            names.append(name)
        self._parameters = {name: self._parameters[name] for name in reversed(names)}
        self._buffers = frozenset()  # they are of no use without all the weights
        return 1, {"budget": budget, "steps": 1, "parameters": list(self._parameters)}

    def _bytes(self, parameter: nn.Parameter) -> int:
        plan, count = self.run.plan, parameter.numel()
        kept = sum(
            quantised_bytes(count) if dtype == "int8" else count * (_DTYPES[dtype] or parameter.dtype).itemsize
            for dtype in (plan.weights_dtype, plan.gradient_dtype)
        )
        return kept + (count * _wide(parameter.dtype).itemsize if self._adam else 0)

    def _expect(self, number: int) -> None:
        """Copy the weights if the step to come will be recorded."""
        if self._parameters and (self.run.plan.tail or number % stride(number + 1, self._keep) == 0):
            self._weights = self._copy_weights(number)

    def _copy_weights(self, number: int) -> _Weights:
        wanted = _stored(_WEIGHT, self._parameters, self.run.plan.weights_dtype, number)
        buffers = self.run.model.named_buffers() if self._buffers else ()
        wanted |= {_WEIGHT + name: (buffer, None) for name, buffer in buffers if name in self._buffers}
        return _Weights(number, self._blocks.copy(wanted), _versions(self._parameters.values()))

    @torch.no_grad()
    def batch(self, batch: Batch, seen: Seen) -> None:
        """Copy the weights again if they were changed since the last step: by a checkpoint, Lookahead, a projection."""
        weights = self._weights
        if weights is not None and weights.versions != _versions(self._parameters.values()):
            self._blocks.give_back(weights.copies)
            self._weights = self._copy_weights(weights.step)

    @torch.no_grad()
    def step(self, step: Step, out: RecordWriter) -> None:
        """Record the step if it is one of those chosen, and drop those that are not chosen any more."""
        if self._note is not None:
            out.note("updates_limited", **self._note)
            self._note = None
        weights, self._weights = self._weights, None
        if weights is not None and weights.step == step.number and not step.skipped:
            self._tail.append(step.number)
            self._waiting[step.number] = _Pair(step, (weights.copies, self._gradient(step.number)))
        elif weights is not None:
            self._blocks.give_back(weights.copies)
        k = stride(step.number + 1, self._keep)
        if k > stride(step.number, self._keep):
            out.note("updates_thinned", every=k)
            self._thin(k, out)
        self._forget_unwanted(k)
        self._make_room(out)
        self._expect(step.number + 1)

    def _forget_unwanted(self, k: int) -> None:
        for number in [number for number in self._waiting if number % k and number not in self._tail]:
            self._blocks.give_back(*self._waiting.pop(number).copies)

    def _make_room(self, out: RecordWriter) -> None:
        """Write steps if too many bytes wait, those first that will be kept longest.

        While the disk is too slow for that, those are lost that would be dropped soonest.
        """
        while sum(pair.bytes for pair in self._waiting.values()) > _MOST_IN_MEMORY:
            *_, lasting = by_life = sorted(self._waiting, key=_life)
            if self._write(self._waiting[lasting], out):
                del self._waiting[lasting]
            else:
                self._blocks.give_back(*self._waiting.pop(by_life[0]).copies)

    def _gradient(self, number: int) -> Copies:
        graded = {name: p.grad for name, p in self._parameters.items() if p.grad is not None}
        wanted = _stored(_GRADIENT, graded, self.run.plan.gradient_dtype, number)
        if self._adam:
            roots = _preconditioner(self.run.optimizer, {name: self._parameters[name] for name in graded})
            wanted |= {_PRECONDITIONER + name: (root, None) for name, root in roots.items()}
        return self._blocks.copy(wanted)

    def _write(self, pair: _Pair, out: RecordWriter) -> bool:
        step = pair.step
        tensors = {name: tensor for copies in pair.copies for name, tensor in copies.tensors.items()}
        tensors = {} if out.rank else tensors  # all processes have the same weights and gradients
        rows = [batch.rows for batch in step.batches if batch.rows is not None]
        known = bool(rows) and len(rows) == len(step.batches)
        if known:
            tensors |= {"rows": torch.cat(rows).cpu(), "micro_sizes": torch.tensor([len(batch) for batch in rows])}
        meta = {
            "epoch": step.epoch,
            "learning_rates": list(step.learning_rates),
            "ids": "known" if known else "unknown",
        }
        return out.append(self.kind, tensors, first=step.number, last=step.number, meta=meta) is not None

    def _thin(self, k: int, out: RecordWriter) -> None:
        for shard in out.shards(self.kind):
            if shard.first % k and shard.first not in self._tail:
                out.drop(shard)

    def epoch_end(self, out: RecordWriter) -> None:
        """Write what waits if the last writing is a minute ago; see the base class."""
        if time.monotonic() - self._written_at > _SECONDS:
            self.flush(out)

    def flush(self, out: RecordWriter) -> None:
        """Write the last steps, in place of those of the flush before, and what waits; see the base class."""
        if self._tail:
            self._thin(stride(self._tail[-1] + 1, self._keep), out)
        for pair in self._waiting.values():
            self._write(pair, out)
        self._waiting, self._written_at = {}, time.monotonic()


def _matching(parameters: Mapping[str, nn.Parameter], patterns: Iterable[str]) -> dict[str, nn.Parameter]:
    patterns = tuple(patterns)
    chosen = {
        name: parameter
        for name, parameter in parameters.items()
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    }
    if not chosen:
        raise UnlearnError(
            f"Plan(parameters={patterns!r}) fits none of the {len(parameters)} parameters being trained; they have "
            f"names such as {', '.join(list(parameters)[-3:])}."
        )
    return chosen


def _stored(
    prefix: str, tensors: Mapping[str, Tensor], dtype: Dtype, step: int
) -> dict[str, tuple[Tensor, torch.dtype | None]]:
    """Name what is to be copied of some tensors, and in which type."""
    if dtype != "int8":
        return {prefix + name: (tensor, _DTYPES[dtype]) for name, tensor in tensors.items()}
    stored: dict[str, tuple[Tensor, torch.dtype | None]] = {}
    for name, tensor in tensors.items():
        codes, scales = quantise(tensor, step)
        stored |= {_CODES + prefix + name: (codes, None), _SCALES + prefix + name: (scales, None)}
    return stored


def _state(model: nn.Module) -> frozenset[str]:
    """Name the buffers that are part of the model's state; the others are constants that the model makes itself."""
    return frozenset(model.state_dict().keys() & dict(model.named_buffers()).keys())


def _versions(parameters: Iterable[nn.Parameter]) -> list[int]:
    """Count the changes in place that each parameter has seen; torch keeps these counters for autograd."""
    return [parameter._version for parameter in parameters]


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _preconditioner(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Compute what Adam divided its step by, sqrt(v_hat) + eps; v_hat is the largest one so far with AMSGrad."""
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    roots = {}
    for name, parameter in parameters.items():
        state, group = optimizer.state[parameter], groups[id(parameter)]
        moment = state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"]
        correction = 1 - float(group["betas"][1]) ** float(state["step"])
        roots[name] = (moment.to(_wide(moment.dtype)) / correction).sqrt() + group["eps"]
    return roots


class _Latest:
    """Keeps the tensors of the shard read last, so that weights and gradient of one step cost one reading."""

    def __init__(self) -> None:
        self._read: tuple[Shard | None, dict[str, Tensor]] = (None, {})

    def tensors(self, shard: Shard) -> dict[str, Tensor]:
        if self._read[0] is not shard:
            self._read = (shard, shard.tensors())
        return self._read[1]


@dataclass(frozen=True)
class Update:
    """One recorded step: the weights it began with and the mean gradient it applied; read from disk when asked.

    Attributes:
        step: t, counted from 0 over the whole run.
        epoch: Epoch of the step, counted from 0.
        learning_rates: Rate of each parameter group.
    """

    step: int
    epoch: int
    learning_rates: tuple[float, ...]
    _shards: tuple[Shard, ...] = field(repr=False)  # one of each process, that of the first one with all tensors
    _latest: _Latest = field(repr=False)

    def _named(self, prefix: str) -> dict[str, Tensor]:
        tensors = self._latest.tensors(self._shards[0])
        whole = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        names = [name.removeprefix(_CODES) for name in tensors if name.startswith(_CODES + prefix)]
        return whole | {
            name.removeprefix(prefix): dequantise(tensors[_CODES + name], tensors[_SCALES + name], self.step)
            for name in names
        }

    @property
    def rows(self) -> Int64[Tensor, " n"] | None:
        """Rows of the step's samples, all micro-batches joined in order; ``None`` if any of them are unknown."""
        batches = self.micro_batches()
        return None if batches is None else torch.cat(batches)

    def micro_batches(self) -> tuple[Int64[Tensor, " _"], ...] | None:
        """Rows of each micro-batch accumulated into the step, in order; ``None`` if any of them are unknown."""
        if any(shard.meta["ids"] == "unknown" for shard in self._shards):
            return None
        read = [self._latest.tensors(shard) for shard in self._shards]
        return tuple(part for one in read for part in torch.split(one["rows"], one["micro_sizes"].tolist()))

    def weights(self) -> dict[str, Tensor]:
        """Read theta_t, by name in the model: the parameters that were recorded, and the buffers if all were."""
        return self._named(_WEIGHT)

    def gradient(self) -> dict[str, Tensor]:
        """Read g_t, the mean gradient applied, before weight decay; a parameter that had none is absent."""
        return self._named(_GRADIENT)

    def preconditioner(self) -> dict[str, Tensor] | None:
        """Read sqrt(v_hat_t) + eps, what Adam divided by in this step; ``None`` for other optimizers."""
        return self._named(_PRECONDITIONER) or None


def recorded_updates(record: TrainingRecord) -> list[Update]:
    """List the recorded steps.

    Args:
        record: What training left behind.

    Returns:
        The updates by step; empty if none was recorded. Their tensors are read when they are asked for.
    """
    by_step: dict[int, list[Shard]] = {}
    for shard in record.shards("update"):
        by_step.setdefault(shard.first, []).append(shard)
    world, latest = record.manifest.get("world", 1), _Latest()
    return [
        Update(step, first.meta["epoch"], tuple(first.meta["learning_rates"]), (first, *others), latest)
        for step, (first, *others) in sorted(by_step.items())
        if len(others) == world - 1  # else a process did not write its part
    ]
