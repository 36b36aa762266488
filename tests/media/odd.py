"""Odd and broken files as people have them, made on the spot, each with how it has to end: a reason, or "kept".

Every film shows the same bouncing ball and its thuds for five and a half seconds, unless it says otherwise.
Try it: `python -m tests.media.odd DIR` writes them all.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from ovi.media.audio import resample
from ovi.synthetic.scenes import render

Maker = Callable[[Path], None]
ODD: dict[str, tuple[str, Maker]] = {}  # file name -> (how it ends, what makes it)
COUNT, FPS, RATE = 134, 24, 16000
COVER = av.stream.Disposition.attached_pic


@dataclass(frozen=True)
class Film:
    """A picture stream: which of the ball's pictures are shown, `ticks` / fps s after zero, in what coding."""

    fps: int = FPS
    ticks: Sequence[int] | None = None
    size: tuple[int, int] = (64, 64)  # height, width
    codec: str = "libx264"
    pix_fmt: str = "yuv420p"
    options: dict[str, str] = field(default_factory=dict)
    context: dict[str, Any] = field(default_factory=dict)  # of the codec
    rotation: int = 0


@dataclass(frozen=True)
class Track:
    """A sound stream: the thuds at `rate`, from `skip` s on, for `seconds`; `start` s after zero."""

    rate: int = RATE
    layout: str = "mono"
    codec: str = "aac"
    start: Fraction = Fraction(0)
    skip: float = 0.0
    seconds: float = COUNT / FPS
    level: float = 1.0
    size: tuple[int, int] = (64, 64)  # of the pictures that it belongs to: a ball falls differently in each


def odd(name: str, end: str = "kept") -> Callable[[Maker], Maker]:
    def add(maker: Maker) -> Maker:
        ODD[name] = (end, maker)
        return maker

    return add


def plain(name: str, *streams: Film | Track, end: str = "kept", **options: str) -> None:
    """A file that is nothing but its streams."""
    ODD[name] = (end, lambda path: write(path, *streams, **options))


def write(path: Path, *streams: Film | Track, format: str | None = None, words: bool = False, **options: str) -> None:
    """The streams in one file, interleaved by time; `words` adds a stream of subtitles."""
    with av.open(str(path), "w", format=format, options=options) as container:
        open_streams = [(_add(container, stream), stream) for stream in streams]
        if words:
            open_streams.append((_subtitles(container), None))
        container.start_encoding()
        packets = [packet for out, stream in open_streams for packet in _packets(out, stream)]
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)


