"""Picture and sound stay together, to the millisecond, through write, probe, decode and cut."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from ovi.media import cut, decode, encode, probe
from ovi.media.probe import MediaError
from tests.media.made import clicks, flashes, write

STARTS = [Fraction(0), Fraction(1, 3), Fraction(1001, 977)]


def flash_times(cut_: cut.Cut) -> list[Fraction]:
    """When the clip turns white, on its own grid."""
    white = cut_.frames.mean(axis=(1, 2, 3)) > 120
    return [Fraction(int(k), 24) for k in np.flatnonzero(white & ~np.roll(white, 1))]


@pytest.mark.parametrize(
    ("fps", "rate"),
    [(Fraction(24), 16000), (Fraction(25), 48000), (Fraction(30000, 1001), 44100), (Fraction(30), 16000)],
)
def test_flash_and_click(tmp_path: Path, fps: Fraction, rate: int) -> None:
    frames, audio, times = flashes(fps, 7.0, rate)
    path = tmp_path / "flash.mp4"
    encode.write_clip(path, frames, fps, audio if rate == 16000 else np.stack([audio, audio], axis=1), rate)
    info = probe.probe(path)
    assert info.pictures().average_rate == fps
    shown = [frame.time for frame in decode.frames(path, info) if frame.rgb.mean() > 120]
    assert shown == times
    sound = decode.audio(path, info)
    assert (sound.rate, sound.start) == (rate, 0)
    for time, click in zip(times, clicks(sound.samples[:, 0], rate, times), strict=True):
        assert abs(click - time) <= 0.001
    for start in STARTS:
        piece = cut.clip(path, start, info=info)
        assert piece.frames.shape[0] == 121
        assert piece.audio.shape == (80640,)
        due = [time - start for time in times if 0.05 < time - start < Fraction(49, 10)]
        for time, click in zip(due, clicks(piece.audio, 16000, due), strict=True):
            assert abs(click - time) <= 0.001
        for seen in flash_times(piece):  # late by less than the flash lasts, never early
            assert any(0 <= seen - time < 1 / fps for time in (t - start for t in times))


def test_variable_rate(tmp_path: Path) -> None:
    frames, audio, times = flashes(Fraction(24), 7.0, 16000)
    white = {k for k in range(len(frames)) if frames[k].mean() > 120}
    rng = np.random.default_rng(1)
    ticks = [k for k in range(len(frames)) if k in white or k == 0 or rng.random() > 0.3]
    path = tmp_path / "vfr.mp4"
    encode.write_clip(path, frames[ticks], 24, audio, 16000, ticks=ticks)
    shown = list(decode.frames(path))
    assert [frame.time for frame in shown] == [Fraction(k, 24) for k in ticks]
    assert all(frame.end == after.time for frame, after in pairwise(shown))
    piece = cut.clip(path, Fraction(1, 2))
    due = [time - Fraction(1, 2) for time in times if 0.05 < time - Fraction(1, 2) < Fraction(49, 10)]
    assert flash_times(piece) == due
    for time, click in zip(due, clicks(piece.audio, 16000, due), strict=True):
        assert abs(click - time) <= 0.001


def test_sound_that_starts_late_is_heard_late(tmp_path: Path) -> None:
    frames, audio, times = flashes(Fraction(25), 7.0, 16000)
    path = write(tmp_path / "late.mp4", frames, audio=audio, audio_start=Fraction(1, 2), fps=25)
    piece = cut.clip(path)
    due = [time + Fraction(1, 2) for time in times if time + Fraction(1, 2) < Fraction(49, 10)]
    for time, click in zip(due, clicks(piece.audio, 16000, due), strict=True):
        assert abs(click - time) <= 0.001
    assert np.abs(piece.audio[:7000]).max() < 1e-3


def test_beyond_the_pictures_is_short_and_beyond_the_sound_is_silent(tmp_path: Path) -> None:
    frames, audio, _ = flashes(Fraction(24), 6.0, 16000)
    path = tmp_path / "half.mp4"
    encode.write_clip(path, frames, 24, audio[:40000], 16000)
    piece = cut.clip(path)
    assert np.abs(piece.audio[42000:]).max() == 0
    for start in (Fraction(-1, 100), Fraction(2)):
        with pytest.raises(MediaError, match="pictures from") as caught:
            cut.clip(path, start)
        assert caught.value.reason == "short"
