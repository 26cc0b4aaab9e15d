"""An image classifier of transformers: config.json, preprocessor_config.json, and no code from the repository."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.blueprints.base import Blueprint, Filled
from unlearn_plugin.blueprints.preprocessing import AskedInput, evaluation_transform, resolve_input
from unlearn_plugin.weights import Weights, some_of, without_wrappers

__all__ = ["TransformersBlueprint"]

_PROCESSOR = "processor"  # key of an input configuration: pictures go through the model's own image processor


@dataclass(frozen=True, kw_only=True)
class TransformersBlueprint(Blueprint):
    """What ``AutoModelForImageClassification`` builds.

    Attributes:
        config: Content of config.json.
        processor: Content of preprocessor_config.json, or ``None`` if there is none.
    """

    config: Mapping[str, Any]
    processor: Mapping[str, Any] | None

    @classmethod
    def of(cls, config: Mapping[str, Any], processor: Mapping[str, Any] | None) -> "TransformersBlueprint":
        """Read off the class.

        Args:
            config: Content of config.json.
            processor: Content of preprocessor_config.json, if there is one.

        Returns:
            The blueprint.

        Raises:
            UnlearnError: If config.json names no class.
        """
        names = config.get("architectures")
        if not isinstance(names, list) or len(names) != 1:
            raise UnlearnError(
                f"The config.json of the model names {names or 'no class'} under 'architectures'; it must be the one "
                f"class the weights were saved from, such as ['ViTForImageClassification']."
            )
        return cls(architecture=f"transformers:{names[0]}", config=config, processor=processor)

    @property
    def label_names(self) -> object:
        """``id2label``, unless it is transformers' filling."""
        names = self.config.get("id2label")
        if not isinstance(names, Mapping) or all(name == f"LABEL_{key}" for key, name in names.items()):
            return None
        return names

    def build(self) -> nn.Module:
        """Let transformers build the model, and take pictures and give logits like any other."""
        library = _library()
        if self.config.get("problem_type") == "multi_label_classification":
            raise UnlearnError(
                "The config.json of the model says problem_type multi_label_classification; only models that "
                "choose one class for an image can be worked on."
            )
        try:
            with self._folder() as folder:
                config = library.AutoConfig.from_pretrained(folder, trust_remote_code=False)
            model: nn.Module = library.AutoModelForImageClassification.from_config(config, trust_remote_code=False)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError) as error:
            raise UnlearnError(
                f"transformers {library.__version__} cannot build {self.architecture!r} as an image classifier "
                f"({_first_line(error)}); code that comes with a model is never run."
            ) from error
        if type(model).__name__ != self.architecture.partition(":")[2]:
            raise UnlearnError(
                f"The model was saved as {self.architecture!r}, which is no image classifier; "
                f"give one with a head, such as {type(model).__name__}."
            )
        model.__class__ = _of_pictures(type(model))  # type: ignore[arg-type]  # classes are hashable
        return model.train()

    @contextmanager
    def _folder(self) -> Iterator[str]:
        """Write the two files into a folder, which is what transformers reads.

        Yields:
            The folder.
        """
        with TemporaryDirectory() as folder:
            for name, content in self._files().items():
                Path(folder, name).write_text(json.dumps(content), encoding="utf-8")
            yield folder

    def fill(self, weights: Weights, file: str) -> Filled:
        """Let transformers rename the weights of older files, and refuse if one is missing, left over or misshapen."""
        empty = self.build()
        weights = without_wrappers(weights, set(empty.state_dict()))
        floats = {value.dtype for value in weights.values() if value.is_floating_point()}
        if len(floats) > 1:
            raise UnlearnError(
                f"The weights in {file!r} are stored in several precisions ({some_of(sorted(map(str, floats)))}); "
                f"save the model in one."
            )
        with _without_bars():
            model, told = type(empty).from_pretrained(  # type: ignore[attr-defined]  # of every class of transformers
                None, config=empty.config, state_dict=weights, dtype=torch.float32, output_loading_info=True,
                ignore_mismatched_sizes=True,
            )  # fmt: skip
        missing = {name for name in told["missing_keys"] if not name.endswith("num_batches_tracked")}
        wrong = sorted({*missing, *told["unexpected_keys"], *(name for name, *_ in told["mismatched_keys"])})
        if wrong or told["error_msgs"]:
            raise UnlearnError(
                f"The weights in {file!r} are not those that config.json describes: {len(wrong)} are missing, left "
                f"over or of another shape, such as {some_of(wrong)}; give the config.json they were saved with."
            )
        dtypes = {
            name: next(iter(floats)) if value.is_floating_point() else value.dtype
            for name, value in model.state_dict().items()
            if name not in told["missing_keys"]
        }
        return Filled(self, model, dtypes)

    def as_stored(self, model: nn.Module, state: Weights) -> Weights:
        """Undo the renaming of older files, as ``save_pretrained`` does."""
        from transformers.core_model_loading import revert_weight_conversion

        return dict(revert_weight_conversion(model, state))

    def input_config(self, model: nn.Module, asked: AskedInput) -> dict[str, Any]:
        """What the image processor does; without one, what the user asked for."""
        channels = int(self.config.get("num_channels") or 3)
        if self._processor is None:
            return resolve_input({"crop_pct": 1.0}, asked, channels=channels)
        given = [f"--{name.replace('_', '-')}" for name, value in vars(asked).items() if value is not None]
        if given:
            raise UnlearnError(
                f"{', '.join(given)} cannot be set: the model brings its own preprocessing in "
                f"preprocessor_config.json; leave the flag out, or change that file."
            )
        picture = Image.new("RGB" if channels == 3 else "L", (640, 480))
        return {
            "input_size": tuple(_processed(self._processor, picture).shape),
            "mean": tuple(self._processor.image_mean) if self._processor.do_normalize else None,
            "std": tuple(self._processor.image_std) if self._processor.do_normalize else None,
            _PROCESSOR: type(self._processor).__name__,
        }

    @cached_property
    def _processor(self) -> Any:
        """The model's image processor, or ``None``."""
        if self.processor is None:
            return None
        try:
            with self._folder() as folder:
                return _library().AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
            raise UnlearnError(
                f"The preprocessor_config.json of the model is of no image processor that transformers "
                f"{_library().__version__} can make ({_first_line(error)})."
            ) from error

    def transform(self, input_config: Mapping[str, Any]) -> Callable[[Any], Tensor]:
        """The image processor itself, so that the model gets what it was trained on."""
        if _PROCESSOR not in input_config:
            return evaluation_transform(input_config)
        return lambda picture: _processed(self._processor, picture)

    def config_files(
        self, input_config: Mapping[str, Any], num_classes: int, label_names: tuple[str, ...] | None
    ) -> dict[str, Mapping[str, Any]]:
        """``config.json`` and ``preprocessor_config.json`` as they came."""
        return self._files()

    def _files(self) -> dict[str, Mapping[str, Any]]:
        found = {"config.json": self.config, "preprocessor_config.json": self.processor}
        return {name: _without_paths(content) for name, content in found.items() if content is not None}


def _library() -> ModuleType:
    try:
        import transformers
    except ImportError as error:
        raise UnlearnError(
            "This is a model of transformers, which is not installed; pip install 'unlearn-plugin[transformers]'."
        ) from error
    module: ModuleType = transformers
    return module


@cache
def _of_pictures(kind: type[nn.Module]) -> type[nn.Module]:
    """The one place where models of transformers are adapted: images in, logits out, all names as they were."""

    def forward(self: nn.Module, images: Tensor) -> Tensor:
        logits: Tensor = kind.forward(self, pixel_values=images, return_dict=True).logits
        return logits

    return type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})


@contextmanager
def _without_bars() -> Iterator[None]:
    """Keep transformers' progress bars away, and leave them as the user has them."""
    logging = _library().utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _processed(processor: Any, picture: Any) -> Tensor:
    pixels: Tensor = processor(picture, return_tensors="pt")["pixel_values"][0]
    return pixels


def _without_paths(content: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out where the model once lay, which is a path of somebody's machine."""
    return {
        key: _without_paths(value) if isinstance(value, Mapping) else value
        for key, value in content.items()
        if key != "_name_or_path"
    }


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
