"""Sizes: near the target, multiples, no stretching."""

from __future__ import annotations

import numpy as np
import pytest

from ovi.curation.margins import Box
from ovi.curation.size import fit, packed_size


@pytest.mark.parametrize(
    ("source", "target", "multiple", "size"),
    [
        ((64, 64), 1024, 16, (32, 32)),
        ((720, 720), 518_400, 32, (704 + 32, 704 + 32)),
        ((1280, 704), 518_400, 32, (992, 544)),
        ((1504, 608), 518_400, 32, (1120, 448)),
        ((1280, 704), 1024, 16, (48, 32)),
        ((1344, 704), 1024, 16, (48, 32)),
        ((640, 480), 1024, 16, (32, 32)),
        ((854, 364), 1024, 16, (48, 16)),
        ((360, 640), 1024, 16, (32, 48)),
        ((4000, 100), 1024, 16, (208, 16)),
    ],
)
def test_sizes(source: tuple[int, int], target: int, multiple: int, size: tuple[int, int]) -> None:
    assert packed_size(*source, target, multiple) == size


def test_nothing_is_stretched() -> None:
    y, x = np.mgrid[:120, :200]
    disc = (255 * (np.hypot(y - 60, x - 100) < 40)).astype(np.uint8)
    out = fit(np.repeat(disc[..., None], 3, axis=-1), Box(0, 0, 200, 120), (48, 32))[..., 0]
    wide, tall = (out > 127).any(0).sum(), (out > 127).any(1).sum()
    assert abs(int(wide) - int(tall)) <= 1
    assert out.shape == (32, 48)


def test_the_box_is_what_is_seen() -> None:
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[16:48] = 200
    assert (fit(frame, Box(0, 16, 64, 32), (32, 16)) == 200).all()


def test_half_size_is_the_mean_of_four() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    out = fit(frame, Box(0, 0, 64, 64), (32, 32))
    assert np.abs(out - frame.reshape(32, 2, 32, 2, 3).mean((1, 3))).max() <= 0.5
