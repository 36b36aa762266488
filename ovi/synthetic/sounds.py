"""Sound from formulas: beeps, thunks, bells, friction and a speaking voice, each placed at exact times.

Every maker takes a seeded numpy Generator or needs none, and returns float32 mono. It knows nothing of pictures.
Try it: `python -c "from ovi.synthetic import sounds; print(sounds.speech(1, 3.0).caption)"`.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

Array = NDArray[np.float32]
Times = NDArray[np.float64]  # s
Modes = Sequence[tuple[float, float, float]]  # (frequency Hz or ratio, gain, decay s)

PEAK = 0.7
DITHER = 10 ** (-70 / 20)  # RMS of the floor, so that logarithms of silence stay finite
PITCH_WORDS = ("deep", "low", "medium", "high", "shrill")  # step 0..4 of every pitched sound
VOWELS = {  # the first three formants, Hz
    "a": (730, 1090, 2440), "e": (530, 1840, 2480), "i": (290, 2290, 3010), "o": (500, 900, 2400),
    "u": (320, 800, 2240),
}  # fmt: skip
LOCI = {"b": (250, 750, 2100), "d": (250, 1750, 2700), "m": (250, 1000, 2200)}  # where a consonant's formants start
SYLLABLES = tuple(consonant + vowel for consonant in LOCI for vowel in VOWELS)
EFFECTS = {
    "beeps": "Short {word} beeps.",
    "thuds": "Hard {word} thuds.",
    "bells": "Clear {word} bell strokes.",
    "scraping": "Rough {word} scraping.",
}
THUD = ((1.0, 1.0, 0.09), (1.59, 0.5, 0.06), (2.65, 0.3, 0.04), (4.2, 0.2, 0.02))  # (ratio, gain, decay s)
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


def spread(rng: np.random.Generator, lengths: Sequence[float], total: float, gap: float) -> list[float]:
    """Random starts of intervals of these lengths in [0, total], at least `gap` apart; free time is split uniformly."""
    room = total - sum(lengths) - gap * (len(lengths) - 1)
    if room < 0:
        raise ValueError(f"{len(lengths)} intervals do not fit {total} s")
    free = np.cumsum(rng.dirichlet(np.ones(len(lengths) + 1))[:-1]) * room
    before = np.concatenate([[0.0], np.cumsum(np.asarray(lengths[:-1]) + gap)])
    return (free + before).tolist()


def gates(starts: Sequence[float], lengths: Sequence[float], times: Times, ramp: float) -> Array:
    """1 inside the intervals, 0 outside, at the ascending `times` [N]; linear ramps of `ramp` seconds inside each."""
    out = np.zeros(len(times), np.float32)
    for start, length in zip(starts, lengths, strict=True):
        inside = slice(*np.searchsorted(times, (start, start + length)))
        since = times[inside] - start
        out[inside] = np.minimum(np.minimum(since, length - since) / ramp, 1)
    return out


def beeps(starts: Sequence[float], lengths: Sequence[float], pitch: float, clock: Times) -> Array:
    """A tone with a weak octave exactly inside the intervals, 5 ms ramps."""
    out = gates(starts, lengths, clock, 0.005)
    sounding = np.flatnonzero(out)
    phase = 2 * np.pi * pitch * clock[sounding]
    out[sounding] *= np.sin(phase) + 0.25 * np.sin(2 * phase)
    return out


def strikes(
    times: Sequence[float], gains: Sequence[float], pitch: float, modes: Modes, samples: int, rate: int
) -> Array:
    """A thunk or a bell at each time: a knock that sets decaying partials of `pitch` Hz ringing."""
    knock = np.zeros(samples)
    for time, gain in zip(times, gains, strict=True):
        if 0 <= round(time * rate) < samples:
            knock[round(time * rate)] += gain
    return _ring(knock, [(ratio * pitch, gain, decay) for ratio, gain, decay in modes], rate)


def friction(rng: np.random.Generator, loudness: Array, centre: float, rate: int) -> Array:
    """Noise around `centre` Hz whose RMS follows `loudness` [N]."""
    noise = _ring(rng.standard_normal(len(loudness)), [(centre, 1.0, 0.6 / centre)], rate)
    return loudness * noise / noise.std()


def envelope(syllables: Sequence[Syllable], times: Times) -> Array:
    """0..1 at `times` [N]: how far the mouth is open, and how loud the voice is."""
    linear = gates([s.start for s in syllables], [s.length for s in syllables], times, 0.07)
    return np.square(np.sin(np.pi / 2 * linear))


def voice(rng: np.random.Generator, syllables: Sequence[Syllable], clock: Times, rate: int) -> Array:
    """Glottal pulses through three formants, times the syllables' envelope. A consonant is where its formants start."""
    out = np.zeros(len(clock), np.float32)
    for syllable in syllables:
        inside = slice(*np.searchsorted(clock, (syllable.start, syllable.start + syllable.length)))
        since = clock[inside] - syllable.start
        if not len(since):
            continue
        pitch = syllable.pitch * (1.06 - 0.12 * since / syllable.length)  # a falling contour
        pulses = np.diff(np.floor(np.cumsum(pitch) / rate + rng.random()), prepend=0.0)
        pulses += 0.01 * rng.standard_normal(len(since))
        glide = np.clip((since - 0.03) / 0.05, 0, 1)
        consonant = _ring(pulses, _formants(LOCI[syllable.text[0]]), rate)
        vowel = _ring(pulses, _formants(VOWELS[syllable.text[1]]), rate)
        spoken = (1 - glide) * consonant + glide * vowel
        out[inside] = spoken / np.abs(spoken).max()
    return out * envelope(syllables, clock)


