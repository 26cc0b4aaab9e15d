"""Checkpoint: a trained classifier, where it came from, and the folder it is saved as."""

import copy
import inspect
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, resolve_data_config
from torch import nn

from unlearn_hooks.capture import find_head
from unlearn_hooks.errors import UnlearnError
from unlearn_hooks.training_record import weights_digest
from unlearn_plugin.origin import Origin, find_origin
from unlearn_plugin.user_code import is_function_name, load_function
from unlearn_plugin.weights import Weights, describe_differences, fits, read_weights, without_wrappers

__all__ = ["Checkpoint"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Checkpoint:
    """A trained classifier.

    The model computes in fp32, as timm would load it; weights that were stored in another precision are stored
    in it again.

    Attributes:
        model: In evaluation mode, on the CPU. Never changed: methods work on a `copy`.
        architecture: timm's name, or ``package.module:function``.
        arguments: What the architecture is built with.
        data_config: timm's: ``input_size`` (c, h, w) or ``None`` where nobody said, ``mean``, ``std``,
            ``interpolation``, ``crop_pct``, ``crop_mode``.
        source: Where it came from, in words that can be published: never a path.
        num_classes: Number of outputs.
        label_names: Names of the outputs, where the checkpoint has them.
        dtypes: How each tensor is stored.
        config: timm's ``pretrained_cfg``, which travels to the saved folder.
    """

    model: nn.Module
    architecture: str
    arguments: Mapping[str, Any]
    data_config: Mapping[str, Any]
    source: str
    num_classes: int
    label_names: tuple[str, ...] | None
    dtypes: Mapping[str, torch.dtype]
    config: Mapping[str, Any]

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

        The size of the head, the number of channels and the image size of a vision transformer are read off the
        weights where they are not given; anything else that does not fit is an error, never a silent new layer.

        Args:
            name: A timm name with weights on the Hub, ``hf-hub:org/name[@revision]``, ``local-dir:folder``, or a
                ``.safetensors``, ``.pt`` or ``.pth`` file.
            arch: Architecture of a file: timm's name, or ``package.module:function`` that builds the model.
            num_classes: Number of outputs.
            in_chans: Number of image channels.
            input_size: Side of the square image in pixels.
            mean: Mean the images are normalised with, one number or one per channel.
            std: Standard deviation, likewise.
            crop_pct: Share of the resized image that the crop keeps; 1 keeps all.

        Returns:
            The checkpoint.

        Raises:
            UnlearnError: If it cannot be found, read or matched with the architecture.
        """
        origin = find_origin(name, arch)
        weights = read_weights(origin.weights)
        arguments = dict(origin.arguments)
        sized = origin.config.get("fixed_input_size") or "img_size" in arguments
        given = {"num_classes": num_classes, "in_chans": in_chans, "img_size": input_size if sized else None}
        arguments.update({key: value for key, value in given.items() if value is not None})
        with torch.random.fork_rng(devices=[]):  # building a model draws random weights
            model, arguments, dtypes = _load_model(origin, arguments, weights)
        classes = _count_classes(model)
        asked = {"input_size": input_size, "mean": mean, "std": std, "crop_pct": crop_pct}
        return cls(
            model=model.eval(),
            architecture=origin.architecture,
            arguments=arguments,
            data_config=_data_config(origin, arguments, model, asked),
            source=origin.words,
            num_classes=classes,
            label_names=_label_names(origin.config.get("label_names"), classes),
            dtypes=dtypes,
            config=origin.config,
        )

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
            return _build(self.architecture, self.arguments, self.config)

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
        """Write a folder that ``timm.create_model("local-dir:...", pretrained=True)`` and `load` can read.

        Args:
            model: The weights to write; of this architecture.
            folder: Made if it is not there. ``model.safetensors`` and ``config.json`` in it are replaced.
        """
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        partial = place / "model.safetensors.partial"
        save_file(self._stored(model), partial, metadata={"format": "pt"})
        os.replace(partial, place / "model.safetensors")
        partial = place / "config.json.partial"
        partial.write_text(json.dumps(self._config_json(), indent=2) + "\n", encoding="utf-8")
        os.replace(partial, place / "config.json")

    def _stored(self, model: nn.Module) -> Weights:
        state = model.state_dict()
        return {  # copies: safetensors writes no two names that share memory
            name: state[name].detach().to(device="cpu", dtype=dtype, copy=True).contiguous()
            for name, dtype in self.dtypes.items()
        }

    def _config_json(self) -> dict[str, Any]:
        config = {**self.config, **self.data_config, "num_classes": self.num_classes, "custom_load": False}
        dropped = ["architecture", "label_offset", "label_names"]  # an offset was applied when the weights were loaded
        if self.data_config["input_size"] != tuple(self.config.get("input_size", ())):
            dropped += ["test_input_size", "test_crop_pct", "test_pool_size", "pool_size"]
        return {
            "architecture": self.architecture,
            "num_classes": self.num_classes,
            **({"label_names": list(self.label_names)} if self.label_names else {}),
            "model_args": dict(self.arguments),
            "pretrained_cfg": {key: value for key, value in config.items() if key not in dropped},
        }


def _build(architecture: str, arguments: Mapping[str, Any], config: Mapping[str, Any]) -> nn.Module:
    if not is_function_name(architecture):
        model: nn.Module = timm.create_model(architecture, pretrained_cfg=dict(config), **arguments)
        return model
    function = load_function(architecture, "--arch")
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        raise UnlearnError(
            f"--arch {architecture!r} cannot be called with {dict(arguments) or 'no arguments'} ({error}); leave out "
            f"--num-classes and --in-chans, or let the function take num_classes and in_chans."
        ) from error
    model = function(**arguments)
    if not isinstance(model, nn.Module):
        raise UnlearnError(f"--arch {architecture!r} gave a {type(model).__name__}; it must give a torch.nn.Module.")
    return model


def _load_model(
    origin: Origin, arguments: dict[str, Any], weights: Weights
) -> tuple[nn.Module, dict[str, Any], dict[str, torch.dtype]]:
    """Build the model, fill it, and say how each tensor was stored."""
    model = _build(origin.architecture, arguments, origin.config)
    weights = without_wrappers(weights, set(model.state_dict()))
    if not fits(weights, model.state_dict()) and not is_function_name(origin.architecture):
        arguments = {**_infer(origin.config, model, weights), **arguments}
        model = _build(origin.architecture, arguments, origin.config)
    if not fits(weights, model.state_dict()):
        return _convert(origin, arguments, weights, model), arguments, _dtypes(weights, model)
    model.load_state_dict(weights, strict=False)  # `fits` was strict already, but for unused counters
    return model, arguments, {name: value.dtype for name, value in weights.items()}


def _dtypes(weights: Weights, model: nn.Module) -> dict[str, torch.dtype]:
    return {name: weights.get(name, value).dtype for name, value in model.state_dict().items()}


def _infer(config: Mapping[str, Any], model: nn.Module, weights: Weights) -> dict[str, Any]:
    """Read the size of the head, the channels and the image side off the weights, by comparing with a default model."""
    found: dict[str, Any] = {}
    expected = model.state_dict()
    heads, convolutions = (_names(config.get(key)) for key in ("classifier", "first_conv"))
    for head in heads:
        if f"{head}.weight" in weights:
            found["num_classes"] = len(weights[f"{head}.weight"])
    for convolution in convolutions:
        name = f"{convolution}.weight"
        if name in weights and name in expected and weights[name].ndim == expected[name].ndim == 4:
            channels = config.get("input_size", (3,))[0]
            found["in_chans"] = weights[name].shape[1] * channels // expected[name].shape[1]
    if config.get("fixed_input_size") and "pos_embed" in weights and "pos_embed" in expected:
        tokens, default = weights["pos_embed"].shape[1], expected["pos_embed"].shape[1]
        grid = math.isqrt(default)
        side = math.isqrt(tokens - (default - grid**2))  # class and register tokens are in no grid
        found["img_size"] = config["input_size"][-1] * side // grid
    return found


def _names(value: str | Sequence[str] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def _convert(origin: Origin, arguments: Mapping[str, Any], weights: Weights, model: nn.Module) -> nn.Module:
    """Let timm rename weights of another layout (many on the Hub are); refuse if they do not fit even so."""
    mismatch = UnlearnError(
        f"The weights in {origin.weights.name!r} are not those of {origin.architecture!r}: "
        f"{'; '.join(describe_differences(weights, model.state_dict()))}. "
        f"--num-classes, --in-chans, --input-size or --arch is probably wrong."
    )
    if is_function_name(origin.architecture):
        raise mismatch
    config = {
        **origin.config,
        "state_dict": dict(weights),
        "num_classes": arguments.get("num_classes", origin.config.get("num_classes")),  # else timm drops the head
    }
    try:
        converted: nn.Module = timm.create_model(
            origin.architecture, pretrained=True, pretrained_cfg=config, **arguments
        )
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise mismatch from error
    resampled = [
        name for name, value in converted.state_dict().items()
        if name in weights and weights[name].numel() != value.numel()
    ]  # fmt: skip
    if resampled:
        raise mismatch
    converted.pretrained_cfg.pop("state_dict")  # type: ignore[union-attr, operator]  # a dict that timm sets
    return converted


def _count_classes(model: nn.Module) -> int:
    weight = find_head(model)[1].weight
    return len(weight)  # type: ignore[arg-type]  # heads are linear layers or 1x1 convolutions


def _label_names(names: Any, classes: int) -> tuple[str, ...] | None:
    if isinstance(names, Mapping):
        names = [names.get(str(number)) for number in range(classes)]
    if not isinstance(names, list | tuple) or len(names) != classes or None in names:
        return None
    return tuple(str(name) for name in names)


def _data_config(
    origin: Origin, arguments: Mapping[str, Any], model: nn.Module, asked: Mapping[str, Any]
) -> dict[str, Any]:
    """Say how images become the model's input: what was asked for, else what came with the checkpoint."""
    own = is_function_name(origin.architecture)
    known = {**({"crop_pct": 1.0} if own else {}), **origin.config}  # code of one's own mostly gets whole images
    first = next((value for value in model.state_dict().values() if value.ndim == 4), None)
    default = first.shape[1] if own and first is not None else 3
    channels = int(arguments.get("in_chans") or known.get("input_size", (default,))[0])
    size = asked["input_size"] or arguments.get("img_size") or tuple(known.get("input_size", ())[1:])
    height, width = (size, size) if isinstance(size, int) else size or (1, 1)
    if min(height, width) < 1:
        raise UnlearnError(f"--input-size {height} is too small; give the side of the image in pixels.")
    wanted = {
        "input_size": (channels, height, width),
        "mean": _per_channel("--mean", asked["mean"], known.get("mean", IMAGENET_DEFAULT_MEAN), channels),
        "std": _per_channel("--std", asked["std"], known.get("std", IMAGENET_DEFAULT_STD), channels),
        "crop_pct": asked["crop_pct"],
    }
    found = resolve_data_config(wanted, pretrained_cfg=known)
    return {**found, "input_size": found["input_size"] if size else None}


def _per_channel(flag: str, asked: Sequence[float] | None, known: Sequence[float], channels: int) -> tuple[float, ...]:
    if asked is not None and (len(asked) not in (1, channels) or (flag == "--std" and min(asked) <= 0)):
        raise UnlearnError(
            f"{flag} {' '.join(str(value) for value in asked)} does not suit {channels} channels; give one number "
            f"or {channels}{', all above 0' if flag == '--std' else ''}."
        )
    values = tuple(asked or known)
    if len(values) not in (1, channels):
        values = (sum(values) / len(values),)  # as timm does when a colour model was made grey
    return values * channels if len(values) == 1 else values
