"""How many faces a clip shows: the median count over a few spread pictures, when a detector is configured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ovi.perception.faces import FaceCounter

LOOKS = 7  # pictures looked at, spread evenly over the clip (as many as the captioner of the paper sees)
UNCONFIGURED = "no face detector configured (curation.weights.yunet)"


def count_faces(frames: Sequence[NDArray[np.uint8]], counter: FaceCounter) -> int:
    """The median count over LOOKS of the pictures, each uint8 [H, W, 3]; halves go down."""
    looks = np.linspace(0, len(frames) - 1, min(LOOKS, len(frames))).round().astype(int)
    counts = sorted(counter.count(frames[at]) for at in looks)
    return counts[(len(counts) - 1) // 2]
