"""VGGish against the golden examples, points and quantised points; the released layout; what a clip is cut into."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from ovi.errors import OviError
from ovi.perception import vggish
from ovi.perception.vggish import VGGish, describe, examples, quantised
from tests.golden import evaluation as golden

CASE = golden.arrays("vggish")


@cache
def network() -> VGGish:
    made = VGGish().eval().requires_grad_(False)
    made.load_state_dict(golden.filled(made.state_dict(), "vggish"))
    return made


def test_the_layout_is_the_released_one() -> None:
    assert {key: list(tensor.shape) for key, tensor in network().state_dict().items()} == golden.layout("vggish")


def test_examples_are_the_golden_ones() -> None:
    heard = np.stack([examples(wav) for wav in CASE["wav"]])
    np.testing.assert_allclose(heard, CASE["logmel_examples"], rtol=0, atol=1e-5)


def test_points_are_the_golden_ones() -> None:
    points = np.stack([describe(network(), wav) for wav in CASE["wav"]])
    assert golden.relative_error(points, CASE["embedding_no_relu"]) < 1e-4
    assert golden.relative_error(np.maximum(points, 0), CASE["embedding_with_relu"]) < 1e-4


def test_quantised_points_are_the_golden_ones() -> None:
    vectors, means = golden.normal((128, 128), "vggish-pca") / 11.3, golden.symmetric(128, "vggish-pcam", 0.1)
    points = CASE["embedding_with_relu"].reshape(-1, 128)
    found = quantised(points, vectors.astype(np.float32), means.astype(np.float32))
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found.astype(int), CASE["postprocessed_uint8"].astype(int), rtol=0, atol=1)


@pytest.mark.parametrize(("samples", "count"), [(15_600, 1), (30_959, 1), (30_960, 2), (80_640, 5)])
def test_an_example_is_0_96_s_and_the_rest_is_dropped(samples: int, count: int) -> None:
    sound = np.random.default_rng(0).normal(size=samples).astype(np.float32)
    found = examples(sound)
    assert found.shape == (count, 96, 64)
    np.testing.assert_array_equal(found[-1:], examples(sound[(count - 1) * 15_360 :][:15_600]))


@pytest.mark.parametrize("samples", [0, 399, 15_599])
def test_too_short_a_clip(samples: int) -> None:
    with pytest.raises(OviError, match=r"too short: VGGish needs 0\.975 s"):
        examples(np.zeros(samples, np.float32))


def test_a_file_of_another_network(tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(64, 1, 3, 3)}, tmp_path / "vggish.pth")
    with pytest.raises(OviError, match=r"not the weights of VGGish: 17 missing \(first features\.0\.bias\)"):
        vggish.load(tmp_path / "vggish.pth")
