"""A clip's pictures and sound as members of shards or as files of a folder: written once, read by name in any coding.

    raw    `<clip_id>.frames` uint8 [T, H, W, 3]                   `<clip_id>.pcm` s16le mono
    h264   `<clip_id>.mp4` H.264 4:4:4 at a low CRF, no sound      `<clip_id>.flac` the same samples, lossless
The member that is there tells the coding, so readers need no setting. Equal pictures give equal bytes.
Try it: `ovi curate --set curation.coding=h264`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
from av.video.reformatter import Colorspace, VideoReformatter
from numpy.typing import NDArray

from ovi import storage
from ovi.errors import OviError

RAW, H264 = "raw", "h264"
PICTURES, SOUNDS = ("frames", "mp4"), ("pcm", "flac")  # kinds of members, by coding
CRF, GOP = 10, 24  # PSNR about 46 dB; a seek decodes one second at most
FLAC_BLOCK = 4608
FULL_SCALE = 32768
CODEC_FAULTS = (av.error.FFmpegError, ValueError)

Pictures = NDArray[np.uint8]


class Members(Protocol):
    """Whatever holds members by name: a ShardReader, or a Folder."""

    def read(self, member: str) -> bytes: ...
    def __contains__(self, member: str) -> bool: ...


class Folder:
    """The files of a folder or of a prefix as members. What is put into a bucket after the first look is not seen."""

    def __init__(self, address: str | Path) -> None:
        self._address = str(address)

    def read(self, member: str, offset: int = 0, length: int | None = None) -> bytes:
        return storage.read_bytes(f"{self._address}/{member}", offset, length)

    def __contains__(self, member: str) -> bool:
        address = f"{self._address}/{member}"
        return address in self._listed if storage.is_remote(address) else storage.exists(address)

    @cached_property
    def _listed(self) -> frozenset[str]:
        return frozenset(storage.list_files(self._address))


class Layers:
    """Several holders of members, the first that has one answers."""

    def __init__(self, *parts: Members) -> None:
        self._parts = parts

    def read(self, member: str) -> bytes:
        return next((part for part in self._parts if member in part), self._parts[-1]).read(member)

    def __contains__(self, member: str) -> bool:
        return any(member in part for part in self._parts)


def frames(members: Members, row: dict[str, Any]) -> Pictures:
    """uint8 [T, H, W, 3] of the clip of a manifest row. OviError when they are not what the row says."""
    raw, coded = (f"{row['clip_id']}.{kind}" for kind in PICTURES)
    shape = (row["frames"], row["height"], row["width"], 3)
    if coded not in members:
        data = members.read(raw)
        if len(data) != np.prod(shape):
            raise OviError(f"{raw}: holds {len(data)} bytes, not the pictures {shape}; run the curate stage again")
        return np.frombuffer(data, np.uint8).reshape(shape)
    pictures = np.empty(shape, np.uint8)
    count = 0
    for picture in _decoded(members.read(coded), coded):
        if count == len(pictures) or picture.shape != shape[1:]:
            raise OviError(f"{coded}: does not hold {shape[0]} pictures {shape[1:]}; run the curate stage again")
        pictures[count] = picture
        count += 1
    if count < len(pictures):
        raise OviError(f"{coded}: holds {count} of {shape[0]} pictures; run the curate stage again")
    return pictures


def some_frames(members: Members, row: dict[str, Any], places: Sequence[int]) -> list[Pictures]:
    """Some of a clip's pictures, [H, W, 3] each; out of a folder, those in between are not held in memory."""
    raw, coded = (f"{row['clip_id']}.{kind}" for kind in PICTURES)
    if coded in members:
        wanted, all_of = set(places), _decoded(members.read(coded), coded)
        found = {place: picture for place, picture in enumerate(all_of) if place in wanted}
        return [found[place] for place in places]
    if isinstance(members, Folder):
        shape = (row["height"], row["width"], 3)
        size = int(np.prod(shape))
        return [np.frombuffer(members.read(raw, place * size, size), np.uint8).reshape(shape) for place in places]
    return [np.array(picture) for picture in frames(members, row)[list(places)]]


