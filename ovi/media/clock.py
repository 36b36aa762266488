"""The one clock: exact fractions of a second. Which picture is on the screen at a time, which sample sounds then.

Picture k of a source is shown from its own time until the next one's. A clip's picture k is what the source shows at
start + k / fps, so constant, variable and foreign frame rates are one case. It knows times, never pixels or files.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction


def frame_time(k: int, fps: int | Fraction, start: Fraction = Fraction(0)) -> Fraction:
    """When the k-th picture of a grid that begins at `start` is due, in s."""
    return start + Fraction(k) / Fraction(fps)


def shown_at(times: Sequence[Fraction], at: Fraction) -> int:
    """The index in ascending `times` of the picture shown at `at`: the last not after it; -1 before the first."""
    return bisect_right(times, at) - 1


def picks(times: Sequence[Fraction], end: Fraction, start: Fraction, fps: int, frames: int) -> list[int] | None:
    """Which source picture each of `frames` grid times from `start` shows; None if one is outside [times[0], end)."""
    grid = [frame_time(k, fps, start) for k in range(frames)]
    if not times or grid[0] < times[0] or grid[-1] >= end:
        return None
    return [shown_at(times, at) for at in grid]


def whole_frames(start: Fraction, end: Fraction, fps: int) -> int:
    """How many grid times start, start + 1/fps, ... lie before `end`."""
    return max(0, math.ceil((end - start) * fps))


def sample_at(at: Fraction, rate: int, start: Fraction = Fraction(0)) -> int:
    """Index of the sample nearest to time `at` in a sound that begins at `start`; halves go up; negative before it."""
    return math.floor((at - start) * rate + Fraction(1, 2))
