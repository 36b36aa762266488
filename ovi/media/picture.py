"""A decoded picture of a source with its exact times, made RGB only when someone asks, in the size that is asked for.

Most pictures of a long source are only ever looked at in small, so each stays as its decoder left it: a third to a
half of the memory that RGB takes, and no work. It comes out upright, with square pixels and the full range of levels,
whatever the codec's depth, matrix or range.
Try it: `pytest tests/media/test_picture.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


class Screen:
    """How the pictures of one stream are shown: `width` x `height` after a turn by `rotation` degrees
    counter-clockwise (0, 90, 180 or 270)."""

    def __init__(self, width: int, height: int, rotation: int = 0) -> None:
        self.width, self.height = width, height
        self._rotation = rotation
        self._scalers: dict[tuple[int, int, str], VideoReformatter] = {}  # a scaler is ready for one size and format

    @cached_property
    def half(self) -> Screen:
        return Screen(self.width // 2, self.height // 2, self._rotation)

    def rgb(self, picture: av.VideoFrame, width: int, height: int) -> Pixels:
        """uint8 [height, width, 3] of a picture as decoded; area means where that is smaller."""
        scaled: NDArray[Any] = self._scaled(picture, width, height, "rgb24").to_ndarray()
        return np.ascontiguousarray(np.rot90(scaled, self._rotation // 90)) if self._rotation else scaled

    def halved(self, picture: av.VideoFrame) -> av.VideoFrame:
        """The picture for the screen of half the sides, in the least memory."""
        return self._scaled(picture, self.half.width, self.half.height, "yuv420p")

    def _scaled(self, picture: av.VideoFrame, width: int, height: int, format: str) -> av.VideoFrame:
        if self._rotation in (90, 270):
            width, height = height, width
        scaler = self._scalers.setdefault((width, height, format), VideoReformatter())
        smaller = width * height < picture.width * picture.height
        how = Interpolation.AREA if smaller else Interpolation.BILINEAR
        return scaler.reformat(picture, width, height, format, interpolation=how, threads=1)


@dataclass(frozen=True)
class Frame:
    """A picture that is shown from `time` (s) until `end`, the next picture's time."""

    time: Fraction
    end: Fraction
    picture: av.VideoFrame
    screen: Screen

    @property
    def width(self) -> int:
        return self.screen.width

    @property
    def height(self) -> int:
        return self.screen.height

    def shows(self, at: Fraction) -> bool:
        """Whether it is on the screen at `at`."""
        return self.time <= at < self.end

    @property
    def rgb(self) -> Pixels:
        """uint8 [height, width, 3], made anew each time."""
        return self.screen.rgb(self.picture, self.width, self.height)

    def small(self, width: int, height: int) -> Pixels:
        """uint8 [height, width, 3] by area means."""
        return self.screen.rgb(self.picture, width, height)

    def within(self, pixels: int) -> Frame:
        """The same with both sides halved by area means until at most `pixels` remain; the original is let go."""
        frame = self
        while frame.width * frame.height > pixels:
            frame = replace(frame, picture=frame.screen.halved(frame.picture), screen=frame.screen.half)
        return frame


def frame_of(rgb: Pixels, time: Fraction, end: Fraction) -> Frame:
    """A frame from an array [H, W, 3]."""
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
    return Frame(time, end, picture, Screen(rgb.shape[1], rgb.shape[0]))
