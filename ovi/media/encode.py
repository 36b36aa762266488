"""Arrays -> files: H.264 and AAC in MP4 that any browser plays, WAV, and PNG. Equal arrays give equal bytes.

One thread, no encoder versions or dates in the file, no reordered pictures: a picture's time in the file is its time.
Try it: `pytest tests/media/test_encode.py`.
"""

from __future__ import annotations

import math
import struct
import wave
import zlib
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from ovi import storage
from ovi.errors import OviError

Pictures = NDArray[np.uint8]
Samples = NDArray[np.float32]
BLOCK = 1024  # samples an AAC packet holds
BITEXACT = {"fflags": "+bitexact", "movflags": "+faststart"}
GROWING = {  # four fragments a second, each in the file as soon as it is complete
    "fflags": "+bitexact", "movflags": "+empty_moov+default_base_moof+frag_keyframe",
    "frag_duration": "250000", "flush_packets": "1",
}  # fmt: skip


def write_clip(
    path: str | Path, frames: Pictures | Iterable[Pictures], fps: int | Fraction, audio: Samples | None,
    sample_rate: int = 16000, *,
    width: int | None = None, crf: int = 18, preset: str = "veryfast", ticks: Sequence[int] | None = None,
    rotation: int = 0, live: str | Path | None = None,
) -> None:  # fmt: skip
    """frames uint8 [T, H, W, 3] and audio float32 [N] or [N, 2] in [-1, 1] as an MP4, whole or not at all.

    Frames may come in parts [t, H, W, 3] that follow each other, each written when it is there.
    `width` enlarges (Lanczos, aspect kept); odd sides are scaled to even ones. Picture k is shown at ticks[k] / fps s,
    without `ticks` at k / fps. `rotation` is written as the display matrix, degrees counter-clockwise.
    Sound begins at 0. `live` becomes the same clip as a fragmented MP4, playable while it grows and parts still come.
    Raises OviError for empty or wrongly shaped arrays.
    """
    parts = iter([frames] if isinstance(frames, np.ndarray) else frames)
    first = next(parts, np.empty((0, 0, 0, 3), np.uint8))
    if first.ndim != 4 or first.shape[3] != 3 or not len(first):
        raise OviError(f"{path}: pictures must be uint8 [T, H, W, 3] with T > 0, are {first.dtype} {first.shape}")
    with storage.atomic_path(path) as temporary, av.open(str(temporary), "w", "mp4", options=BITEXACT) as container:
        video = _video_stream(container, first.shape[1:3], Fraction(fps), width, crf, preset)
        if rotation:
            video.set_display_rotation(rotation)
        packets = _pictures(video, chain.from_iterable(chain([first], parts)), ticks)
        if audio is not None:  # first, so that what grows has its sound with its pictures
            packets = chain(_sound(_audio_stream(container, audio, sample_rate), audio), packets)
        if live is not None:
            packets = _growing(Path(live), container, packets)
        for packet in packets:
            container.mux(packet)


def write_m4a(path: str | Path, audio: Samples, rate: int) -> None:
    """float32 [N] or [N, 2] as AAC, whole or not at all."""
    with storage.atomic_path(path) as temporary, av.open(str(temporary), "w", "mp4", options=BITEXACT) as container:
        container.mux(list(_sound(_audio_stream(container, audio, rate), audio)))


def write_wav(path: str | Path, audio: Samples, rate: int) -> None:
    """float32 [N] or [N, C] as 16-bit WAV, whole or not at all."""
    with storage.atomic_path(path) as temporary, wave.open(str(temporary), "wb") as file:
        file.setnchannels(1 if audio.ndim == 1 else audio.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(pcm16(audio).tobytes())


def write_png(path: str | Path, rgb: Pictures) -> None:
    """uint8 [H, W, 3] as PNG, whole or not at all."""
    height, width, _ = rgb.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), rgb.reshape(height, -1)], axis=1)  # filter 0: none
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    storage.write_bytes(path, b"\x89PNG\r\n\x1a\n" + body)


def pcm16(audio: Samples) -> NDArray[np.int16]:
    """float32 in [-1, 1] as little-endian 16-bit samples; louder is clipped."""
    return np.round(np.clip(audio, -1, 1) * 32767).astype("<i2")


