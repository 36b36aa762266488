"""Sound -> mel-frequency cepstral coefficients, the 100 rows a second that SyncNet hears.

The definition is that of python_speech_features 0.6 at its defaults, as SyncNet calls it: a rectangular window, filters
whose corners lie on whole FFT bins, and the log of the frame's energy in place of coefficient 0. It is not scale-free:
samples are 16-bit numbers, not parts of one.
Try it: `pytest tests/perception/test_mfcc.py`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[np.float64]

RATE = 16_000
WINDOW, STEP, FFT = 400, 160, 512  # samples: 25 ms every 10 ms
PRE_EMPHASIS = 0.97
FILTERS, COEFFICIENTS = 26, 13
LIFTER = 22  # raises the higher coefficients, up to 12 times
TINY = np.finfo(np.float64).eps  # stands for no energy at all, so that silence has a logarithm


def mfcc(samples: NDArray[np.int16]) -> Array:
    """Mono int16 [N] at 16 kHz -> float64 [1 + ceil((N - 400) / 160), 13], at least one row; the end is zero-padded.

    Raises ValueError for samples that are not int16.
    """
    if samples.dtype != np.int16 or samples.ndim != 1:
        raise ValueError(f"MFCC are taken of int16 [N], not of {samples.dtype} {list(samples.shape)}")
    sharpened = samples.astype(np.float64)
    sharpened[1:] -= PRE_EMPHASIS * samples[:-1]
    steps = max(0, -(-(len(samples) - WINDOW) // STEP))
    padded = np.pad(sharpened, (0, steps * STEP + WINDOW - len(samples)))
    power = np.square(np.abs(np.fft.rfft(sliding_window_view(padded, WINDOW)[::STEP], FFT))) / FFT
    rows = np.log(_some(power @ _filters().T)) @ _cosines().T
    rows *= 1 + LIFTER / 2 * np.sin(np.pi * np.arange(COEFFICIENTS) / LIFTER)
    rows[:, 0] = np.log(_some(power.sum(axis=1)))
    return rows


def _some(energy: Array) -> Array:
    return np.where(energy == 0, TINY, energy)


@cache
def _filters() -> Array:
    """[26, 257] triangles, evenly spaced in mels (2595 log10(1 + hz / 700)) over 0-8 kHz."""
    mels = np.linspace(0, 2595 * np.log10(1 + RATE / 2 / 700), FILTERS + 2)
    corners: Any = np.floor((FFT + 1) * 700 * (10 ** (mels / 2595) - 1) / RATE)
    bins = np.arange(FFT // 2 + 1)
    rise = (bins - corners[:-2, None]) / np.diff(corners)[:-1, None]
    fall = (corners[2:, None] - bins) / np.diff(corners)[1:, None]
    return np.maximum(np.minimum(rise, fall), 0)


@cache
def _cosines() -> Array:
    """[13, 26] first rows of the orthonormal DCT-II; the very first, which energy replaces, is not scaled as such."""
    order, at = np.arange(COEFFICIENTS)[:, None], np.arange(FILTERS)
    return np.sqrt(2 / FILTERS) * np.cos(np.pi * order * (2 * at + 1) / (2 * FILTERS))
