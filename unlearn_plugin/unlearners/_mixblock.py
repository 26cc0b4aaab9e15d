"""MixBlock: the generator of masks that mix two images, and the early features it looks at."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unlearn_hooks.capture import module_output
from unlearn_hooks.errors import UnlearnError

__all__ = ["EarlyFeatures", "MixBlock", "tokens_as_map"]

_STAGE = 1  # of timm's feature maps: the second, or the only one
_WIDEST = 16  # positions along a side of the feature map; attention costs the fourth power of it


def tokens_as_map(tokens: Float[Tensor, "n t c"], height: int, width: int) -> Float[Tensor, "n c h w"]:
    """Lay the tokens of a transformer out as the map they come from; prefix tokens are dropped.

    The grid is the largest one of the image's proportions that the tokens can fill; what is left over comes first, as
    class tokens and registers do.

    Args:
        tokens: In the order of rows, behind any prefix tokens.
        height: Of the image, in pixels.
        width: Of the image, in pixels.

    Returns:
        The map.

    Raises:
        UnlearnError: If no grid of these proportions fits.
    """
    count = tokens.shape[1]
    step = math.gcd(height, width)
    rows, columns = height // step, width // step
    times = math.isqrt(count // (rows * columns))
    if times == 0:
        raise UnlearnError(
            f"{count} tokens cannot be laid out in the proportions of a {height}x{width} image; "
            f"set -o layer=... to a module whose output is a feature map."
        )
    grid = rows * times, columns * times
    return tokens[:, count - grid[0] * grid[1] :].transpose(1, 2).reshape(len(tokens), -1, *grid)


class EarlyFeatures:
    """Early feature maps of a frozen model.

    Where the model is timm's, its own ``forward_intermediates`` gives them, for transformers as well. Otherwise they
    are the output of a module: the named one, or the first convolution. A model without any gives the image itself.

    Args:
        model: Frozen.
        layer: Name of a module, or ``None``.

    Raises:
        UnlearnError: If there is no such module.
    """

    def __init__(self, model: nn.Module, layer: str | None = None) -> None:
        self._model = model
        modules = dict(model.named_modules())
        if layer is not None and layer not in modules:
            there = ", ".join(list(modules)[1:20])
            raise UnlearnError(f"The model has no module {layer!r}; set -o layer=... to one of its modules: {there}.")
        ask = getattr(model, "forward_intermediates", None)
        self._ask_timm: Callable[..., list[Tensor]] | None = ask if layer is None and callable(ask) else None
        first = next((name for name, module in modules.items() if isinstance(module, nn.Conv2d)), None)
        self._layer = layer if layer is not None else first

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "n i h w"]) -> Float[Tensor, "n c y x"]:
        """Look at images.

        Args:
            images: As the model gets them.

        Returns:
            Maps of at most 16 x 16 positions, standardised per image.
        """
        if self._ask_timm is not None:
            options = {"intermediates_only": True, "output_fmt": "NCHW", "stop_early": True}
            maps = self._ask_timm(images, indices=[_STAGE], **options)[0]
        elif self._layer is None:
            maps = images
        else:
            with module_output(self._model, self._layer) as seen:
                self._model(images)
                maps = seen.output
        if maps.ndim == 3:
            maps = tokens_as_map(maps, *images.shape[2:])
        height, width = maps.shape[2:]
        maps = F.adaptive_avg_pool2d(maps.float(), (min(height, _WIDEST), min(width, _WIDEST)))
        return F.layer_norm(maps, maps.shape[1:])


class MixBlock(nn.Module):
    """Where in the picture the one image is seen and where the other: cross-attention between their features.

    Formula: with h' = [h, lambda] for the first image and [h, 1 - lambda] for the second (one more channel each),
      M = sigmoid( upsample( softmax(q(h'_1)^T k(h'_2) / sqrt(d)) v(h'_2) ) + logit(lambda) ),
    q, k, v being 1x1 convolutions and v starting at zero, so that M starts at lambda everywhere.

    Args:
        channels: Of the features.

    Source: AutoMix, Liu et al. 2022, arXiv 2103.13027, section 3.2. The start at lambda is ours.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 2)
        self.query = nn.Conv2d(channels + 1, inner, 1)
        self.key = nn.Conv2d(channels + 1, inner, 1)
        self.value = nn.Conv2d(channels + 1, 1, 1)
        for parameter in self.value.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, first: Float[Tensor, "n c y x"], second: Float[Tensor, "n c y x"], share: float, size: tuple[int, int]
    ) -> Float[Tensor, "n 1 h w"]:
        """Make masks.

        Args:
            first: Features of the images that the mask lets through.
            second: Features of the images that fill the rest.
            share: lambda, share of the first image, in (0, 1).
            size: Height and width of the images.

        Returns:
            Masks in (0, 1).
        """
        ones = torch.ones_like(first[:, :1])
        first, second = torch.cat([first, share * ones], 1), torch.cat([second, (1.0 - share) * ones], 1)
        query, key, value = (part.flatten(2) for part in (self.query(first), self.key(second), self.value(second)))
        attention = (query.transpose(1, 2) @ key / math.sqrt(query.shape[1])).softmax(-1)
        deviation = (attention @ value.transpose(1, 2)).reshape(len(first), 1, *first.shape[2:])
        deviation = F.interpolate(deviation, size, mode="bilinear", align_corners=False)
        return torch.sigmoid(deviation + math.log(share / (1.0 - share)))
