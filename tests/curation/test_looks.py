"""What networks are asked and shown: pictures, crops and sound from the right places, and only those configured."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ovi.config import Weights
from ovi.curation import looks
from ovi.curation.looks import Networks, Pictures, Talker
from ovi.perception import faces, raft, syncnet
from ovi.perception.aesthetic import Aesthetic, Head

FACE = (60, 40, 180, 160)


class Found:
    """A detector that knows where the face is: on every picture, or from one on."""

    def __init__(self, since: int = 0) -> None:
        self.since, self.asked = since, 0

    def find(self, rgb: np.ndarray) -> faces.Boxes:
        self.asked += 1
        return np.array([FACE], float) if rgb[0, 0, 0] >= self.since else np.zeros((0, 4))


class Oracle(nn.Module):
    """In SyncNet's place: a face's brightness and the sound's energy, over the same five pictures' time."""

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))

    def lips(self, shown: Tensor) -> Tensor:
        return shown.mean(dim=(1, 3, 4)).unfold(1, 5, 1) / 255  # [B, T - 4, 5]

    def speech(self, rows: Tensor) -> Tensor:
        energy = rows[:, 0, 0].unflatten(1, (5, 4)).mean(dim=2)
        return (energy > 10).float()


def pictures(count: int = 121) -> Pictures:
    """Pictures that carry their number in a corner."""

    def show(at: int) -> np.ndarray:
        picture = np.full((240, 320, 3), 90, np.uint8)
        picture[0, 0] = at
        return picture

    return Pictures(count, 24, 1.0, show)


def test_nothing_is_asked_where_nothing_is_configured() -> None:
    networks = looks.load(Weights())
    assert networks == Networks()
    assert looks.see(networks, pictures()) == ({}, None)
    assert looks.hear(networks, None, np.zeros(80640, np.float32), 16000) == {}
    reasons = looks.unasked(Weights(yunet="file"))
    assert reasons["flow_reason"] == "no optical flow network configured (curation.weights.raft)"
    assert reasons["faces_reason"] == looks.UNASKED


def test_flow_is_raft_on_pictures_half_a_second_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def mean_flow(network: raft.Raft, frames: list[np.ndarray], fps: float) -> float:
        seen.extend(int(frame[0, 0, 0]) for frame in frames)
        assert round(0.5 * fps) == 1
        return 0.25

    monkeypatch.setattr(raft, "mean_flow", mean_flow)
    row, _ = looks.see(Networks(flow=raft.Raft(raft.SMALL)), pictures())
    assert row == {"flow": 0.25, "flow_by": "raft-small-512px-v1", "flow_reason": None}
    assert seen == list(range(0, 121, 12))


def test_one_picture_a_second_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    def scores(network: Aesthetic, frames: list[np.ndarray]) -> np.ndarray:
        return np.array([frame[0, 0, 0] for frame in frames], np.float32)

    monkeypatch.setattr("ovi.perception.aesthetic.scores", scores)
    row, _ = looks.see(Networks(aesthetic=Aesthetic(nn.Identity(), Head())), pictures())
    assert (row["aesthetic_min"], row["aesthetic_mean"]) == (0, np.mean(range(0, 121, 24)))


def test_without_a_lip_reader_seven_pictures_are_searched_for_faces() -> None:
    finder = Found()
    row, talker = looks.see(Networks(faces=finder), pictures())
    assert (row["faces"], row["faces_by"], finder.asked, talker) == (1, faces.METHOD, 7, None)


def test_the_face_is_followed_and_cropped() -> None:
    row, talker = looks.see(Networks(faces=Found(since=24), lips=Oracle()), pictures())  # type: ignore[arg-type]
    assert (row["faces"], row["face_tracks"]) == (1, 1)
    assert talker is not None
    assert talker.start == 25  # the first 25th of a second from which picture 24 is the nearest
    assert talker.crops.shape == (101, 224, 224, 3)


@pytest.mark.parametrize("late", range(-6, 7))
@pytest.mark.parametrize("start", [0, 25])
def test_planted_offsets_are_found_with_their_sign(late: int, start: int) -> None:
    """A face that lights up while a voice sounds, which comes `late` pictures later."""
    rng = np.random.default_rng(3)
    lit = np.repeat(rng.random(43) < 0.5, 3)[:126]
    crops = np.where(lit, 255, 0).astype(np.uint8)[:, None, None, None].repeat(3, axis=3)
    heard = np.repeat(np.roll(lit, late), 640)[:80640]
    audio = np.where(heard, rng.normal(0, 0.3, 80640), 0).astype(np.float32)
    talker = Talker(start, np.broadcast_to(crops, (126, 8, 8, 3))[start:])
    row = looks.hear(Networks(lips=Oracle()), talker, audio, 16000)  # type: ignore[arg-type]
    assert row["lip_offset_ms"] == row["lip_masked_offset_ms"] == 40 * late
    assert row["lip_by"] == syncnet.METHOD
    again = looks.hear(Networks(lips=Oracle()), talker, audio.repeat(3), 48000)  # type: ignore[arg-type]
    assert again["lip_offset_ms"] == 40 * late


def test_a_clip_without_a_face_is_not_judged_by_lips() -> None:
    networks = Networks(faces=Found(since=1000), lips=Oracle())  # type: ignore[arg-type]
    row, talker = looks.see(networks, pictures())
    assert (row["faces"], row["face_tracks"], talker) == (0, 0, None)
    heard = looks.hear(networks, talker, np.zeros(80640, np.float32), 16000)
    assert list(heard) == ["lip_reason"]
    assert "no face" in heard["lip_reason"]


def test_networks_are_loaded_once_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Weights] = []
    monkeypatch.setattr(looks, "load", lambda weights, device="cpu": loaded.append(weights) or Networks())
    looks.of_process.cache_clear()
    try:
        for _ in range(3):
            looks.of_process(Weights(raft="a"))
            looks.of_process(Weights(raft="b"))
        assert loaded == [Weights(raft="a"), Weights(raft="b")]
    finally:
        looks.of_process.cache_clear()
