"""One pass over a source's pictures: cuts are marked while they stream by, and whole windows between cuts come out.

A window is `clip.frames` pictures on the 1/fps grid that starts with its scene; windows do not overlap and none holds
a cut. Besides its pictures a window carries small ones that all cheap scores are computed on. A source is never in
memory whole: at most one window and a second of pictures, each reduced to some four times the pixels that are packed.
It judges nothing and knows no sound.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import inf
from typing import NamedTuple

import cv2
import numpy as np

from ovi.config import Clip
from ovi.curation.scenes import Pixels, mark_starts, thumbnail
from ovi.media.decode import Frame

SPARE = 4  # pictures are kept at no less than this many times the packed pixels, so that little is lost by cropping
LOOK = 250_000  # the same for the pictures that margins are measured on
LOOK_S = 0.5  # s between these
SMALL = 4096  # pixels that the small pictures have at least, where the source has them


@dataclass
class Tally:
    """What the pass has seen of a source so far; times in s."""

    pictures: int = 0
    scenes: int = 0
    first: Fraction = Fraction(0)
    last: Fraction = Fraction(0)
    shortest: float = inf
    longest: float = 0.0

    def note(self, frame: Frame) -> None:
        if not self.pictures:
            self.first = frame.time
        self.pictures += 1
        self.last = frame.end
        shown = float(frame.end) - float(frame.time)
        self.shortest, self.longest = min(self.shortest, shown), max(self.longest, shown)

    @property
    def seconds(self) -> Fraction:
        return self.last - self.first

    @property
    def cuts(self) -> int:
        return max(0, self.scenes - 1)

    @property
    def variable_rate(self) -> bool:
        """Whether some pictures are shown for half as long again as others; containers round times by less."""
        return self.longest > 1.5 * self.shortest


@dataclass(frozen=True)
class Window:
    """The pictures of one window, each list in time order, in three sizes with the factor from the source's sides.

    frames: T of [H, W, 3]. looks: every LOOK_S, near the source's size, for margins. small: uint8 [T, h, w, 3].
    start: s on the source's clock. jump: the largest step between neighbouring pictures, in levels of 255.
    """

    start: Fraction
    frames: list[Pixels]
    scale: float
    looks: Pixels
    looks_scale: float
    small: Pixels
    small_scale: float
    jump: float


class _Seen(NamedTuple):
    """A picture of the source in the sizes that are needed, and when it is shown."""

    time: Fraction
    end: Fraction
    width: int
    look: Pixels
    picture: Pixels
    small: Pixels
    thumb: Pixels


def windows(source: Iterable[Frame], rate: Fraction, clip: Clip, packed_pixels: int, tally: Tally) -> Iterator[Window]:
    """The windows of a stream of pictures, as soon as each is whole; `tally` is kept up to date on the way.

    `rate` is the source's average frame rate, `packed_pixels` the size that will be packed. Raises as `source` does.
    """
    filling = _Filling(clip, Fraction(0))
    for seen, starts, jump in mark_starts(_seen(source, packed_pixels, tally), lambda s: s.thumb, float(rate or 24)):
        if starts:
            tally.scenes += 1
            filling = _Filling(clip, seen.time)
        while filling.take(seen, jump):
            yield filling.window()
            filling = _Filling(clip, filling.start + Fraction(clip.frames, clip.fps))


def halved(picture: Pixels, least: int) -> Pixels:
    """The picture [H, W, 3] with both sides halved by exact area means, as often as `least` pixels remain.

    An odd last row or column is dropped first, so that a pixel covers a whole square of the source's.
    """
    height, width = picture.shape[0] // 2, picture.shape[1] // 2
    while height * width >= least:
        even = np.ascontiguousarray(picture[: 2 * height, : 2 * width])
        picture = np.asarray(cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        height, width = height // 2, width // 2
    return picture


def _seen(source: Iterable[Frame], packed_pixels: int, tally: Tally) -> Iterator[_Seen]:
    least = SPARE * packed_pixels
    for frame in source:
        tally.note(frame)
        look = halved(frame.rgb, max(LOOK, least))
        picture = halved(look, least)
        small = halved(picture, SMALL)
        yield _Seen(frame.time, frame.end, frame.rgb.shape[1], look, picture, small, thumbnail(small))


class _Filling:
    """A window on its way: which picture is shown at each grid time so far."""

    def __init__(self, clip: Clip, start: Fraction) -> None:
        self.start = start
        self._clip = clip
        self._due, self._step = start, Fraction(1, clip.fps)
        self._every = max(1, round(LOOK_S * clip.fps))
        self._last: _Seen | None = None
        self._frames: list[Pixels] = []
        self._looks: list[Pixels] = []
        self._small: list[Pixels] = []
        self._jump = 0.0

    def take(self, seen: _Seen, jump: float) -> bool:
        """Put the picture on every grid time that it is shown at; True when that fills the window."""
        if self._last is not None and seen is not self._last:
            self._jump = max(self._jump, jump)
        while (at := len(self._frames)) < self._clip.frames:
            if not seen.time <= self._due < seen.end:
                return False
            self._due += self._step
            self._last = seen
            self._frames.append(seen.picture)
            self._small.append(seen.small)
            if at % self._every == 0:
                self._looks.append(seen.look)
        return True

    def window(self) -> Window:
        assert self._last is not None
        width = self._last.width
        looks, small = np.stack(self._looks), np.stack(self._small)
        scales = [_factor(width, pictures.shape[-2]) for pictures in (self._frames[0], looks, small)]
        return Window(self.start, self._frames, scales[0], looks, scales[1], small, scales[2], self._jump)


def _factor(width: int, reduced: int) -> float:
    """The power of one half that took a width to the reduced one."""
    factor = 1.0
    while width // 2 >= reduced:
        width, factor = width // 2, factor / 2
    return factor
