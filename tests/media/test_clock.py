"""The clock on arbitrary rates and times."""

from __future__ import annotations

from fractions import Fraction
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovi.media import clock, cut
from ovi.media.decode import Frame
from ovi.media.probe import MediaError

RATES = st.sampled_from([Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(30), Fraction(60), Fraction(12)])
GAPS = st.lists(st.fractions(Fraction(1, 240), Fraction(1, 5), max_denominator=90000), min_size=2, max_size=30)
STARTS = st.fractions(Fraction(-2), Fraction(3), max_denominator=90000)


@settings(max_examples=40, deadline=None)
@given(GAPS, STARTS, STARTS, st.integers(1, 40))
def test_each_grid_time_gets_the_picture_shown_then(
    gaps: list[Fraction], first: Fraction, start: Fraction, frames: int
) -> None:
    *times, end = accumulate(gaps, initial=first)
    chosen = clock.picks(times, end, start, 24, frames)
    grid = [clock.frame_time(k, 24, start) for k in range(frames)]
    if chosen is None:
        assert grid[0] < times[0] or grid[-1] >= end
        return
    until = [*times[1:], end]
    assert all(times[k] <= at < until[k] for k, at in zip(chosen, grid, strict=True))


@settings(max_examples=40, deadline=None)
@given(GAPS, STARTS, STARTS, st.integers(1, 40))
def test_cutting_frames_as_they_stream_by_chooses_the_same(
    gaps: list[Fraction], first: Fraction, start: Fraction, frames: int
) -> None:
    *times, end = accumulate(gaps, initial=first)
    chosen = clock.picks(times, end, start, 24, frames)
    stream = [
        Frame(time, until, np.full((1, 1, 3), k, np.uint8))
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
def test_the_same_rate_shows_each_picture_once(rate: Fraction, start: Fraction, frames: int) -> None:
    times = [clock.frame_time(k, rate, start) for k in range(frames + 1)]
    assert [clock.shown_at(times, time) for time in times] == list(range(frames + 1))
    assert clock.whole_frames(start, times[-1], rate) == frames


@settings(max_examples=40, deadline=None)
@given(STARTS, STARTS, st.sampled_from([8000, 16000, 22050, 44100, 48000]))
def test_a_sample_is_the_nearest_one(at: Fraction, start: Fraction, rate: int) -> None:
    sample = clock.sample_at(at, rate, start)
    assert abs(start + Fraction(sample, rate) - at) <= Fraction(1, 2 * rate)
    assert clock.sample_at(at + 1, rate, start) == sample + rate
