"""History: what `mini` reads from the record of a training run, in the words of the recursion."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.schedule import Group, Schedule, recorded_schedule
from unlearn_hooks.training_record import TrainingRecord
from unlearn_hooks.updates import Update, recorded_updates
from unlearn_plugin.data import Samples
from unlearn_plugin.unlearners._recursion import Rule

__all__ = ["History", "rule_of"]

_KNOWN = ("SGD", "Adam", "AdamW")


def rule_of(group: Group, optimizer: str) -> Rule:
    """Put a recorded parameter group in the recursion's form.

    Args:
        group: As recorded.
        optimizer: Class name of the optimizer.

    Returns:
        The rule of every parameter in the group.

    Raises:
        UnlearnError: If the recursion does not know the optimizer.
    """
    if optimizer not in _KNOWN:
        raise UnlearnError(
            f"The record was made with the optimizer {optimizer}, whose steps mini does not know; it knows "
            f"{', '.join(_KNOWN)}. Take another method, such as finetune or retrain."
        )
    if group.betas is None:
        return Rule(
            momentum=group.momentum,
            dampening=group.dampening,
            nesterov=group.nesterov,
            weight_decay=group.weight_decay,
        )
    first, second = group.betas[0], group.betas[1]
    return Rule(
        momentum=first,
        dampening=first,
        weight_decay=group.weight_decay,
        decoupled=group.decoupled,
        bias_corrected=True,
        second=None if group.amsgrad else second,
        eps=group.eps or 0.0,
    )


@dataclass(frozen=True)
class History:
    """The recorded steps of a run that a correction is made from.

    Attributes:
        updates: Recorded steps, ascending.
        schedule: Rates and settings of all steps.
        rules: Optimizer rule of every parameter that is to be corrected.
        samples_trained: |D|, size of the training set.
        sizes: Bytes of each recorded step on disk.
        row_of: Row in the record of each sample id; ``None`` if rows and places in the data are the same.
    """

    updates: tuple[Update, ...]
    schedule: Schedule
    rules: Mapping[str, Rule]
    samples_trained: int
    sizes: Mapping[int, int]
    row_of: Mapping[str, int] | None

    @classmethod
    def read(cls, record: TrainingRecord, *, window: int | None, parameters: str) -> "History":
        """Read a record.

        Args:
            record: What training left behind.
            window: How many of the last recorded steps; ``None`` for all of them.
            parameters: Glob patterns of parameter names, separated by commas.

        Returns:
            The history; weights and gradients are read when they are asked for.

        Raises:
            UnlearnError: If nothing was recorded that fits.
        """
        updates = recorded_updates(record)
        if not updates:
            raise UnlearnError(
                f"The record {record.folder} holds no recorded steps; train again with Plan(updates=True), which is "
                f"the default, or take a method that needs none."
            )
        schedule = recorded_schedule(record)
        updates = updates if window is None else updates[-window:]
        recorded = updates[0].gradient().keys() & updates[0].weights().keys()
        patterns = [pattern.strip() for pattern in parameters.split(",")]
        rules = {
            name: rule_of(group, schedule.optimizer)
            for group in schedule.groups
            for name in group.names
            if name in recorded and any(fnmatchcase(name, pattern) for pattern in patterns)
        }
        if not rules:
            raise UnlearnError(
                f"parameters={parameters!r} fits none of the {len(recorded)} recorded parameters, which have names "
                f"such as {', '.join(sorted(recorded)[-3:])}."
            )
        return cls(
            updates=tuple(updates),
            schedule=schedule,
            rules=rules,
            samples_trained=int(record.data["n"]),
            sizes={shard.first: shard.path.stat().st_size for shard in record.shards("update")},
            row_of=record.row_of,
        )

    @property
    def consecutive(self) -> bool:
        """Whether the steps follow each other without a gap up to the end of the run."""
        return all(stop == update.step + 1 for update, stop in zip(self.updates, self.stops, strict=True))

    @property
    def stops(self) -> tuple[int, ...]:
        """For each recorded step, the first step that it does not stand for any more."""
        return (*(update.step for update in self.updates[1:]), self.schedule.steps)

    def thinned(self, most: int) -> "History":
        """Keep a few recorded steps, spread evenly over the window.

        Args:
            most: How many at most.

        Returns:
            A history of those recorded steps that are nearest to the beginnings of `most` equal parts.
        """
        first = self.updates[0].step
        beginnings = [first + part * (self.schedule.steps - first) / most for part in range(most)]
        chosen = {min(self.updates, key=lambda update: abs(update.step - place)).step for place in beginnings}
        return replace(self, updates=tuple(update for update in self.updates if update.step in chosen))

    def settled(self) -> "History":
        """Leave out Adam's first 1 / (1 - beta_1) steps, whose preconditioner rests on too few gradients to be held."""
        betas = self.schedule.groups[0].betas
        first = 0 if betas is None else round(1.0 / (1.0 - betas[0]))
        return replace(self, updates=tuple(update for update in self.updates if update.step >= first) or self.updates)

    @property
    def bytes_read(self) -> int:
        """Size of the recorded steps on disk."""
        return sum(self.sizes[update.step] for update in self.updates)

    def rates(self, step: int) -> dict[str, float]:
        """Learning rate of each parameter in one step; 0 in a skipped one.

        Args:
            step: Number of the step.

        Returns:
            Rate by parameter name.
        """
        return {name: self._sum(column, step, step + 1) for name, column in self._columns().items()}

    def times(self, first: int, stop: int) -> dict[str, float]:
        """How far a constant gradient of length 1 moves each parameter over some steps: gain x sum of the rates.

        Args:
            first: First step.
            stop: First step that does not count any more.

        Returns:
            Time by parameter name.
        """
        return {
            name: self.rules[name].gain * self._sum(column, first, stop) for name, column in self._columns().items()
        }

    def _columns(self) -> dict[str, int]:
        groups = enumerate(self.schedule.groups)
        return {name: column for column, group in groups for name in group.names if name in self.rules}

    def _sum(self, column: int, first: int, stop: int) -> float:
        rates = self.schedule.learning_rates[first:stop, column].nan_to_num(0.0)
        return float((rates * ~self.schedule.skipped[first:stop]).sum())

    def positions(self, samples: Samples) -> dict[int, int]:
        """Place among `samples` of each of the record's rows that is there.

        Args:
            samples: Of the training data.

        Returns:
            Position by row of the record.
        """
        return {row: position for position, row in enumerate(samples.record_rows(self.row_of).tolist())}

    def batches(
        self, forget: Samples, retain: Samples, earlier: Samples | None = None
    ) -> list[tuple[Samples, Samples]] | None:
        """Split the batch of every recorded step into its forget and its retained part.

        Args:
            forget: F.
            retain: R, or a part of it.
            earlier: Samples of earlier requests. Steps are corrected as if these had not been in their batches, which
                is what the model to be corrected stands for.

        Returns:
            Both parts of each step; ``None`` if any batch is not known or holds samples that are in neither.
        """
        in_forget, in_retain = self.positions(forget), self.positions(retain)
        gone = set() if earlier is None else self._gone(earlier)
        batches = []
        for update in self.updates:
            known = update.rows
            rows: list[int] = [] if known is None else [row for row in known.tolist() if row not in gone]
            if not rows or any(row not in in_forget and row not in in_retain for row in rows):
                return None
            batches.append((
                forget.select([in_forget[row] for row in rows if row in in_forget]),
                retain.select([in_retain[row] for row in rows if row in in_retain]),
            ))
        return batches

    def _gone(self, earlier: Samples) -> set[int]:
        """Rows of earlier requests, and those that the data do not hold any more."""
        found = set(self.positions(earlier))
        if self.row_of is not None:
            found |= {row for name, row in self.row_of.items() if name not in earlier.data.row_of}
        return found