def finish(rng: np.random.Generator, audio: Array) -> Array:
    """Peak 0.7 over a -70 dB floor."""
    loudest = float(np.abs(audio).max())
    scaled = audio * (PEAK / loudest) if loudest > 0 else audio
    return (scaled + DITHER * rng.standard_normal(len(audio), np.float32)).astype(np.float32)


def draw_syllables(rng: np.random.Generator, seconds: float, count: int, pitch: float) -> list[Syllable]:
    """`count` random syllables of 0.18-0.32 s at random times, at least 0.1 s apart, pitch wandering by a tenth."""
    lengths: list[float] = rng.uniform(0.18, 0.32, count).tolist()
    starts = [0.05 + start for start in spread(rng, lengths, seconds - 0.1, 0.1)]
    pitches = (pitch * rng.uniform(0.9, 1.1, count)).tolist()
    texts = [SYLLABLES[k] for k in rng.integers(len(SYLLABLES), size=count)]
    return [Syllable(*fields) for fields in zip(texts, starts, lengths, pitches, strict=True)]


def beep_pitch(step: int) -> float:
    """Hz of the beep called PITCH_WORDS[step]: 400 to 1600, half octaves apart."""
    return 400.0 * 2 ** (step / 2)


def thud_pitch(step: int) -> float:
    return 110.0 * 2 ** (step / 2)


def bell_pitch(step: int) -> float:
    return 500.0 * 2 ** (step / 2)


def scrape_pitch(step: int) -> float:
    return 400.0 * 2 ** (0.75 * step)


def voice_pitch(step: int) -> float:
    return 90.0 * 2 ** (0.35 * step)


def speech(seed: int, seconds: float, rate: int = 16000) -> Track:
    """A voice saying random syllables; the caption holds them as the transcript."""
    rng = generator("speech", seed)
    step = int(rng.integers(len(PITCH_WORDS)))
    syllables = draw_syllables(rng, seconds, max(1, round((seconds - 0.2) * rng.uniform(1.6, 2.2))), voice_pitch(step))
    words = " ".join(syllable.text for syllable in syllables)
    caption = f"<S>{words}<E> <AUDCAP>A {PITCH_WORDS[step]} voice.<ENDAUDCAP>"
    audio = voice(rng, syllables, _clock(seconds, rate), rate)
    return Track(finish(rng, audio), rate, caption, [syllable.start for syllable in syllables])


def effect(kind: str, seed: int, seconds: float, rate: int = 16000) -> Track:
    """Sound without speech: `kind` is one of EFFECTS, at random times."""
    rng = generator("effect", kind, seed)
    step = int(rng.integers(len(PITCH_WORDS)))
    lengths = rng.uniform(0.12, 0.4, max(1, round(seconds * rng.uniform(0.9, 1.4)))).tolist()
    starts = spread(rng, lengths, seconds, 0.15)
    clock = _clock(seconds, rate)
    gains = [0.6 + length for length in lengths]
    if kind == "beeps":
        audio = beeps(starts, lengths, beep_pitch(step), clock)
    elif kind == "thuds":
        audio = strikes(starts, gains, thud_pitch(step), THUD, len(clock), rate)
    elif kind == "bells":
        audio = strikes(starts, gains, bell_pitch(step), BELL, len(clock), rate)
    else:
        audio = friction(rng, gates(starts, lengths, clock, 0.05), scrape_pitch(step), rate)
    caption = f"<AUDCAP>{EFFECTS[kind].format(word=PITCH_WORDS[step])}<ENDAUDCAP>"
    return Track(finish(rng, audio), rate, caption, starts)


def _formants(frequencies: Sequence[float]) -> Modes:
    return list(zip(frequencies, (1.0, 0.6, 0.25), (0.004, 0.003, 0.002), strict=True))


def _ring(excitation: NDArray[np.float64], modes: Modes, rate: int) -> Array:
    """[N] through parallel resonators (frequency Hz, gain, decay s): each impulse starts a decaying sine per mode."""
    out = np.zeros(len(excitation))
    for frequency, gain, decay in modes:
        angle, radius = 2 * np.pi * frequency / rate, np.exp(-1 / (decay * rate))
        out += lfilter([gain * np.sin(angle)], [1, -2 * radius * np.cos(angle), radius**2], excitation)
    return out.astype(np.float32)


def _clock(seconds: float, rate: int) -> Times:
    return np.arange(round(seconds * rate)) / rate
