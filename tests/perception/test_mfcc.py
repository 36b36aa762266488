"""MFCC against the golden ones, and what they say of silence, loudness and time."""

from __future__ import annotations

import numpy as np
import pytest

from ovi.perception.mfcc import mfcc
from tests.golden import curation as golden


@pytest.mark.parametrize("case", range(4))  # chirps, the paper's clip among them, less than a window, silence
def test_rows_are_the_golden_ones(case: int) -> None:
    arrays = golden.arrays("mfcc")
    np.testing.assert_allclose(mfcc(arrays[f"x{case}"]), arrays[f"mfcc{case}"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("samples", "rows"), [(0, 1), (1, 1), (400, 1), (401, 2), (560, 2), (561, 3), (80_640, 503)])
def test_a_row_every_10_ms_and_the_end_is_padded(samples: int, rows: int) -> None:
    assert mfcc(np.ones(samples, np.int16)).shape == (rows, 13)


def test_silence_has_finite_rows() -> None:
    assert np.isfinite(mfcc(np.zeros(1000, np.int16))).all()


def test_loudness_changes_the_energy_alone() -> None:
    quiet = np.random.default_rng(0).integers(-1000, 1000, 4000).astype(np.int16)
    soft, loud = mfcc(quiet), mfcc(quiet * np.int16(8))
    assert loud[:, 0] == pytest.approx(soft[:, 0] + np.log(64))
    assert loud[:, 1:] == pytest.approx(soft[:, 1:], abs=1e-9)


def test_a_later_sound_gives_later_rows() -> None:
    noise = np.random.default_rng(1).integers(-9000, 9000, 4000).astype(np.int16)
    late = np.concatenate([np.zeros(640, np.int16), noise])
    assert mfcc(late)[5:] == pytest.approx(mfcc(noise)[1:])  # a frame of video is four rows; row 0 starts differently


def test_samples_must_be_16_bit_numbers() -> None:
    with pytest.raises(ValueError, match="int16"):
        mfcc(np.zeros(800, np.float32))  # type: ignore[arg-type]
