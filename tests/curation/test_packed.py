"""Coded clips: forty times smaller, close to what they were, sound sample for sample, one reader for every coding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from ovi.curation import packed
from ovi.curation.shards import ShardReader, ShardWriter
from ovi.errors import OviError

ROW: dict[str, Any] = {"clip_id": "a", "frames": 25, "height": 192, "width": 352, "fps": 24, "sample_rate": 16000}


def scene() -> NDArray[np.uint8]:
    """A moving picture with a little grain, uint8 [25, 192, 352, 3]."""
    noise = np.random.default_rng(0)
    wide = cv2.GaussianBlur(noise.uniform(-900, 1100, (192, 500, 3)).astype(np.float32), (0, 0), 9)
    moved = np.stack([wide[:, 3 * k : 3 * k + 352] for k in range(25)])
    return np.clip(moved + noise.normal(0, 0.4, moved.shape), 0, 255).astype(np.uint8)


def sound(samples: int = 16800) -> NDArray[np.int16]:
    return (np.random.default_rng(1).normal(0, 3000, samples)).astype("<i2")


def lay(folder: Path, pictures: NDArray[np.uint8], heard: NDArray[np.int16]) -> packed.Folder:
    folder.mkdir(exist_ok=True)
    (folder / "a.frames").write_bytes(pictures.tobytes())
    (folder / "a.pcm").write_bytes(heard.tobytes())
    return packed.Folder(folder)


def test_coded_clips_are_forty_times_smaller_and_close(tmp_path: Path) -> None:
    pictures = scene()
    members = lay(tmp_path, pictures, sound())
    said = packed.code(tmp_path, ROW)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.flac", "a.mp4"]
    assert pictures.nbytes > 40 * len(members.read("a.mp4"))
    back = packed.frames(members, ROW)
    error = np.square(back.astype(float) - pictures).mean()
    assert said == pytest.approx(10 * np.log10(255**2 / error), abs=0.01)
    assert said > 40


def test_two_codings_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        lay(tmp_path / name, scene(), sound())
        packed.code(tmp_path / name, ROW)
    for name in ("a.mp4", "a.flac"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize("samples", [1, 4607, 4608, 4609, 80640])
def test_sound_is_exact_to_the_sample(tmp_path: Path, samples: int) -> None:
    heard = sound(samples)
    heard[0] = -32768
    members = lay(tmp_path, scene()[:1], heard)
    assert packed.code(tmp_path, {**ROW, "frames": None}) is None
    assert packed.pcm(members, ROW) == heard.tobytes()
    assert np.array_equal(packed.sound(members, ROW) * 32768, heard)


@pytest.mark.parametrize("coded", [False, True])
def test_every_reader_sees_the_same_pictures(tmp_path: Path, coded: bool) -> None:
    folder = lay(tmp_path, scene(), sound())
    if coded:
        packed.code(tmp_path, ROW)
    with ShardWriter(tmp_path / "shards" / "av", 1 << 26) as writer:
        for path in sorted(tmp_path.glob("a.*")):
            writer.add(path.name, path.read_bytes())
    shards = ShardReader(tmp_path / "shards", "av")
    whole = packed.frames(shards, ROW)
    assert coded or np.array_equal(whole, scene())
    for members in (folder, shards, packed.Layers(packed.Folder(tmp_path / "empty"), shards)):
        assert np.array_equal(packed.frames(members, ROW), whole)
        some = packed.some_frames(members, ROW, [0, 12, 24])
        assert all(np.array_equal(one, whole[place]) for one, place in zip(some, (0, 12, 24), strict=True))


def test_damage_is_one_line(tmp_path: Path) -> None:
    members = lay(tmp_path, scene(), sound())
    with pytest.raises(OviError, match=r"a\.frames: holds"):
        packed.frames(members, {**ROW, "frames": 26})
    packed.code(tmp_path, ROW)
    for changed in ({"frames": 26}, {"frames": 24}, {"height": 96}):
        with pytest.raises(OviError, match=r"a\.mp4: "):
            packed.frames(members, {**ROW, **changed})
    for name in ("a.mp4", "a.flac"):
        (tmp_path / name).write_bytes(b"this is neither" * 9)
    with pytest.raises(OviError, match=r"a\.mp4: cannot be decoded"):
        packed.frames(members, ROW)
    with pytest.raises(OviError, match=r"a\.flac: cannot be decoded"):
        packed.pcm(members, ROW)
