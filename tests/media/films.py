"""Long films for measurements, of which only a few seconds are ever encoded."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np


def film_720p(path: Path, noise: bool, seconds: int = 40) -> Path:
    """24 pictures a second of a test picture, with grain or without, and a stereo tone."""
    filters = [("testsrc2", f"size=1280x720:rate=24:duration={seconds}")]
    filters += [("noise", "alls=12:allf=t:all_seed=1")] if noise else []
    return _film(path, _filtered([*filters, ("format", "yuv420p")]), 5_200_000 if noise else 3_500_000, seconds, 0.5)


def film_1080p(path: Path, seconds: int) -> Path:
    """A block that moves over a slope of grey: little to decode. Ten seconds loud, then quiet, over and over."""
    rows, columns = np.mgrid[0:1080, 0:1920]
    ground = np.repeat((60 + 120 * (rows + columns) / 3000).astype(np.uint8)[..., None], 3, axis=2)

    def pictures() -> Iterable[av.VideoFrame]:
        for at in range(240):
            shown = ground.copy()
            left = 100 + round(600 * (1 + np.sin(at * np.pi / 120)))
            shown[400:700, left : left + 300] = (220, 60, 40)
            yield av.VideoFrame.from_ndarray(shown, format="rgb24").reformat(format="yuv420p")

    loud, quiet = (_film(path.with_suffix(f".{level}.mp4"), pictures(), 1_000_000, 10, level) for level in (0.5, 0.0))
    _joined([loud] + [quiet] * (seconds // 10 - 1), path)
    loud.unlink()
    quiet.unlink()
    return path


def lasting(path: Path, times: int) -> Path:
    """The same film over and over, its packets copied."""
    _joined([path] * times, longer := path.with_stem(f"{path.stem}_{times}"))
    return longer


def _joined(parts: list[Path], path: Path) -> None:
    with av.open(str(parts[0])) as first, av.open(str(path), "w") as out:
        streams = [out.add_stream_from_template(stream) for stream in first.streams]
        begin = Fraction(0)
        for part in parts:
            with av.open(str(part)) as film:
                for packet in film.demux():
                    if packet.dts is None:
                        continue
                    shift = round(begin / packet.time_base)
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    packet.stream = streams[packet.stream_index]
                    out.mux(packet)
                begin += Fraction(film.duration, 1_000_000) + Fraction(1, 24)


def _film(path: Path, pictures: Iterable[av.VideoFrame], bits: int, seconds: int, level: float) -> Path:
    rate = 48000
    tone = level * np.sin(np.arange(seconds * rate) * (2 * np.pi * 440 / rate)).astype(np.float32)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=24, options={"preset": "veryfast"})
        sound = container.add_stream("aac", rate=rate, layout="stereo")
        packets: list[av.Packet] = []
        for at, picture in enumerate(pictures):
            if at == 0:
                video.width, video.height, video.pix_fmt, video.bit_rate = (
                    picture.width,
                    picture.height,
                    "yuv420p",
                    bits,
                )
            picture.pts, picture.time_base = at, Fraction(1, 24)
            packets += video.encode(picture)
        packets += video.encode(None)
        block = av.AudioFrame.from_ndarray(np.stack([tone, tone]), format="fltp", layout="stereo")
        block.sample_rate, block.pts, block.time_base = rate, 0, Fraction(1, rate)
        resampler = av.AudioResampler("fltp", "stereo", rate, frame_size=sound.frame_size or 1024)
        for part in (*resampler.resample(block), *resampler.resample(None), None):
            packets += sound.encode(part)
        for packet in sorted((p for p in packets if p.dts is not None), key=lambda p: p.dts * p.time_base):
            container.mux(packet)
    return path


def _filtered(filters: list[tuple[str, str]]) -> Iterable[av.VideoFrame]:
    graph = av.filter.Graph()
    nodes = [graph.add(name, arguments) for name, arguments in [*filters, ("buffersink", "")]]
    for before, after in pairwise(nodes):
        before.link_to(after)
    graph.configure()
    while True:
        try:
            yield nodes[-1].pull()
        except av.error.EOFError:
            return
