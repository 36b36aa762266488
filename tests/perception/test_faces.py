"""The face finder starts only with a file that is YuNet; tests that need the real file take it from OVI_TEST_YUNET."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ovi.errors import ConfigError
from ovi.perception.faces import FaceFinder

WEIGHTS = os.environ.get("OVI_TEST_YUNET")


class Net:
    """What OpenCV's detector answers: left, top, width, height, landmarks, score, for the picture it was shown."""

    def __init__(self, found: np.ndarray | None) -> None:
        self.found, self.size, self.shown = found, (0, 0), (0, 0)

    def setInputSize(self, size: tuple[int, int]) -> None:
        self.size = size

    def detect(self, bgr: np.ndarray) -> tuple[int, np.ndarray | None]:
        self.shown = bgr.shape[:2]
        return 1, self.found


def finder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, net: Net) -> FaceFinder:
    path = tmp_path / "yunet.onnx"
    path.write_bytes(b"stands for the file")
    monkeypatch.setattr("cv2.FaceDetectorYN", SimpleNamespace(create=lambda *_: net))
    return FaceFinder(path)


def test_a_missing_file_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        FaceFinder(tmp_path / "yunet.onnx")


def test_a_file_that_is_no_network_is_a_configuration_error(tmp_path: Path) -> None:
    path = tmp_path / "yunet.onnx"
    path.write_bytes(b"not a network")
    with pytest.raises(ConfigError, match="not a YuNet ONNX file") as caught:
        FaceFinder(path)
    assert "\n" not in str(caught.value)


def test_boxes_are_in_the_pixels_of_the_picture_that_was_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    net = Net(np.array([[10, 20, 30, 40, *range(10), 0.95]], np.float32))
    boxes = finder(monkeypatch, tmp_path, net).find(np.zeros((720, 1280, 3), np.uint8))
    assert net.size == (640, 360)
    assert net.shown == (360, 640)
    np.testing.assert_allclose(boxes, [[20, 40, 80, 120]])


def test_small_pictures_are_not_enlarged_and_no_face_is_an_empty_array(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    net = Net(None)
    assert finder(monkeypatch, tmp_path, net).find(np.zeros((64, 96, 3), np.uint8)).shape == (0, 4)
    assert net.size == (96, 64)


@pytest.mark.skipif(WEIGHTS is None, reason="OVI_TEST_YUNET names no YuNet file")
def test_an_empty_picture_has_no_face() -> None:
    assert len(FaceFinder(str(WEIGHTS)).find(np.zeros((64, 96, 3), np.uint8))) == 0
