"""Films that tell the time: every picture shows its number, some flash, and a click sounds with each flash.

So of any clip cut out of them it can be said, to the sample, which pictures it shows and when it clicks. The number is
in Gray code: from one picture to the next a single bit changes, which nobody takes for a cut.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from tests.media.made import clicks

RATES = {
    "23.976": Fraction(24000, 1001), "24": Fraction(24), "25": Fraction(25), "29.97": Fraction(30000, 1001),
    "30": Fraction(30), "50": Fraction(50), "60": Fraction(60), "variable": None,
}  # fmt: skip
KINDS = {"mp4": ("aac", 48000), "mkv": ("pcm_s16le", 44100), "mov": ("pcm_s16le", 48000)}  # suffix -> sound
HEIGHT, WIDTH, BITS, BAR = 64, 80, 10, 8
EVERY_S, FLASH = 0.45, 225


@dataclass(frozen=True)
class Clock:
    """times: when each picture of the film is due, and at last when it ends; flashes: the numbers of those that do."""

    times: list[Fraction]
    flashes: list[int]


@dataclass(frozen=True)
class Skew:
    """How far clips are off, in ms: their pictures from what the film shows then, their clicks from the flashes.

    frames and samples: what lengths the clips have.
    """

    clips: int
    pictures_ms: float
    sound_ms: float
    frames: set[int]
    samples: set[int]


def film(path: Path, rate: Fraction | None, seconds: float = 8.0, bframes: int = 2) -> Clock:
    """Write a film at `rate`, None for a varying one; the suffix of `path` chooses the container and the sound."""
    ticks, base = _ticks(rate, seconds)
    times = [tick * base for tick in ticks]
    marks = np.searchsorted([float(time) for time in times], np.arange(0.3, seconds - 0.5, EVERY_S))
    flashes = sorted({int(mark) for mark in marks})
    codec, sound_rate = KINDS[path.suffix[1:]]
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=rate or 60, options={"preset": "ultrafast", "bf": str(bframes)})
        video.width, video.height, video.pix_fmt, video.codec_context.thread_count = WIDTH, HEIGHT, "yuv420p", 1
        video.codec_context.time_base = base
        sound = container.add_stream(codec, rate=sound_rate, layout="mono")
        packets = [p for picture in _pictures(ticks[:-1], base, flashes) for p in video.encode(picture)]
        packets += video.encode(None)
        samples = _clicks([times[at] for at in flashes], sound_rate, float(times[-1]))
        packets += [p for block in _blocks(samples, sound, sound_rate) for p in sound.encode(block)]
        packets += sound.encode(None)
        for packet in sorted((p for p in packets if p.dts is not None), key=lambda p: p.dts * p.time_base):
            container.mux(packet)
    return Clock(times, flashes)


def number(rgb: NDArray[np.uint8]) -> int:
    """Which picture of its film this is."""
    width = WIDTH // BITS
    bits = [rgb[2 : BAR - 2, at * width + 2 : (at + 1) * width - 2].mean() > 90 for at in range(BITS)]
    return sum(int(np.logical_xor.reduce(bits[at:])) << at for at in range(BITS))


def skew(clock: Clock, clips: Iterable[tuple[Fraction, NDArray[np.uint8], NDArray[np.float32]]]) -> Skew:
    """Of (start, pictures [T, H, W, 3] at 24 a second, sound at 16 kHz) what is off."""
    count, picture, sound, frames, samples = 0, Fraction(0), 0.0, set(), set()
    for start, pictures, audio in clips:
        for k, rgb in enumerate(pictures):
            due, at = start + Fraction(k, 24), number(rgb)
            picture = max(picture, clock.times[at] - due, due - clock.times[at + 1])
        inside = [clock.times[at] - start for at in clock.flashes]
        inside = [time for time in inside if 0.05 < time < len(audio) / 16000 - 0.1]
        heard = clicks(audio, 16000, inside)
        sound = max(sound, *(abs(at - float(time)) for at, time in zip(heard, inside, strict=True)))
        count += 1
        frames.add(len(pictures))
        samples.add(len(audio))
    return Skew(count, float(picture) * 1000, sound * 1000, frames, samples)


def _ticks(rate: Fraction | None, seconds: float) -> tuple[list[int], Fraction]:
    """When pictures are shown, and at last when the film ends, in steps of the other value."""
    if rate is not None:
        return list(range(int(seconds * rate) + 1)), 1 / rate
    rng, ticks = np.random.default_rng(3), [0]
    while ticks[-1] < seconds * 240:
        ticks.append(ticks[-1] + int(rng.integers(4, 20)))  # 12 to 60 a second
    return ticks, Fraction(1, 240)


def _pictures(ticks: list[int], base: Fraction, flashes: list[int]) -> Iterable[av.VideoFrame]:
    for at, tick in enumerate(ticks):
        rgb = np.full((HEIGHT, WIDTH, 3), 20, np.uint8)
        for bit in range(BITS):
            rgb[:BAR, bit * WIDTH // BITS : (bit + 1) * WIDTH // BITS] = 140 if (at ^ at >> 1) >> bit & 1 else 40
        rgb[HEIGHT // 2 :, : WIDTH // 2] = FLASH if at in flashes else 60
        picture = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p")
        picture.pts, picture.time_base = tick, base
        yield picture


def _clicks(times: list[Fraction], rate: int, seconds: float) -> NDArray[np.float32]:
    audio = np.zeros(int(seconds * rate), np.float32)
    click = (0.6 * np.sin(2 * np.pi * 3000 * np.arange(rate // 50) / rate)).astype(np.float32)
    for time in times:
        first = round(time * rate)
        audio[first : first + len(click)] = click[: len(audio) - first]
    return audio


def _blocks(samples: NDArray[np.float32], stream: Any, rate: int) -> Iterable[av.AudioFrame]:
    block = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
    block.sample_rate, block.pts, block.time_base = rate, 0, Fraction(1, rate)
    resampler = av.AudioResampler(stream.format.name, "mono", rate, frame_size=stream.frame_size or 1024)
    return [*resampler.resample(block), *resampler.resample(None)]
