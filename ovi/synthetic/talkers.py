"""Mouths that speak with their sound a known time off: what a judge of synchronisation is tried on.

A talker is the mouth scene seen through a window of one clip, and the sound of a window that lies so much earlier, so
that nothing is silenced or repeated at the ends. Every other one is filmed badly: grain in the picture, hiss in the
sound. It knows nothing of files.
Try it: `python benchmarks/talkers.py --talkers 20`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ovi.synthetic import sounds
from ovi.synthetic.scenes import render

FPS, FRAMES, RATE, SAMPLES = 24, 121, 16_000, 80_640
AROUND_S = 1  # s of scene before and after the window
LEAST_SYLLABLES = 3  # that lie inside both windows, or there is nobody who talks
LONGEST_S = 0.32  # of a syllable; none is under way when the pictures begin, which would look like a cut
FRAME_MS = 40
REACH = 15  # frames of 25 fps that sound is off at most, as far as SyncNet looks
GRAIN, HISS_DB = 0.04 * 255, -10.0  # of a badly filmed one: levels, and dB of the voice


@dataclass(frozen=True)
class Talker:
    """frames uint8 [121, H, W, 3]; audio float32 [80640] at 16 kHz, late by `late_ms`."""

    frames: NDArray[np.uint8]
    audio: sounds.Array
    late_ms: int
    poor: bool


def talker(number: int, size: int = 64) -> Talker:
    """The n-th talker, with sound off by whole frames of 40 ms: 31 in a row have every offset from -15 to 15."""
    late_ms, poor = FRAME_MS * (number % (2 * REACH + 1) - REACH), bool(number % 2)
    rng = sounds.generator("talker", number)
    start_s = AROUND_S - late_ms / 1000  # of the sound's window
    while True:
        scene = render(
            "mouth", int(rng.integers(1 << 31)), fps=FPS, frames=FRAMES + 2 * AROUND_S * FPS, size=(size, size),
            rate=RATE, samples=SAMPLES + 2 * AROUND_S * RATE,
        )  # fmt: skip
        first, last = max(AROUND_S, start_s), min(AROUND_S, start_s) + SAMPLES / RATE
        talks = sum(first <= event < last - LONGEST_S for event in scene.events) >= LEAST_SYLLABLES
        if talks and not any(AROUND_S - LONGEST_S < event < AROUND_S for event in scene.events):
            break
    frames = scene.frames[AROUND_S * FPS : AROUND_S * FPS + FRAMES]
    audio = scene.audio[round(start_s * RATE) :][:SAMPLES]
    if poor:
        frames = np.clip(frames + rng.normal(0, GRAIN, frames.shape), 0, 255).astype(np.uint8)
        audio = audio + rng.normal(0, audio.std() * 10 ** (HISS_DB / 20), SAMPLES).astype(np.float32)
    return Talker(frames, audio, late_ms, poor)
