"""Blends: as long as they are, and not where a camera, a thing or a light moves."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ovi.curation.blends import Look, blend, lengths, look
from ovi.curation.scenes import thumbnail
from tests.curation.shots import film, shot

FPS = 24.0
LENGTHS = lengths(FPS)


def looks(frames: np.ndarray) -> list[Look]:
    small = [cv2.resize(thumbnail(frame), (16, 16), interpolation=cv2.INTER_AREA) for frame in frames]
    return [look(picture.astype(np.float32)) for picture in small]


def found(frames: np.ndarray) -> list[tuple[int, int]]:
    """(first, last) of each blend, none inside another."""
    seen, at, blends = looks(frames), 1, []
    while at < len(seen):
        length = blend(seen[max(0, at - 60) : at], seen[at : at + 50], LENGTHS)
        if length:
            blends.append((at, at + length))
        at += length + 1
    return blends


def still(seed: int, count: int) -> np.ndarray:
    return np.repeat(np.clip(shot(seed, 1), 0, 255), count, axis=0)


def mixed(a: np.ndarray, b: np.ndarray, length: int) -> np.ndarray:
    share = (np.arange(1, length + 1) / (length + 1))[:, None, None, None]
    return np.concatenate([a, a[-1] * (1 - share) + b[0] * share, b]).astype(np.uint8)


@pytest.mark.parametrize("length", [8, 12, 18, 24, 36])
def test_a_dissolve_is_as_long_as_it_is(length: int) -> None:
    ((first, last),) = found(mixed(still(1, 60), still(2, 60), length))
    assert abs(first - 60) <= 2
    assert abs(last - 60 - length) <= max(2, length // 6)


@pytest.mark.parametrize("level", [0, 245])
def test_fades_out_and_in_are_two(level: int) -> None:
    flat = np.full_like(still(1, 1), level).repeat(20, axis=0)
    out, back = found(np.concatenate([mixed(still(1, 60), flat, 16), mixed(flat, still(2, 60), 16)]))
    assert abs(out[0] - 60) <= 2
    assert abs(out[1] - 76) <= 3
    assert abs(back[0] - 116) <= 2
    assert abs(back[1] - 132) <= 3


def test_a_cut_is_no_blend() -> None:
    assert found(np.concatenate([still(1, 60), still(2, 60)]).astype(np.uint8)) == []


def test_a_light_that_changes_is_no_blend() -> None:
    level = np.concatenate([np.ones(50), np.linspace(1, 0.3, 24), np.full(50, 0.3)])[:, None, None, None]
    assert found((still(3, 124) * level).astype(np.uint8)) == []


def test_a_camera_that_moves_is_no_blend() -> None:
    rng = np.random.default_rng(5)
    wide = cv2.resize(rng.integers(0, 256, (12, 80, 3)).astype(np.float32), (700, 54), interpolation=cv2.INTER_CUBIC)
    for speed in (1, 2, 4):
        assert found(np.stack([wide[:, at * speed : at * speed + 96] for at in range(140)]).clip(0, 255)) == []


def test_most_blends_of_films_are_found_and_few_others() -> None:
    joints, hits, strangers = 0, 0, 0
    for seed in range(400, 410):
        frames, made = film(seed, ("dissolve", "fade"))
        blends = found(frames)
        joints += len(made)
        hits += sum(any(a < joint.last and b > joint.first for a, b in blends) for joint in made)
        strangers += sum(not any(a < joint.last + 6 and b > joint.first - 6 for joint in made) for a, b in blends)
    assert hits >= 0.9 * joints
    assert strangers <= 0.3 * joints
