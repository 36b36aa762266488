"""Bars are cropped to the pixel; dark scenes keep every pixel."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ovi.curation.margins import Box, measure, possible
from ovi.synthetic.scenes import SCENES, render
from tests.golden import curation as golden

Frames = np.ndarray


def pictures(height: int, width: int, count: int = 11) -> Frames:
    """A bright texture that drifts: uint8 [count, H, W, 3]."""
    rng = np.random.default_rng(height * width)
    coarse = rng.integers(60, 220, (height // 8 + 2, width // 8 + 4, 3)).astype(np.float32)
    wide = cv2.resize(coarse, (width + 2 * count, height), interpolation=cv2.INTER_LINEAR)
    return np.stack([wide[:, 2 * at : 2 * at + width] for at in range(count)]).astype(np.uint8)


def barred(left: int, top: int, right: int, bottom: int, level: int = 0) -> Frames:
    inside = pictures(90, 160)
    sides = ((0, 0), (top, bottom), (left, right), (0, 0))
    return np.pad(inside, sides, constant_values=level)


@pytest.mark.parametrize(
    ("left", "top", "right", "bottom"),
    [(0, 12, 0, 12), (20, 0, 20, 0), (0, 7, 0, 11), (13, 11, 7, 9), (0, 16, 0, 0), (30, 20, 30, 20), (0, 1, 0, 1)],
)
@pytest.mark.parametrize("level", [0, 16])
def test_bars_are_found_to_the_pixel(left: int, top: int, right: int, bottom: int, level: int) -> None:
    frames = barred(left, top, right, bottom, level)
    box = measure(frames)
    assert box == Box(left, top, 160, 90)
    assert np.array_equal(box.cut(frames), pictures(90, 160))


@pytest.mark.parametrize("row", golden.arrays("margins")["rows"].tolist(), ids=str)
def test_planted_bars_are_found_where_rounding_misses_some(row: list[int]) -> None:
    width, height, left, right, top, bottom, level = row[:7]
    inside = golden.uniform(0, 7000, (11, height - top - bottom, width - left - right))
    frames = np.full((11, height, width, 3), level, np.uint8)
    frames[:, top : height - bottom, left : width - right] = 60 + np.floor(inside * 160)[..., None]
    planted = Box(left, top, width - left - right, height - top - bottom)
    assert (measure(frames) or Box(0, 0, width, height)) == planted
    assert possible(frames[0]) == (planted != Box(0, 0, width, height))


def test_a_picture_without_bars_keeps_every_pixel() -> None:
    assert measure(pictures(90, 160)) is None
    assert measure(pictures(64, 64)) is None


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("size", [(64, 64), (64, 112), (112, 64)])
def test_dark_scenes_have_no_bars(scene: str, size: tuple[int, int]) -> None:
    for seed in range(3):
        assert measure(render(scene, seed, size=size).frames[::12]) is None


@pytest.mark.parametrize("scene", SCENES)
def test_bars_too_noisy_or_too_bright_are_part_of_the_picture(scene: str) -> None:
    rng = np.random.default_rng(0)
    frames = barred(0, 12, 0, 12)
    noisy = frames.copy()
    noisy[:, :12] = rng.integers(0, 60, noisy[:, :12].shape)
    noisy[:, -12:] = rng.integers(0, 60, noisy[:, -12:].shape)
    assert measure(noisy) is None
    assert measure(barred(0, 12, 0, 12, level=90)) is None


def test_a_dark_stretch_keeps_its_bars_unless_they_are_known() -> None:
    dark = (barred(0, 12, 0, 12) // 12).astype(np.uint8)
    known = Box(0, 12, 160, 90)
    assert measure(dark) is None
    assert measure(dark, known) == known
    lit = dark.copy()
    lit[:, 3] = 120
    assert measure(lit, known) is None


def test_a_dark_picture_edge_is_not_cropped_with_the_bar() -> None:
    slide = render("slide", 0).frames[::12]  # its background is (10, 10, 14)
    for bar in (8, 16):
        box = measure(np.pad(slide, ((0, 0), (bar, bar), (0, 0), (0, 0))))
        assert box == Box(0, bar, 64, 64)


def test_a_sky_that_brightens_slowly_has_no_bar() -> None:
    rise = np.clip(np.arange(90) * 2 - 30, 0, 255).astype(np.uint8)[None, :, None, None]
    assert measure(np.maximum(rise, np.zeros((11, 90, 160, 3), np.uint8))) is None


def test_a_caption_in_the_bar_keeps_it() -> None:
    frames = barred(0, 20, 0, 20)
    frames[:, 115:120, 60:100] = 230
    box = measure(frames)
    assert box is None or box.y + box.height >= 120


def test_scaling_rounds_inwards() -> None:
    assert Box(0, 58, 854, 364).scaled(0.1) == Box(0, 6, 85, 36)
    assert Box(3, 5, 10, 20).scaled(1.0) == Box(3, 5, 10, 20)
    assert str(Box(0, 58, 854, 364)) == "854:364:0:58"
