"""Windows: whole, on the grid, between cuts, not overlapping, whatever the source's frame rate."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest

from ovi.config import Clip
from ovi.curation.signals import Tally, Window, small_size, windows
from ovi.media.picture import Frame, frame_of
from tests.curation.test_scenes import moving

CLIP = Clip(fps=24, frames=25)


def stream(pictures: np.ndarray, times: list[Fraction], end: Fraction) -> Iterator[Frame]:
    for picture, time, until in zip(pictures, times, [*times[1:], end], strict=True):
        yield frame_of(picture, time, until)


def cut(pictures: np.ndarray, fps: Fraction, start: Fraction = Fraction(0)) -> tuple[list[Window], Tally]:
    times = [start + at / fps for at in range(len(pictures))]
    tally = Tally()
    found = list(windows(stream(pictures, times, start + len(pictures) / fps), fps, CLIP, 1 << 20, tally))
    return found, tally


def pictured(window: Window) -> np.ndarray:
    return np.stack([frame.rgb for frame in window.frames])


@pytest.mark.parametrize(("count", "whole"), [(24, 0), (25, 1), (49, 1), (50, 2), (77, 3)])
def test_as_many_windows_as_fit(count: int, whole: int) -> None:
    found, tally = cut(moving(1, count), Fraction(24), Fraction(1, 3))
    assert [w.start for w in found] == [Fraction(1, 3) + Fraction(25 * n, 24) for n in range(whole)]
    assert all(len(w.frames) == len(w.small) == 25 for w in found)
    assert (tally.pictures, tally.seconds, tally.cuts) == (count, Fraction(count, 24), 0)


def test_windows_hold_the_pictures_of_their_grid() -> None:
    pictures = moving(1, 60)
    found, _ = cut(pictures, Fraction(24))
    assert np.array_equal(pictured(found[0]), pictures[:25])
    assert np.array_equal(pictured(found[1]), pictures[25:50])
    assert np.array_equal(found[1].looks(24), pictures[25:50:12])
    assert found[0].scale == found[0].small_scale == 1.0


@pytest.mark.parametrize("fps", [Fraction(12), Fraction(30000, 1001), Fraction(25), Fraction(60)])
def test_other_frame_rates_show_what_is_on_the_screen(fps: Fraction) -> None:
    pictures = moving(1, int(2.5 * fps) + 1)
    found, _ = cut(pictures, fps)
    for window in found:
        grid = [window.start + Fraction(k, 24) for k in range(25)]
        shown = [int(at * fps) for at in grid]
        assert np.array_equal(pictured(window), pictures[shown])
    assert len(found) == 2


def test_no_window_holds_a_cut_and_each_scene_starts_its_own() -> None:
    pictures = np.concatenate([moving(1, 40), moving(2, 20), moving(3, 60)])
    found, tally = cut(pictures, Fraction(24))
    assert tally.cuts == 2
    assert [w.start * 24 for w in found] == [0, 60, 85]
    assert np.array_equal(pictured(found[1]), pictures[60:85])
    assert max(w.jump for w in found) < 14


def test_a_varying_frame_rate_is_seen_and_followed() -> None:
    pictures = moving(1, 40)
    times = [Fraction(at, 24) + (Fraction(1, 24) if at >= 10 else 0) for at in range(40)]  # one picture lasts twice
    tally = Tally()
    found = list(windows(stream(pictures, times, Fraction(41, 24)), Fraction(24), CLIP, 1 << 20, tally))
    assert tally.variable_rate
    assert np.array_equal(pictured(found[0]), pictures[[*range(10), 9, *range(10, 24)]])
    assert not cut(pictures, Fraction(30000, 1001))[1].variable_rate


def test_large_sources_are_kept_by_halves_and_looked_at_in_small() -> None:
    pictures = np.repeat(np.repeat(moving(1, 25), 60, axis=1), 60, axis=2)  # 2160 x 3840
    times = [Fraction(at, 24) for at in range(25)]
    (window,) = windows(stream(pictures, times, Fraction(25, 24)), Fraction(24), CLIP, 518_400, Tally())
    assert ((window.frames[0].width, window.frames[0].height), window.scale) == ((1920, 1080), 0.5)
    assert window.small.shape[1:] == (64, 114, 3)
    assert window.looks(24).shape == (3, 1080, 1920, 3)
    assert [small_size(*size) for size in ((64, 64), (40, 30), (360, 640))] == [(64, 64), (40, 30), (64, 114)]


def test_a_picture_that_stands_still_for_long_ends_its_window() -> None:
    pictures = moving(1, 60)
    times = [Fraction(at, 24) + (Fraction(3) if at >= 20 else 0) for at in range(60)]
    found = list(windows(stream(pictures, times, times[-1] + Fraction(1, 24)), Fraction(24), CLIP, 1 << 20, Tally()))
    assert [w.start for w in found] == [times[20]]


def test_no_window_begins_before_the_sound() -> None:
    pictures = moving(1, 60)
    times = [Fraction(at, 24) for at in range(60)]
    found = list(
        windows(stream(pictures, times, Fraction(60, 24)), Fraction(24), CLIP, 1 << 20, Tally(), Fraction(10, 48))
    )
    assert [w.start for w in found] == [Fraction(5, 24), Fraction(30, 24)]


def test_a_window_knows_how_many_pictures_it_has() -> None:
    found, _ = cut(moving(1, 30), Fraction(12))
    assert [w.distinct for w in found] == [13, 13]
    assert [w.distinct for w in cut(moving(1, 60), Fraction(48))[0]] == [25]
