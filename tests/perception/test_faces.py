"""The face counter starts only with a file that is YuNet; tests that need the real file take it from OVI_TEST_YUNET."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from ovi.errors import ConfigError
from ovi.perception.faces import FaceCounter

WEIGHTS = os.environ.get("OVI_TEST_YUNET")


def test_a_missing_file_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        FaceCounter(tmp_path / "yunet.onnx")


def test_a_file_that_is_no_network_is_a_configuration_error(tmp_path: Path) -> None:
    path = tmp_path / "yunet.onnx"
    path.write_bytes(b"not a network")
    with pytest.raises(ConfigError, match="not a YuNet ONNX file") as caught:
        FaceCounter(path)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(WEIGHTS is None, reason="OVI_TEST_YUNET names no YuNet file")
def test_an_empty_picture_has_no_face() -> None:
    assert FaceCounter(str(WEIGHTS)).count(np.zeros((64, 96, 3), np.uint8)) == 0
