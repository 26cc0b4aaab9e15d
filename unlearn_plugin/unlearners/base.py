"""Unlearner: a method and its hyper-parameters. Evidence: all that a method may look at."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from accelerate import Accelerator
from torch import nn

from unlearn_hooks.training_record import TrainingRecord
from unlearn_plugin.data import Samples
from unlearn_plugin.progress import Progress
from unlearn_plugin.splits import Need

__all__ = ["Evidence", "Facts", "Unlearner"]

Facts = dict[str, Any]  # named numbers and words a method wants in the report; JSON values, nothing about one sample


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a method may look at. Verdict controls and the judge's references are not here, on purpose.

    Attributes:
        forget: F, the samples that must go.
        retain: R, the training data without F (or a subset of it); ``None`` when not given.
        tuning: The tuning half of the held-out data; methods may stop early on it.
        record: What training left behind, already matched to the model.
        classes: Number of classes of the classifier.
        forgotten_classes: Classes that are requested as a whole; empty for sample requests.
        fresh: Builds the same architecture with new random weights from a seed.
        accelerator: Device, precision and distribution.
        seed: All randomness of the method comes from here.
        progress: Wraps long loops in a bar.
    """

    forget: Samples
    retain: Samples | None = None
    tuning: Samples | None = None
    record: TrainingRecord | None = None
    classes: int
    forgotten_classes: tuple[int, ...] = ()
    fresh: Callable[[int], nn.Module]
    accelerator: Accelerator
    seed: int = 0
    progress: Progress = field(default_factory=Progress)


class Unlearner(ABC):
    """A method. Subclasses are frozen, keyword-only dataclasses whose fields are the hyper-parameters.

    One method is one file of this folder, and the file's name is the method's name. Each field carries its
    help text: ``field(default=..., metadata={"help": "..."})``. Values are checked in ``__post_init__``.

    Attributes:
        needs: What must be given; checked before any work starts.
        exact: The method retrains without F, so the process itself is the evidence.
        summary: One line for `unlearn methods`.
        source: Paper and link, or "ours".
    """

    needs: ClassVar[Need]
    exact: ClassVar[bool] = False
    summary: ClassVar[str]
    source: ClassVar[str]

    @abstractmethod
    def unlearn(self, model: nn.Module, evidence: Evidence) -> Mapping[str, Any]:
        """Change `model`, a private copy of the original, so that it behaves as if F had not been trained on.

        Args:
            model: Edited in place; parameter names, shapes, dtypes, `requires_grad` and training flags stay.
            evidence: What the method may look at.

        Returns:
            Facts for the report: what was measured on the way, such as bounds; JSON values.

        Raises:
            UnlearnError: If the evidence does not allow the method, with what to do.
        """
