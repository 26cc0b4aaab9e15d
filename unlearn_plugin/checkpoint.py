"""Checkpoint: a trained classifier, where it came from, and the folder it is saved as."""

import copy
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from unlearn_hooks.capture import find_head
from unlearn_hooks.training_record import weights_digest
from unlearn_plugin.blueprints.base import Blueprint
from unlearn_plugin.blueprints.preprocessing import AskedInput
from unlearn_plugin.head_check import check_head
from unlearn_plugin.origin import find_origin
from unlearn_plugin.weights import Weights, read_weights

__all__ = ["Checkpoint"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Checkpoint:
    """A trained classifier.

    The model computes in fp32; weights that were stored in another precision are stored in it again.

    Attributes:
        model: Takes images and gives logits; in evaluation mode, on the CPU. Never changed: methods work on a `copy`.
        blueprint: What it is built from, in the form of the library it came from.
        data_config: How pictures become its input. ``input_size`` is (c, h, w), or ``None`` where nobody said.
        source: Where it came from, in words that can be published: never a path.
        num_classes: Number of outputs.
        label_names: Names of the outputs, where the checkpoint has them.
        dtypes: How each tensor of the model is stored.
    """

    model: nn.Module
    blueprint: Blueprint
    data_config: Mapping[str, Any]
    source: str
    num_classes: int
    label_names: tuple[str, ...] | None
    dtypes: Mapping[str, torch.dtype]

    @classmethod
    def load(
        cls,
        name: str,
        *,
        arch: str | None = None,
        num_classes: int | None = None,
        in_chans: int | None = None,
        input_size: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        crop_pct: float | None = None,
    ) -> "Checkpoint":
        """Load a checkpoint.

        The size of the head, the number of channels and the image size of a vision transformer of timm are read off
        the weights where they are not given; anything else that does not fit is an error, never a silent new layer.

        Args:
            name: A timm name with weights on the Hub, ``hf-hub:org/name[@revision]``, ``local-dir:folder`` (of timm,
                transformers or the Hub's model mixin), or a ``.safetensors``, ``.pt`` or ``.pth`` file.
            arch: Architecture of a file: timm's name, or ``package.module:function`` that builds the model; or the
                class of a model with the mixin.
            num_classes: Number of outputs.
            in_chans: Number of image channels.
            input_size: Side of the square image in pixels.
            mean: Mean the images are normalised with, one number or one per channel.
            std: Standard deviation, likewise.
            crop_pct: Share of the resized image that the crop keeps; 1 keeps all.

        Returns:
            The checkpoint.

        Raises:
            UnlearnError: If it cannot be found, read or matched with the architecture, or has no single head.
        """
        origin = find_origin(name, arch)
        weights = read_weights(origin.weights)
        asked = AskedInput(input_size=input_size, mean=mean, std=std, crop_pct=crop_pct)
        blueprint = origin.blueprint.sized(num_classes=num_classes, in_chans=in_chans, input_size=input_size)
        with torch.random.fork_rng(devices=[]):  # building a model draws random weights
            blueprint, model, dtypes = blueprint.fill(weights, origin.weights.name)
        data_config = blueprint.input_config(model, asked)
        if data_config["input_size"]:
            check_head(model, data_config["input_size"])
        classes = len(find_head(model)[1].weight)  # type: ignore[arg-type]  # linear layers or 1x1 convolutions
        return cls(
            model=model.eval(),
            blueprint=blueprint,
            data_config=data_config,
            source=origin.words,
            num_classes=classes,
            label_names=_label_names(blueprint.label_names, classes),
            dtypes=dtypes,
        )

    @property
    def architecture(self) -> str:
        """Name of the architecture: timm's, ``transformers:Class``, or ``package.module:function``."""
        return self.blueprint.architecture

    @cached_property
    def transform(self) -> Callable[[Any], Tensor]:
        """What makes a picture the model's input (c, h, w), with nothing random in it."""
        return self.blueprint.transform(self.data_config)

    @cached_property
    def digest(self) -> str:
        """Digest of the weights, see `unlearn_hooks.training_record.weights_digest`."""
        return self.digest_of(self.model)

    def digest_of(self, model: nn.Module) -> str:
        """Digest of another model of this architecture, as `save` would store it.

        Args:
            model: Such as the changed copy.

        Returns:
            Hex sha256.
        """
        return weights_digest(self._stored(model))

    def copy(self) -> nn.Module:
        """A private copy of the model that may be changed."""
        return copy.deepcopy(self.model)

    def fresh(self, seed: int) -> nn.Module:
        """Build the same architecture with new random weights.

        Args:
            seed: Where they come from; the global random state is as before afterwards.

        Returns:
            The model, in training mode.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self.blueprint.build()

    @torch.no_grad()
    def settle(self, model: nn.Module) -> None:
        """Round the weights of a model to the precision they will be stored in; does nothing to fp32 checkpoints.

        What is measured afterwards is what others will load.

        Args:
            model: Changed in place.
        """
        for name, tensor in model.state_dict().items():
            tensor.copy_(tensor.to(self.dtypes.get(name, tensor.dtype)))

    def save(self, model: nn.Module, folder: str | Path) -> None:
        """Write a folder that the library the model came from, and `load`, can read.

        Args:
            model: The weights to write; of this architecture.
            folder: Made if it is not there. The weights and the files that describe the model are replaced.
        """
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        partial = place / "model.safetensors.partial"
        save_file(self._stored(model), partial, metadata={"format": "pt"})
        os.replace(partial, place / "model.safetensors")
        about = self.blueprint.config_files(self.data_config, self.num_classes, self.label_names)
        for name, content in about.items():
            partial = place / f"{name}.partial"
            partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            os.replace(partial, place / name)

    def _stored(self, model: nn.Module) -> Weights:
        state = model.state_dict()
        stored = {  # copies: safetensors writes no two names that share memory
            name: state[name].detach().to(device="cpu", dtype=dtype, copy=True).contiguous()
            for name, dtype in self.dtypes.items()
        }
        return self.blueprint.as_stored(self.model, stored)


def _label_names(names: Any, classes: int) -> tuple[str, ...] | None:
    if isinstance(names, Mapping):
        names = [names.get(str(number)) for number in range(classes)]
    if not isinstance(names, list | tuple) or len(names) != classes or None in names:
        return None
    return tuple(str(name) for name in names)
