"""What the estimator recovers, scene by scene, from clean pictures and from small, blurred and noisy ones.

Printed by `pytest tests/perception/test_onsets.py -s`: offset error after calibration (median, MAD, ms) and how well
agreement at zero tells true sound from another clip's (AUC).
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ovi.perception.onsets import Activity, audio_activity, sync, video_activity
from ovi.synthetic.scenes import SCENES, render

Array = NDArray[Any]
CLIPS, RATE = 8, 16000


def halved(frames: Array) -> Array:
    """64 x 64 -> 32 x 32."""
    count, height, width, _ = frames.shape
    return frames.reshape(count, height // 2, 2, width // 2, 2, 3).mean(axis=(2, 4)).astype(np.uint8)


def seen(frames: Array, condition: str, rng: np.random.Generator) -> Activity:
    if condition != "clean":
        frames = halved(frames)
    if condition == "blurred":
        soft = gaussian_filter(frames.astype(np.float32), (0, 1.2, 1.2, 0)) + rng.normal(0, 0.05 * 255, frames.shape)
        frames = np.clip(soft, 0, 255).astype(np.uint8)
    if condition == "noisy":
        frames = np.clip(frames + rng.normal(0, 0.1 * 255, frames.shape), 0, 255).astype(np.uint8)
    return video_activity(frames, 24)


def heard(audio: Array, condition: str, rng: np.random.Generator) -> Activity:
    if condition == "noisy":  # 0 dB
        audio = audio + rng.normal(0, audio.std(), len(audio)).astype(np.float32)
    return audio_activity(audio, RATE)


def delayed(audio: Array, offset: int) -> Array:
    return np.concatenate([np.zeros(max(offset, 0)), audio, np.zeros(max(-offset, 0))])[
        max(-offset, 0) : len(audio) + max(-offset, 0)
    ].astype(np.float32)


@pytest.mark.parametrize("condition", ["clean", "blurred", "noisy"])
@pytest.mark.parametrize("scene", SCENES)
def test_offsets_are_recovered_and_true_sound_is_told_from_false(scene: str, condition: str) -> None:
    rng = np.random.default_rng(1)
    shots = [render(scene, 700 + seed) for seed in range(CLIPS)]
    pictures = [seen(shot.frames, condition, rng) for shot in shots]
    sounds = [heard(shot.audio, condition, rng) for shot in shots]
    true = np.array([sync(pictures[k], sounds[k]).at_zero for k in range(CLIPS)])
    false = np.array([sync(pictures[k], sounds[j]).at_zero for k in range(CLIPS) for j in range(CLIPS) if k != j])
    auc = float((true[:, None] > false).mean())
    errors = []
    for shot, picture in zip(shots, pictures, strict=True):
        offset = int(rng.uniform(-0.5, 0.5) * RATE)
        late = heard(delayed(shot.audio, offset), condition, rng)
        errors.append(sync(picture, late).offset_ms - 1000 * offset / RATE)
    bias = float(np.median(errors))
    mad = float(np.median(np.abs(errors - np.median(errors))))
    print(f"{scene:7s} {condition:8s} bias {bias:5.1f} mad {mad:4.1f} ms  auc {auc:.3f}  true {true.min():.2f}")
    assert auc >= 0.99
    assert abs(bias) <= 12
    assert mad <= 4.5
    assert np.mean(np.abs(errors) < 40) >= 0.9


def test_late_sound_is_positive() -> None:
    shot = render("blink", 1)
    pictures = video_activity(shot.frames, 24)
    assert sync(pictures, audio_activity(delayed(shot.audio, 4800), RATE)).offset_ms == pytest.approx(300, abs=15)
    assert sync(pictures, audio_activity(delayed(shot.audio, -3200), RATE)).offset_ms == pytest.approx(-200, abs=15)


def test_a_lamp_that_is_mostly_lit() -> None:
    shot = render("blink", 2)
    rng = np.random.default_rng(0)
    frames = np.full((121, 32, 32, 3), 10, np.uint8)
    lit = np.ones(121, bool)
    audio = (0.6 * np.sin(2 * np.pi * 800 * np.arange(80640) / RATE)).astype(np.float32)
    for start in (9, 40, 71, 100):
        lit[start : start + 8] = False
        audio[start * RATE // 24 : (start + 8) * RATE // 24] = 0
    frames[lit, 8:24, 8:24] = 200
    estimate = sync(
        video_activity(frames, 24), audio_activity(audio + rng.normal(0, 3e-4, 80640).astype(np.float32), RATE)
    )
    assert estimate.at_zero > 0.9
    assert abs(estimate.offset_ms) < 20
    assert sync(video_activity(frames, 24), audio_activity(shot.audio, RATE)).at_zero < 0.6


def test_a_mouth_that_opens_twice_for_a_fifth_of_a_second() -> None:
    frames = np.full((121, 32, 32, 3), 150, np.uint8)
    audio = np.random.default_rng(0).normal(0, 3e-4, 80640).astype(np.float32)
    for start in (31, 86):
        frames[start : start + 5, 18:26, 10:22] = 10
        voiced = np.arange(start * RATE // 24, (start + 5) * RATE // 24)
        audio[voiced] += np.sin(2 * np.pi * 200 * voiced / RATE)
    estimate = sync(video_activity(frames, 24), audio_activity(audio, RATE))
    assert estimate.score > 0.9
    assert abs(estimate.offset_ms) < 20


def test_pictures_and_sounds_in_which_nothing_happens() -> None:
    still, silent = np.full((121, 32, 32, 3), 90, np.uint8), np.zeros(80640, np.float32)
    shot = render("bounce", 0)
    for frames, audio in ((still, shot.audio), (shot.frames, silent), (still, silent)):
        estimate = sync(video_activity(frames, 24), audio_activity(audio, RATE))
        assert estimate.score == 0
        assert estimate.at_zero == 0
        assert estimate.offset_ms == 0
    assert sync(video_activity(shot.frames, 24), audio_activity(np.zeros(100, np.float32), RATE)).score == 0


@pytest.mark.parametrize("size", [(32, 32), (90, 160), (300, 200)])
def test_any_picture_size_and_sound_rate(size: tuple[int, int]) -> None:
    shot = render("blink", 4, frames=73, size=size, rate=44100)
    estimate = sync(video_activity(shot.frames, 24), audio_activity(shot.audio, 44100))
    assert estimate.at_zero > 0.95
    assert abs(estimate.offset_ms) < 15


def test_a_clip_is_judged_quickly() -> None:
    shot = render("bounce", 1, size=(32, 32))
    sync(video_activity(shot.frames, 24), audio_activity(shot.audio, RATE))
    began = time.process_time()
    for _ in range(5):
        sync(video_activity(shot.frames, 24), audio_activity(shot.audio, RATE))
    assert (time.process_time() - began) / 5 < 0.15  # about 0.025 on an idle core
