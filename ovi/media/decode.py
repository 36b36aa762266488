"""Files -> pictures and sound with their exact times. Everything is on the file's own clock, edit lists applied.

Both are streamed: a source of hours is never in memory whole, unless someone gathers it.
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

from ovi.media.clock import sample_at, snapped
from ovi.media.picture import Frame, Screen
from ovi.media.probe import MediaError, MediaInfo, Source, opened, probe

SCALES = {"u8": 128.0, "s16": 32768.0, "s32": 2147483648.0, "dbl": 1.0}  # of a full-scale sample
JITTER = Fraction(1, 200)  # s by which containers with coarse clocks may misplace a block of sound
HOLE = 60  # s of silence between two blocks of sound that no sane file has
FINE = Fraction(1, 2000)  # s of a tick that is short enough for any frame rate
BLOCKS = 16  # of sound, that are handed on at a time
MISSING = Fraction(1, 2)  # s that may be missing at the end before a file counts as truncated


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

    Raises MediaError: no_video, interlaced, hdr, unreadable, no_clock, changing, damaged or truncated.
    """
    info = info or probe(path)
    stream = info.pictures()
    screen = Screen(stream.width, stream.height, stream.rotation)
    coarse = stream.time_base > FINE
    usual = 1 / stream.average_rate if stream.average_rate else Fraction(1, 24)
    waiting: av.VideoFrame | None = None  # for the time at which the next is shown
    since = stream.start
    for picture in _pictures(path, stream.number):
        if picture.pts is None:
            time = since if waiting is None else since + usual
        elif coarse:
            time = snapped(picture.pts * stream.time_base, stream.start, stream.steps, stream.time_base)
        else:
            time = picture.pts * stream.time_base
        if waiting is not None:
            _check_picture(path, picture, waiting, time)
            if time < since:
                raise MediaError(path, "no_clock", "shows pictures at times that run backwards; convert it to MP4")
            if time == since:
                continue
            yield Frame(since, time, waiting, screen)
        waiting, since = picture, time
    if waiting is None:
        raise MediaError(path, "unreadable", "no picture in it can be decoded")
    end = since + (waiting.duration * stream.time_base if waiting.duration else usual)
    yield Frame(since, end, waiting, screen)
    _check_end(path, end, stream.end)


def sound(path: Source, info: MediaInfo | None = None) -> Iterator[Sound]:
    """The best sound stream at its own rate, in stretches, each from where the one before ends. Gaps are silence.

    Raises MediaError: no_audio, unreadable, changing, damaged or truncated.
    """
    info = info or probe(path)
    stream = info.sound()
    start, rate, channels, filled = stream.start, 0, 0, 0
    stretch: list[NDArray[np.float32]] = []
    with opened(path) as container:
        for block in _decoded(path, container, container.streams.audio[stream.number]):
            samples = _samples(block)
            time = None if block.pts is None else block.pts * block.time_base
            if not rate:
                start, rate, channels = stream.start if time is None else time, block.sample_rate, samples.shape[1]
            if (block.sample_rate, samples.shape[1]) != (rate, channels):
                raise MediaError(path, "changing", "changes its sound's rate or channels on the way")
            gap = 0 if time is None else sample_at(time, rate, start) - filled
            if gap > HOLE * rate:
                raise MediaError(path, "unreadable", f"has a hole of {gap / rate:.0f} s in its sound")
            if gap > JITTER * rate:
                samples = np.pad(samples, ((gap, 0), (0, 0)))
            elif -gap > JITTER * rate:
                samples = samples[-gap:]
            stretch.append(samples)
            filled += len(samples)
            if len(stretch) == BLOCKS:
                yield _stretch(stretch, rate, start, filled)
                stretch = []
    if not rate:
        raise MediaError(path, "unreadable", "no sound in it can be decoded")
    if stretch:
        yield _stretch(stretch, rate, start, filled)
    _check_end(path, start + Fraction(filled, rate), stream.end)


def audio(path: Source, info: MediaInfo | None = None) -> Sound:
    """The whole best sound stream. Raises as `sound` does."""
    blocks = list(sound(path, info))
    return Sound(np.concatenate([block.samples for block in blocks]), blocks[0].rate, blocks[0].start)


def _stretch(blocks: list[NDArray[np.float32]], rate: int, start: Fraction, filled: int) -> Sound:
    """The blocks that end `filled` samples after `start`."""
    samples = np.concatenate(blocks)
    return Sound(samples, rate, start + Fraction(filled - len(samples), rate))


def _pictures(path: Source, number: int) -> Iterator[av.VideoFrame]:
    with opened(path) as container:
        stream = container.streams.video[number]
        stream.codec_context.thread_count = 1  # files are worked on in parallel, not pictures
        yield from _decoded(path, container, stream)


def _decoded(path: Source, container: av.container.InputContainer, stream: Any) -> Iterator[Any]:
    """The stream's frames. A last packet that is cut off is left out: the check of the end tells what is missing."""
    cut_off = False
    for packet in container.demux(stream):
        if cut_off and packet.size:
            raise MediaError(path, "damaged", "is damaged in the middle")
        if packet.is_corrupt:
            cut_off = True
            continue
        try:
            yield from packet.decode()
        except av.error.InvalidDataError:
            raise MediaError(path, "damaged", "is damaged in the middle") from None


def _check_picture(path: Source, picture: av.VideoFrame, before: av.VideoFrame, time: Fraction) -> None:
    if picture.interlaced_frame:
        raise MediaError(path, "interlaced", "is interlaced in part; deinterlace it first")
    if picture.is_corrupt:
        raise MediaError(path, "damaged", f"is damaged at {float(time):.2f} s")
    if (picture.width, picture.height) != (before.width, before.height):
        raise MediaError(path, "changing", "changes its picture's size on the way")


def _check_end(path: Source, end: Fraction, promised: Fraction | None) -> None:
    if promised is not None and end + MISSING < promised:
        raise MediaError(path, "truncated", f"breaks off after {float(end):.2f} s of {float(promised):.2f} s")


def _samples(block: av.AudioFrame) -> NDArray[np.float32]:
    """float32 [N, channels] of a decoded block of any sample format."""
    raw: NDArray[Any] = block.to_ndarray()
    format = block.format
    shaped = raw.T if format.is_planar else raw.reshape(-1, block.layout.nb_channels)
    kind = format.name.removesuffix("p")
    if kind == "flt":
        return shaped
    offset = 128 if kind == "u8" else 0
    return (shaped.astype(np.float32) - offset) / np.float32(SCALES[kind])
