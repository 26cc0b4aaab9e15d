"""Measurement: one number about one model, with its interval."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["FEWEST", "FEWEST_NOTE", "Measurement"]

FEWEST = 5  # requested samples below which a number about them would be one about single samples
FEWEST_NOTE = f"With fewer than {FEWEST} requested samples a number about them would be one about a single sample."


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one metric says about one model. ``None`` means "not measured", never zero.

    Attributes:
        value: The point estimate.
        low: Lower end of the two-sided 95 % interval.
        high: Upper end of the two-sided 95 % interval.
        n: How many samples the value rests on.
        details: Further named numbers and coarse curves; JSON values only, never anything about a single sample.
        note: Why there is no value, or what to keep in mind, in one sentence.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    note: str | None = None

    @classmethod
    def missing(cls, why: str) -> "Measurement":
        """A measurement that could not be made, with the reason."""
        return cls(value=None, note=why)

    def as_dict(self) -> dict[str, Any]:
        """The measurement as plain JSON values."""
        return asdict(self)
