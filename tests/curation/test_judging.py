"""A candidate from cheap scores over networks to its verdict: who is asked, who judges, and sound that is moved."""

from __future__ import annotations

import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ovi import config, storage
from ovi.config import Settings
from ovi.curation import looks
from ovi.curation.looks import Networks
from ovi.curation.manifest import Row
from ovi.curation.sources import Source, examine
from ovi.errors import ConfigError
from ovi.media.encode import write_clip
from ovi.perception import raft
from ovi.synthetic.scenes import render
from tests.curation.test_looks import Found, Oracle

RATE = 16000
Examine = Callable[..., Row]


def settings(*sets: str) -> Settings:
    return config.load(Path(__file__).parents[2] / "params.yaml", None, list(sets))


@pytest.fixture
def examined(tmp_path: Path) -> Examine:
    """The one row of a file of six seconds that shows `scene` with its sound late by so many ms."""

    def run(scene: str, late_ms: float = 0, still: bool = False, sets: tuple[str, ...] = ()) -> Row:
        shot = render(scene, 11, frames=169, samples=169 * RATE // 24)
        start = RATE // 2 - round(late_ms * RATE / 1000)
        frames, audio = shot.frames[12:157], shot.audio[start : start + 145 * RATE // 24]
        path = tmp_path / f"{scene}.mp4"
        write_clip(path, np.repeat(frames[:1], 145, axis=0) if still else frames, 24, audio, RATE)
        words = path.with_suffix(".txt")
        words.write_text("A. <AUDCAP>B.<ENDAUDCAP>")
        facts = storage.sha256(path), path.stat().st_size, "av", "CC0-1.0", "test"
        source = Source(path.name, str(path), *facts, sidecar=str(words))
        (row,) = examine(source, settings(*sets), str(tmp_path))
        return row

    return run


def test_a_file_that_is_none_still_has_its_origin(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"no film")
    said = tmp_path / "film.json"
    said.write_text('{"source": "the attic", "attribution": "A. Nonymous"}')
    source = Source("film.mp4", str(tmp_path / "film.mp4"), "0" * 64, 7, "av", None, None, sidecar=str(said))
    (row,) = examine(source, settings(), str(tmp_path))
    assert (row["status"], row["reason"]) == ("error", "unreadable")
    assert (row["provenance"], row["attribution"]) == ("the attic", "A. Nonymous")


def configured(monkeypatch: pytest.MonkeyPatch, networks: Any) -> None:
    monkeypatch.setattr(looks, "of_process", lambda weights: networks)


def packed(folder: Path, row: Row) -> np.ndarray:
    return np.frombuffer((folder / f"{row['clip_id']}.pcm").read_bytes(), "<i2") / 32768


@pytest.mark.parametrize("late", [-300, 300])
def test_sound_that_is_off_is_moved_where_that_is_asked_for(examined: Examine, tmp_path: Path, late: int) -> None:
    plain = examined("blink", late)
    assert (plain["status"], plain["reason"], plain.get("sound_shift_ms")) == ("rejected", "out_of_sync", None)
    far = examined("blink", late, sets=("curation.max_shift_frames=6",))
    assert far["reason"] == "out_of_sync"
    moved = examined("blink", late, sets=("curation.max_shift_frames=8",))
    assert moved["sync"] == "in_sync"
    assert moved["reason"] == (None if late > 0 else "sound_short")  # before the file's begin there is no sound to take
    assert moved["sound_shift_ms"] == pytest.approx(late, abs=15)
    assert abs(moved["sync_offset_ms"]) < 10
    assert moved["clip_id"] != plain["clip_id"]


def test_moved_sound_is_the_sources_from_the_later_instant(examined: Examine, tmp_path: Path) -> None:
    here = packed(tmp_path, examined("blink", 0))
    moved = examined("blink", -150, sets=("curation.max_shift_frames=5",))
    shift = moved["sound_shift_ms"]
    assert (moved["status"], shift) == ("kept", pytest.approx(-150, abs=15))
    apart = round((150 + shift) * RATE / 1000)  # what the measurement is off by
    late = packed(tmp_path, moved)
    inside = slice(RATE // 2, 4 * RATE)
    np.testing.assert_allclose(late[inside], np.roll(here, -apart)[inside], atol=0.02)


def test_networks_are_asked_about_survivors_alone(examined: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    finder = Found()
    configured(monkeypatch, Networks(faces=finder))
    row = examined("bounce", still=True, sets=("curation.weights.yunet=file",))
    assert (row["reason"], row["faces_reason"], finder.asked) == ("static", looks.UNASKED, 0)
    row = examined("bounce", late_ms=300, sets=("curation.weights.yunet=file",))
    assert (row["reason"], finder.asked) == ("out_of_sync", 0)
    row = examined("bounce", sets=("curation.weights.yunet=file",))
    assert (row["reason"], row["faces"], row["faces_reason"], finder.asked) == (None, 1, None, 7)


def test_lips_judge_a_face_and_onsets_what_has_none(examined: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    files = ("curation.weights.yunet=file", "curation.weights.syncnet=file")
    monkeypatch.setattr(looks, "LEAST_FACE", 10)
    configured(monkeypatch, Networks(faces=Found(), lips=Oracle()))
    row = examined("mouth", sets=files)
    assert row["lip_by"] == "syncnet-v2"
    assert (row["sync"], row["reason"]) == ("unsure", "unsure_sync")  # the stand-in knows no mouths
    assert abs(row["sync_offset_ms"]) < 20  # the second opinion is there all the same
    configured(monkeypatch, Networks(faces=Found(since=1000), lips=Oracle()))
    row = examined("mouth", sets=files)
    assert (row["reason"], row["sync"], row["face_tracks"]) == (None, "in_sync", 0)
    assert "no face" in row["lip_reason"]
    row = examined("mouth", late_ms=300, sets=files)
    assert row["reason"] == "out_of_sync"


def test_released_layouts_are_loaded_and_asked(
    examined: Examine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    torch.save(raft.Raft(raft.SMALL).state_dict(), tmp_path / "raft.pth")
    monkeypatch.setattr(raft, "LONG_SIDE", 128)
    row = examined("bounce", sets=(f"curation.weights.raft={tmp_path / 'raft.pth'}", "curation.min_flow=0"))
    assert (row["status"], row["flow_by"], row["flow_reason"]) == ("kept", "raft-small-128px-v1", None)
    assert np.isfinite(row["flow"])
    assert row["motion_by"] == "opencv-dis-v1"


@pytest.mark.parametrize(("decibels", "reason"), [(-60.04, "silent"), (-59.96, None)])
@pytest.mark.parametrize("channels", [1, 2])
def test_the_mean_volume_of_a_file_is_judged_to_a_hundredth(
    tmp_path: Path, decibels: float, reason: str | None, channels: int
) -> None:
    noise = np.random.default_rng(0).normal(size=(3 * RATE, channels))
    samples = np.rint(noise * 32768 * 10 ** (decibels / 20) / np.sqrt(np.mean(noise**2))).astype("<i2")
    path = tmp_path / "noise.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, 2, RATE, 0, "NONE", ""))
        file.writeframes(samples.tobytes())
    source = Source(path.name, str(path), storage.sha256(path), path.stat().st_size, "audio", "CC0-1.0", "test")
    row = next(row for row in examine(source, settings(), str(tmp_path)) if row["set"] == "pretrain")
    assert row["reason"] == reason
    assert row["volume_db"] == pytest.approx(10 * np.log10(np.mean((samples / 32768) ** 2)), abs=1e-4)


@pytest.mark.parametrize("name", ["raft", "syncnet", "aesthetic"])
def test_a_file_that_is_not_the_network_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("ovi.perception.faces.FaceFinder", lambda weights: Found())
    path = tmp_path / "file"
    path.write_bytes(b"nothing of the kind")
    beside = {"raft": {}, "syncnet": {"yunet": "x"}, "aesthetic": {"clip": str(tmp_path / "clip")}}[name]
    with pytest.raises(ConfigError, match=rf"^curation\.weights\.[a-z, ]*{name}: /") as caught:
        looks.load(config.Weights(**{name: str(path), **beside}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "sets",
    [
        "curation.weights.syncnet=a",
        "curation.weights.clip=a",
        "curation.weights.aesthetic=a",
        "curation.people.none=0.5",
        "curation.people={none: 0.1, single: 0.1, multi: 0.1}",
    ],
)
def test_settings_that_cannot_work_together_are_one_line(sets: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(sets)
    assert "\n" not in str(caught.value)
    assert "curation" in str(caught.value)
