"""A class of the user's own with ``huggingface_hub.PyTorchModelHubMixin``; its config.json holds its arguments."""

import json
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import PyTorchModelHubMixin
from safetensors.torch import save_file
from torch import nn

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.blueprints.base import Blueprint, Filled
from unlearn_plugin.blueprints.preprocessing import AskedInput, guess_channels, resolve_input
from unlearn_plugin.user_code import is_function_name, load_function
from unlearn_plugin.weights import Weights, describe_differences, load_into, without_wrappers

__all__ = ["MixinBlueprint", "is_mixin_class"]


def is_mixin_class(name: str | None) -> bool:
    """Whether a name stands for a class that the mixin saves and loads.

    Args:
        name: What was given to ``--arch``; it is imported if it has the form ``package.module:Class``.

    Returns:
        Whether it is a `PyTorchModelHubMixin` and a `torch.nn.Module`.

    Raises:
        UnlearnError: If it has that form and cannot be imported.
    """
    if name is None or not is_function_name(name):
        return False
    found = load_function(name, "--arch")
    return isinstance(found, type) and issubclass(found, PyTorchModelHubMixin) and issubclass(found, nn.Module)


@dataclass(frozen=True, kw_only=True)
class MixinBlueprint(Blueprint):
    """A class with the mixin, ``package.module:Class``.

    Attributes:
        config: Content of config.json; it is saved as it came.
    """

    config: Mapping[str, Any]

    @property
    def label_names(self) -> object:
        """The mixin has no place for them."""
        return None

    def build(self) -> nn.Module:
        """Let the mixin build the model, from a folder with its config.json and a weights file that is empty."""
        kind = load_function(self.architecture, "--arch")
        with TemporaryDirectory() as folder:
            Path(folder, "config.json").write_text(json.dumps(dict(self.config)), encoding="utf-8")
            save_file({}, Path(folder, "model.safetensors"))
            try:
                with redirect_stdout(StringIO()):  # the mixin prints where it loads from, which is of no interest here
                    model: nn.Module = kind.from_pretrained(folder)  # type: ignore[attr-defined]  # `is_mixin_class`
            except (TypeError, ValueError, KeyError, RuntimeError) as error:
                raise UnlearnError(
                    f"--arch {self.architecture!r} cannot be built from the config.json of the model ({error}); "
                    f"give the class it was saved with."
                ) from error
        return model.train()

    def fill(self, weights: Weights, file: str) -> Filled:
        """Load weights of the same names and shapes."""
        model = self.build()
        weights = without_wrappers(weights, set(model.state_dict()))
        if differences := describe_differences(weights, model.state_dict()):
            raise UnlearnError(
                f"The weights in {file!r} are not those of {self.architecture!r}: {'; '.join(differences)}. "
                f"Give the class they were saved with as --arch."
            )
        load_into(model, weights)
        return Filled(self, model, {name: value.dtype for name, value in weights.items()})

    def input_config(self, model: nn.Module, asked: AskedInput) -> dict[str, Any]:
        """What the user asked for: the mixin keeps nothing about the input."""
        return resolve_input({"crop_pct": 1.0}, asked, channels=guess_channels(model))

    def config_files(
        self, input_config: Mapping[str, Any], num_classes: int, label_names: tuple[str, ...] | None
    ) -> dict[str, Mapping[str, Any]]:
        """``config.json`` as it came."""
        return {"config.json": self.config}
