"""Levels and resampling."""

from __future__ import annotations

import numpy as np
import pytest

from ovi.media import audio
from tests.golden import curation as golden


@pytest.mark.parametrize("rates", [(48000, 16000), (44100, 16000), (16000, 48000), (22050, 16000), (8000, 16000)])
def test_resampling_keeps_time_and_level(rates: tuple[int, int]) -> None:
    source, target = rates
    time = np.arange(source) / source
    there = audio.resample(np.sin(2 * np.pi * 1000 * time + 0.3).astype(np.float32), source, target)
    assert len(there) == target
    expected = np.sin(2 * np.pi * 1000 * np.arange(target) / target + 0.3)
    inside = slice(target // 50, -target // 50)
    assert np.abs(there[inside] - expected[inside]).max() < 2e-3


def test_resampling_removes_what_the_lower_rate_cannot_hold() -> None:
    high = np.sin(2 * np.pi * 11000 * np.arange(48000) / 48000).astype(np.float32)
    assert audio.mean_volume_db(audio.resample(high, 48000, 16000)[400:-400]) < -70


def test_channels_are_resampled_apart_and_mixed_by_their_mean() -> None:
    stereo = np.stack([np.full(480, 0.5), np.full(480, -0.1)], axis=1).astype(np.float32)
    assert audio.resample(stereo, 48000, 16000).shape == (160, 2)
    assert audio.to_mono(stereo) == pytest.approx(np.full(480, 0.2))
    assert audio.to_mono(stereo[:, 0]) is not None


def test_levels() -> None:
    sine = np.sin(2 * np.pi * np.arange(16000) / 16).astype(np.float32)
    assert audio.mean_volume_db(sine) == pytest.approx(-3.01, abs=0.01)
    assert audio.peak_db(sine) == pytest.approx(0, abs=1e-3)
    assert audio.mean_volume_db(np.stack([sine, 0 * sine], axis=1)) == pytest.approx(-6.02, abs=0.01)
    assert audio.mean_volume_db(np.zeros(9, np.float32)) == -120
    assert audio.peak_db(np.zeros(0, np.float32)) == -120


def test_levels_are_those_that_ffmpeg_rounds() -> None:
    case = golden.arrays("volume")
    for at, name in enumerate(case["names"]):
        samples = case[f"{at}_{name}"] / np.float32(32768)
        if name == "silence":
            assert audio.mean_volume_db(samples) == audio.SILENCE_DB
            continue
        assert audio.mean_volume_db(samples) == pytest.approx(case["analytic_rms_dbfs"][at], abs=1e-4)
        assert audio.mean_volume_db(samples) == pytest.approx(case["ffmpeg_mean_db"][at], abs=0.05001)
        assert audio.peak_db(samples) == pytest.approx(case["ffmpeg_max_db"][at], abs=0.05001)
