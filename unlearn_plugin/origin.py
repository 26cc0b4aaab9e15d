"""Where a checkpoint comes from, and in whose form: timm's registry, the Hub, a folder, or a file; not yet loaded."""

import dataclasses
import difflib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from timm.models import PretrainedCfg

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.blueprints.base import Blueprint
from unlearn_plugin.blueprints.hub_mixin import MixinBlueprint, is_mixin_class
from unlearn_plugin.blueprints.named import NamedBlueprint
from unlearn_plugin.blueprints.transformers_model import TransformersBlueprint
from unlearn_plugin.user_code import is_function_name
from unlearn_plugin.weights import PICKLED

__all__ = ["Origin", "find_origin"]

Get = Callable[..., Path | None]  # the first of these files that a folder or repository has

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_SHARDS = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_ABOUT_WEIGHTS = ("source", "file", "url", "state_dict", "hf_hub_id", "hf_hub_filename", "custom_load")
_ABOUT_ARCHITECTURE = (  # what timm's registry says of an architecture that holds for other weights too
    "input_size", "min_input_size", "fixed_input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std",
    "first_conv", "classifier",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What is known of a checkpoint before its weights are read.

    Attributes:
        blueprint: What the model is built from.
        weights: The file.
        words: Where it comes from, fit to be published: never a path.
    """

    blueprint: Blueprint
    weights: Path
    words: str


def find_origin(name: str, arch: str | None) -> Origin:
    """Find a checkpoint; one from the Hub is downloaded.

    Args:
        name: A timm name with weights on the Hub, ``hf-hub:org/name[@revision]``, ``local-dir:folder``, or a file.
        arch: Architecture of a file, or the confirmation that code of one's own may be imported.

    Returns:
        Where it is and what is known of it.

    Raises:
        UnlearnError: If it cannot be found, or `arch` is missing or another one.
    """
    prefix, _, rest = name.partition(":")
    if prefix in ("hf-hub", "hf_hub"):
        return _from_hub(rest, arch)
    if prefix == "local-dir":
        return _from_folder(Path(rest), arch)
    if Path(name).suffix.lower() in (".safetensors", *PICKLED) or Path(name).is_file():
        return _from_file(Path(name), arch)
    if timm.is_model(name) and "/" not in name:
        return _from_registry(name, arch)
    if Path(name).is_dir():
        return _from_folder(Path(name), arch)
    hint = f"; for a model on the Hub write hf-hub:{name}" if name.count("/") == 1 else _nearest(name)
    raise UnlearnError(f"--model {name!r} is neither a file, nor a folder, nor a model known to timm{hint}.")


def _check_architecture(blueprint: Blueprint, arch: str | None) -> None:
    known = blueprint.architecture
    if isinstance(blueprint, NamedBlueprint) and is_function_name(known) and arch is None:
        raise UnlearnError(
            f"The model names {known!r} as its architecture, which is code that would be imported; "
            f"if you trust it, give --arch {known}."
        )
    if arch is not None and known not in (arch, arch.partition(".")[0], f"transformers:{arch}"):
        raise UnlearnError(
            f"The model says that its architecture is {known!r} and --arch says {arch!r}; "
            f"give the one the model was trained with, or leave --arch out."
        )
    if not is_function_name(known) and not timm.is_model(known):
        raise UnlearnError(f"timm {timm.__version__} knows no architecture {known!r}{_nearest(known)}.")


def _nearest(architecture: str) -> str:
    near = difflib.get_close_matches(architecture.partition(".")[0], timm.list_models(), n=3)
    return f"; the nearest names are {', '.join(near)}" if near else "; see timm.list_models() for all names"


def _from_file(path: Path, arch: str | None) -> Origin:
    if not path.is_file():
        raise UnlearnError(f"There is no weights file {str(path)!r}; check the path given to --model.")
    if arch is None:
        raise UnlearnError(
            f"{path.name!r} holds weights and does not say of which architecture; "
            f"give --arch with timm's name of it, or package.module:function."
        )
    words = f"{path.suffix.lower()} file"
    if is_function_name(arch):
        return Origin(blueprint=NamedBlueprint(architecture=arch), weights=path, words=words)
    known = _registered(arch)
    if not timm.is_model(arch) or ("." in arch and known is None):
        raise UnlearnError(f"--arch {arch!r} is no architecture of timm {timm.__version__}{_nearest(arch)}.")
    about = known.to_dict() if known else {}
    config = {key: about[key] for key in _ABOUT_ARCHITECTURE if key in about}
    blueprint = NamedBlueprint(architecture=arch.partition(".")[0], config=config)
    return Origin(blueprint=blueprint, weights=path, words=words)


def _registered(name: str) -> PretrainedCfg | None:
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError:  # what timm answers to an unknown tag
        return None


def _from_registry(name: str, arch: str | None) -> Origin:
    known = _registered(name)
    if known is None or not known.hf_hub_id:
        tags = [found for found in timm.list_pretrained(f"{name.partition('.')[0]}.*")]
        has = f"the weights it has are {', '.join(tags)}" if tags else "give a file with trained weights and --arch"
        raise UnlearnError(f"timm has no weights on the Hub for {name!r}; {has}.")
    config = {key: value for key, value in known.to_dict().items() if key not in _ABOUT_WEIGHTS}
    blueprint = NamedBlueprint(architecture=name.partition(".")[0], config=config)
    _check_architecture(blueprint, arch)
    get, words = partial(_download, known.hf_hub_id), f"hf-hub:{known.hf_hub_id}"
    files = (known.hf_hub_filename,) if known.hf_hub_filename else _WEIGHTS
    return Origin(blueprint=blueprint, weights=_find_weights(get, words, files), words=words)


def _from_hub(identity: str, arch: str | None) -> Origin:
    get, words = partial(_download, identity), f"hf-hub:{identity}"
    blueprint = _read_blueprint(get, words, arch)
    return Origin(blueprint=blueprint, weights=_find_weights(get, words), words=words)


def _from_folder(folder: Path, arch: str | None) -> Origin:
    get = partial(_look_up, folder)
    blueprint = _read_blueprint(get, str(folder), arch)
    return Origin(blueprint=blueprint, weights=_find_weights(get, str(folder)), words="local folder")


def _look_up(folder: Path, *files: str) -> Path | None:
    return next((folder / file for file in files if (folder / file).is_file()), None)


def _find_weights(get: Get, where: str, files: tuple[str, ...] = _WEIGHTS) -> Path:
    if found := get(*files):
        return found
    if get(*_SHARDS):
        raise UnlearnError(f"The weights of {where!r} are spread over several files; save the model in one file.")
    raise UnlearnError(f"{where!r} holds no weights; it should have {' or '.join(files)}.")


def _read_blueprint(get: Get, where: str, arch: str | None) -> Blueprint:
    """Tell from config.json, and from a class of the user's own, in whose form the model is."""
    path = get("config.json")
    content = _read_json(path, where) if path else {}
    if not is_function_name(str(content.get("architecture"))) and is_mixin_class(arch):
        return MixinBlueprint(architecture=str(arch), config=content)
    if path is None:
        raise UnlearnError(
            f"{where!r} has no config.json, so it is no model folder of timm or transformers; "
            f"give the weights file in it, with --arch."
        )
    if isinstance(content.get("model_type"), str):
        processor = get("preprocessor_config.json")
        blueprint: Blueprint = TransformersBlueprint.of(content, _read_json(processor, where) if processor else None)
    elif isinstance(content.get("architecture"), str):
        blueprint = _read_timm(content)
    else:
        raise UnlearnError(
            f"The config.json of {where!r} names neither a timm architecture nor a model_type of transformers; if it "
            f"was saved by a class with PyTorchModelHubMixin, give --arch package.module:Class, and otherwise give "
            f"the weights file in it, with --arch."
        )
    _check_architecture(blueprint, arch)
    return blueprint


def _read_json(path: Path, where: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UnlearnError(f"The {path.name} of {where!r} is no valid JSON ({error}); get it again.") from error
    return content if isinstance(content, dict) else {}


def _read_timm(content: dict[str, Any]) -> NamedBlueprint:
    """Read timm's config.json: of today, with ``pretrained_cfg`` inside, or of old, with all of it on one level."""
    architecture = content["architecture"]
    config = {**content, **content.get("pretrained_cfg", {})}
    config["label_names"] = content.get("label_names", config.get("label_names", content.get("labels")))
    config["num_classes"] = content.get("num_classes", config.get("num_classes"))
    fields = {field.name for field in dataclasses.fields(PretrainedCfg)} - set(_ABOUT_WEIGHTS)
    config = {key: value for key, value in config.items() if key in fields and value is not None}
    arguments = dict(content.get("model_args") or {})
    if "num_classes" in config and not is_function_name(architecture):
        arguments.setdefault("num_classes", config["num_classes"])
    return NamedBlueprint(architecture=architecture, arguments=arguments, config=config)


def _download(identity: str, *files: str) -> Path | None:
    """Get the first of these files that a repository of the Hub has."""
    repository, _, revision = identity.partition("@")
    for file in files:
        try:
            return Path(hf_hub_download(repository, file, revision=revision or None))
        except RepositoryNotFoundError as error:
            raise UnlearnError(
                f"The Hub has no model {repository!r}, or it is private or gated; check the name, "
                f"or log in with 'hf auth login'."
            ) from error
        except RevisionNotFoundError as error:
            raise UnlearnError(f"The model {repository!r} has no revision {revision!r} on the Hub.") from error
        except HFValidationError as error:
            raise UnlearnError(f"{identity!r} is no name of a model on the Hub; write hf-hub:owner/name.") from error
        except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError) as error:
            if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
                continue
            raise UnlearnError(
                f"{file} of {repository!r} cannot be had from the Hub and was not downloaded before; check the "
                f"connection, or download the folder elsewhere and give it as local-dir:FOLDER."
            ) from error
    return None
