from __future__ import annotations

import numpy as np
import pytest

from ovi.errors import OviError
from ovi.evaluation import levels


def sine(hz: float, height: float, seconds: float = 3.0, rate: int = 48_000) -> np.ndarray:
    return (height * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def test_loudness_is_that_of_the_recommendation() -> None:
    """BS.1770-4: 997 Hz at full scale in one channel reads -3.01 LUFS; halving the height takes off 6.02."""
    assert levels.loudness(sine(997, 1.0), 48_000) == pytest.approx(-3.01, abs=0.02)
    assert levels.loudness(sine(997, 0.5), 48_000) == pytest.approx(-9.03, abs=0.02)
    assert levels.loudness(sine(997, 0.5, rate=16_000), 16_000) == pytest.approx(-9.03, abs=0.05)
    assert levels.loudness(sine(30, 0.5), 48_000) < -15  # hardly heard
    half = np.concatenate([sine(997, 0.5), np.zeros(144_000, np.float32)])
    assert levels.loudness(half, 48_000) == pytest.approx(-9.03, abs=0.3)  # gated: silence does not count


def test_silence_clipping_and_bandwidth() -> None:
    half = np.concatenate([sine(1000, 0.5, 2, 16_000), np.zeros(32_000, np.float32)])
    assert levels.silence(half, 16_000) == 0.5
    assert levels.clipping(np.clip(sine(100, 1.0) * 2, -1, 1)) == pytest.approx(2 / 3, abs=0.01)
    assert levels.clipping(sine(100, 0.9)) == 0
    assert levels.bandwidth(sine(1000, 0.5, 2, 16_000), 16_000) == pytest.approx(1000, abs=2)
    noise = np.random.default_rng(0).normal(size=32_000).astype(np.float32)
    assert levels.bandwidth(noise, 16_000) == pytest.approx(7920, abs=60)


def test_what_has_no_level() -> None:
    nothing, silent = np.zeros(0, np.float32), np.zeros(32_000, np.float32)
    with pytest.raises(OviError, match="silent"):
        levels.loudness(silent, 16_000)
    with pytest.raises(OviError, match=r"0\.4 s"):
        levels.loudness(nothing, 16_000)
    with pytest.raises(OviError, match="no sound"):
        levels.bandwidth(silent, 16_000)
    for compute in (levels.clipping, lambda audio: levels.silence(audio, 16_000)):
        with pytest.raises(OviError):
            compute(nothing)
