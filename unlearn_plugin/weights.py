"""Weights in a file: read without running any code that may be in it, and checked for damage."""

import argparse
import json
import pickle
import re
import struct
from collections import Counter, OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from unlearn_hooks.errors import UnlearnError

__all__ = [
    "PICKLED",
    "Weights",
    "describe_differences",
    "fits",
    "load_into",
    "read_weights",
    "some_of",
    "without_wrappers",
]

Weights = dict[str, Tensor]

PICKLED = (".pt", ".pth", ".th", ".bin", ".ckpt", ".tar")
# In the order in which timm looks for them: the averaged weights are the ones meant to be used.
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
_SHOWN = 3  # names listed in a message before "and N more"


def read_weights(path: Path) -> Weights:
    """Read named tensors from a ``.safetensors`` file or from what ``torch.save`` wrote.

    Checkpoints that hold the weights under ``state_dict_ema``, ``model_ema``, ``state_dict`` or ``model`` are
    opened in this order, as timm does. No code in the file is ever run: ``weights_only=True`` always.

    Args:
        path: The file.

    Returns:
        Finite tensors on the CPU, under the names in the file.

    Raises:
        UnlearnError: If the file is missing, damaged, holds code, no tensors, or numbers that are not finite.
    """
    if not path.is_file():
        raise UnlearnError(f"There is no weights file {str(path)!r}; check the path given to --model.")
    if path.suffix.lower() == ".safetensors":
        found: Any = _read_safetensors(path)
    elif path.suffix.lower() in PICKLED:
        found = _read_pickled(path)
    else:
        raise UnlearnError(
            f"{path.name!r} is no kind of weights file known here; give one that ends in .safetensors, "
            f"{', '.join(PICKLED)}."
        )
    found = _unwrap(found)
    weights = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if not weights:
        raise UnlearnError(
            f"{path.name!r} holds no weights, only {some_of([str(name) for name in found]) or 'nothing'}; "
            f"save the model's state_dict() in it."
        )
    _check_finite(weights, path)
    return weights


def _read_safetensors(path: Path) -> Weights:
    _check_header(path)
    try:
        weights: Weights = load_file(path)
    except SafetensorError as error:
        raise UnlearnError(f"{path.name!r} is damaged ({error}); copy or download it again.") from error
    return weights


def _check_header(path: Path) -> None:
    """Refuse what the safetensors library lets pass: a tensor named twice, of which it would take the last."""
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        header = file.read(length) if length <= path.stat().st_size else b""
    if not length or len(header) < length:
        raise UnlearnError(f"{path.name!r} is no safetensors file or was cut off; copy or download it again.")
    try:
        pairs = json.loads(header, object_pairs_hook=list)  # a dict would hide what is in there twice
        names = [name for name, _ in pairs]
    except (ValueError, TypeError, RecursionError) as error:
        raise UnlearnError(f"The header of {path.name!r} is damaged; copy or download it again.") from error
    twice = sorted(name for name, times in Counter(names).items() if times > 1)
    if twice:
        raise UnlearnError(
            f"{path.name!r} names {some_of(twice)} more than once, so it is unclear which weights are meant; "
            f"get the file from where it was first saved."
        )


def _read_pickled(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # timm's train.py keeps its arguments in there
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, OSError) as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code:
            raise UnlearnError(
                f"{path.name!r} is refused: it holds the Python object {code[1]}, and opening such objects could run "
                f"any code; save only model.state_dict(), best as a .safetensors file."
            ) from None
        raise UnlearnError(f"{path.name!r} is damaged or no file of torch.save; copy or download it again.") from error


def _unwrap(found: Any) -> Mapping[Any, Any]:
    while isinstance(found, Mapping):
        inside = [found[key] for key in _WRAPPERS if isinstance(found.get(key), Mapping)]
        if not inside:
            return found
        found = inside[0]
    return {}


def _check_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    bad = [name for name, value in weights.items() if value.is_floating_point() and not value.float().isfinite().all()]
    if bad:
        raise UnlearnError(
            f"{len(bad)} of {len(weights)} tensors in {path.name!r} hold numbers that are not finite: {some_of(bad)}; "
            f"give a checkpoint from before training diverged."
        )


def without_wrappers(weights: Weights, names: set[str]) -> Weights:
    """Take off what DistributedDataParallel, torch.compile, Lightning and the like put before the names.

    ``_orig_mod`` goes wherever it stands. Beyond that, a first part that all names share, and that the names of
    the model do not, belongs to a wrapper.

    Args:
        weights: As read.
        names: Names in the model's own `state_dict`.

    Returns:
        The same tensors under the names of the model, as far as they can be told.
    """
    weights = {name.replace("_orig_mod.", ""): value for name, value in weights.items()}
    if "n_averaged" in weights and "n_averaged" not in names:  # the counter of torch's AveragedModel
        del weights["n_averaged"]
    while True:
        first = {name.partition(".")[0] for name in weights}
        if len(first) != 1 or all(name.partition(".")[0] in first for name in names):
            return weights
        if any("." not in name for name in weights):
            return weights
        weights = {name.partition(".")[2]: value for name, value in weights.items()}


def fits(weights: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> bool:
    """Whether weights have the names and shapes of a model.

    Args:
        weights: As read.
        model: The model's `state_dict`.

    Returns:
        Whether nothing is missing, left over or of another shape. The batch counters of BatchNorm may be
        missing: they are not used, and files written before there were any lack them.
    """
    return not describe_differences(weights, model)


def load_into(model: nn.Module, weights: Weights) -> None:
    """Load weights that fit; the batch counters of BatchNorm may be missing.

    Args:
        model: Gets the weights.
        weights: For which `fits` is true, so they are of the layout that the model's code has today.
    """
    state = OrderedDict(weights)
    state._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]  # torchvision's MNASNet asks for it
    model.load_state_dict(state, strict=False)


def describe_differences(weights: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> list[str]:
    """Say how weights differ from a model.

    Args:
        weights: As read.
        model: The model's `state_dict`.

    Returns:
        One clause for tensors of another shape, one for missing and one for left-over tensors; empty if none.
    """
    shapes = [
        f"{name!r} is {tuple(weights[name].shape)} in the file and {tuple(value.shape)} in the model"
        for name, value in model.items()
        if name in weights and weights[name].shape != value.shape
    ]
    missing = [name for name in model if name not in weights and not name.endswith("num_batches_tracked")]
    extra = [name for name in weights if name not in model]
    clauses = []
    if shapes:
        clauses.append(f"of another shape ({len(shapes)}): {some_of(shapes, '; ')}")
    if missing:
        clauses.append(f"missing ({len(missing)}): {some_of(missing)}")
    if extra:
        clauses.append(f"not part of the model ({len(extra)}): {some_of(extra)}")
    return clauses


def some_of(names: list[str], between: str = ", ") -> str:
    """List a few names for a message.

    Args:
        names: Any number of them.
        between: What stands between two.

    Returns:
        The first three, and how many more there are.
    """
    shown = between.join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown}{between}and {len(names) - _SHOWN} more"
