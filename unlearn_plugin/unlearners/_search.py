"""Search: try a few settings of a method, and keep the one that does best on what methods may look at."""

import copy
import dataclasses
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import qmc
from torch import nn

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.data import Samples
from unlearn_plugin.outputs import Outputs, compute_outputs
from unlearn_plugin.unlearners._steps import advantage
from unlearn_plugin.unlearners.base import Evidence, Facts, Unlearner

__all__ = ["OBJECTIVE", "Reach", "objective", "reaches", "search"]

OBJECTIVE = "2 |AUC(F, tuning) - 1/2| + loss of accuracy on R + loss of accuracy on tuning data"

_LOOKED_AT = 2_000  # samples of each of F, R and the tuning data
_DIGITS = 3  # of values tried: what is reported is what was used


@dataclass(frozen=True, kw_only=True)
class Reach:
    """Where values of one option are looked for; declared as ``metadata={"search": (low, high, scale)}``.

    Attributes:
        option: Its name.
        low: Smallest value.
        high: Largest value.
        scale: ``linear``; ``log``; or ``factor``, logarithmic multiples of the value the option has without a search.
        whole: Only whole numbers.
    """

    option: str
    low: float
    high: float
    scale: str
    whole: bool

    def at(self, place: float, usual: Any) -> float | int:  # noqa: ANN401  # the option's value: a number or none
        """The value at a place of the range.

        Args:
            place: In [0, 1).
            usual: The option's value without a search.

        Returns:
            The value, to three digits.
        """
        if self.scale == "linear":
            value = self.low + place * (self.high - self.low)
        else:
            value = self.low * (self.high / self.low) ** place * (usual if self.scale == "factor" else 1.0)
        return round(value) if self.whole else float(f"{value:.{_DIGITS}g}")


def reaches(method: Unlearner | type[Unlearner], fixed: Collection[str] = ()) -> tuple[Reach, ...]:
    """What can be searched.

    Args:
        method: A method or its class.
        fixed: Options that stay as they are, because they were given.

    Returns:
        The ranges of the other options that declare one.
    """
    hints = typing.get_type_hints(method if isinstance(method, type) else type(method))
    found = []
    for field in dataclasses.fields(method):  # type: ignore[arg-type]  # every method is a dataclass
        if "search" in field.metadata and field.name not in fixed:
            low, high, scale = field.metadata["search"]
            whole = int in (typing.get_args(hints[field.name]) or (hints[field.name],))
            found.append(Reach(option=field.name, low=float(low), high=float(high), scale=scale, whole=whole))
    return tuple(found)


def search(
    method: Unlearner, model: nn.Module, evidence: Evidence, trials: int, fixed: Collection[str] = ()
) -> tuple[Unlearner, Facts]:
    """Unlearn several times from the original, each time with other settings, and keep the best.

    The first trial is the method as it is, so no search ends with a larger objective than no search. The others come
    from a Halton sequence, shifted at random by the seed. All trials have the seed of the job, so what is kept can be
    repeated without a search.

    Args:
        method: Settled.
        model: The original, a private copy; ends as the best trial left it.
        evidence: Needs R and tuning data.
        trials: How many, the first included.
        fixed: Options that were given and are not searched.

    Returns:
        The method with the settings that were kept, and its facts; under ``search`` what was tried.

    Raises:
        UnlearnError: If there is nothing to search or to search by, or every trial failed.
    """
    original, score = copy.deepcopy(model), _Score(model, evidence)
    tried: list[dict[str, Any]] = []
    best: _Trial | None = None
    failure = ""
    for number, settings in enumerate(evidence.progress(_settings(method, fixed, trials, evidence.seed), "searching")):
        one: Unlearner = dataclasses.replace(method, **settings)  # type: ignore[type-var]  # every method is a dataclass
        candidate = copy.deepcopy(original)
        try:
            facts = dict(one.unlearn(candidate, evidence))
        except UnlearnError as error:  # such as a rate under which training diverges
            failure = failure or str(error)  # for the user alone; facts are published
            tried.append({"options": settings, "objective": None, "failed": "the method stopped with an error"})
            continue
        parts = score.of(candidate)
        tried.append({"options": settings, **parts})
        if best is None or _below(parts["objective"], tried[best.number]["objective"]):
            best = _Trial(number, one, candidate, facts)
    if best is None:
        raise UnlearnError(f"No trial of the search came to an end; the first: {failure}")
    model.load_state_dict(best.model.state_dict())
    about = {"objective": OBJECTIVE, "trials": trials, "chosen": best.number + 1, "tried": tried}
    return best.method, {**best.facts, "search": about}


