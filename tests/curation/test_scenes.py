"""Cuts: found to the frame where a composition changes, and not where a lamp, a ball or a hammer does."""

from __future__ import annotations

import hashlib
import itertools

import cv2
import numpy as np
import pytest

from ovi.curation.scenes import SIDE, Pixels, mark_starts, thumbnail
from ovi.synthetic.scenes import SCENES, render
from tests.curation import adaptive
from tests.curation.shots import film
from tests.golden import curation as golden


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
    begins, black, rises, risen = starts(frames)
    assert (begins, black, rises) == (0, 40, 52)
    assert abs(risen - 82) <= 4  # no scene has a part of the fade


def test_planted_cuts_are_found_where_others_find_some() -> None:
    case = golden.arrays("scenes")
    seed, planted = int(case["seed"]), case["planted"].tolist()
    cells = [np.floor(golden.uniform(seed, 5000 + k, (9, 16, 3)) * 256).astype(np.uint8) for k in range(4)]
    bases = [picture.repeat(4, axis=0).repeat(4, axis=1) for picture in cells]
    shown = [sum(at >= cut for cut in planted) for at in range(int(case["F"]))]
    bgr = np.stack([np.roll(bases[k], at % 4 if k % 2 else 0, axis=1) for at, k in enumerate(shown)])
    assert hashlib.sha256(bgr.tobytes()).digest() == case["frames_sha256"].tobytes()
    assert starts(bgr[..., ::-1]) == [0, *planted]
    assert adaptive.content(bgr[..., ::-1])[1:] == pytest.approx(case["adaptive_metrics"][1:, 0], abs=1e-6)
    assert adaptive.cuts(bgr[..., ::-1]) == case["adaptive_cuts"].tolist() != planted


def test_films_fall_apart_at_their_joints() -> None:
    blends = []
    for seed in range(300, 316):
        frames, joints = film(seed)
        found = starts(frames)[1:]
        for joint in joints:
            near = [at for at in found if joint.first - 2 <= at <= joint.last + 2]
            if joint.kind == "cut":
                assert near == [joint.first]
            else:
                blends.append(bool(near))
    assert np.mean(blends) >= 0.9


@pytest.mark.parametrize("seed", range(310, 316))
def test_what_lies_between_two_starts_shows_one_shot(seed: int) -> None:
    frames, joints = film(seed, ("fade",))
    bounds = [*starts(frames), len(frames)]
    for joint in joints:
        middle = range(joint.first + 4, joint.last - 4)
        long = [(a, b) for a, b in itertools.pairwise(bounds) if b - a > joint.last - joint.first]
        assert not any(a <= at < b for at in middle for a, b in long)


def test_cuts_are_found_at_other_frame_rates() -> None:
    for fps in (8.0, 50.0, 60.0):
        assert starts(np.concatenate([moving(1, 70), moving(2, 70)]), fps) == [0, 70]


def test_animation_on_every_third_frame_has_cuts_where_it_is_cut() -> None:
    assert starts(np.concatenate([moving(1, 60, hold=3), moving(2, 60, hold=3)])) == [0, 60]


def test_nothing_in_nothing_out() -> None:
    assert starts([]) == []
    assert thumbnail(moving(1, 1)[0]).shape == (SIDE, SIDE, 3)
