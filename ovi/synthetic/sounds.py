"""Sound from formulas: beeps, thunks, bells, friction and a speaking voice, each placed at exact times.

Every maker takes a seeded numpy Generator or needs none, and returns float32 mono in [-1, 1]. It knows nothing of pictures.
Try it: `python -c "from ovi.synthetic import sounds; print(sounds.speech(1, 3.0).caption)"`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, lfilter, sosfilt

Array = NDArray[np.float32]

PEAK = 0.7
DITHER = 10 ** (-70 / 20)  # RMS of the floor, so that logarithms of silence stay finite
PITCH_WORDS = ("deep", "low", "medium", "high", "shrill")  # step 0..4 of every pitched sound
VOWELS = {"a": (730, 1090, 2440), "e": (530, 1840, 2480), "i": (290, 2290, 3010), "o": (500, 900, 2400), "u": (320, 800, 2240)}
LOCI = {"b": (250, 750, 2100), "d": (250, 1750, 2700), "m": (250, 1000, 2200)}  # where a consonant's formants start, Hz
SYLLABLES = tuple(consonant + vowel for consonant in LOCI for vowel in VOWELS)
THUNK = ((1.0, 1.0, 0.09), (1.59, 0.5, 0.06), (2.65, 0.3, 0.04), (4.2, 0.2, 0.02))  # (ratio, gain, decay s)
BELL = ((0.5, 0.3, 0.5), (1.0, 1.0, 0.35), (2.0, 0.5, 0.2), (2.76, 0.35, 0.15), (5.4, 0.25, 0.06))


@dataclass(frozen=True)
class Syllable:
    """A syllable such as "ba", voiced from `start` for `length` seconds at `pitch` Hz."""

    text: str
    start: float
    length: float
    pitch: float


@dataclass(frozen=True)
class Track:
    """Audio-only material: float32 [N] at `rate`, its caption in the prompt format, and when its events begin (s)."""

    audio: Array
    rate: int
    caption: str
    events: list[float]


def generator(*key: int | str) -> np.random.Generator:
    """A Generator that depends on `key` alone: equal keys give equal draws in every process."""
    return np.random.default_rng([zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key])


def spread(rng: np.random.Generator, lengths: Sequence[float], total: float, gap: float) -> NDArray[np.float64]:
    """Random starts of intervals of these lengths in [0, total], at least `gap` apart; free time is split uniformly."""
    room = total - sum(lengths) - gap * (len(lengths) - 1)
    if room < 0:
        raise ValueError(f"{len(lengths)} intervals do not fit {total} s")
    free = np.cumsum(rng.dirichlet(np.ones(len(lengths) + 1))[:-1]) * room
    before = np.concatenate([[0.0], np.cumsum(np.asarray(lengths[:-1]) + gap)])
    return free + before


def gates(starts: Sequence[float], lengths: Sequence[float], samples: int, rate: int, ramp: float = 0.0) -> Array:
    """[N] 1 inside the intervals, 0 outside, with linear ramps of `ramp` seconds inside each interval."""
    out = np.zeros(samples, np.float32)
    for start, length in zip(starts, lengths, strict=True):
        first, last = max(0, round(start * rate)), min(samples, round((start + length) * rate))
        inside = np.arange(last - first, dtype=np.float32) + 0.5
        edge = max(ramp * rate, 1e-6)
        out[first:last] = np.clip(np.minimum(inside, (last - first) - inside) / edge, 0, 1)
    return out


def beeps(starts: Sequence[float], lengths: Sequence[float], pitch: float, samples: int, rate: int) -> Array:
    """A tone with a weak octave exactly inside the intervals, 5 ms ramps."""
    phase = (2 * np.pi * pitch / rate) * np.arange(samples)
    tone = np.sin(phase) + 0.25 * np.sin(2 * phase)
    return gates(starts, lengths, samples, rate, 0.005) * tone.astype(np.float32)


def strikes(
    times: Sequence[float], gains: Sequence[float], pitch: float, samples: int, rate: int,
    modes: Sequence[tuple[float, float, float]] = THUNK,
) -> Array:  # fmt: skip
    """A sum of decaying partials started at each time: a thunk or a bell."""
    t = np.arange(int(rate * 6 * max(decay for _, _, decay in modes))) / rate
    hit = sum(gain * np.exp(-t / decay) * np.sin(2 * np.pi * pitch * ratio * t) for ratio, gain, decay in modes)
    hit *= np.minimum(1.0, t / 0.001)
    out = np.zeros(samples + len(hit), np.float32)
    for time, gain in zip(times, gains, strict=True):
        first = round(time * rate)
        if 0 <= first < samples:
            out[first : first + len(hit)] += (gain * hit).astype(np.float32)
    return out[:samples]


def friction(rng: np.random.Generator, loudness: Array, centre: float, rate: int) -> Array:
    """Noise of about an octave around `centre` Hz whose RMS follows `loudness` [N]."""
    band = (centre / 1.6, min(centre * 1.6, 0.45 * rate))
    noise = sosfilt(butter(2, band, "bandpass", fs=rate, output="sos"), rng.standard_normal(len(loudness)))
    return (loudness * noise / noise.std()).astype(np.float32)


def syllable_envelope(syllables: Sequence[Syllable], samples: int, rate: int) -> Array:
    """[N] in 0..1: how far the mouth is open, and how loud the voice is."""
    starts, lengths = [s.start for s in syllables], [s.length for s in syllables]
    linear = gates(starts, lengths, samples, rate, 0.06)
    return (0.5 - 0.5 * np.cos(np.pi * linear)).astype(np.float32)


def voice(rng: np.random.Generator, syllables: Sequence[Syllable], samples: int, rate: int) -> Array:
    """Glottal pulses through three formants, times the syllables' envelope. A consonant is where its formants start."""
    out = np.zeros(samples, np.float32)
    for syllable in syllables:
        first, last = round(syllable.start * rate), min(samples, round((syllable.start + syllable.length) * rate))
        if first < 0 or last <= first:
            continue
        t = np.arange(last - first) / rate
        pitch = syllable.pitch * (1.06 - 0.12 * t / syllable.length)  # a falling contour
        phase = np.cumsum(pitch) / rate + rng.random()
        pulses = np.diff(np.floor(phase), prepend=np.floor(phase[0])) + 0.01 * rng.standard_normal(len(t))
        glide = np.clip((t - 0.03) / 0.05, 0, 1)
        spoken = (1 - glide) * _formants(pulses, LOCI[syllable.text[0]], rate) + glide * _formants(pulses, VOWELS[syllable.text[1]], rate)
        out[first:last] += (spoken / (np.abs(spoken).max() + 1e-9)).astype(np.float32)
    return out * syllable_envelope(syllables, samples, rate)


