from __future__ import annotations

import numpy as np
import pytest

from ovi.errors import OviError
from ovi.evaluation import watching
from ovi.synthetic.scenes import render


def test_a_true_sound_aligns_better_than_another() -> None:
    """The published measure, on bouncing balls: own sound against the other clips'."""
    shots = [render("bounce", seed, size=(48, 48)) for seed in range(3)]
    own = [watching.av_align(shot.frames, shot.audio, 24, 16_000) for shot in shots]
    others = [
        watching.av_align(shot.frames, other.audio, 24, 16_000)
        for shot in shots
        for other in shots
        if other is not shot
    ]
    assert all(0 <= value <= 1 for value in own + others)
    assert np.mean(own) > np.mean(others)
    with pytest.raises(OviError, match="needs a peak"):
        watching.av_align(np.zeros((9, 16, 16, 3), np.uint8), np.zeros(6000, np.float32), 24, 16_000)


def test_jerks_are_less_smooth_than_motion() -> None:
    ramp = np.broadcast_to(np.arange(0, 120, 4, dtype=np.uint8)[:, None, None, None], (30, 8, 8, 3))
    jerky = ramp.copy()
    jerky[::2] += 30
    assert watching.smoothness(ramp) == 1
    assert watching.smoothness(jerky) == pytest.approx(1 - 30 / 255, abs=1e-6)
    with pytest.raises(OviError, match="three frames"):
        watching.smoothness(ramp[:2])
