"""Files -> pictures and sound with their exact times. Everything is on the file's own clock, edit lists applied.

Pictures come upright, with square pixels, as RGB of the full range, whatever the codec, depth, matrix or range.
Try it: `python -c "from ovi.media import decode; print(decode.audio('clip.mp4').samples.shape)"`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from ovi.media.clock import sample_at
from ovi.media.probe import MediaError, MediaInfo, Source, VideoStream, opened, probe

SCALES = {"u8": 128.0, "s16": 32768.0, "s32": 2147483648.0, "flt": 1.0, "dbl": 1.0}  # of a full-scale sample
JITTER = Fraction(1, 200)  # s by which containers with coarse clocks may misplace a block of sound
MISSING = Fraction(1, 2)  # s that may be missing at the end before a file counts as truncated


@dataclass(frozen=True)
class Frame:
    """A picture uint8 [H, W, 3], shown from `time` (s) until `end`: the next picture's time."""

    time: Fraction
    end: Fraction
    rgb: NDArray[np.uint8]


@dataclass(frozen=True)
class Sound:
    """float32 [N, channels] in [-1, 1] at `rate`; sample 0 sounds at `start` s."""

    samples: NDArray[np.float32]
    rate: int
    start: Fraction

    @property
    def end(self) -> Fraction:
        return self.start + Fraction(len(self.samples), self.rate)


def frames(path: Source, info: MediaInfo | None = None) -> Iterator[Frame]:
    """The pictures of the best picture stream in the order of their times, none twice.

    Raises MediaError: unreadable, no_video, interlaced, hdr, or truncated (at the end, when the header promised more).
    """
    info = info or probe(path)
    stream = info.pictures()
    waiting: Frame | None = None
    usual = 1 / stream.average_rate if stream.average_rate else Fraction(1, 24)
    for picture in _pictures(path, stream.number):
        if picture.interlaced_frame:
            raise MediaError(path, "interlaced", "is interlaced in part; deinterlace it first")
        if picture.pts is not None:
            time = picture.pts * stream.time_base
        else:
            time = waiting.time + usual if waiting else stream.start
        if waiting is not None:
            if time <= waiting.time:
                continue
            yield Frame(waiting.time, time, waiting.rgb)
        lasts = picture.duration * stream.time_base if picture.duration else usual
        waiting = Frame(time, time + lasts, _upright(picture, stream))
    if waiting is None:
        raise MediaError(path, "unreadable", "no picture in it can be decoded")
    yield waiting
    if stream.end is not None and waiting.end + MISSING < stream.end:
        raise MediaError(path, "truncated", f"ends after {float(waiting.end):.2f} s of {float(stream.end):.2f}")


def audio(path: Source, info: MediaInfo | None = None) -> Sound:
    """The whole best sound stream at its own rate. Gaps between its blocks are silence.

    Raises MediaError: unreadable, no_audio.
    """
    info = info or probe(path)
    stream = info.sound()
    blocks: list[NDArray[np.float32]] = []
    start, filled = stream.start, 0
    with opened(path) as container:
        for block in container.decode(container.streams.audio[stream.number]):
            samples = _samples(block)
            if block.pts is not None and block.time_base:
                time = block.pts * block.time_base
                start = time if not blocks else start
                gap = sample_at(time, stream.rate, start) - filled
                if gap > JITTER * stream.rate:
                    blocks.append(np.zeros((gap, samples.shape[1]), np.float32))
                    filled += gap
                elif -gap > JITTER * stream.rate:
                    samples = samples[-gap:]
            blocks.append(samples)
            filled += len(samples)
    if not filled:
        raise MediaError(path, "unreadable", "no sound in it can be decoded")
    return Sound(np.concatenate(blocks), stream.rate, start)


def _pictures(path: Source, number: int) -> Iterator[av.VideoFrame]:
    with opened(path) as container:
        stream = container.streams.video[number]
        stream.codec_context.thread_count = 1  # files are worked on in parallel, not pictures
        yield from container.decode(stream)


def _upright(picture: av.VideoFrame, stream: VideoStream) -> NDArray[np.uint8]:
    width, height = stream.width, stream.height
    if stream.rotation in (90, 270):
        width, height = height, width
    rgb: NDArray[Any] = picture.reformat(width, height, "rgb24").to_ndarray()
    return np.ascontiguousarray(np.rot90(rgb, stream.rotation // 90)) if stream.rotation else rgb


def _samples(block: av.AudioFrame) -> NDArray[np.float32]:
    """float32 [N, channels] of a decoded block of any sample format."""
    raw = block.to_ndarray()
    channels = block.layout.nb_channels
    shaped = raw.T if block.format.is_planar else raw.reshape(-1, channels)
    kind = block.format.name.removesuffix("p")
    offset = 128 if kind == "u8" else 0
    return np.ascontiguousarray((shaped.astype(np.float32) - offset) / SCALES[kind])
