"""Metric: one measurement about one model. Trial: all that the judge looks at."""

import enum
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from accelerate import Accelerator
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from unlearn_plugin.data import Samples
from unlearn_plugin.measurement import Measurement
from unlearn_plugin.outputs import Outputs, compute_outputs
from unlearn_plugin.progress import Progress

__all__ = ["Goal", "Metric", "Split", "Tier", "Trial"]

Split = Literal["forget", "retain", "controls", "tuning"]
Tier = Literal["A", "B"]


class Goal(enum.Enum):
    """Which way is good."""

    HIGH = "high"
    LOW = "low"
    LIKE_REFERENCE = "like the reference"
    CONTEXT = "context only"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What the judge looks at; no method ever sees it.

    Attributes:
        forget: F, the samples that had to go.
        retain: R or a random subset of it.
        controls: The verdict half of the held-out data, never trained on and never shown to a method.
        tuning: The other half, which methods may have looked at; the judge calibrates on it.
        subjects: Data subject of each forget sample, numbered from 0; ``None`` counts every sample as its own.
        forgotten_classes: Classes requested as a whole.
        largely_requested: Other classes of which a tenth or more of the training samples was requested.
        classes: Names of the classes.
        original: The model before unlearning.
        reference: A model retrained without F, if there is one.
        accelerator: Device and precision.
        seed: Randomness of the judge.
        batch_size: Samples per forward pass.
        progress: Wraps long loops in a bar.
        references: Margin of each sample of a split under the judge's reference models, which never saw it.
        recorded_loss: Mean loss of each sample of F and of R over the epochs of the recorded training, in nats; empty
            without a record.
    """

    forget: Samples
    retain: Samples
    controls: Samples
    tuning: Samples | None = None
    subjects: Int64[Tensor, " forget"] | None = None
    forgotten_classes: tuple[int, ...] = ()
    largely_requested: tuple[int, ...] = ()
    earlier_classes: tuple[int, ...] = ()
    classes: tuple[str, ...]
    original: nn.Module
    reference: nn.Module | None = None
    accelerator: Accelerator
    seed: int = 0
    batch_size: int = 256
    progress: Progress = field(default_factory=Progress)
    references: Mapping[Split, Float32[Tensor, " n"]] = field(default_factory=dict)
    recorded_loss: Mapping[Split, Float32[Tensor, " n"]] = field(default_factory=dict)
    _outputs: dict[tuple[int, Split], tuple[nn.Module, Outputs]] = field(default_factory=dict, repr=False)

    def outputs(self, model: nn.Module, split: Split) -> Outputs:
        """Logits and features of `model` on one split, computed once and kept.

        Args:
            model: In any mode; it is run in evaluation mode and put back.
            split: Which samples.

        Returns:
            The outputs, on the CPU, in fp32.
        """
        key = (id(model), split)
        if key not in self._outputs:
            samples: Samples = getattr(self, split)
            found = compute_outputs(
                model, samples, self.accelerator, batch_size=self.batch_size, progress=self.progress
            )
            self._outputs[key] = (model, found)  # the model is held so that its id cannot be given away
        return self._outputs[key][1]

    def release(self, model: nn.Module) -> None:
        """Let the outputs of a model go that will not be asked for again.

        Args:
            model: Any.
        """
        for key in [key for key, (kept, _) in self._outputs.items() if kept is model]:
            del self._outputs[key]

    def out_of_sample(self, split: Split) -> Float32[Tensor, " n"] | None:
        """Margins of one split under the judge's reference models, averaged over those that never saw a sample.

        Every sample has as many such models as a training sample has, so that splits can be compared.

        Args:
            split: Which samples.

        Returns:
            One margin per sample, in nats, nan where there is none; ``None`` without references.
        """
        return self.references.get(split)


class Metric(ABC):
    """One measurement about one model; asked for the model before, after and for the reference.

    One metric is one file of this folder, and the file's name is the metric's name. Subclasses are frozen,
    keyword-only dataclasses whose fields are their settings.

    Attributes:
        goal: Which way is good.
        title: What the report calls it.
        explanation: One plain sentence for the report's reader.
        source: Paper and link, or "standard".
        tier: What it needs: "A" nothing but the model, "B" references made at training time.
        about_forget: It says something of F, and so nothing is said where F is very small.
        repeatable: Another machine measures the same, up to rounding; not so where a copy is trained.
    """

    tier: ClassVar[Tier] = "A"
    about_forget: ClassVar[bool] = True
    repeatable: ClassVar[bool] = True
    goal: ClassVar[Goal]
    title: ClassVar[str]
    explanation: ClassVar[str]
    source: ClassVar[str]

    @abstractmethod
    def measure(self, model: nn.Module, trial: Trial) -> Measurement:
        """Measure `model`.

        Args:
            model: The model before, after, or the reference.
            trial: What the judge looks at.

        Returns:
            The value with its interval; ``Measurement.missing`` with the reason where it cannot be had.
        """
