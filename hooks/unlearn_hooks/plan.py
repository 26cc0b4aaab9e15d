"""What to record, how often, and in how many bytes."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from unlearn_hooks.errors import UnlearnError

__all__ = ["Dtype", "Plan", "parse_bytes", "stride"]

Dtype = Literal["bf16", "fp32", "native", "int8"]
_UNITS = {"": 1, "B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def parse_bytes(size: int | str) -> int:
    """Read a size such as ``1073741824``, ``"512MiB"`` or ``"1 GB"``.

    Args:
        size: Bytes, or a number with one of the units B, KB, MB, GB, KiB, MiB, GiB.

    Returns:
        The number of bytes.

    Raises:
        UnlearnError: If the text is no size, or the size is not positive.
    """
    text = str(size).strip()
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    unit = text[len(digits) :].strip().upper()
    try:
        value = int(float(digits) * _UNITS[unit])
    except (ValueError, KeyError, OverflowError):  # no number, no unit, or more than a float holds
        value = 0
    if value <= 0:
        raise UnlearnError(
            f"The budget {size!r} is not a positive size. Write bytes, or a number with one of "
            f"B, KB, MB, GB, KiB, MiB, GiB, such as '512MiB'."
        )
    return value


def stride(steps: int, keep: int) -> int:
    """Compute k: after `steps` steps, those recorded are 0, k, 2k, ….

    It is 1 at first and doubles whenever 2 `keep` steps would be held, so that between `keep` and 2 `keep` - 1 steps
    are held however long the run is; the steps of a later k are among those of an earlier one.

    Args:
        steps: Steps made so far.
        keep: K, how many steps are held at least, once that many were made.

    Returns:
        k, a power of two.
    """
    k = 1
    while -(-steps // k) >= 2 * keep:
        k *= 2
    return k


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `record` writes during training.

    The default keeps 12 to 24 evenly spread steps of the run, the feature statistics of short windows, one
    loss and margin per sample and epoch, the schedule, and two or three states that training can be run again from.

    Attributes:
        updates: Record weights and mean gradients at chosen steps (for the method `mini`).
        steps: K, how many evenly spread steps are kept at least; every k-th step is recorded, and when 2K are
            held every other one is dropped and k doubled. ``None`` records every step for as long as the budget
            lasts.
        tail: How many of the very last steps are kept besides. Nobody knows which step is the last, so this copies
            weights and gradients at every step; evenly spread steps alone did as well when it was tried.
        weights_dtype: How weights of a recorded step are stored; int8: a byte each, and a scale for each block.
        gradient_dtype: How gradients are stored; fp16 is not offered since it loses small gradients.
        parameters: Glob patterns of parameter names to record; ``("*",)`` means all of them.
        budget: Most bytes the updates may take on disk, per process, and as many again the snapshots. K shrinks to
            fit, then the parameters narrow to the last ones of the model; snapshots become fewer; the record says so.
        features: Record feature statistics (n, sum, second moment), overall and per class (for `muda`).
        head: Name of the classifier head whose input is the feature; ``None`` finds it.
        window: Steps per feature window.
        windows: How many of the latest windows are kept apart; older ones are folded into one.
        samples: Record loss and margin per sample, once per epoch.
        snapshots: How many whole states of the training (weights, optimizer) are kept at least, evenly spread over the
            passes over the data as the updates are over the steps, the initial one always among them; and the random
            states of every pass (for `replay`). 0 records none of these.
        schedule: Record learning rates of all steps and the order of sample ids.
        ids: ``"all"`` records the ids of every step, ``"recorded"`` only of the recorded updates.
    """

    updates: bool = True
    steps: int | None = 12
    tail: int = 0
    weights_dtype: Dtype = "fp32"
    gradient_dtype: Dtype = "bf16"
    parameters: tuple[str, ...] = ("*",)
    budget: int | str = "1GiB"
    features: bool = True
    head: str | None = None
    window: int = 50
    windows: int = 16
    samples: bool = True
    snapshots: int = 2
    schedule: bool = True
    ids: Literal["all", "recorded"] = "all"

    def __post_init__(self) -> None:
        findings = []
        for name, least in (("steps", 1), ("tail", 0), ("window", 1), ("windows", 1), ("snapshots", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                findings.append(f"Plan({name}={value}) is too small; it must be {least} or more.")
        for name in ("weights_dtype", "gradient_dtype"):
            if getattr(self, name) not in Dtype.__args__:  # type: ignore[attr-defined]  # typing.Literal keeps its values there
                value = getattr(self, name)
                findings.append(f"Plan({name}={value!r}) is unknown; take 'bf16', 'fp32', 'int8' or 'native'.")
        if self.ids not in ("all", "recorded"):
            findings.append(f"Plan(ids={self.ids!r}) is unknown; take 'all' or 'recorded'.")
        if isinstance(self.parameters, str):  # its letters would be taken for patterns
            findings.append(f"Plan(parameters={self.parameters!r}) is one text; write ({self.parameters!r},).")
        if not self.parameters:
            findings.append("Plan(parameters=()) would record nothing; take ('*',) or set updates=False.")
        if findings:
            raise UnlearnError.of(findings)
        parse_bytes(self.budget)

    @classmethod
    def parse(cls, pairs: Iterable[str]) -> "Plan":
        """Read a plan from words of a command line.

        Args:
            pairs: Such as ``"steps=24"``, ``"samples=false"``, ``"steps=none"``, ``"parameters=head.*,norm.*"``.

        Returns:
            The plan; what is not named is as by default.

        Raises:
            UnlearnError: If there is no such part of a plan, or it does not take such a value.
        """
        known = {field.name: getattr(cls, field.name) for field in fields(cls)}
        given = {}
        for pair in pairs:
            name, equals, text = pair.partition("=")
            if not equals or name not in known:
                raise UnlearnError(
                    f"The plan {pair!r} is not understood; write KEY=VALUE, such as steps=24, with one of "
                    f"{', '.join(known)}."
                )
            given[name] = _read(name, text.strip(), known[name])
        return cls(**given)

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain values for the record's manifest."""
        return asdict(self)


def _read(name: str, text: str, default: object) -> Any:  # noqa: ANN401  # of the field's own type
    """A word as a value of the kind that the default is of."""
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise UnlearnError(f"The plan {name}={text} is not understood; write {name}=true or {name}=false.")
        return text.lower() == "true"
    if name in ("steps", "head") and text.lower() == "none":
        return None
    if isinstance(default, int):
        try:
            return int(text)
        except ValueError:
            raise UnlearnError(f"The plan {name}={text} is not understood; it takes a whole number.") from None
    return tuple(text.split(",")) if isinstance(default, tuple) else text