class _Trial(typing.NamedTuple):
    """One trial that came to an end."""

    number: int
    method: Unlearner
    model: nn.Module
    facts: Facts


def _below(one: float | None, other: float | None) -> bool:
    return one is not None and (other is None or one < other)


def _settings(method: Unlearner, fixed: Collection[str], trials: int, seed: int) -> list[dict[str, Any]]:
    """Values of the searched options, trial by trial; the first are those the method has."""
    usual = {reach.option: getattr(method, reach.option) for reach in reaches(method, fixed)}
    ranges = [reach for reach in reaches(method, fixed) if reach.scale != "factor" or usual[reach.option] is not None]
    if not ranges:
        raise UnlearnError("There is nothing to search: every option that has a range was given; leave search out.")
    shift = np.random.default_rng(seed).random(len(ranges))
    places: Any = (qmc.Halton(len(ranges), scramble=False).random(trials - 1) + shift) % 1.0 if trials > 1 else []
    rows = [[reach.at(float(at), usual[reach.option]) for reach, at in zip(ranges, row, strict=True)] for row in places]
    names = [reach.option for reach in ranges]
    return [{name: usual[name] for name in names}, *(dict(zip(names, row, strict=True)) for row in rows)]


def objective(
    before: Mapping[str, Outputs], after: Mapping[str, Outputs], forgotten_classes: tuple[int, ...]
) -> dict[str, float]:
    """How far a model is from one that never saw F, by what a method may look at; smaller is better.

    Formula: J = 2 d + [a_R - a'_R]+ + [a_T - a'_T]+. d = |A - 1/2| for samples and [A - 1/2]+ where classes are
    requested as a whole, A the advantage on F over tuning data (`_steps.advantage`): 0.5 where F looks held out. a, a'
    are the accuracies before and after, on R and on tuning data of the classes that stay.

    A whole class may look less like itself than any other class does: a model that never saw it never names it.

    Args:
        before: Outputs of the original on ``forget``, ``retain`` and ``tuning``.
        after: Outputs of the changed model on the same.
        forgotten_classes: Classes that are requested as a whole.

    Returns:
        ``objective`` and what it is made of: ``advantage``, ``lost_on_retain`` and ``lost_on_tuning``.
    """
    found = advantage(after["forget"], after["tuning"], forgotten_classes)
    sure = 0.5 if found is None else found
    lost = {}
    for part in ("retain", "tuning"):
        stays = ~torch.isin(before[part].labels, torch.tensor(forgotten_classes, dtype=torch.int64))
        accuracies = [float(outputs[part].correct[stays].double().mean()) for outputs in (before, after)]
        lost[part] = max(0.0, accuracies[0] - accuracies[1]) if bool(stays.any()) else 0.0
    distance = max(0.0, sure - 0.5) if forgotten_classes else abs(sure - 0.5)
    return {
        "objective": 2.0 * distance + lost["retain"] + lost["tuning"],
        "advantage": sure,
        "lost_on_retain": lost["retain"],
        "lost_on_tuning": lost["tuning"],
    }


class _Score:
    """The objective of changed models, on the same samples each time."""

    def __init__(self, original: nn.Module, evidence: Evidence) -> None:
        if evidence.retain is None or not len(evidence.retain) or evidence.tuning is None or not len(evidence.tuning):
            raise UnlearnError("search=N needs retained data and held-out data; give both, or leave search out.")
        self._evidence = evidence
        parts = {"forget": evidence.forget, "retain": evidence.retain, "tuning": evidence.tuning}
        self._parts = {name: self._some(samples) for name, samples in parts.items()}
        self._before = self._outputs(original)

    def _some(self, samples: Samples) -> Samples:
        generator = torch.Generator().manual_seed(self._evidence.seed)
        return samples.select(torch.randperm(len(samples), generator=generator)[:_LOOKED_AT].sort().values)

    def _outputs(self, model: nn.Module) -> dict[str, Outputs]:
        return {
            name: compute_outputs(
                model, samples, self._evidence.accelerator, batch_size=256, progress=self._evidence.progress
            )
            for name, samples in self._parts.items()
        }

    def of(self, model: nn.Module) -> dict[str, Any]:
        """The objective of one model; ``None`` if its outputs are no numbers."""
        after = self._outputs(model)
        if not all(bool(outputs.logits.isfinite().all()) for outputs in after.values()):
            return {"objective": None, "failed": "outputs that are not finite"}
        return objective(self._before, after, self._evidence.forgotten_classes)
