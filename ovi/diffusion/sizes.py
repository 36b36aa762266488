"""Picture sizes: (height, width) near a wanted area, in sides that split into tokens, by the rules of the release.

A version is trained on pictures of one area (518,400 or 921,600 pixels) and of many shapes. Halves are rounded to the
even neighbour, as Python does. It knows nothing of models or files; the rules need no torch, only `preprocess_image`.
Try it: `python -c "from ovi.diffusion.sizes import snap; print(snap(704, 1280, 518400))"`.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from ovi.errors import OviError

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 32  # pixels of a token's side: 16 of the video codec times 2 of the transformer's patch


def snap(height: int, width: int, area: int, multiple: int = SIDE) -> tuple[int, int]:
    """The size for a clip from text: scaled to the area, up or down, each side to the nearest multiple.

    Up to 1:3, the area comes out within 6 % of the one wanted, for the areas of the released versions.
    """
    scale = _scale(height, width, area)
    return _nearest(round(height * scale), multiple), _nearest(round(width * scale), multiple)


def image_size(height: int, width: int, area: int) -> tuple[int, int]:
    """The size for a clip from a first frame of height x width: the nearest area, then the nearest aspect.

    The choice is among seven heights about the ideal one, each with the width of the image's aspect, and the size
    that `scale_to_area` gives.
    """
    direct, aspect = scale_to_area(height, width, area, SIDE), width / height
    ideal = max(1, round(math.sqrt(max(1, area // SIDE**2) / aspect)))
    rows = [max(1, ideal + more) for more in range(-3, 4)]
    sizes = [(SIDE * row, SIDE * max(1, round(row * aspect))) for row in rows] + [direct]
    return min(sizes, key=lambda size: (abs(size[0] * size[1] - area), abs(size[1] / size[0] - aspect)))


def from_ratio(ratio: str, area: int) -> tuple[int, int]:
    """The size of a ratio "height:width" such as "9:16", each side cut down to a multiple of 32."""
    sides = re.fullmatch(r"([1-9]\d{0,4}):([1-9]\d{0,4})", ratio, re.ASCII)
    if not sides:
        raise OviError(f"ratio: {ratio!r} is not height:width in whole numbers, as 9:16")
    high, wide = int(sides[1]), int(sides[2])
    # In whole numbers, so that no side that is a multiple of 32 already is cut by rounding.
    rows, columns = (math.isqrt(area * one // (SIDE**2 * other)) for one, other in ((high, wide), (wide, high)))
    return SIDE * max(1, rows), SIDE * max(1, columns)


def scale_to_area(height: int, width: int, area: int, multiple: int) -> tuple[int, int]:
    """Scaled to the area, each side to the nearest multiple: 16 for the image model that makes first frames."""
    scale = _scale(height, width, area)
    return _nearest(height * scale, multiple), _nearest(width * scale, multiple)


def preprocess_image(image: Tensor, area: int) -> Tensor:
    """A first frame [1, 3, h, w] in [-1, 1] resized to its `image_size`: [1, 3, H, W] in the same dtype.

    Bicubic, without antialiasing and not cut to [-1, 1], as the video codec of the release is given it; nothing is
    cropped, so that the aspect may change a little.
    """
    import torch.nn.functional as F  # the sizes alone are wanted where there is no torch

    height, width = image.shape[-2:]
    return F.interpolate(image, size=image_size(height, width, area), mode="bicubic", align_corners=False)


def _scale(height: int, width: int, area: int) -> float:
    if min(height, width, area) < 1:
        raise OviError(f"size: {height}x{width} at an area of {area} pixels; all three must be positive")
    return math.sqrt(area / (height * width))


def _nearest(side: float, multiple: int) -> int:
    return max(multiple, round(side / multiple) * multiple)
