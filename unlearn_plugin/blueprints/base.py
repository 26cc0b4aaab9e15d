"""Blueprint: the interface of every form in which classifiers are kept."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.blueprints.preprocessing import AskedInput, evaluation_transform
from unlearn_plugin.weights import Weights

__all__ = ["Blueprint", "Filled"]


class Filled(NamedTuple):
    """A model with its weights.

    Attributes:
        blueprint: What builds models of this size; sizes that were read off the weights are now part of it.
        model: Computes in fp32; takes images float32 (n, c, h, w) and gives logits (n, classes).
        dtypes: How each tensor of the model's `state_dict` is stored; one that is not named is not stored.
    """

    blueprint: "Blueprint"
    model: nn.Module
    dtypes: Mapping[str, torch.dtype]


@dataclass(frozen=True, kw_only=True)
class Blueprint(ABC):
    """What a classifier is built from, in the form of the library it came from.

    Attributes:
        architecture: timm's name, ``transformers:Class``, or ``package.module:function``; fit to be published.
    """

    architecture: str

    @property
    @abstractmethod
    def label_names(self) -> object:
        """Names of the outputs as the library keeps them: a list, a table by number, or ``None``."""

    def sized(self, **sizes: int | None) -> "Blueprint":
        """Take over the sizes that the user gave; a form whose config.json settles them refuses.

        Args:
            **sizes: ``num_classes``, ``in_chans`` and ``input_size``; ``None`` where nothing was said.

        Returns:
            A blueprint of these sizes.

        Raises:
            UnlearnError: If the form has no such size to set.
        """
        for name in ("num_classes", "in_chans"):
            if sizes.get(name) is not None:
                raise UnlearnError(
                    f"--{name.replace('_', '-')} {sizes[name]} cannot be set for {self.architecture!r}: "
                    f"the config.json of the model says how it is built; leave the flag out."
                )
        return self

    @abstractmethod
    def build(self) -> nn.Module:
        """Build a model with random weights from torch's global generator, in training mode.

        Raises:
            UnlearnError: If it cannot be built.
        """

    @abstractmethod
    def fill(self, weights: Weights, file: str) -> Filled:
        """Build a model and load weights into it.

        Args:
            weights: As read from the file.
            file: Name of the file, for messages.

        Returns:
            The model with its weights.

        Raises:
            UnlearnError: If they do not fit to the last tensor.
        """

    @abstractmethod
    def input_config(self, model: nn.Module, asked: AskedInput) -> dict[str, Any]:
        """Say how pictures become the model's input.

        Args:
            model: The model.
            asked: What the user gave.

        Returns:
            At least ``input_size``: (c, h, w), or ``None`` where nobody said.

        Raises:
            UnlearnError: If what the user gave cannot be.
        """

    def transform(self, input_config: Mapping[str, Any]) -> Callable[[Any], Tensor]:
        """Make what turns a picture into the model's input, with nothing random in it.

        Args:
            input_config: What `input_config` said.

        Returns:
            A function from a PIL picture to a float tensor (c, h, w).
        """
        return evaluation_transform(input_config)

    def as_stored(self, model: nn.Module, state: Weights) -> Weights:
        """Give tensors the names they have in the library's files.

        Args:
            model: The model that `fill` gave.
            state: Tensors under the names of its `state_dict`.

        Returns:
            Tensors under the names in the file.
        """
        return state

    @abstractmethod
    def config_files(
        self, input_config: Mapping[str, Any], num_classes: int, label_names: tuple[str, ...] | None
    ) -> dict[str, Mapping[str, Any]]:
        """Say what stands beside ``model.safetensors`` so that the library loads the folder.

        Args:
            input_config: What `input_config` said.
            num_classes: Number of outputs.
            label_names: Their names.

        Returns:
            JSON content by file name; no paths of this machine in it.
        """
