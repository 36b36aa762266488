"""Media in a bucket: the same pictures and sound as on this machine, and no byte of them fetched twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovi import s3, storage
from ovi.media import decode, remote
from ovi.media.encode import write_clip
from ovi.media.probe import MediaError, probe
from ovi.media.remote import BLOCK, Remote, reached
from ovi.media.tape import Tape

RATE = 16000


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of noise, of several megabytes."""
    path = tmp_path_factory.mktemp("remote") / "film.mp4"
    drawn = np.random.default_rng(0)
    pictures = drawn.integers(0, 256, (72, 192, 256, 3), np.uint8)
    write_clip(path, pictures, 24, drawn.normal(0, 0.1, 3 * RATE).astype(np.float32), RATE, preset="ultrafast")
    return path


def played(place: str | Remote) -> tuple[np.ndarray, np.ndarray]:
    """All pictures and all sound, decoded side by side."""
    info = probe(place)
    tape, pictures, sounds = Tape(decode.sound(place, info)), [], []
    for frame in decode.frames(place, info):
        pictures.append(frame.rgb)
        sounds.append(tape.between(frame.time, frame.end).samples)
    return np.stack(pictures), np.concatenate(sounds)


@pytest.mark.parametrize("held", [remote.HELD, 1])
def test_pictures_and_sound_come_over_the_network_once(
    film: Path, bucket: str, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    storage.upload(film, f"{bucket}/film.mp4")
    size, body, fetched = film.stat().st_size, s3._body, []
    assert size > 3 * BLOCK

    def counted(**wanted: Any) -> bytes:
        data = body(**wanted)
        fetched.append(len(data))
        return data

    monkeypatch.setattr(s3, "_body", counted)
    monkeypatch.setattr(remote, "HELD", held)
    for one, other in zip(played(reached(f"{bucket}/film.mp4")), played(str(film)), strict=True):
        assert np.array_equal(one, other)
    assert (sum(fetched) <= size) == (held > 1)


def test_an_address_without_an_object_is_an_unreadable_file(bucket: str) -> None:
    with pytest.raises(MediaError, match=r"none\.mp4: no such file") as caught:
        probe(f"{bucket}/none.mp4")
    assert caught.value.reason == "unreadable"
