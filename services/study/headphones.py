"""Does the rater wear headphones? Three tones, which is the quietest (Woods et al. 2017).

One tone is 6 dB down. Another has its channels in opposite phase: from loudspeakers it cancels and seems the quietest,
in headphones it does not (doi:10.3758/s13414-017-1361-2). It knows no raters.
Try it: `pytest tests/services/study/test_headphones.py`.
"""

from __future__ import annotations

import io
import secrets
import wave

import numpy as np

from ovi.media.encode import pcm16

ROUNDS, NEEDED, ATTEMPTS = 6, 5, 3
RATE, TONE_HZ, TONE_S, GAP_S, RAMP_S = 44100, 200.0, 0.8, 0.35, 0.1
LEVEL, QUIET = 0.25, 0.5  # amplitude; the quiet tone's share of it

Round = tuple[int, int]  # which of the three tones is the quiet one, and which has its channels in opposite phase


def draw() -> list[Round]:
    """The rounds of one attempt, unforeseeable."""
    rounds = []
    for _ in range(ROUNDS):
        quiet = secrets.randbelow(3)
        rounds.append((quiet, (quiet + 1 + secrets.randbelow(2)) % 3))
    return rounds


def passed(rounds: list[Round], answers: list[int]) -> bool:
    return sum(answer == quiet for (quiet, _), answer in zip(rounds, answers, strict=True)) >= NEEDED


def wav(rounds: Round) -> bytes:
    """One round as a stereo WAV."""
    quiet, opposite = rounds
    seconds = np.arange(round(TONE_S * RATE)) / RATE
    tone = LEVEL * np.sin(2 * np.pi * TONE_HZ * seconds) * np.clip(np.minimum(seconds, TONE_S - seconds) / RAMP_S, 0, 1)
    gap = np.zeros((round(GAP_S * RATE), 2))
    parts = []
    for place in range(3):
        left = tone * (QUIET if place == quiet else 1)
        parts += [gap, np.stack([left, -left if place == opposite else left], axis=1)]
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(2)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes(pcm16(np.concatenate(parts).astype(np.float32)).tobytes())
    return file.getvalue()
