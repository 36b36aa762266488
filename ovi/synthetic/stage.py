"""What procedural scenes are drawn on: a clock, a canvas, shutters and soft edges. It knows no scene.

Try it: `pytest tests/synthetic/test_scenes.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ovi.synthetic.sounds import Array

Colour = tuple[int, int, int]
COLOURS: tuple[tuple[str, Colour], ...] = (  # the n-th colour sounds at the n-th pitch word
    ("blue", (40, 80, 255)), ("green", (30, 210, 60)), ("yellow", (250, 210, 30)),
    ("red", (245, 40, 35)), ("white", (240, 240, 240)),
)  # fmt: skip
DARK: Colour = (10, 10, 14)
GREY: Colour = (70, 70, 80)
MOMENTS = 16  # pictures averaged in one exposure
SHUTTER = 0.5  # the part of a frame's time that exposes it: 180 degrees


@dataclass(frozen=True)
class Stage:
    """What a scene is drawn on: its clock, its picture size, its random numbers and its colour step."""

    rng: np.random.Generator
    step: int
    fps: int
    count: int
    size: tuple[int, int]
    rate: int
    samples: int

    @property
    def seconds(self) -> float:
        return self.count / self.fps

    @property
    def colour(self) -> Colour:
        return COLOURS[self.step][1]

    @property
    def clock(self) -> NDArray[np.float64]:
        """Sample times [N] in s."""
        return np.arange(self.samples) / self.rate

    @property
    def moments(self) -> NDArray[np.float64]:
        """Ascending times [T * MOMENTS] in s at which the pictures are taken, all while a shutter is open."""
        open_part = (np.arange(MOMENTS) + 0.5) * SHUTTER / MOMENTS
        return ((np.arange(self.count)[:, None] + open_part) / self.fps).ravel()

    def exposed(self, signal: NDArray[np.floating]) -> Array:
        """[T, 1, 1] the mean over each frame's exposure of a signal given at `moments`."""
        return signal.reshape(self.count, MOMENTS).mean(axis=1, dtype=np.float64).astype(np.float32)[:, None, None]

    def grid(self) -> tuple[Array, Array]:
        """Pixel centres y [H, 1] from 0 at the top and x [1, W] from the middle, in shorter sides."""
        height, width = self.size
        unit = min(self.size)
        y = ((np.arange(height) + 0.5 - height / 2) / unit + 0.5)[:, None]
        x = ((np.arange(width) + 0.5 - width / 2) / unit)[None, :]
        return y.astype(np.float32), x.astype(np.float32)

    def cover(self, distance: Array) -> Array:
        """Coverage 0..1 of each pixel from its signed distance to a shape's edge (shorter sides, negative inside)."""
        return np.clip(0.5 - distance * min(self.size), 0, 1)

    def boxes(self, y0: Array | float, x0: Array | float, y1: Array | float, x1: Array | float) -> Array:
        """Source boxes [T, 4] in pixels from edges in shorter sides."""
        height, width = self.size
        unit = min(self.size)
        edges = [(y0, height / 2 - unit / 2), (x0, width / 2), (y1, height / 2 - unit / 2), (x1, width / 2)]
        columns = [np.broadcast_to(np.ravel(value) * unit + offset, self.count) for value, offset in edges]
        return np.stack(columns, axis=1).astype(np.float32)


Layers = Sequence[tuple[Array, Colour]]  # coverage [H, W] or [T, H, W] of a colour, from the back to the front


class Drawn(NamedTuple):
    frames: NDArray[np.uint8]
    audio: Array
    events: list[float]
    box: Array
    said: str = ""
    pitches: Sequence[float] = ()  # Hz of each event, where they differ


def fitting(lengths: NDArray[np.float64], seconds: float, gap: float) -> list[float]:
    """As many of the intervals as fit into a short scene with their gaps and some room to move."""
    kept = [float(length) for length in lengths]
    while len(kept) > 1 and sum(kept) + gap * len(kept) > seconds - 0.3:
        kept.pop()
    return kept


def paint(stage: Stage, layers: Callable[[slice], Layers]) -> NDArray[np.uint8]:
    """uint8 [T, H, W, 3]: each layer's colour over what is below it. `layers` gives those of a slice of the frames."""
    out = np.empty((stage.count, *stage.size, 3), np.uint8)
    few = max(1, 24_000 // (stage.size[0] * stage.size[1]))  # frames at a time: planes that stay in the cache
    for first in range(0, stage.count, few):
        part = slice(first, min(first + few, stage.count))
        painted = layers(part)
        for channel in range(3):
            plane = np.full(stage.size, DARK[channel], np.float32)
            for coverage, colour in painted:
                plane = plane + coverage * (colour[channel] - plane)
            out[part, ..., channel] = plane + 0.5
    return out
