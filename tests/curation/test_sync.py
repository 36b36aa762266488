"""The sync score of the scenes, in step and out of it, judged by the rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ovi.config import Curation
from ovi.curation import sync
from ovi.synthetic.scenes import SCENES, render

RATE = 16000


def judged(frames: np.ndarray, audio: np.ndarray) -> str:
    found = sync.score(frames, 24, audio, RATE)
    row = {"sync_offset_ms": found.offset_ms, "sync_score": found.score}
    return str(sync.judge(row, Curation())[0])


@pytest.mark.parametrize("scene", SCENES)
def test_scenes_are_in_step_and_late_or_early_sound_is_not(scene: str) -> None:
    shot = render(scene, 7)
    assert judged(shot.frames, shot.audio) == sync.IN_SYNC
    for ms in (-300, -200, 200, 300):
        assert judged(shot.frames, np.roll(shot.audio, ms * RATE // 1000)) == sync.OUT_OF_SYNC


def test_the_sign_is_positive_for_late_sound() -> None:
    shot = render("blink", 3)
    late = np.concatenate([np.zeros(4000, np.float32), shot.audio[:-4000]])
    assert sync.score(shot.frames, 24, late, RATE).offset_ms == pytest.approx(250, abs=20)


def test_a_still_picture_has_nothing_to_be_in_step_with() -> None:
    shot = render("bounce", 1)
    still = np.repeat(shot.frames[:1], len(shot.frames), axis=0)
    assert judged(still, shot.audio) == sync.NOT_APPLICABLE


def test_noise_shows_no_common_cause() -> None:
    shot = render("bounce", 1)
    hiss = np.random.default_rng(0).normal(0, 0.1, len(shot.audio)).astype(np.float32)
    assert judged(shot.frames, hiss) == sync.NOT_APPLICABLE


LIPS = {"sync_offset_ms": 0.0, "sync_score": 0.9, "lip_offset_ms": 0.0, "lip_confidence": 1.51}


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, sync.IN_SYNC),
        ({"lip_confidence": 1.5}, sync.UNSURE),
        ({"lip_confidence": 1.49, "lip_offset_ms": 400.0}, sync.UNSURE),
        ({"lip_offset_ms": 120.0}, sync.IN_SYNC),
        ({"lip_offset_ms": -120.0}, sync.IN_SYNC),
        ({"lip_offset_ms": 160.0}, sync.OUT_OF_SYNC),
        ({"lip_offset_ms": -160.0}, sync.OUT_OF_SYNC),
        ({"sync_offset_ms": 500.0}, sync.IN_SYNC),  # where lips were read, onsets do not judge
        ({"lip_confidence": None, "lip_offset_ms": None}, sync.IN_SYNC),
        ({"lip_confidence": None, "lip_offset_ms": None, "sync_offset_ms": 500.0}, sync.OUT_OF_SYNC),
        ({"lip_confidence": None, "sync_offset_ms": 500.0, "sync_score": 0.3}, sync.NOT_APPLICABLE),
        ({"lip_confidence": None, "sync_score": None}, None),
    ],
)
def test_lips_judge_where_they_were_read_and_onsets_elsewhere(changed: dict[str, Any], verdict: str | None) -> None:
    found, why = sync.judge({**LIPS, **changed}, Curation())
    assert found == verdict
    assert (why is None) == (verdict in (sync.IN_SYNC, sync.OUT_OF_SYNC, None))


def test_offsets_are_counted_in_whole_frames() -> None:
    assert [sync.frames_late({"sync_offset_ms": ms}) for ms in (139, 141, -139, -141, 0, 19)] == [3, 4, -3, -4, 0, 0]
