"""What is written plays everywhere, is exact in length, and is the same every time."""

from __future__ import annotations

import wave
import zlib
from pathlib import Path

import av
import numpy as np
import pytest

from ovi.errors import OviError
from ovi.media import decode, encode, probe
from ovi.media.audio import mean_volume_db
from ovi.synthetic.scenes import render
from tests.media.made import gradient


def test_equal_arrays_give_equal_bytes(tmp_path: Path) -> None:
    scene = render("blink", 3, frames=30, size=(32, 32))
    for name in ("a.mp4", "b.mp4"):
        encode.write_clip(tmp_path / name, scene.frames, 24, scene.audio, width=128)
        encode.write_m4a(tmp_path / f"{name}.m4a", scene.audio, 16000)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert (tmp_path / "a.mp4.m4a").read_bytes() == (tmp_path / "b.mp4.m4a").read_bytes()


@pytest.mark.parametrize("scene", ["blink", "mouth"])
def test_a_clip_plays_in_a_browser(tmp_path: Path, scene: str) -> None:
    shot = render(scene, 1)
    path = tmp_path / "clip.mp4"
    encode.write_clip(path, shot.frames, 24, shot.audio, width=256)
    info = probe.probe(path)
    video, sound = info.pictures(), info.sound()
    assert (video.codec, video.pix_fmt, video.width, video.height) == ("h264", "yuv420p", 256, 256)
    assert (video.average_rate, video.start, sound.codec, sound.rate) == (24, 0, "aac", 16000)
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")
    assert len(list(decode.frames(path))) == 121
    heard = decode.audio(path)
    assert heard.start == 0
    assert 0 <= len(heard.samples) - len(shot.audio) < 2048
    error = heard.samples[: len(shot.audio), 0] - shot.audio
    assert mean_volume_db(error) < mean_volume_db(shot.audio) - 15
    assert [part.name for part in tmp_path.iterdir()] == ["clip.mp4"]


def test_what_grows_beside_a_clip_is_the_same_clip_and_plays_before_it_is_whole(tmp_path: Path) -> None:
    shot = render("blink", 1, size=(32, 32))
    sizes, played = [], []

    def parts():  # type: ignore[no-untyped-def]
        for first in range(0, 121, 20):
            yield shot.frames[first : first + 20]
            sizes.append((tmp_path / "live.mp4").stat().st_size)
            if first == 60:
                (tmp_path / "cut.mp4").write_bytes((tmp_path / "live.mp4").read_bytes())

    encode.write_clip(tmp_path / "alone.mp4", shot.frames, 24, shot.audio)
    encode.write_clip(tmp_path / "clip.mp4", parts(), 24, shot.audio, live=tmp_path / "live.mp4")
    assert (tmp_path / "clip.mp4").read_bytes() == (tmp_path / "alone.mp4").read_bytes()
    assert sizes[:-1] == sorted(set(sizes))  # the last part is one picture
    for name in ("cut.mp4", "live.mp4"):
        with av.open(str(tmp_path / name)) as container:
            played.append(sum(1 for _ in container.decode(video=0)))
        with av.open(str(tmp_path / name)) as container:
            assert sum(frame.samples for frame in container.decode(audio=0)) > 16000
    assert 24 < played[0] < 100
    assert played[1] == 121


def test_pictures_keep_their_colours(tmp_path: Path) -> None:
    frames = gradient()
    encode.write_clip(tmp_path / "plain.mp4", frames, 24, None, crf=6)
    back = np.stack([frame.rgb for frame in decode.frames(tmp_path / "plain.mp4")]).astype(int)
    assert np.abs(back - frames).mean() < 2
    encode.write_clip(tmp_path / "large.mp4", frames, 24, None, crf=6, width=192)
    first = next(decode.frames(tmp_path / "large.mp4")).rgb.astype(int)
    assert first.shape == (144, 192, 3)
    assert np.abs(first[1::3, 1::3] - frames[0]).mean() < 3


def test_odd_sides_become_even(tmp_path: Path) -> None:
    encode.write_clip(tmp_path / "odd.mp4", gradient(height=33, width=45), 24, None)
    assert next(decode.frames(tmp_path / "odd.mp4")).rgb.shape == (34, 46, 3)


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (5, 8, 8), (5, 8, 8, 4)])
def test_wrong_pictures_are_one_clear_line(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(OviError, match=r"pictures must be uint8 \[T, H, W, 3\]"):
        encode.write_clip(tmp_path / "no.mp4", np.zeros(shape, np.uint8), 24, None)
    with pytest.raises(OviError, match="sound to encode"):
        encode.write_clip(tmp_path / "no.mp4", gradient(), 24, np.zeros((9, 6), np.float32))
    assert not list(tmp_path.iterdir())


def test_wav(tmp_path: Path) -> None:
    sound = np.linspace(-1.2, 1.2, 999, dtype=np.float32)
    encode.write_wav(tmp_path / "a.wav", np.stack([sound, -sound], axis=1), 22050)
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getnchannels(), file.getframerate(), file.getnframes()) == (2, 22050, 999)
    back = decode.audio(tmp_path / "a.wav")
    assert back.rate == 22050
    assert np.abs(back.samples[:, 0] - np.clip(sound, -1, 1)).max() < 1e-4


def test_png(tmp_path: Path) -> None:
    picture = gradient(1, 7, 5)[0]
    encode.write_png(tmp_path / "a.png", picture)
    with av.open(str(tmp_path / "a.png")) as container:
        assert np.array_equal(next(container.decode(video=0)).to_ndarray(format="rgb24"), picture)
    data = (tmp_path / "a.png").read_bytes()
    assert zlib.crc32(b"IEND").to_bytes(4, "big") == data[-4:]