def finish(rng: np.random.Generator, audio: Array) -> Array:
    """Peak 0.7 over a -70 dB floor."""
    loudest = float(np.abs(audio).max())
    scaled = audio * (PEAK / loudest) if loudest > 0 else audio
    return (scaled + DITHER * rng.standard_normal(len(audio), np.float32)).astype(np.float32)


def draw_syllables(rng: np.random.Generator, seconds: float, count: int, pitch: float) -> list[Syllable]:
    """`count` random syllables of 0.18-0.32 s at random times, at least 0.1 s apart, pitch wandering by a tenth."""
    lengths = rng.uniform(0.18, 0.32, count)
    starts = 0.05 + spread(rng, list(lengths), seconds - 0.1, 0.1)
    texts = rng.choice(SYLLABLES, count)
    pitches = pitch * rng.uniform(0.9, 1.1, count)
    return [Syllable(*row) for row in zip(map(str, texts), map(float, starts), map(float, lengths), map(float, pitches), strict=True)]


def voice_pitch(step: int) -> float:
    """Hz of the voice called PITCH_WORDS[step]."""
    return 90.0 * 2 ** (0.35 * step)


def speech(seed: int, seconds: float, rate: int = 16000) -> Track:
    """A voice saying random syllables; the caption holds them as the transcript."""
    rng = generator("speech", seed)
    step = int(rng.integers(len(PITCH_WORDS)))
    count = max(1, round((seconds - 0.2) * rng.uniform(1.6, 2.2)))
    syllables = draw_syllables(rng, seconds, count, voice_pitch(step))
    samples = round(seconds * rate)
    words = " ".join(syllable.text for syllable in syllables)
    caption = f"<S>{words}<E> <AUDCAP>A {PITCH_WORDS[step]} voice.<ENDAUDCAP>"
    return Track(finish(rng, voice(rng, syllables, samples, rate)), rate, caption, [s.start for s in syllables])


def effect(kind: str, seed: int, seconds: float, rate: int = 16000) -> Track:
    """Sound without speech: one of EFFECTS, events at random times."""
    rng = generator("effect", kind, seed)
    step = int(rng.integers(len(PITCH_WORDS)))
    count = max(1, round(seconds * rng.uniform(0.9, 1.4)))
    lengths = rng.uniform(0.12, 0.4, count)
    starts = spread(rng, list(lengths), seconds, 0.15)
    phrase, make = EFFECTS[kind]
    audio = make(rng, starts, lengths, step, round(seconds * rate), rate)
    caption = f"<AUDCAP>{phrase.format(word=PITCH_WORDS[step])}<ENDAUDCAP>"
    return Track(finish(rng, audio), rate, caption, [float(start) for start in starts])


def _formants(pulses: NDArray[np.float64], formants: Sequence[float], rate: int) -> NDArray[np.float64]:
    """Three resonators in parallel, falling in gain, bandwidths 80-160 Hz."""
    out = np.zeros_like(pulses)
    for gain, frequency, bandwidth in zip((1.0, 0.6, 0.25), formants, (80.0, 110.0, 160.0), strict=True):
        radius = np.exp(-np.pi * bandwidth / rate)
        out += gain * lfilter([1 - radius], [1, -2 * radius * np.cos(2 * np.pi * frequency / rate), radius**2], pulses)
    return out


Maker = Callable[[np.random.Generator, NDArray[np.float64], NDArray[np.float64], int, int, int], Array]
EFFECTS: dict[str, tuple[str, Maker]] = {
    "beeps": ("Short {word} beeps.", lambda _, s, n, k, size, rate: beeps(s, n, 400 * 2 ** (k / 2), size, rate)),
    "thuds": ("Hard {word} thuds.", lambda _, s, n, k, size, rate: strikes(s, np.ones(len(s)), 110 * 2 ** (k / 2), size, rate)),
    "bells": ("Clear {word} bell strokes.", lambda _, s, n, k, size, rate: strikes(s, np.ones(len(s)), 500 * 2 ** (k / 2), size, rate, BELL)),
    "scraping": ("Rough {word} scraping.", lambda rng, s, n, k, size, rate: friction(rng, gates(s, n, size, rate, 0.05), 400 * 2 ** (0.75 * k), rate)),
}  # fmt: skip
