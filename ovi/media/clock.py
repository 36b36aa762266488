"""The one clock: exact fractions of a second. Which picture is on the screen at a time, which sample sounds then.

Picture k of a source is shown from its own time until the next one's. A clip's picture k is what the source shows at
start + k / fps, so constant, variable and foreign frame rates are one case. It knows times, never pixels or files.
"""

from __future__ import annotations

from fractions import Fraction


def frame_time(k: int, fps: int | Fraction, start: Fraction = Fraction(0)) -> Fraction:
    """When the k-th picture of a grid that begins at `start` is due, in s."""
    return start + Fraction(k) / Fraction(fps)


def snapped(time: Fraction, start: Fraction, rate: Fraction, tick: Fraction) -> Fraction:
    """The grid time start + k / rate that a file's clock of `tick` s rounded to `time`; `time` where there is none.

    Matroska counts milliseconds, and 24 pictures a second so rounded seem to come now early, now late.
    """
    if not rate:
        return time
    due = frame_time(round((time - start) * rate), rate, start)
    return due if abs(time - due) < tick else time


def sample_at(at: Fraction, rate: int, start: Fraction = Fraction(0)) -> int:
    """Index of the sample nearest to time `at` in a sound that begins at `start`; halves go up; negative before it."""
    gap = at - start
    return (2 * gap.numerator * rate + gap.denominator) // (2 * gap.denominator)  # whole numbers, for speed
