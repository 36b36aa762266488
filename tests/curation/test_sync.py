"""The sync score of the scenes, in step and out of it, judged by the rule."""

from __future__ import annotations

import numpy as np
import pytest

from ovi.curation import sync
from ovi.synthetic.scenes import SCENES, render

RATE = 16000


def judged(frames: np.ndarray, audio: np.ndarray) -> str:
    return sync.judge(sync.score(frames, 24, audio, RATE), 0.6, 3.0)[0]


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
