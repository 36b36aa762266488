"""How much moves in a clip, without a network: dense optical flow, and how much the picture changes at all.

A lamp that blinks changes without moving, a slow pan moves without changing much: a static picture does neither.
It knows frames only. The name METHOD goes with every number, because motion scores of different methods, sizes and
frame distances cannot be compared.
Try it: `pytest tests/perception/test_motion.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

METHOD = "opencv-dis-v1"
LONG_SIDE = 128  # pixels of the picture that the flow is computed on
APART_S = 0.5  # s between the two frames of a pair
GRAIN = 2  # levels of 255: where less than this changes, flow is guessed from noise and counts as none
COARSE = 16  # change is measured on COARSE x COARSE area means, which takes the grain off


@dataclass(frozen=True)
class Motion:
    """flow: mean length of the flow between frames 0.5 s apart, in frame diagonals.
    change: mean over the picture of how far its grey level strays in time (standard deviation), in 0..1.
    brightness: mean grey level, in 0..1.
    """

    flow: float
    change: float
    brightness: float


def motion(frames: NDArray[np.uint8], fps: float) -> Motion:
    """Motion of uint8 [T, H, W, 3]; zero for a single frame."""
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    coarse = np.stack([cv2.resize(frame, (COARSE, COARSE), interpolation=cv2.INTER_AREA) for frame in grey])
    return Motion(
        flow=_flow(grey[:: max(1, round(APART_S * fps))]),
        change=float(coarse.std(axis=0, dtype=np.float64).mean() / 255),
        brightness=float(coarse.mean(dtype=np.float64) / 255),
    )


def _flow(grey: list[NDArray[np.uint8]]) -> float:
    height, width = grey[0].shape
    scale = LONG_SIDE / max(height, width)
    size = (max(16, round(width * scale)), max(16, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = [cv2.blur(cv2.resize(frame, size, interpolation=how), (5, 5)) for frame in grey]
    finder = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    lengths = []
    for first, second in pairwise(small):
        flow = finder.calc(first, second, np.zeros((*first.shape, 2), np.float32))
        length = np.hypot(flow[..., 0], flow[..., 1])
        lengths.append(float(np.where(cv2.absdiff(first, second) > GRAIN, length, 0).mean()))
    return float(np.mean(lengths) / np.hypot(*size)) if lengths else 0.0
