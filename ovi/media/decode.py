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
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from ovi.media.clock import sample_at
from ovi.media.probe import MediaError, MediaInfo, Source, VideoStream, opened, probe

SCALES = {"u8": 128.0, "s16": 32768.0, "s32": 2147483648.0, "flt": 1.0, "dbl": 1.0}  # of a full-scale sample
JITTER = Fraction(1, 200)  # s by which containers with coarse clocks may misplace a block of sound
HOLE = 60  # s of silence between two blocks of sound that no sane file has
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

    Raises MediaError: unreadable, no_video, interlaced, hdr, no_clock, or truncated (it breaks off before its end).
    """
    info = info or probe(path)
    stream = info.pictures()
    waiting: Frame | None = None
    usual = 1 / stream.average_rate if stream.average_rate else Fraction(1, 24)
    for picture, rgb in _pictures(path, stream):
        if picture.interlaced_frame:
            raise MediaError(path, "interlaced", "is interlaced in part; deinterlace it first")
        if picture.pts is None:
            time = waiting.end if waiting else stream.start
        else:
            time = picture.pts * stream.time_base
        if waiting is not None:
            if time < waiting.time:
                raise MediaError(path, "no_clock", "shows pictures at times that run backwards; convert it to MP4")
            if time == waiting.time:
                continue
            yield Frame(waiting.time, time, waiting.rgb)
        lasts = picture.duration * stream.time_base if picture.duration else usual
        waiting = Frame(time, time + lasts, rgb)
    if waiting is None:
        raise MediaError(path, "unreadable", "no picture in it can be decoded")
    yield waiting
    _check_end(path, waiting.end, stream.end)


def audio(path: Source, info: MediaInfo | None = None) -> Sound:
    """The whole best sound stream at its own rate. Gaps between its blocks are silence.

    Raises MediaError: unreadable, no_audio, or truncated (it breaks off before its end).
    """
    info = info or probe(path)
    stream = info.sound()
    blocks: list[NDArray[np.float32]] = []
    start, rate, filled = stream.start, stream.rate, 0
    with opened(path) as container:
        for block in _decoded(container, container.streams.audio[stream.number]):
            samples = _samples(block)
            time = filled / Fraction(rate) + start if block.pts is None else block.pts * Fraction(block.time_base or 0)
            if not blocks:
                start, rate = time, block.sample_rate
            elif block.sample_rate != rate or samples.shape[1] != blocks[0].shape[1]:
                raise MediaError(path, "unreadable", "changes its sound's rate or channels on the way")
            gap = sample_at(time, rate, start) - filled
            if gap > HOLE * rate:
                raise MediaError(path, "unreadable", f"has a hole of {gap / rate:.0f} s in its sound")
            if gap > JITTER * rate:
                samples = np.pad(samples, ((gap, 0), (0, 0)))
            elif -gap > JITTER * rate:
                samples = samples[-gap:]
            blocks.append(samples)
            filled += len(samples)
    if not filled:
        raise MediaError(path, "unreadable", "no sound in it can be decoded")
    sound = Sound(np.concatenate(blocks), rate, start)
    _check_end(path, sound.end, stream.end)
    return sound


def _pictures(path: Source, stream: VideoStream) -> Iterator[tuple[av.VideoFrame, NDArray[np.uint8]]]:
    with opened(path) as container:
        source = container.streams.video[stream.number]
        source.codec_context.thread_count = 1  # files are worked on in parallel, not pictures
        scaler = VideoReformatter()  # one a file: a picture's own would be made anew for each, with threads
        for picture in _decoded(container, source):
            yield picture, _upright(picture, stream, scaler)


def _decoded(container: av.container.InputContainer, stream: Any) -> Iterator[Any]:
    """The stream's frames up to the first packet that is cut off; the check of the end then tells what is missing."""
    for packet in container.demux(stream):
        if packet.is_corrupt:
            return
        yield from packet.decode()


def _check_end(path: Source, end: Fraction, promised: Fraction | None) -> None:
    if promised is not None and end + MISSING < promised:
        raise MediaError(path, "truncated", f"breaks off after {float(end):.2f} s of {float(promised):.2f} s")


def _upright(picture: av.VideoFrame, stream: VideoStream, scaler: VideoReformatter) -> NDArray[np.uint8]:
    width, height = stream.width, stream.height
    if stream.rotation in (90, 270):
        width, height = height, width
    rgb: NDArray[Any] = scaler.reformat(picture, width, height, "rgb24", threads=1).to_ndarray()
    return np.ascontiguousarray(np.rot90(rgb, stream.rotation // 90)) if stream.rotation else rgb


def _samples(block: av.AudioFrame) -> NDArray[np.float32]:
    """float32 [N, channels] of a decoded block of any sample format."""
    raw = block.to_ndarray()
    channels = block.layout.nb_channels
    shaped = raw.T if block.format.is_planar else raw.reshape(-1, channels)
    kind = block.format.name.removesuffix("p")
    offset = 128 if kind == "u8" else 0
    return np.ascontiguousarray((shaped.astype(np.float32) - offset) / SCALES[kind])
