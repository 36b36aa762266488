"""Pictures are made when they are asked for: the same picture in every size, in every format, upright."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ovi.media import decode, encode
from ovi.media.picture import frame_of
from tests.media.made import gradient, write

NOW = (Fraction(0), Fraction(1, 24))
FORMATS = [("yuv420p", {}), ("yuvj420p", {"color_range": 2}), ("yuv420p", {"colorspace": 1}), ("yuv420p10le", {})]


def means(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA).astype(int)


def test_an_array_comes_back_as_it_is() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    frame = frame_of(picture, *NOW)
    assert np.array_equal(frame.rgb, picture)
    assert np.abs(frame.small(32, 24) - means(picture, 32, 24)).max() <= 1


@pytest.mark.parametrize(("pix_fmt", "context"), FORMATS)
def test_smaller_is_the_mean_in_every_format(tmp_path: Path, pix_fmt: str, context: dict[str, Any]) -> None:
    path = write(tmp_path / "a.mp4", gradient(2, 96, 128), pix_fmt=pix_fmt, options={"crf": "6"}, **context)
    frame = next(decode.frames(path))
    for width, height in ((64, 48), (32, 24), (40, 30)):
        assert np.abs(frame.small(width, height) - means(frame.rgb, width, height)).mean() < 1.5
    kept = frame.within(64 * 48)
    assert (kept.width, kept.height) == (64, 48)
    assert np.abs(kept.rgb - means(frame.rgb, 64, 48)).mean() < 1.5
    assert frame.within(128 * 96) is frame


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_what_is_small_is_upright_too(tmp_path: Path, turn: int) -> None:
    encode.write_clip(tmp_path / "turned.mp4", gradient(2, 96, 128), 24, None, crf=6, rotation=turn)
    frame = next(decode.frames(tmp_path / "turned.mp4"))
    width, height = frame.width // 2, frame.height // 2
    assert np.abs(frame.small(width, height) - means(frame.rgb, width, height)).mean() < 1.5
    kept = frame.within(width * height)
    assert kept.rgb.shape == (height, width, 3)
    assert np.abs(kept.rgb - means(frame.rgb, width, height)).mean() < 1.5


def test_odd_sides_lose_less_than_a_pixel() -> None:
    kept = frame_of(gradient(1, 97, 131)[0], *NOW).within(65 * 48)
    assert kept.rgb.shape == (48, 65, 3)
