"""An architecture by name, timm's or ``package.module:function``, kept as a folder in timm's form."""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import timm
from torch import nn

from unlearn_hooks.capture import find_head
from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.blueprints.base import Blueprint, Filled
from unlearn_plugin.blueprints.preprocessing import AskedInput, guess_channels, resolve_input
from unlearn_plugin.user_code import is_function_name, load_function
from unlearn_plugin.weights import Weights, describe_differences, fits, load_into, without_wrappers

__all__ = ["NamedBlueprint"]


@dataclass(frozen=True, kw_only=True)
class NamedBlueprint(Blueprint):
    """An architecture that has a name.

    Attributes:
        arguments: What it is built with.
        config: timm's ``pretrained_cfg`` as a dict, without the places weights are downloaded from; it travels to
            the saved folder.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label_names(self) -> object:
        """Names of the outputs as in timm's configuration."""
        return self.config.get("label_names")

    def sized(self, **sizes: int | None) -> "NamedBlueprint":
        """Pass sizes on as arguments; the image size only where the architecture is built for one."""
        fixed = self.config.get("fixed_input_size") or "img_size" in self.arguments
        given = {**sizes, "img_size": sizes.get("input_size") if fixed else None}
        del given["input_size"]
        return replace(self, arguments={**self.arguments, **{k: v for k, v in given.items() if v is not None}})

    def build(self) -> nn.Module:
        """Let timm or the user's function build the model."""
        if not is_function_name(self.architecture):
            model: nn.Module = timm.create_model(self.architecture, pretrained_cfg=dict(self.config), **self.arguments)
            return model
        function = load_function(self.architecture, "--arch")
        try:
            inspect.signature(function).bind(**self.arguments)
        except TypeError as error:
            raise UnlearnError(
                f"--arch {self.architecture!r} cannot be called with {dict(self.arguments) or 'no arguments'} "
                f"({error}); leave out --num-classes and --in-chans, or let the function take num_classes and in_chans."
            ) from error
        model = function(**self.arguments)
        if not isinstance(model, nn.Module):
            raise UnlearnError(
                f"--arch {self.architecture!r} gave a {type(model).__name__}; it must give a torch.nn.Module."
            )
        return model

    def fill(self, weights: Weights, file: str) -> Filled:
        """Load weights of this name and shape, or else of a size or layout that timm understands."""
        blueprint, model = self, self.build()
        weights = without_wrappers(weights, set(model.state_dict()))
        own = is_function_name(self.architecture)
        if not own and not fits(weights, model.state_dict()):
            blueprint = replace(self, arguments={**self._infer(model, weights), **self.arguments})
            model = blueprint.build()
        if not fits(weights, model.state_dict()):
            model = blueprint._convert(weights, model, file)
            dtypes = {name: weights.get(name, value).dtype for name, value in model.state_dict().items()}
            return Filled(blueprint, model, dtypes)
        load_into(model, weights)
        return Filled(blueprint, model, {name: value.dtype for name, value in weights.items()})

    def _infer(self, model: nn.Module, weights: Weights) -> dict[str, Any]:
        """Read the size of the head, the channels and the image side off the weights; `model` is the default one."""
        found: dict[str, Any] = {}
        expected = model.state_dict()
        heads, convolutions = (_names(self.config.get(key)) for key in ("classifier", "first_conv"))
        for head in heads or (find_head(model)[0],):
            if f"{head}.weight" in weights:
                found["num_classes"] = len(weights[f"{head}.weight"])
        for convolution in convolutions:
            name = f"{convolution}.weight"
            if name in weights and name in expected and weights[name].ndim == expected[name].ndim == 4:
                channels = self.config.get("input_size", (3,))[0]
                found["in_chans"] = weights[name].shape[1] * channels // expected[name].shape[1]
        if self.config.get("fixed_input_size") and "pos_embed" in weights and "pos_embed" in expected:
            tokens, default = weights["pos_embed"].shape[1], expected["pos_embed"].shape[1]
            grid = math.isqrt(default)
            side = math.isqrt(tokens - (default - grid**2))  # class and register tokens are in no grid
            found["img_size"] = self.config["input_size"][-1] * side // grid
        return found

    def _convert(self, weights: Weights, model: nn.Module, file: str) -> nn.Module:
        """Let timm rename weights of another layout (many on the Hub are); refuse if they do not fit even so."""
        mismatch = UnlearnError(
            f"The weights in {file!r} are not those of {self.architecture!r}: "
            f"{'; '.join(describe_differences(weights, model.state_dict()))}. "
            f"--num-classes, --in-chans, --input-size or --arch is probably wrong."
        )
        if is_function_name(self.architecture):
            raise mismatch
        config = {
            **self.config,
            "state_dict": dict(weights),
            "num_classes": self.arguments.get("num_classes", self.config.get("num_classes")),  # else no head is loaded
        }
        try:
            converted: nn.Module = timm.create_model(
                self.architecture, pretrained=True, pretrained_cfg=config, **self.arguments
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

    def input_config(self, model: nn.Module, asked: AskedInput) -> dict[str, Any]:
        """Settle timm's data configuration; nothing is cropped for own code, which mostly gets whole images."""
        own = is_function_name(self.architecture)
        known = {**({"crop_pct": 1.0} if own else {}), **self.config}
        default = guess_channels(model) if own else 3
        channels = int(self.arguments.get("in_chans") or known.get("input_size", (default,))[0])
        return resolve_input(known, asked, channels=channels, built_for=self.arguments.get("img_size"))

    def config_files(
        self, input_config: Mapping[str, Any], num_classes: int, label_names: tuple[str, ...] | None
    ) -> dict[str, Mapping[str, Any]]:
        """``config.json`` as ``timm.create_model("local-dir:...", pretrained=True)`` reads it."""
        config = {**self.config, **input_config, "num_classes": num_classes, "custom_load": False}
        dropped = ["architecture", "label_offset", "label_names"]  # an offset was applied when the weights were loaded
        if input_config["input_size"] != tuple(self.config.get("input_size", ())):
            dropped += ["test_input_size", "test_crop_pct", "test_pool_size", "pool_size"]
        content = {
            "architecture": self.architecture,
            "num_classes": num_classes,
            **({"label_names": list(label_names)} if label_names else {}),
            "model_args": dict(self.arguments),
            "pretrained_cfg": {key: value for key, value in config.items() if key not in dropped},
        }
        return {"config.json": content}


def _names(value: str | Sequence[str] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())
