"""PySceneDetect's adaptive detector with its defaults, from its documentation: what cuts are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

RATIO, WINDOW, MIN_CONTENT, MIN_SCENE = 3.0, 2, 15.0, 15  # frames, levels, frames


def content(frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """How much hue, saturation and value of each frame uint8 [H, W, 3] change from the one before, in the mean."""
    hsv = [cv2.cvtColor(frame, cv2.COLOR_RGB2HSV).astype(np.int32) for frame in frames]
    return np.array([0.0, *(float(np.abs(b - a).mean()) for a, b in pairwise(hsv))])


def cuts(frames: Sequence[NDArray[np.uint8]]) -> list[int]:
    """Where it finds that a scene begins, but for the first."""
    values = content(frames)
    found = [0]
    for at in range(WINDOW, len(values) - WINDOW):
        near = np.delete(values[at - WINDOW : at + WINDOW + 1], WINDOW).mean()
        ratio = min(255.0, values[at] / near) if near > 1e-5 else 255.0 if values[at] >= MIN_CONTENT else 0.0
        if ratio >= RATIO and values[at] >= MIN_CONTENT and at - found[-1] >= MIN_SCENE:
            found.append(at)
    return found[1:]
