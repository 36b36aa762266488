"""Cuts: found to the frame where a composition changes, and not where a lamp, a ball or a hammer does."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest

from ovi.curation.scenes import SIDE, Pixels, mark_starts, thumbnail
from ovi.synthetic.scenes import SCENES, render


def starts(frames: list[Pixels] | Pixels, fps: float = 24.0) -> list[int]:
    marked = list(mark_starts(frames, thumbnail, fps))
    assert [id(frame) for frame, _, _ in marked] == [id(frame) for frame in frames] or isinstance(frames, np.ndarray)
    return [at for at, (_, begins, _) in enumerate(marked) if begins]


def moving(seed: int, count: int, hold: int = 1) -> Pixels:
    """A textured picture that drifts: uint8 [count, 36, 64, 3]."""
    rng = np.random.default_rng(seed)
    wide = cv2.resize(rng.integers(0, 256, (5, 20, 3)).astype(np.float32), (260, 36), interpolation=cv2.INTER_CUBIC)
    return np.stack([wide[:, at // hold : at // hold + 64] for at in range(count)]).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("scene", SCENES)
def test_what_happens_inside_a_scene_is_no_cut(scene: str) -> None:
    for seed in range(4):
        assert starts(render(scene, seed).frames) == [0]


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(SCENES, 2)))
def test_one_scene_after_another_is_cut_at_the_joint(first: str, second: str) -> None:
    frames = np.concatenate([render(first, 3, frames=60).frames, render(second, 5, frames=61).frames])
    assert starts(frames) == [0, 60]


def test_noise_does_not_make_or_hide_a_cut() -> None:
    rng = np.random.default_rng(0)
    for scene in SCENES:
        frames = render(scene, 1).frames.astype(np.int16)
        noisy = np.clip(frames + rng.integers(-12, 13, frames.shape), 0, 255).astype(np.uint8)
        assert starts(noisy) == [0]
    joined = np.concatenate([moving(1, 40), moving(2, 40)]).astype(np.int16)
    assert starts(np.clip(joined + rng.integers(-12, 13, joined.shape), 0, 255).astype(np.uint8)) == [0, 40]


def test_shot_and_reverse_shot_are_cuts() -> None:
    a, b = moving(1, 150), moving(2, 50)
    assert starts(np.concatenate([a[:50], b, a[50:]])) == [0, 50, 100]


def test_frames_of_the_neighbouring_scene_are_cut_off() -> None:
    assert starts(np.concatenate([moving(1, 1), moving(2, 60)])) == [0, 1]
    assert starts(np.concatenate([moving(1, 60), moving(2, 1)])) == [0, 60]


def test_a_flash_is_no_cut() -> None:
    frames = moving(1, 80)
    frames[40:42] = 250
    assert starts(frames) == [0]


def test_a_picture_that_rises_out_of_black_starts_a_scene() -> None:
    rise = np.clip(np.arange(1, 31) / 30, 0, 1)
    risen = np.stack([frame * level for frame, level in zip(moving(2, 30), rise, strict=True)]).astype(np.uint8)
    frames = np.concatenate([moving(1, 40), np.zeros((12, 36, 64, 3), np.uint8), risen, moving(2, 60)[30:]])
    assert starts(frames) == [0, 40, 52]


def test_cuts_are_found_at_other_frame_rates() -> None:
    for fps in (8.0, 50.0, 60.0):
        assert starts(np.concatenate([moving(1, 70), moving(2, 70)]), fps) == [0, 70]


def test_animation_on_every_third_frame_has_cuts_where_it_is_cut() -> None:
    assert starts(np.concatenate([moving(1, 60, hold=3), moving(2, 60, hold=3)])) == [0, 60]


def test_nothing_in_nothing_out() -> None:
    assert starts([]) == []
    assert thumbnail(moving(1, 1)[0]).shape == (SIDE, SIDE, 3)
