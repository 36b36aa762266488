"""What a media file holds: its best picture and sound stream, their clocks, and the reasons a file cannot be used.

A file is judged by its first decoded picture, not by its name or header alone. It does not decode the rest. Files lie
on this machine or in a bucket, of which no more is fetched than is read.
Try it: `python -c "from ovi.media import probe; print(probe.probe('clip.mp4'))"`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import av

from ovi.errors import OviError, one_line
from ovi.media.remote import Remote, reached

Source = str | Path | Remote  # a path, or an object of a bucket, by its address or opened before
Stream = TypeVar("Stream", av.VideoStream, av.AudioStream)
HDR_TRANSFERS = {16: "smpte2084", 18: "arib-std-b67"}  # PQ and HLG; everything else is shown as SDR
STUCK_S = 30.0  # that opening or reading a local file may take; a store has limits of its own
MICROSECOND = Fraction(1, 1_000_000)


class MediaError(OviError):
    """A file that cannot be used. `reason` is a code:

    unreadable (no media file), damaged (in the middle), truncated (breaks off before its end),
    no_video, no_audio, interlaced, hdr, no_clock (times run backwards), changing (its size, rate or channels),
    short (does not cover what was asked for).
    """

    def __init__(self, path: Source, reason: str, what: str) -> None:
        super().__init__(f"{path}: {what}")
        self.reason = reason


@dataclass(frozen=True)
class VideoStream:
    """width and height as displayed (turned by `rotation`, square pixels); start and end in s on the file's clock."""

    index: int  # among all streams
    number: int  # among the picture streams
    codec: str
    width: int
    height: int
    rotation: int  # degrees counter-clockwise that bring a decoded picture upright: 0, 90, 180 or 270
    average_rate: Fraction
    steps: Fraction  # a second, from the start on, at which the file says that pictures begin; 0 where it does not
    time_base: Fraction
    start: Fraction
    end: Fraction | None  # as the header promises
    interlaced: bool
    transfer: str  # "sdr", or the HDR transfer's name
    pix_fmt: str


@dataclass(frozen=True)
class AudioStream:
    index: int  # among all streams
    number: int  # among the sound streams
    codec: str
    rate: int
    channels: int
    start: Fraction
    end: Fraction | None


@dataclass(frozen=True)
class MediaInfo:
    """duration in s as the header says; None where it does not."""

    path: str
    container: str
    duration: Fraction | None
    video: VideoStream | None
    audio: AudioStream | None

    def pictures(self) -> VideoStream:
        """The picture stream. Raises MediaError no_video, interlaced or hdr when it cannot be used."""
        if self.video is None:
            raise MediaError(self.path, "no_video", "has no picture stream")
        if self.video.interlaced:
            raise MediaError(self.path, "interlaced", "is interlaced; deinterlace it first")
        if self.video.transfer != "sdr":
            raise MediaError(self.path, "hdr", f"is HDR ({self.video.transfer}); tone-map it to SDR first")
        return self.video

    def sound(self) -> AudioStream:
        """The sound stream. Raises MediaError no_audio."""
        if self.audio is None:
            raise MediaError(self.path, "no_audio", "has no sound stream")
        return self.audio


def probe(path: Source) -> MediaInfo:
    """Facts about a file, picture or sound or both. Raises MediaError unreadable."""
    with opened(path) as container:
        videos = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        video = _best(videos, lambda s: (s.width or 0) * (s.height or 0))
        audio = _best(container.streams.audio, lambda s: (s.channels or 0) * (s.rate or 0))
        duration = None if container.duration is None else container.duration * MICROSECOND
        info = MediaInfo(
            str(path), container.format.name, duration,
            None if video is None else _video(path, container, video),
            None if audio is None else _audio(container, audio),
        )  # fmt: skip
    if info.video is None and info.audio is None:
        raise MediaError(path, "unreadable", "holds neither pictures nor sound")
    return info


@contextlib.contextmanager
def opened(path: Source) -> Iterator[av.container.InputContainer]:
    """The file opened for reading; whatever libav finds wrong inside the block becomes a MediaError unreadable.

    A store that does not answer is an OviError that is none: it says nothing about the file.
    """
    place = reached(path)
    if not (place.exists() if isinstance(place, Remote) else Path(place).is_file()):
        raise MediaError(path, "unreadable", "no such file")
    file, timeout = (place.open(), None) if isinstance(place, Remote) else (place, STUCK_S)
    try:
        with av.open(file, "r", timeout=timeout) as container:
            yield container
    except (av.error.FFmpegError, ValueError, LookupError, OverflowError, MemoryError) as error:
        words = error.strerror if isinstance(error, av.error.FFmpegError) else one_line(error)
        raise MediaError(path, "unreadable", f"cannot be read as media ({words})") from None


def _best(streams: Iterable[Stream], size: Callable[[Stream], int]) -> Stream | None:
    """The default stream; of several the largest, of those the first. Streams of unknown codecs do not count."""
    known = [stream for stream in streams if stream.codec_context is not None]
    chosen = av.stream.Disposition.default
    return max(known, key=lambda s: (bool(s.disposition & chosen), size(s), -s.index), default=None)


def _video(path: Source, container: av.container.InputContainer, stream: av.VideoStream) -> VideoStream:
    stream.codec_context.thread_count = 1  # more would decode as many pictures at once
    frame = next(container.decode(stream), None)
    if frame is None:
        raise MediaError(path, "unreadable", "no picture in it can be decoded")
    rotation = round(frame.rotation / 90) * 90 % 360
    width, height = round(frame.width * (stream.sample_aspect_ratio or 1)), frame.height
    if rotation in (90, 270):
        width, height = height, width
    time_base = Fraction(stream.time_base or 0)
    return VideoStream(
        index=stream.index,
        number=container.streams.video.index(stream),
        codec=stream.codec_context.name,
        width=width,
        height=height,
        rotation=rotation,
        average_rate=Fraction(stream.average_rate or stream.guessed_rate or 0),
        steps=Fraction(stream.base_rate or 0),
        time_base=time_base,
        start=Fraction(frame.pts or 0) * time_base,
        end=_end(stream),
        interlaced=frame.interlaced_frame,
        transfer=HDR_TRANSFERS.get(int(frame.color_trc), "sdr"),
        pix_fmt=frame.format.name,
    )


def _audio(container: av.container.InputContainer, stream: av.AudioStream) -> AudioStream:
    return AudioStream(
        index=stream.index,
        number=container.streams.audio.index(stream),
        codec=stream.codec_context.name,
        rate=stream.rate,
        channels=stream.channels,
        start=Fraction(stream.start_time or 0) * Fraction(stream.time_base or 0),
        end=_end(stream),
    )


def _end(stream: av.VideoStream | av.AudioStream) -> Fraction | None:
    """When the stream ends, as its header promises: MP4 counts ticks, Matroska writes a DURATION tag of h:m:s."""
    time_base = Fraction(stream.time_base or 0)
    if stream.duration is not None:
        return (Fraction(stream.start_time or 0) + stream.duration) * time_base
    try:
        hours, minutes, seconds = (Fraction(part) for part in stream.metadata.get("DURATION", "").split(":"))
    except ValueError:
        return None
    return hours * 3600 + minutes * 60 + seconds
