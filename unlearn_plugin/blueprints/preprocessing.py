"""How pictures become a model's input: what the user asked for, else what came with the checkpoint."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform, resolve_data_config
from torch import Tensor, nn

from unlearn_hooks.errors import UnlearnError

__all__ = ["AskedInput", "evaluation_transform", "guess_channels", "resolve_input"]


@dataclass(frozen=True, kw_only=True)
class AskedInput:
    """What the user said about the input; ``None`` where nothing was said.

    Attributes:
        input_size: Side of the square image in pixels.
        mean: Mean the images are normalised with, one number or one per channel.
        std: Standard deviation, likewise.
        crop_pct: Share of the resized image that the crop keeps.
    """

    input_size: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    crop_pct: float | None = None


def resolve_input(
    known: Mapping[str, Any], asked: AskedInput, *, channels: int, built_for: int | Sequence[int] | None = None
) -> dict[str, Any]:
    """Settle timm's data configuration.

    Args:
        known: What came with the checkpoint, with timm's names.
        asked: What the user said; it counts more.
        channels: Channels of an image.
        built_for: Side, or height and width, of the images that the architecture was built for, if any.

    Returns:
        timm's ``input_size`` (c, h, w) or ``None`` where nobody said, ``mean``, ``std``, ``interpolation``,
        ``crop_pct`` and ``crop_mode``.

    Raises:
        UnlearnError: If what the user said cannot be.
    """
    size = asked.input_size or built_for or tuple(known.get("input_size", ())[1:])
    height, width = (size, size) if isinstance(size, int) else size or (1, 1)
    if min(height, width) < 1:
        raise UnlearnError(f"--input-size {height} is too small; give the side of the image in pixels.")
    wanted = {
        "input_size": (channels, height, width),
        "mean": _per_channel("--mean", asked.mean, known.get("mean", IMAGENET_DEFAULT_MEAN), channels),
        "std": _per_channel("--std", asked.std, known.get("std", IMAGENET_DEFAULT_STD), channels),
        "crop_pct": asked.crop_pct,
    }
    found = resolve_data_config(wanted, pretrained_cfg=dict(known))
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


def guess_channels(model: nn.Module) -> int:
    """Channels that the first convolution takes.

    Args:
        model: A model of unknown code.

    Returns:
        That number, or 3 for a model without convolutions.
    """
    first = next((value for value in model.state_dict().values() if value.ndim == 4), None)
    return 3 if first is None else first.shape[1]


def evaluation_transform(input_config: Mapping[str, Any]) -> Callable[[Any], Tensor]:
    """Make timm's evaluation transform: resize, crop, normalise.

    Args:
        input_config: As `resolve_input` settles it.

    Returns:
        A function from a PIL picture to a float tensor (c, h, w).
    """
    names = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
    transform: Callable[[Any], Tensor] = create_transform(
        **{name: input_config[name] for name in names}, is_training=False
    )
    return transform
