"""From a window of a source to pictures of one size: about `target` pixels, sides a multiple, no stretching.

Of the sizes around the ideal one the nearest is taken; what its aspect leaves over is cut off evenly, the rest is
scaled by area means. It knows pictures only.
"""

from __future__ import annotations

from math import log, sqrt

import cv2
import numpy as np
from numpy.typing import NDArray

from ovi.curation.margins import Box

Pixels = NDArray[np.uint8]


def packed_size(width: int, height: int, target: int, multiple: int) -> tuple[int, int]:
    """(width, height) for a source of width x height: multiples, area near `target`, aspect near the source's.

    1280 x 704 becomes 992 x 544 for 518,400 and 32 (paper 3.2), and 48 x 32 for 1,024 and 16.
    """

    def misfit(size: tuple[int, int]) -> float:
        aspect, area = log(size[0] / size[1] * height / width), log(size[0] * size[1] / target)
        return 2 * abs(aspect) + max(area, -1.5 * area)  # what is cut off costs most, then pixels too few

    wide, tall = (
        [max(1, int(ideal / multiple) + more) * multiple for more in (0, 1)]
        for ideal in (sqrt(target * width / height), sqrt(target * height / width))
    )
    return min(((w, h) for w in wide for h in tall), key=misfit)


def fit(picture: Pixels, box: Box, size: tuple[int, int]) -> Pixels:
    """uint8 [height, width, 3] of `size` (width, height) from a picture [H, W, 3]: the middle of `box`."""
    width, height = size
    wide = min(box.width, max(1, round(box.height * width / height)))
    tall = min(box.height, max(1, round(box.width * height / width)))
    middle = Box(box.x + (box.width - wide) // 2, box.y + (box.height - tall) // 2, wide, tall)
    how = cv2.INTER_AREA if wide * tall >= width * height else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(np.ascontiguousarray(middle.cut(picture)), size, interpolation=how), np.uint8)