def _video_stream(
    container: av.container.OutputContainer,
    size: tuple[int, ...],
    fps: Fraction,
    width: int | None,
    crf: int,
    preset: str,
) -> av.VideoStream:
    height, old_width = size
    new_width = width or old_width
    # Without no-mbtree, equal pictures sometimes give unequal bytes, on one thread too; qcomp keeps still ones still.
    # bframes=0: with reordered pictures the file's clock would begin before its first picture
    options = {"crf": str(crf), "preset": preset, "bf": "0", "x264-params": "threads=1:no-mbtree=1:qcomp=1"}
    stream = container.add_stream("libx264", rate=fps, options=options)
    context = stream.codec_context
    context.width, context.height = _even(new_width), _even(height * new_width / old_width)
    context.pix_fmt, context.thread_count, context.time_base = "yuv420p", 1, 1 / fps
    context.color_range, context.colorspace, context.color_primaries, context.color_trc = 1, 6, 6, 6  # SD television
    context.flags |= av.codec.context.Flags.bitexact
    return stream


def _audio_stream(container: av.container.OutputContainer, audio: Samples, rate: int) -> av.AudioStream:
    if audio.ndim not in (1, 2) or (audio.ndim == 2 and audio.shape[1] > 2):
        raise OviError(f"sound to encode must be float32 [N] or [N, 2], is {audio.dtype} {audio.shape}")
    layout = "stereo" if audio.ndim == 2 and audio.shape[1] == 2 else "mono"
    # the default coder is ten times slower and, for such sounds, mostly further from the original
    stream = container.add_stream("aac", rate=rate, layout=layout, options={"aac_coder": "fast"})
    stream.codec_context.bit_rate = 64_000 if layout == "mono" else 128_000
    stream.codec_context.thread_count = 1
    stream.codec_context.flags |= av.codec.context.Flags.bitexact
    return stream


def _growing(path: Path, container: av.container.OutputContainer, packets: Iterable[av.Packet]) -> Iterator[av.Packet]:
    """The packets as they pass on their way into `container`; each is in the file at `path`, too."""
    container.start_encoding()  # now the encoders know what a second file has to say of them
    with av.open(str(path), "w", "mp4", options=GROWING) as growing:
        streams = {stream.index: growing.add_stream_from_template(stream) for stream in container.streams}
        for packet in packets:
            copy = av.Packet(bytes(packet))
            copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
            copy.time_base = packet.time_base
            copy.is_keyframe, copy.stream = packet.is_keyframe, streams[packet.stream.index]
            growing.mux(copy)
            yield packet


def _pictures(stream: av.VideoStream, frames: Iterable[Pictures], ticks: Sequence[int] | None) -> Iterator[av.Packet]:
    """frames [H, W, 3] one by one."""
    context = stream.codec_context
    reformatter = VideoReformatter()
    for k, rgb in enumerate(frames):
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        picture = reformatter.reformat(
            picture,
            context.width,
            context.height,
            "yuv420p",
            dst_colorspace=Colorspace.ITU601,
            interpolation=Interpolation.LANCZOS,
        )
        picture.pts, picture.time_base = ticks[k] if ticks else k, context.time_base
        picture.duration = ticks[k + 1] - ticks[k] if ticks and k + 1 < len(ticks) else 1
        yield from stream.encode(picture)
    yield from stream.encode(None)


def _sound(stream: av.AudioStream, audio: Samples) -> Iterator[av.Packet]:
    channels = audio.reshape(len(audio), -1).T.astype(np.float32)
    layout = "stereo" if len(channels) == 2 else "mono"
    for first in range(0, channels.shape[1], BLOCK):
        part = np.ascontiguousarray(channels[:, first : first + BLOCK])
        block = av.AudioFrame.from_ndarray(part, format="fltp", layout=layout)
        block.sample_rate, block.pts, block.time_base = stream.rate, first, Fraction(1, stream.rate)
        yield from stream.encode(block)
    yield from stream.encode(None)


def _even(side: float) -> int:
    return 2 * max(1, math.ceil(side / 2 - 0.25))
