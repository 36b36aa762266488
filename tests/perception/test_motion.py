"""Motion: what moves flows, what blinks changes, what stands still does neither, with or without grain."""

from __future__ import annotations

import numpy as np
import pytest

from ovi.perception.motion import Motion, motion
from ovi.synthetic.scenes import SCENES, render


def drifting(pixels_per_frame: float, size: int = 128) -> np.ndarray:
    """A smooth texture that moves to the left, 31 frames."""
    y, x = np.mgrid[:size, :size] / size
    frames = []
    for at in range(31):
        phase = 2 * np.pi * (x + at * pixels_per_frame / size)
        frames.append(127 + 60 * np.sin(3 * phase) + 60 * np.sin(2 * phase + 9 * y))
    return np.repeat(np.stack(frames)[..., None], 3, axis=-1).astype(np.uint8)


@pytest.mark.parametrize("speed", [0.25, 0.5, 1.0])
def test_flow_is_the_distance_moved_in_half_a_second(speed: float) -> None:
    moved = speed * 12 / np.hypot(128, 128)
    assert motion(drifting(speed), 24).flow == pytest.approx(moved, rel=0.1)


def test_flow_does_not_depend_on_the_size_of_the_picture() -> None:
    small, large = (motion(drifting(0.5 * size / 128, size), 24).flow for size in (128, 256))
    assert small == pytest.approx(large, rel=0.05)


@pytest.mark.parametrize("scene", SCENES)
def test_every_scene_changes_and_its_frozen_picture_does_not(scene: str) -> None:
    frames = render(scene, 2).frames
    assert motion(frames, 24).change > 0.01
    frozen = motion(np.repeat(frames[60:61], 121, axis=0), 24)
    assert (frozen.flow, frozen.change) == (0.0, 0.0)
    assert frozen.brightness == pytest.approx(frames[60].mean() / 255, abs=0.08)


def test_grain_is_neither_motion_nor_change() -> None:
    rng = np.random.default_rng(0)
    still = np.repeat(render("slide", 1).frames[60:61], 121, axis=0).astype(np.int16)
    grainy = motion(np.clip(still + rng.normal(0, 2, still.shape), 0, 255).astype(np.uint8), 24)
    assert grainy.flow < 0.0001
    assert grainy.change < 0.003


def test_a_blinking_lamp_changes_more_than_it_flows() -> None:
    frames = np.full((49, 64, 64, 3), 12, np.uint8)
    frames[::8, 20:44, 20:44] = 240
    seen = motion(frames, 24)
    assert seen.change > 0.03


def test_one_frame_does_not_move() -> None:
    assert motion(drifting(1.0)[:1], 24) == Motion(0.0, 0.0, pytest.approx(0.5, abs=0.05))  # type: ignore[arg-type]
