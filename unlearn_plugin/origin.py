"""Where a checkpoint comes from: timm's registry, the Hub, a folder, or a file; found, but not yet loaded."""

import dataclasses
import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from unlearn_plugin.user_code import is_function_name
from unlearn_plugin.weights import PICKLED

__all__ = ["Origin", "find_origin"]

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in a folder or repository, the first that is there
_ABOUT_WEIGHTS = ("source", "file", "url", "state_dict", "hf_hub_id", "hf_hub_filename", "custom_load")
_ABOUT_ARCHITECTURE = (  # what timm's registry says of an architecture that holds for other weights too
    "input_size", "min_input_size", "fixed_input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std",
    "first_conv", "classifier",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What is known of a checkpoint before its weights are read.

    Attributes:
        architecture: timm's name, or ``package.module:function``.
        arguments: What the architecture is built with.
        config: timm's ``pretrained_cfg`` as a dict, without the places weights are downloaded from.
        weights: The file.
        words: Where it comes from, fit to be published: never a path.
    """

    architecture: str
    arguments: Mapping[str, Any]
    config: Mapping[str, Any]
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
        origin = _from_hub(rest)
    elif prefix == "local-dir":
        origin = _from_folder(Path(rest))
    elif Path(name).suffix.lower() in (".safetensors", *PICKLED) or Path(name).is_file():
        return _from_file(Path(name), arch)
    elif timm.is_model(name) and "/" not in name:
        origin = _from_registry(name)
    elif Path(name).is_dir():
        origin = _from_folder(Path(name))
    else:
        hint = f"; for a model on the Hub write hf-hub:{name}" if name.count("/") == 1 else _nearest(name)
        raise UnlearnError(f"--model {name!r} is neither a file, nor a folder, nor a model known to timm{hint}.")
    _check_architecture(origin, arch)
    return origin


def _check_architecture(origin: Origin, arch: str | None) -> None:
    own = is_function_name(origin.architecture)
    if own and arch is None:
        raise UnlearnError(
            f"The model names {origin.architecture!r} as its architecture, which is code that would be imported; "
            f"if you trust it, give --arch {origin.architecture}."
        )
    if arch is not None and origin.architecture not in (arch, arch.partition(".")[0]):
        raise UnlearnError(
            f"The model says that its architecture is {origin.architecture!r} and --arch says {arch!r}; "
            f"give the one the model was trained with, or leave --arch out."
        )
    if not own and not timm.is_model(origin.architecture):
        raise UnlearnError(
            f"timm {timm.__version__} knows no architecture {origin.architecture!r}{_nearest(origin.architecture)}."
        )


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
        return Origin(architecture=arch, arguments={}, config={}, weights=path, words=words)
    known = _registered(arch)
    if not timm.is_model(arch) or ("." in arch and known is None):
        raise UnlearnError(f"--arch {arch!r} is no architecture of timm {timm.__version__}{_nearest(arch)}.")
    about = known.to_dict() if known else {}
    config = {key: about[key] for key in _ABOUT_ARCHITECTURE if key in about}
    return Origin(architecture=arch.partition(".")[0], arguments={}, config=config, weights=path, words=words)


def _registered(name: str) -> PretrainedCfg | None:
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError:  # what timm answers to an unknown tag
        return None


def _from_registry(name: str) -> Origin:
    known = _registered(name)
    if known is None or not known.hf_hub_id:
        tags = [found for found in timm.list_pretrained(f"{name.partition('.')[0]}.*")]
        has = f"the weights it has are {', '.join(tags)}" if tags else "give a file with trained weights and --arch"
        raise UnlearnError(f"timm has no weights on the Hub for {name!r}; {has}.")
    files = (known.hf_hub_filename,) if known.hf_hub_filename else _WEIGHTS
    return Origin(
        architecture=name.partition(".")[0],
        arguments={},
        config={key: value for key, value in known.to_dict().items() if key not in _ABOUT_WEIGHTS},
        weights=_download(known.hf_hub_id, files),
        words=f"hf-hub:{known.hf_hub_id}",
    )


def _from_hub(identity: str) -> Origin:
    architecture, arguments, config = _read_config(_download(identity, ("config.json",)), f"hf-hub:{identity}")
    return Origin(
        architecture=architecture,
        arguments=arguments,
        config=config,
        weights=_download(identity, _WEIGHTS),
        words=f"hf-hub:{identity}",
    )


def _from_folder(folder: Path) -> Origin:
    if not (folder / "config.json").is_file():
        raise UnlearnError(
            f"The folder {str(folder)!r} has no config.json, so it is no model folder of timm; "
            f"give the weights file in it, with --arch."
        )
    architecture, arguments, config = _read_config(folder / "config.json", str(folder))
    weights = next((folder / file for file in _WEIGHTS if (folder / file).is_file()), None)
    if weights is None:
        raise UnlearnError(f"The folder {str(folder)!r} holds no weights; it should have {' or '.join(_WEIGHTS)}.")
    return Origin(architecture=architecture, arguments=arguments, config=config, weights=weights, words="local folder")


def _read_config(path: Path, where: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Read timm's config.json: of today, with ``pretrained_cfg`` inside, or of old, with all of it on one level."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UnlearnError(f"The config.json of {where!r} is no valid JSON ({error}); get it again.") from error
    architecture = content.get("architecture") if isinstance(content, dict) else None
    if not isinstance(architecture, str):
        raise UnlearnError(
            f"The config.json of {where!r} names no timm architecture, so it is no timm model; "
            f"give its weights file with --arch, if timm has the architecture."
        )
    config = {**content, **content.get("pretrained_cfg", {})}
    config["label_names"] = content.get("label_names", config.get("label_names", content.get("labels")))
    config["num_classes"] = content.get("num_classes", config.get("num_classes"))
    fields = {field.name for field in dataclasses.fields(PretrainedCfg)} - set(_ABOUT_WEIGHTS)
    config = {key: value for key, value in config.items() if key in fields and value is not None}
    arguments = dict(content.get("model_args") or {})
    if "num_classes" in config and not is_function_name(architecture):
        arguments.setdefault("num_classes", config["num_classes"])
    return architecture, arguments, config


def _download(identity: str, files: Sequence[str]) -> Path:
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
    raise UnlearnError(f"The model {repository!r} on the Hub has no {' and no '.join(files)}.")
