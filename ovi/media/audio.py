"""Sound as arrays: mixing, resampling and loudness. It knows no files.

Try it: `python -c "import numpy as np; from ovi.media.audio import mean_volume_db as v; print(v(np.ones(9) / 10))"`.
"""

from __future__ import annotations

from math import gcd

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
SILENCE_DB = -120.0  # the floor of every level, so that silence is a number
HALF_WIDTH = 16  # zero crossings of the resampling filter on each side


def to_mono(samples: Array) -> Array:
    """The mean of the channels: [N, C] or [N] -> [N]."""
    return samples if samples.ndim == 1 else samples.mean(axis=1, dtype=np.float32)


def resample(samples: Array, from_rate: int, to_rate: int) -> Array:
    """[N] or [N, C] -> [ceil(N * to_rate / from_rate)] or with C, without delay: sample k sounds at k / to_rate."""
    if from_rate == to_rate or not len(samples):
        return samples
    divisor = gcd(from_rate, to_rate)
    up, down = to_rate // divisor, from_rate // divisor
    widest = max(up, down)
    from scipy.signal import firwin, resample_poly  # a second to import, and sound at the clip's rate needs none of it

    taps = firwin(2 * HALF_WIDTH * widest + 1, 0.97 / widest, window=("kaiser", 8.0))
    return resample_poly(samples, up, down, axis=0, window=taps).astype(np.float32)


def mean_volume_db(samples: Array) -> float:
    """10 log10 of the mean square over all samples and channels, full scale = 0 dB; at least -120."""
    return _db(float(np.mean(np.square(samples, dtype=np.float64)))) if samples.size else SILENCE_DB


def peak_db(samples: Array) -> float:
    """20 log10 of the largest magnitude; at least -120."""
    return _db(float(np.max(np.abs(samples))) ** 2) if samples.size else SILENCE_DB


def _db(power: float) -> float:
    return max(SILENCE_DB, 10 * float(np.log10(power))) if power > 0 else SILENCE_DB
