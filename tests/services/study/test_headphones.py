"""The tones: what headphones and loudspeakers make of them."""

from __future__ import annotations

import io
import wave

import numpy as np

from services.study import headphones


def powers(one: headphones.Round, loudspeakers: bool) -> list[float]:
    """Of the three tones at an ear: headphones give it one channel, loudspeakers the sum of both."""
    with wave.open(io.BytesIO(headphones.wav(one))) as file:
        assert (file.getframerate(), file.getnchannels()) == (headphones.RATE, 2)
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2).astype(float)
    ear = samples.sum(axis=1) / 2 if loudspeakers else samples[:, 1]
    return [float((part**2).mean()) for part in np.array_split(ear, 3)]


def test_headphones_hear_the_quiet_tone_and_loudspeakers_lose_the_opposite_one() -> None:
    for quiet, opposite in ((0, 1), (1, 2), (2, 0)):
        assert int(np.argmin(powers((quiet, opposite), loudspeakers=False))) == quiet
        assert int(np.argmin(powers((quiet, opposite), loudspeakers=True))) == opposite
    levels = sorted(powers((0, 1), loudspeakers=False))
    assert abs(10 * np.log10(levels[0] / levels[1]) + 6) < 0.1


def test_guessing_does_not_pass() -> None:
    rng = np.random.default_rng(0)
    rounds = headphones.draw()
    assert all(quiet != opposite for quiet, opposite in rounds)
    guesses = [headphones.passed(rounds, rng.integers(3, size=6).tolist()) for _ in range(2000)]
    assert np.mean(guesses) < 0.04
    assert headphones.passed(rounds, [quiet for quiet, _ in rounds])
    assert not headphones.passed(rounds, [opposite for _, opposite in rounds])