@cache
def ball(height: int, width: int, frames: int = COUNT) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Pictures [frames, height, width, 3] at FPS and sound [N] at RATE."""
    scene = render("bounce", 4, frames=frames, size=(height, width), samples=frames * RATE // FPS)
    return scene.frames, scene.audio


def _add(container: av.container.OutputContainer, stream: Film | Track) -> Any:
    if isinstance(stream, Track):
        return container.add_stream(stream.codec, rate=stream.rate, layout=stream.layout)
    options = {"threads": "1", "preset": "ultrafast", **stream.options}
    out = container.add_stream(stream.codec, rate=stream.fps, options=options)
    out.height, out.width = reversed(stream.size) if stream.rotation in (90, 270) else stream.size
    out.pix_fmt = stream.pix_fmt
    for name, value in stream.context.items():
        setattr(out.codec_context, name, value)
    if stream.rotation:
        out.set_display_rotation(stream.rotation)
    return out


def _subtitles(container: av.container.OutputContainer) -> Any:
    out = container.add_stream("ass")
    out.codec_context.subtitle_header = b"[Script Info]\n\n[V4+ Styles]\nFormat: Name\nStyle: Default\n\n[Events]\n"
    return out


def _packets(out: Any, stream: Film | Track | None) -> list[av.Packet]:
    if stream is None:
        packet = av.Packet(b"0,0,Default,,0,0,0,,Thud")
        packet.stream, packet.time_base, packet.pts, packet.dts, packet.duration = out, Fraction(1, 1000), 0, 0, 1000
        return [packet]
    blocks = _blocks(out, stream) if isinstance(stream, Track) else _pictures(stream)
    packets = [packet for block in blocks for packet in out.encode(block)] + out.encode(None)
    return [packet for packet in packets if packet.dts is not None]


def _pictures(film: Film) -> list[av.VideoFrame]:
    frames, _ = ball(*film.size)
    ticks = range(len(frames) * film.fps // FPS) if film.ticks is None else film.ticks
    made = []
    for tick in ticks:
        rgb = np.rot90(frames[min(len(frames) - 1, (tick - ticks[0]) * FPS // film.fps)], -film.rotation // 90)
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24").reformat(format=film.pix_fmt)
        picture.pts, picture.time_base = tick, Fraction(1, film.fps)
        if "color_trc" in film.context:
            picture.color_trc = film.context["color_trc"]
        made.append(picture)
    return made


def _blocks(out: Any, track: Track) -> list[av.AudioFrame]:
    mono = track.level * resample(ball(*track.size)[1], RATE, track.rate)
    mono = mono[int(track.skip * track.rate) :][: int(track.seconds * track.rate)]
    channels = len(av.AudioLayout(track.layout).channels)
    block = av.AudioFrame.from_ndarray(np.tile(mono, (channels, 1)), format="fltp", layout=track.layout)
    block.sample_rate, block.pts, block.time_base = track.rate, int(track.start * track.rate), Fraction(1, track.rate)
    resampler = av.AudioResampler(out.format.name, track.layout, track.rate, frame_size=out.frame_size or 1024)
    return [*resampler.resample(block), *resampler.resample(None)]


# Nothing is wrong with these

plain("whole.mp4", Film(), Track(), movflags="+faststart")
plain("mov.mov", Film(), Track(48000, "stereo", "pcm_s16le"))
plain("matroska.mkv", Film(), Track(48000, "stereo", "libopus"))
plain("webm.webm", Film(codec="libvpx-vp9", options={"deadline": "realtime"}), Track(48000, codec="libopus"))
plain("avi.avi", Film(codec="mpeg4"), Track(48000, "stereo", "libmp3lame"))
plain("stream.ts", Film(), Track())
plain("flash.flv", Film(), Track(44100))
plain("disc.mpg", Film(fps=25, codec="mpeg2video"), Track(48000, "stereo", "ac3"))
plain("fragments.mp4", Film(), Track(), movflags="frag_keyframe+empty_moov")
plain("reordered.mp4", Film(options={"bf": "3", "b-adapt": "0"}), Track())
plain("stereo.mp4", Film(), Track(layout="stereo"))
plain("surround.mp4", Film(), Track(48000, "5.1"))
plain("telephone.mkv", Film(), Track(8000, codec="pcm_s16le"))
plain("disc_sound.mp4", Film(), Track(44100))
plain("studio_sound.mkv", Film(), Track(96000, "stereo", "flac"))
plain("two_films.mp4", Film(), Film(size=(48, 64)), Track())
plain("two_sounds.mp4", Film(), Track(), Track(layout="stereo", level=0.5))
plain("subtitled.mkv", Film(), Track(), words=True)
plain("odd_size.mkv", Film(size=(67, 65), codec="ffv1", pix_fmt="yuv444p"), Track())
plain("deep.mp4", Film(pix_fmt="yuv420p10le"), Track())
plain("full_range.mp4", Film(pix_fmt="yuvj420p", context={"color_range": 2}), Track())
plain("wide_pixels.mp4", Film(context={"sample_aspect_ratio": Fraction(4, 3)}), Track())
plain("grey.mkv", Film(codec="ffv1", pix_fmt="gray"), Track())
plain("see_through.mov", Film(codec="qtrle", pix_fmt="argb"), Track())
plain("see_through.webm", Film(codec="libvpx-vp9", pix_fmt="yuva420p", options={"deadline": "realtime"}),
      Track(48000, codec="libopus"))  # fmt: skip
plain("fast.mp4", Film(fps=240, options={"preset": "ultrafast"}), Track())
plain("skipping.mp4", Film(ticks=[k for k in range(COUNT) if k % 3 or k == 0]), Track())
plain("skipping.mkv", Film(ticks=[k for k in range(COUNT) if k % 7 != 3]), Track())
plain("before_zero.mkv", Film(ticks=range(-6, COUNT - 6)), Track(start=Fraction(-1, 4)))
plain("late_start.ts", Film(ticks=range(240, 240 + COUNT)), Track(start=Fraction(10)))
plain("late_sound.mp4", Film(), Track(start=Fraction(1, 2), skip=0.5))
for turn in (90, 180, 270):
    plain(f"turned_{turn}.mp4", Film(size=(64, 96), rotation=turn), Track(size=(64, 96)))


@odd("mislabelled.avi")
def _mislabelled(path: Path) -> None:
    write(path, Film(), Track(), format="mp4")


@odd("trailing.mp4")
def _trailing(path: Path) -> None:
    write(path, Film(), Track())
    path.write_bytes(path.read_bytes() + np.random.default_rng(0).bytes(5000))


@odd("trimmed.mp4")
def _trimmed(path: Path) -> None:
    """Its edit lists leave out the first 12 frames: the media begins half a second before the presentation does."""
    write(path, Film(ticks=range(COUNT + 12)), Track(seconds=5.5))
    data = bytearray(path.read_bytes())
    at = -1
    while (at := data.find(b"elst", at + 1)) > 0:  # version and flags, count, then duration, media time, rate
        place = at + 4 + 8 + 4
        scale = int.from_bytes(data[_after(data, b"mdhd", at) + 12 :][:4])
        media_time = int.from_bytes(data[place : place + 4], signed=True) + scale // 2
        data[place : place + 4] = media_time.to_bytes(4, signed=True)
        length = int.from_bytes(data[place - 4 : place]) - 500  # in the film's scale, thousandths
        data[place - 4 : place] = length.to_bytes(4)
    path.write_bytes(data)


# Good files that nothing can be learnt from

plain("no_sound.mp4", Film(), end="no_audio")
plain("animation.gif", Film(codec="gif", pix_fmt="rgb8"), end="no_audio")
plain("no_film.mp4", Track(), end="no_video")
plain("slides.mp4", Film(fps=1, ticks=range(7)), Track(), end="low_rate")
plain("one_picture.mp4", Film(ticks=[0, COUNT]), Track(), end="too_short")
plain("sound_stops.mp4", Film(), Track(seconds=2.0), end="sound_short")
plain("hushed.mp4", Film(), Track(level=0.0), end="silent")
plain("interlaced.mp4", Film(options={"x264-params": "tff=1"}), Track(), end="interlaced")
plain("interlaced.mpg", Film(fps=25, codec="mpeg2video", options={"flags": "+ildct+ilme", "field_order": "tt"}),
      Track(48000, codec="ac3"), end="interlaced")  # fmt: skip
HDR = {"color_primaries": 9, "colorspace": 9}
plain("hdr_pq.mp4", Film(pix_fmt="yuv420p10le", context={**HDR, "color_trc": 16}), Track(), end="hdr")
plain("hdr_hlg.mp4", Film(pix_fmt="yuv420p10le", context={**HDR, "color_trc": 18}), Track(), end="hdr")
plain("no_order.avi", Film(options={"bf": "3", "b-adapt": "0"}), Track(48000, codec="libmp3lame"), end="no_clock")


@odd("cover.mp4", "no_video")
def _cover(path: Path) -> None:
    with av.open(str(path), "w") as container:
        picture = container.add_stream("mjpeg", rate=1)
        picture.width, picture.height, picture.pix_fmt, picture.disposition = 64, 64, "yuvj420p", COVER
        sound = _add(container, Track())
        frame = av.VideoFrame.from_ndarray(ball(64, 64)[0][0], format="rgb24").reformat(format="yuvj420p")
        frame.pts = 0
        for packet in [*picture.encode(frame), *picture.encode(None), *_packets(sound, Track())]:
            container.mux(packet)


@odd("new_size.ts", "changing")
def _new_size(path: Path) -> None:
    later = Film(size=(96, 64), ticks=range(COUNT, 2 * COUNT))
    _two_parts(path, [Film(), Track(seconds=11, codec="mp2", rate=32000)], later)


@odd("new_rate.ts", "changing")
def _new_rate(path: Path) -> None:
    later = Track(48000, codec="mp2", start=Fraction(COUNT, FPS))
    _two_parts(path, [Film(ticks=range(2 * COUNT)), Track(32000, codec="mp2")], later)


def _two_parts(path: Path, streams: list[Film | Track], later: Film | Track) -> None:
    """The streams, of which the one of the kind of `later` goes on as that one says, in another coding."""
    with av.open(str(path), "w") as container, av.open(io.BytesIO(), "w", format="mpegts") as other:
        outs = [_add(container, stream) for stream in streams]
        second = _add(other, later)
        container.start_encoding()
        other.start_encoding()
        packets = [packet for out, stream in zip(outs, streams, strict=True) for packet in _packets(out, stream)]
        followed = next(out for out, stream in zip(outs, streams, strict=True) if type(stream) is type(later))
        for packet in _packets(second, later):
            packet.stream = followed
            packets.append(packet)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)


@odd("hole.ts", "unreadable")
def _hole(path: Path) -> None:
    """Its sound goes on after a minute and a half of nothing."""
    _two_parts(path, [Film(), Track(32000, codec="mp2")], Track(32000, codec="mp2", start=Fraction(95)))


# Broken ones


@odd("empty.mp4", "unreadable")
def _empty(path: Path) -> None:
    path.touch()


@odd("words.mp4", "unreadable")
def _words(path: Path) -> None:
    path.write_text("This is not a film. " * 200)


@odd("noise.mp4", "unreadable")
def _noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(50_000))


@odd("zeros.mkv", "unreadable")
def _zeros(path: Path) -> None:
    path.write_bytes(bytes(50_000))


@odd("cut_off.mp4", "truncated")
def _cut_off(path: Path) -> None:
    """The index comes first, and more than half of what it lists."""
    write(path, Film(), Track(), movflags="+faststart")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])


@odd("cut_off_headless.mp4", "unreadable")
def _headless(path: Path) -> None:
    """The index would have come last."""
    write(path, Film(), Track())
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])


@odd("cut_off.mkv", "truncated")
def _cut_off_mkv(path: Path) -> None:
    write(path, Film(), Track())
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])


@odd("boastful.mp4", "too_short")
def _boastful(path: Path) -> None:
    """A second long; its header says ten hours, its index knows better."""
    write(path, Film(ticks=range(24)), Track(seconds=1.0))
    data = bytearray(path.read_bytes())
    for box, place in ((b"mvhd", 20), (b"tkhd", 24), (b"mdhd", 20)):  # where each has its duration
        at = -1
        while (at := data.find(box, at + 1)) > 0:
            scale = int.from_bytes(data[at + 16 : at + 20]) if box == b"mdhd" else 1000
            data[at + place : at + place + 4] = (36_000 * scale).to_bytes(4)
    path.write_bytes(data)


@odd("boastful.mkv", "truncated")
def _boastful_mkv(path: Path) -> None:
    """A second long, without an index; each stream says that it has ten hours."""
    write(path, Film(ticks=range(24)), Track(seconds=1.0))
    data = path.read_bytes()
    assert data.count(b"00:00:01.") == 2
    path.write_bytes(data.replace(b"00:00:01.", b"10:00:00."))


@odd("bruised.mp4", "damaged")
def _bruised(path: Path) -> None:
    write(path, Film(), Track())
    _bruise(path)


@odd("bruised.mkv", "damaged")
def _bruised_mkv(path: Path) -> None:
    write(path, Film(codec="libvpx-vp9", options={"deadline": "realtime"}), Track(48000, codec="libopus"))
    _bruise(path)


def _bruise(path: Path) -> None:
    """Half of the pictures' packets in the middle second become noise."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size][60:84:2]
        places = [(packet.pos, packet.size) for packet in packets]
    data, rng = bytearray(path.read_bytes()), np.random.default_rng(0)
    for place, size in places:
        data[place + 8 : place + size] = rng.bytes(max(0, size - 8))
    path.write_bytes(data)


def _after(data: bytearray, box: bytes, at: int) -> int:
    return data.index(box, at) + 4


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, (end, make) in ODD.items():
        make(folder / name)
        print(f"{name:24} {end}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
