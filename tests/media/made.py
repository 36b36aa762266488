"""Media files made on the spot, good and broken."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def flashes(fps: Fraction, seconds: float, rate: int) -> tuple[Array, Array, list[Fraction]]:
    """A dark picture that flashes white for one frame, and a click at the start of each flash."""
    count = int(seconds * fps)
    frames = np.full((count, 32, 48, 3), 20, np.uint8)
    audio = np.zeros(int(seconds * rate), np.float32)
    click = (0.6 * np.sin(2 * np.pi * 3000 * np.arange(rate // 50) / rate)).astype(np.float32)
    times = []
    for k in range(7, count - 10, 23):
        frames[k] = 235
        times.append(k / fps)
        first = round(times[-1] * rate)
        audio[first : first + len(click)] = click
    return frames, audio, times


def clicks(audio: Array, rate: int, near: list[Fraction]) -> list[float]:
    """When the sound first rises within 40 ms of each of the times, in s."""
    found = []
    for time in near:
        first = max(0, round((float(time) - 0.04) * rate))
        loud = np.abs(audio[first : first + round(0.08 * rate)]) > 0.15
        assert loud.any(), f"no click near {float(time):.3f} s"
        found.append((first + int(loud.argmax())) / rate)
    return found


def gradient(count: int = 12, height: int = 48, width: int = 64) -> Array:
    """Smooth pictures without symmetry: uint8 [count, H, W, 3]."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [40 + 160 * x / width, 40 + 160 * y / height, 90 + 60 * (x + y) / (width + height)]
    return np.stack([np.stack(planes, axis=-1) + k for k in range(count)]).astype(np.uint8)


def write(
    path: Path, frames: Array, *, codec: str = "libx264", pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None, audio: Array | None = None, audio_start: Fraction = Fraction(0),
    extra: int = 0, fps: int = 25, **context: Any,
) -> Path:  # fmt: skip
    """Pictures and sound by PyAV, with whatever the codec's context should say; `extra` more small picture streams."""
    with av.open(str(path), "w") as container:
        streams = [container.add_stream(codec, rate=fps, options=options or {}) for _ in range(1 + extra)]
        for number, stream in enumerate(streams):
            stream.width, stream.height = (frames.shape[2], frames.shape[1]) if number == extra else (16, 16)
            stream.pix_fmt, stream.codec_context.thread_count = pix_fmt, 1
            for name, value in context.items():
                setattr(stream.codec_context, name, value)
        sound = container.add_stream("aac", rate=16000, layout="mono") if audio is not None else None
        for stream in streams:
            for k, rgb in enumerate(frames):
                picture = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(stream.width, stream.height, pix_fmt)
                picture.pts, picture.time_base = k, Fraction(1, fps)
                for name in {"color_trc", "color_range"} & context.keys():
                    setattr(picture, name, context[name])
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
        if sound is not None and audio is not None:
            for first in range(0, len(audio), 1024):
                block = av.AudioFrame.from_ndarray(audio[None, first : first + 1024], format="fltp", layout="mono")
                block.sample_rate, block.time_base = 16000, Fraction(1, 16000)
                block.pts = first + int(audio_start * 16000)
                container.mux(sound.encode(block))
            container.mux(sound.encode(None))
    return path