def pcm(members: Members, row: dict[str, Any]) -> bytes:
    """The clip's sound as s16le mono bytes, sample for sample what was packed."""
    raw, coded = (f"{row['clip_id']}.{kind}" for kind in SOUNDS)
    if coded not in members:
        return members.read(raw)
    try:
        with av.open(io.BytesIO(members.read(coded)), "r", format="flac") as container:
            blocks = [block.to_ndarray().reshape(-1) for block in container.decode(audio=0)]
        return np.concatenate(blocks).astype("<i2").tobytes()
    except CODEC_FAULTS:
        raise OviError(f"{coded}: cannot be decoded; run the curate stage again") from None


def sound(members: Members, row: dict[str, Any]) -> NDArray[np.float32]:
    """float32 [N] in [-1, 1)."""
    return np.frombuffer(pcm(members, row), "<i2").astype(np.float32) / np.float32(FULL_SCALE)


def code(folder: Path, row: dict[str, Any]) -> float | None:
    """Replace a clip's raw files in a folder by coded ones; PSNR of its pictures in dB, None where it has none."""
    raw, coded = (folder / f"{row['clip_id']}.{kind}" for kind in SOUNDS)
    coded.write_bytes(_flac(np.frombuffer(raw.read_bytes(), "<i2"), row["sample_rate"]))
    raw.unlink()
    if row.get("frames") is None:
        return None
    raw, coded = (folder / f"{row['clip_id']}.{kind}" for kind in PICTURES)
    pictures = np.memmap(raw, np.uint8, "r", shape=(row["frames"], row["height"], row["width"], 3))
    data = _mp4(pictures, row["fps"])
    psnr = _psnr(pictures, _decoded(data, coded.name))
    coded.write_bytes(data)
    raw.unlink()
    return psnr


def _mp4(pictures: Pictures, fps: int) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", "mp4", options={"fflags": "+bitexact"}) as container:
        # x264's mb-tree does not give equal bytes every time, even on one thread
        options = {"crf": str(CRF), "preset": "veryfast", "x264-params": "threads=1:no-mbtree=1"}
        stream = container.add_stream("libx264", rate=fps, options=options)
        context = stream.codec_context
        context.height, context.width = pictures.shape[1:3]
        context.pix_fmt, context.thread_count, context.gop_size = "yuv444p", 1, GOP
        context.color_range, context.colorspace, context.color_primaries, context.color_trc = 1, 1, 1, 1  # BT.709
        context.flags |= av.codec.context.Flags.bitexact
        scaler = VideoReformatter()
        for place, rgb in enumerate(pictures):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
            picture = scaler.reformat(picture, format="yuv444p", dst_colorspace=Colorspace.ITU709)
            picture.pts, picture.time_base = place, Fraction(1, fps)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def _decoded(data: bytes, name: str) -> Iterator[Pictures]:
    """The pictures of an MP4 of ours, in order."""
    scaler = VideoReformatter()
    try:
        with av.open(io.BytesIO(data), "r", format="mp4") as container:
            container.streams.video[0].codec_context.thread_count = 1
            for picture in container.decode(video=0):
                rgb = scaler.reformat(picture, format="rgb24", src_colorspace=Colorspace.ITU709)
                yield np.asarray(rgb.to_ndarray(), np.uint8)
    except (*CODEC_FAULTS, IndexError):
        raise OviError(f"{name}: cannot be decoded; run the curate stage again") from None


def _flac(samples: NDArray[np.int16], rate: int) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", "flac", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("flac", rate=rate, layout="mono", format="s16")
        stream.codec_context.flags |= av.codec.context.Flags.bitexact
        for first in range(0, len(samples), FLAC_BLOCK):
            block = av.AudioFrame.from_ndarray(samples[None, first : first + FLAC_BLOCK], format="s16", layout="mono")
            block.sample_rate, block.pts, block.time_base = rate, first, Fraction(1, rate)
            container.mux(stream.encode(block))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def _psnr(pictures: Pictures, decoded: Iterator[Pictures]) -> float:
    """Over all values of a clip; at most 99 dB, which stands for equal."""
    errors = 0.0
    for picture, back in zip(pictures, decoded, strict=True):
        errors += float(np.square(picture.astype(np.float32) - back).sum(dtype=np.float64))
    mean = errors / pictures.size
    return min(99.0, float(10 * np.log10(255**2 / mean))) if mean else 99.0
