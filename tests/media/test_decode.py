"""Files as they come: turned, deep, with many streams, and broken in every way, each saying why in one line."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ovi.media import cut, decode, encode, probe
from ovi.media.probe import MediaError
from tests.media.made import gradient, write

SOUND = (0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)).astype(np.float32)


def reason(path: Path) -> str:
    """Why the file cannot be used, from whichever step notices."""

    def use() -> None:
        info = probe.probe(path)
        list(decode.frames(path, info))
        decode.audio(path, info)

    with pytest.raises(MediaError) as caught:
        use()
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))
    return caught.value.reason


def first_picture(path: Path) -> np.ndarray:
    return next(decode.frames(path)).rgb.astype(int)


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_pictures_come_upright(tmp_path: Path, turn: int) -> None:
    encode.write_clip(tmp_path / "turned.mp4", gradient(), 24, None, crf=6, rotation=turn)
    expected = np.rot90(gradient()[0], turn // 90)
    video = probe.probe(tmp_path / "turned.mp4").pictures()
    assert (video.height, video.width) == expected.shape[:2]
    assert np.abs(first_picture(tmp_path / "turned.mp4") - expected).mean() < 2


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "options"),
    [
        ("ten.mp4", "libx264", "yuv420p10le", {"crf": "6"}),
        ("full.mp4", "libx264", "yuvj420p", {"crf": "6"}),
        ("hevc.mp4", "libx265", "yuv420p", {"crf": "6", "x265-params": "log-level=none:pools=none"}),
        ("av1.mkv", "libsvtav1", "yuv420p", {"crf": "10", "preset": "12", "svtav1-params": "lp=1"}),
        ("vp9.webm", "libvpx-vp9", "yuv420p", {"crf": "6", "b": "0", "deadline": "realtime"}),
        ("exact.mkv", "ffv1", "yuv444p", {}),
    ],
)
def test_codecs_and_depths_show_the_same_picture(
    tmp_path: Path, name: str, codec: str, pix_fmt: str, options: dict[str, str]
) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    context = {"color_range": 2} if pix_fmt == "yuvj420p" else {}
    path = write(tmp_path / name, gradient(), codec=codec, pix_fmt=pix_fmt, options=options, **context)
    frames = list(decode.frames(path))
    assert len(frames) == 12
    assert np.abs(frames[0].rgb.astype(int) - gradient()[0]).mean() < 3
    assert abs(frames[-1].end - Fraction(12, 25)) <= Fraction(1, 500)


def test_the_default_stream_is_chosen_else_the_largest(tmp_path: Path) -> None:
    with_default = write(tmp_path / "many.mp4", gradient(), extra=1)  # MP4 marks its first stream
    without = write(tmp_path / "many.ts", gradient(), extra=1)
    assert [probe.probe(path).pictures().width for path in (with_default, without)] == [16, 64]
    assert first_picture(with_default).shape == (16, 16, 3)
    assert np.abs(first_picture(without) - gradient()[0]).mean() < 4


def test_wide_pixels_become_square(tmp_path: Path) -> None:
    path = write(tmp_path / "wide.mp4", gradient(), sample_aspect_ratio=Fraction(4, 3))
    assert first_picture(path).shape == (48, 85, 3)


def test_sound_formats(tmp_path: Path) -> None:
    for codec in ("pcm_u8", "pcm_s16le", "pcm_s32le", "pcm_f32le", "pcm_f64le", "flac"):
        path = tmp_path / f"{codec}.{'flac' if codec == 'flac' else 'mkv'}"
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=16000, layout="mono")
            stream.codec_context.format = stream.codec_context.codec.audio_formats[0].name
            block = av.AudioFrame.from_ndarray(SOUND[None], format="fltp", layout="mono")
            block.sample_rate = 16000
            size = stream.codec_context.frame_size or 16000
            resampler = av.AudioResampler(stream.codec_context.format.name, "mono", 16000, frame_size=size)
            for part in (*resampler.resample(block), *resampler.resample(None)):
                container.mux(stream.encode(part))
            container.mux(stream.encode(None))
        sound = decode.audio(path)
        assert np.abs(sound.samples[:, 0] - SOUND).max() < (0.01 if codec == "pcm_u8" else 1e-3), codec


def test_what_is_not_media(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("hello " * 100)
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(50_000))
    (tmp_path / "folder.mp4").mkdir()
    for name in ("empty", "text", "noise", "folder", "missing"):
        assert reason(tmp_path / f"{name}.mp4") == "unreadable"


def test_missing_streams(tmp_path: Path) -> None:
    encode.write_clip(tmp_path / "silent.mp4", gradient(), 24, None)
    encode.write_wav(tmp_path / "blind.wav", SOUND, 16000)
    assert reason(tmp_path / "silent.mp4") == "no_audio"
    assert reason(tmp_path / "blind.wav") == "no_video"


def test_interlaced_and_hdr_are_refused_by_name(tmp_path: Path) -> None:
    interlaced = write(tmp_path / "i.mp4", gradient(), options={"x264-params": "tff=1"})
    assert reason(interlaced) == "interlaced"
    for transfer, name in ((16, "smpte2084"), (18, "arib-std-b67")):
        path = write(tmp_path / f"{name}.mp4", gradient(), color_trc=transfer)
        assert probe.probe(path).video.transfer == name
        assert reason(path) == "hdr"


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_files_that_break_off(tmp_path: Path, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (60, 48, 64, 3), np.uint8)
    encode.write_clip(tmp_path / "whole.mp4", noise, 24, None)
    data = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: int(share * len(data))])
    assert reason(tmp_path / "cut.mp4") == "truncated"
    moov_last = write(tmp_path / "plain.mp4", noise).read_bytes()
    (tmp_path / "headless.mp4").write_bytes(moov_last[: int(share * len(moov_last))])
    assert reason(tmp_path / "headless.mp4") == "unreadable"
    encode.write_m4a(tmp_path / "whole.m4a", np.tile(SOUND, 4), 16000)
    data = (tmp_path / "whole.m4a").read_bytes()
    (tmp_path / "cut.m4a").write_bytes(data[: int(share * len(data))])
    with pytest.raises(MediaError, match="breaks off"):
        decode.audio(tmp_path / "cut.m4a")


def test_times_that_run_backwards(tmp_path: Path) -> None:
    path = write(tmp_path / "reordered.avi", gradient(40), options={"bf": "3", "b-adapt": "0"})
    assert reason(path) == "no_clock"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("whole")
    frames = np.random.default_rng(0).integers(0, 255, (12, 32, 32, 3), np.uint8)
    return [write(folder / f"a.{kind}", frames, audio=SOUND[:9000]).read_bytes() for kind in ("mp4", "mkv", "ts")]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(st.integers(0, 2), st.integers(0, 2**32 - 1), st.booleans())
def test_damage_never_escapes(tmp_path: Path, whole: list[bytes], kind: int, seed: int, shorten: bool) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(whole[kind])
    if shorten:
        del data[rng.integers(1, len(data)) :]
    for place in rng.integers(0, len(data), rng.integers(1, 40)):
        data[place] = int(rng.integers(256))
    path = tmp_path / "damaged.bin"
    path.write_bytes(data)
    for use in (lambda: list(decode.frames(path)), lambda: decode.audio(path), lambda: cut.clip(path, frames=9)):
        try:
            use()
        except MediaError as error:
            assert error.reason  # noqa: PT017  (any reason will do; another exception fails the test)
