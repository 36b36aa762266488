"""Where faces are in a picture, by YuNet (MIT licence) when its ONNX file is given. Without it nobody is found.

It knows pictures only; who is followed through a clip is `tracks`, what a face means for a clip the caller's business.
Try it: `pytest tests/perception/test_faces.py`.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ovi.errors import ConfigError, one_line

METHOD = "yunet-2023mar"
MIN_SCORE, MAX_OVERLAP, MOST = 0.9, 0.3, 5000  # the model card's own values
LONG_SIDE = 640  # larger pictures are reduced to this

Boxes = NDArray[np.float64]  # [n, 4]: left, top, right, bottom in pixels


class FaceFinder:
    """YuNet from `weights`. Raises ConfigError when the file is missing or is not the network."""

    def __init__(self, weights: str | Path) -> None:
        if not Path(weights).is_file():
            raise ConfigError(f"curation.weights.yunet: {weights}: no such file; give YuNet's ONNX file or null")
        try:
            self._net = cv2.FaceDetectorYN.create(str(weights), "", (320, 320), MIN_SCORE, MAX_OVERLAP, MOST)
            self._net.detect(np.zeros((320, 320, 3), np.uint8))
        except cv2.error as error:
            raise ConfigError(f"curation.weights.yunet: {weights}: not a YuNet ONNX file ({one_line(error)})") from None

    def find(self, rgb: NDArray[np.uint8]) -> Boxes:
        """The faces in a picture uint8 [H, W, 3], the surest first; a box may reach beyond the picture."""
        height, width = rgb.shape[:2]
        scale = min(1.0, LONG_SIDE / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        bgr = cv2.cvtColor(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR)
        self._net.setInputSize(size)
        found = self._net.detect(bgr)[1]
        if found is None:
            return np.zeros((0, 4))
        places = found[:, :4].astype(np.float64)  # left, top, width, height; landmarks and the score follow
        places[:, 2:] += places[:, :2]
        return places * np.tile([width / size[0], height / size[1]], 2)
