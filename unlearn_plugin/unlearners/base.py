"""Unlearner: a method, its hyper-parameters and presets. Evidence: all that a method may look at."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import torch
from accelerate import Accelerator
from torch import nn

from unlearn_hooks.training_record import TrainingRecord
from unlearn_plugin.data import Samples
from unlearn_plugin.progress import Progress
from unlearn_plugin.splits import Need, Request, kind_of_request

__all__ = ["Evidence", "Facts", "Preset", "Unlearner"]

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
        one_subject: All of F is of one data subject.
        earlier: Training samples of earlier requests that the data still hold: in neither F nor R, for the model was
            cleaned of them; ``None`` if this is the first request. The record is that of the training on all of them.
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
    one_subject: bool = False
    earlier: Samples | None = None
    fresh: Callable[[int], nn.Module]
    accelerator: Accelerator
    seed: int = 0
    progress: Progress = field(default_factory=Progress)

    @property
    def request(self) -> Request:
        """What kind of request this is."""
        return kind_of_request(self.forgotten_classes, one_subject=self.one_subject)

    @property
    def left_out(self) -> Samples:
        """What the recorded training must be repeated without: F, and what earlier requests named."""
        if self.earlier is None:
            return self.forget
        return Samples(self.forget.data, torch.cat([self.forget.rows, self.earlier.rows]).sort().values)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What options that were left open are for one kind of request.

    Attributes:
        options: Values by option name; the default of each of these options is ``None``.
        tuned: What they were tuned on; empty if they never were, and are those of another kind.
    """

    options: Mapping[str, Any]
    tuned: str = ""

    @staticmethod
    def table(*, sample: Mapping[str, Any], whole_class: Mapping[str, Any], tuned: str) -> "dict[Request, Preset]":
        """Presets that were tuned for samples and for classes; one data subject is taken for a set of samples, untuned.

        Args:
            sample: Values for requests of samples.
            whole_class: Values for requests of whole classes.
            tuned: What both were tuned on.

        Returns:
            The presets.
        """
        return {
            "sample": Preset(options=sample, tuned=tuned),
            "class": Preset(options=whole_class, tuned=tuned),
            "subject": Preset(options=sample),
        }


Method = TypeVar("Method", bound="Unlearner")


class Unlearner(ABC):
    """A method. Subclasses are frozen, keyword-only dataclasses whose fields are the hyper-parameters.

    One method is one file of this folder, and the file's name is the method's name. Each field carries its
    help text: ``field(default=..., metadata={"help": "..."})``. Values are checked in ``__post_init__``.

    Attributes:
        needs: What must be given; checked before any work starts.
        exact: The method retrains without F, so the process itself is the evidence.
        summary: One line for `unlearn methods`.
        source: Paper and link, or "ours".
        presets: For each kind of request, what options that are ``None`` become.
    """

    needs: ClassVar[Need]
    exact: ClassVar[bool] = False
    summary: ClassVar[str]
    source: ClassVar[str]
    presets: ClassVar[Mapping[Request, Preset]] = {}

    def settled(self: Method, request: Request, model: nn.Module) -> Method:
        """Fill in the options that were left open; those that were given stay.

        Done once before a job starts, so that report and job file name what was used. A method does it again for
        those who call it directly; nothing is open then in a job.

        Args:
            request: Kind of the request.
            model: The original; rates may depend on the architecture.

        Returns:
            The method with the preset's value for every option that is ``None`` and has one.
        """
        options = self.presets[request].options if request in self.presets else {}
        open_ones = {name: value for name, value in options.items() if getattr(self, name) is None}
        return replace(self, **open_ones) if open_ones else self  # type: ignore[type-var]  # every method is a dataclass

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
