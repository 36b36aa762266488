"""One pass over a source's pictures: cuts are marked while they stream by, and whole windows between cuts come out.

A window is `clip.frames` pictures on the 1/fps grid that starts with its scene; windows do not overlap and none holds
a cut. Besides its pictures a window carries small ones that all cheap scores are computed on. A source is never in
memory whole: at most one window and two seconds of pictures, as they were decoded or halved.
It judges nothing and knows no sound.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import inf
from typing import NamedTuple

import numpy as np

from ovi.config import Clip
from ovi.curation.scenes import Pixels, mark_starts, thumbnail
from ovi.media.picture import Frame

SPARE = 5  # times the packed pixels that a picture is kept in at most: halved, it has at least 1.25 times as many
LEAST = 1 << 20  # pixels that are always kept, so that margins are exact
LOOK_S = 0.5  # s between the pictures that margins are measured on
SMALL_SIDE = 64  # pixels of a small picture's shorter side
STALL = 2  # s that one picture may be shown; what stands still for longer ends its scene


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
    """The pictures of one window in time order, each list with the factor from the source's sides.

    frames: the picture shown at each of T grid times. small: uint8 [T, h, w, 3]. start: s on the source's clock.
    distinct: how many pictures of the source these are. jump: the largest step between neighbours, in levels of 255.
    """

    start: Fraction
    frames: list[Frame]
    scale: float
    small: Pixels
    small_scale: float
    distinct: int
    jump: float

    def looks(self, fps: int) -> Pixels:
        """uint8 [N, H, W, 3]: every LOOK_S, for margins."""
        return np.stack([frame.rgb for frame in self.frames[:: max(1, round(LOOK_S * fps))]])


class _Seen(NamedTuple):
    """A picture of the source, the same in small and as a thumbnail, and its width before it was halved."""

    frame: Frame
    width: int
    small: Pixels
    thumb: Pixels


def windows(
    source: Iterable[Frame], rate: Fraction, clip: Clip, packed_pixels: int, tally: Tally, heard: Fraction | None = None
) -> Iterator[Window]:
    """The windows of a stream of pictures, as soon as each is whole; `tally` is kept up to date on the way.

    `rate` is the source's average frame rate, `packed_pixels` the size that will be packed. No window begins before
    `heard`, the time at which the source's sound does. Raises as `source` does.
    """
    filling: _Filling | None = None
    for seen, starts, jump in mark_starts(_seen(source, packed_pixels, tally), lambda s: s.thumb, float(rate or 24)):
        tally.scenes += starts
        frame = seen.frame
        if (heard is not None and frame.time < heard) or frame.end - frame.time > STALL:
            filling = None
            continue
        if starts or filling is None:
            filling = _Filling(clip, frame.time)
        while filling.take(seen, jump):
            yield filling.window()
            filling = _Filling(clip, filling.start + Fraction(clip.frames, clip.fps))


def small_size(width: int, height: int) -> tuple[int, int]:
    """(width, height) of a small picture: the shorter side SMALL_SIDE, or as the source where that is smaller."""
    shrink = min(1.0, SMALL_SIDE / min(width, height))
    return max(1, round(width * shrink)), max(1, round(height * shrink))


def _seen(source: Iterable[Frame], packed_pixels: int, tally: Tally) -> Iterator[_Seen]:
    most = max(LEAST, SPARE * packed_pixels)
    for frame in source:
        tally.note(frame)
        small = frame.small(*small_size(frame.width, frame.height))
        yield _Seen(frame.within(most), frame.width, small, thumbnail(small))


class _Filling:
    """A window on its way: which picture is shown at each grid time so far."""

    def __init__(self, clip: Clip, start: Fraction) -> None:
        self.start = start
        self._clip = clip
        self._due, self._step = start, Fraction(1, clip.fps)
        self._last: _Seen | None = None
        self._frames: list[Frame] = []
        self._small: list[Pixels] = []
        self._distinct, self._jump = 0, 0.0

    def take(self, seen: _Seen, jump: float) -> bool:
        """Put the picture on every grid time that it is shown at; True when that fills the window."""
        if self._last is not None and seen is not self._last:
            self._jump = max(self._jump, jump)
        while len(self._frames) < self._clip.frames:
            if not seen.frame.shows(self._due):
                return False
            self._due += self._step
            self._distinct += seen is not self._last
            self._last = seen
            self._frames.append(seen.frame)
            self._small.append(seen.small)
        return True

    def window(self) -> Window:
        assert self._last is not None
        width, small = self._last.width, np.stack(self._small)
        scale, small_scale = self._last.frame.width / width, small.shape[2] / width
        return Window(self.start, self._frames, scale, small, small_scale, self._distinct, self._jump)
