"""Letterbox and pillarbox: flat dark bars with a straight edge, beside a bright picture. When in doubt there are none.

A dark scene has dark borders too; what tells a bar is that it is flat in every frame and that nearly the whole line
next to it is lit at once. It knows pictures only.
Try it: `pytest tests/curation/test_margins.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DARK = 24  # highest level of a bar (of 255)
FLAT = 3.0  # largest standard deviation of levels inside one bar, over all its pixels and frames
LIT = 0.7  # share of a line that is brighter than the bar, where the picture begins
RISE = 5  # levels by which it is brighter
STEP = 10  # levels that the edge rises by within EDGE lines; a dark sky that brightens slowly has no edge
BRIGHT = 32  # mean level of a frame that can tell a bar from the dark
MIN_FRAMES = 3  # bright frames needed
EDGE, SOFT = 2, 4  # lines beside the edge of a bar that may rise to it, and that a codec may have smeared: not flat
WIDEST = 0.4  # of a side
SAMPLED = 256  # pixels of a line that are looked at, about


class Box(NamedTuple):
    """A part of a picture, in pixels from the top left."""

    x: int
    y: int
    width: int
    height: int

    def cut(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The part of [..., H, W, 3]."""
        return frames[..., self.y : self.y + self.height, self.x : self.x + self.width, :]

    def scaled(self, factor: float) -> Box:
        """The same part of a picture scaled by `factor`, rounded inwards."""
        x0, y0 = (int(np.ceil(value * factor - 1e-6)) for value in (self.x, self.y))
        x1, y1 = (int((start + side) * factor + 1e-6) for start, side in ((self.x, self.width), (self.y, self.height)))
        return Box(x0, y0, x1 - x0, y1 - y0)

    def __str__(self) -> str:
        return f"{self.width}:{self.height}:{self.x}:{self.y}"


def possible(picture: NDArray[np.uint8]) -> bool:
    """Whether a picture uint8 [H, W, 3] has a dark line at a border. Where none is in one frame, there are no bars."""
    borders = (picture[0], picture[-1], picture[:, 0], picture[:, -1])
    return any(int(line.max()) <= DARK for line in borders)


def measure(frames: NDArray[np.uint8], known: Box | None = None) -> Box | None:
    """The picture inside its bars, or None without bars. frames uint8 [N, H, W, 3], spread over the clip, N >= 8.

    `known` is what an earlier part of the same source showed: it holds as long as its bars are dark and flat, also
    where this part is too dark to tell.
    """
    if known is not None and _still_dark(frames, known):
        return known
    height, width = frames.shape[1:3]
    top, bottom = _pair(frames)
    left, right = _pair(frames[:, top : height - bottom].swapaxes(1, 2))
    if not (top or bottom or left or right):
        return None
    return Box(left, top, width - left - right, height - top - bottom)


def _pair(frames: NDArray[np.uint8]) -> tuple[int, int]:
    """Lines of the bars at the start and at the end of axis 1 of frames [N, lines, length, 3]; 0 without one.

    Bars come in pairs: where only one shows its edge, the other is as wide if that much is flat.
    """
    thin = frames[:, :, :: max(1, frames.shape[2] // SAMPLED)]
    first, last = _bar(thin), _bar(thin[:, ::-1])
    if first and not last and _is_flat(thin[:, thin.shape[1] - first + SOFT :]):
        last = first
    if last and not first and _is_flat(thin[:, : last - SOFT]):
        first = last
    return first, last


def _bar(frames: NDArray[np.uint8]) -> int:
    if frames[:, 0].max() > DARK:
        return 0
    levels = _levels(frames)
    bright = levels.mean((1, 2)) >= BRIGHT
    if bright.sum() < MIN_FRAMES:
        return 0
    base = int(levels[:, 0].max())
    lit = np.median((levels[bright] > base + RISE).mean(2), axis=0)  # [lines]
    begins = int(np.argmax(lit >= LIT))
    if not 0 < begins <= WIDEST * len(lit) or lit[:begins].max() > 1 - LIT:
        return 0
    outside, inside = levels[bright, max(0, begins - EDGE)], levels[bright, begins + 1]
    edge = np.median((inside.astype(np.int16) - outside >= STEP).mean(1))
    return begins if edge >= LIT and _is_flat(frames[:, : max(1, begins - SOFT)]) else 0


def _levels(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The largest channel of each pixel: [N, lines, length, 3] -> [N, lines, length]."""
    return np.maximum(np.maximum(frames[..., 0], frames[..., 1]), frames[..., 2])


def _is_flat(frames: NDArray[np.uint8]) -> bool:
    return frames.size == 0 or (int(frames.max()) <= DARK and float(_levels(frames).std()) <= FLAT)


def _still_dark(frames: NDArray[np.uint8], box: Box) -> bool:
    """Whether everything outside `box`, but for the soft lines, is flat."""
    bottom, right = box.y + box.height + SOFT, box.x + box.width + SOFT
    top, left = max(0, box.y - SOFT), max(0, box.x - SOFT)
    bars = (frames[:, :top], frames[:, bottom:], frames[:, :, :left], frames[:, :, right:])
    return all(_is_flat(bar) for bar in bars)
