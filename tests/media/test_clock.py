"""The clock on arbitrary rates and times."""

from __future__ import annotations

from bisect import bisect_right
from fractions import Fraction
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovi.media import clock, cut
from ovi.media.picture import frame_of
from ovi.media.probe import MediaError

RATES = st.sampled_from([Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(30), Fraction(60), Fraction(12)])
GAPS = st.lists(st.fractions(Fraction(1, 240), Fraction(1, 5), max_denominator=90000), min_size=2, max_size=30)
STARTS = st.fractions(Fraction(-2), Fraction(3), max_denominator=90000)


def picks(times: list[Fraction], end: Fraction, start: Fraction, frames: int) -> list[int] | None:
    """Which picture each of `frames` grid times from `start` shows; None if one is outside [times[0], end)."""
    grid = [clock.frame_time(k, 24, start) for k in range(frames)]
    if grid[0] < times[0] or grid[-1] >= end:
        return None
    return [bisect_right(times, at) - 1 for at in grid]


@settings(max_examples=40, deadline=None)
@given(GAPS, STARTS, STARTS, st.integers(1, 40))
def test_each_grid_time_gets_the_picture_shown_then(
    gaps: list[Fraction], first: Fraction, start: Fraction, frames: int
) -> None:
    *times, end = accumulate(gaps, initial=first)
    chosen = picks(times, end, start, frames)
    stream = [
        frame_of(np.full((1, 1, 3), k, np.uint8), time, until)
        for k, (time, until) in enumerate(zip(times, [*times[1:], end], strict=True))
    ]
    if chosen is None:
        with pytest.raises(MediaError, match="pictures from") as caught:
            cut.pictures(stream, start, 24, frames, "source")
        assert caught.value.reason == "short"
    else:
        assert cut.pictures(stream, start, 24, frames, "source")[:, 0, 0, 0].tolist() == chosen


@settings(max_examples=40, deadline=None)
@given(RATES, STARTS, st.integers(0, 200))
def test_times_that_a_coarse_clock_rounded_are_put_back(rate: Fraction, first: Fraction, frames: int) -> None:
    tick = Fraction(1, 1000)
    rounded = [round(clock.frame_time(k, rate, first) / tick) * tick for k in range(frames + 1)]
    put_back = [clock.snapped(time, rounded[0], rate, tick) for time in rounded]
    assert put_back == [clock.frame_time(k, rate, rounded[0]) for k in range(frames + 1)]


def test_times_on_no_grid_stay_as_they_are() -> None:
    assert clock.snapped(Fraction(1, 7), Fraction(0), Fraction(24), Fraction(1, 1000)) == Fraction(1, 7)
    assert clock.snapped(Fraction(1, 7), Fraction(0), Fraction(0), Fraction(1, 1000)) == Fraction(1, 7)


@settings(max_examples=40, deadline=None)
@given(STARTS, STARTS, st.sampled_from([8000, 16000, 22050, 44100, 48000]))
def test_a_sample_is_the_nearest_one(at: Fraction, start: Fraction, rate: int) -> None:
    sample = clock.sample_at(at, rate, start)
    assert abs(start + Fraction(sample, rate) - at) <= Fraction(1, 2 * rate)
    assert clock.sample_at(at + 1, rate, start) == sample + rate
