"""Clips are cut to the picture and to the sample, at every frame rate and wherever they begin."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from ovi.config import Clip
from ovi.curation.signals import Tally, windows
from ovi.media import cut, decode, probe
from ovi.media.tape import Tape
from tests.media.clocked import RATES, Skew, film, skew

CLIP = Clip()
FILES = [*((name, "mp4") for name in RATES), *((name, "mkv") for name in ("23.976", "24", "29.97", "variable"))]


def check(found: Skew) -> None:
    assert found.clips
    assert (found.frames, found.samples) == ({121}, {80640})
    assert found.pictures_ms == 0
    assert found.sound_ms <= 0.2


@pytest.mark.parametrize(("name", "kind"), FILES)
def test_cuts_at_any_time(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / f"film.{kind}"
    clock = film(path, RATES[name], 7.0)
    frames, sound = list(decode.frames(path)), decode.audio(path)
    starts = [Fraction(1) + Fraction(at, 3) / (RATES[name] or 24) for at in range(3)]
    check(
        skew(
            clock, ((at, cut.pictures(frames, at, 24, 121, path), cut.window(sound, at, 16000, 80640)) for at in starts)
        )
    )


@pytest.mark.parametrize("name", RATES)
def test_what_curation_cuts(tmp_path: Path, name: str) -> None:
    """The windows of its one pass, with their sound, which is read as they come."""
    path = tmp_path / "film.mp4"
    clock = film(path, RATES[name], 11.0)

    def clips() -> Iterator[tuple[Fraction, np.ndarray, np.ndarray]]:
        info = probe.probe(path)
        tape = Tape(decode.sound(path, info))
        rate = info.pictures().average_rate
        for window in windows(decode.frames(path, info), rate, CLIP, 518_400, Tally()):
            sound = tape.between(window.start, window.start + Fraction(CLIP.samples, CLIP.sample_rate))
            pictures = np.stack([frame.rgb for frame in window.frames])
            yield window.start, pictures, cut.window(sound, window.start, CLIP.sample_rate, CLIP.samples)

    found = skew(clock, clips())
    check(found)
    assert found.clips == 2
