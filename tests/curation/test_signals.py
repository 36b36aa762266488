"""Windows: whole, on the grid, between cuts, not overlapping, whatever the source's frame rate."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest

from ovi.config import Clip
from ovi.curation.signals import Tally, Window, halved, windows
from ovi.media.decode import Frame
from tests.curation.test_scenes import moving

CLIP = Clip(fps=24, frames=25)


def stream(pictures: np.ndarray, times: list[Fraction], end: Fraction) -> Iterator[Frame]:
    for picture, time, until in zip(pictures, times, [*times[1:], end], strict=True):
        yield Frame(time, until, picture)


def cut(pictures: np.ndarray, fps: Fraction, start: Fraction = Fraction(0)) -> tuple[list[Window], Tally]:
    times = [start + at / fps for at in range(len(pictures))]
    tally = Tally()
    found = list(windows(stream(pictures, times, start + len(pictures) / fps), fps, CLIP, 1 << 20, tally))
    return found, tally


@pytest.mark.parametrize(("count", "whole"), [(24, 0), (25, 1), (49, 1), (50, 2), (77, 3)])
def test_as_many_windows_as_fit(count: int, whole: int) -> None:
    found, tally = cut(moving(1, count), Fraction(24), Fraction(1, 3))
    assert [w.start for w in found] == [Fraction(1, 3) + Fraction(25 * n, 24) for n in range(whole)]
    assert all(len(w.frames) == len(w.small) == 25 for w in found)
    assert (tally.pictures, tally.seconds, tally.cuts) == (count, Fraction(count, 24), 0)


def test_windows_hold_the_pictures_of_their_grid() -> None:
    pictures = moving(1, 60)
    found, _ = cut(pictures, Fraction(24))
    assert np.array_equal(np.stack(found[0].frames), pictures[:25])
    assert np.array_equal(np.stack(found[1].frames), pictures[25:50])
    assert np.array_equal(found[1].looks, pictures[25:50:12])
    assert found[0].scale == found[0].looks_scale == 1.0


@pytest.mark.parametrize("fps", [Fraction(12), Fraction(30000, 1001), Fraction(25), Fraction(60)])
def test_other_frame_rates_show_what_is_on_the_screen(fps: Fraction) -> None:
    pictures = moving(1, int(2.5 * fps) + 1)
    found, _ = cut(pictures, fps)
    for window in found:
        grid = [window.start + Fraction(k, 24) for k in range(25)]
        shown = [int(at * fps) for at in grid]
        assert np.array_equal(np.stack(window.frames), pictures[shown])
    assert len(found) == 2


def test_no_window_holds_a_cut_and_each_scene_starts_its_own() -> None:
    pictures = np.concatenate([moving(1, 40), moving(2, 20), moving(3, 60)])
    found, tally = cut(pictures, Fraction(24))
    assert tally.cuts == 2
    assert [w.start * 24 for w in found] == [0, 60, 85]
    assert np.array_equal(np.stack(found[1].frames), pictures[60:85])
    assert max(w.jump for w in found) < 14


def test_a_varying_frame_rate_is_seen_and_followed() -> None:
    pictures = moving(1, 40)
    times = [Fraction(at, 24) + (Fraction(1, 24) if at >= 10 else 0) for at in range(40)]  # one picture lasts twice
    tally = Tally()
    found = list(windows(stream(pictures, times, Fraction(41, 24)), Fraction(24), CLIP, 1 << 20, tally))
    assert tally.variable_rate
    assert np.array_equal(np.stack(found[0].frames), pictures[[*range(10), 9, *range(10, 24)]])
    assert not cut(pictures, Fraction(30000, 1001))[1].variable_rate


def test_large_sources_are_reduced_by_powers_of_two() -> None:
    pictures = np.repeat(np.repeat(moving(1, 25), 10, axis=1), 10, axis=2)  # 360 x 640
    times = [Fraction(at, 24) for at in range(25)]
    (window,) = windows(stream(pictures, times, Fraction(25, 24)), Fraction(24), CLIP, 1024, Tally())
    assert (window.frames[0].shape, window.scale) == ((90, 160, 3), 0.25)
    assert (window.small.shape[1:], window.small_scale) == ((90, 160, 3), 0.25)
    assert (window.looks.shape, window.looks_scale) == ((3, 360, 640, 3), 1.0)


def test_halving_is_the_mean_of_four_pixels() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (7, 10, 3), dtype=np.uint8)
    half = halved(picture, 15)
    assert half.shape == (3, 5, 3)
    assert np.abs(half - picture[:6].reshape(3, 2, 5, 2, 3).mean((1, 3))).max() <= 0.5
    assert halved(picture, 16) is picture
