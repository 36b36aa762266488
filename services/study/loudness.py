"""How loud a sound is to a listener: integrated loudness by ITU-R BS.1770-4, the measure of EBU R128.

It knows no files. Try it: `pytest tests/services/study/test_pairs.py`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

Array = NDArray[np.float64]

SILENT = -70.0  # LUFS, the absolute gate: nothing below it counts
RELATIVE_GATE = -10.0  # LU below the mean of what passed the absolute gate
BLOCK_S, STEP_S = 0.4, 0.1


def lufs(samples: NDArray[np.floating], rate: int) -> float | None:
    """Integrated loudness of [N] or [N, 2]; one channel sounds in both ears, so it counts twice. None for silence."""
    channels = np.asarray(samples, np.float64).reshape(len(samples), -1)
    if channels.shape[1] == 1:
        channels = np.repeat(channels, 2, axis=1)
    power = _block_powers(_weighted(channels, rate), rate)
    power = power[power > _power(SILENT)]
    if not len(power):
        return None
    return _loudness(float(power[power > power.mean() * 10 ** (RELATIVE_GATE / 10)].mean()))


def _weighted(channels: Array, rate: int) -> Array:
    """K-weighting: a shelf for the head, then a high pass, at any rate (BS.1770 tabulates both at 48 kHz)."""
    b, a = _biquad(rate, 1681.974450955533, 0.7071752369554196, 3.999843853973347)
    channels = lfilter(b, a, channels, axis=0)
    b, a = _biquad(rate, 38.13547087602444, 0.5003270373238773, None)
    return np.asarray(lfilter(b, a, channels, axis=0))


def _biquad(rate: int, frequency: float, quality: float, gain_db: float | None) -> tuple[list[float], list[float]]:
    """High shelf of gain_db, or a high pass, by the bilinear transform with its corner kept at `frequency`."""
    k = math.tan(math.pi * frequency / rate)
    scale = 1 + k / quality + k * k
    a = [1.0, 2 * (k * k - 1) / scale, (1 - k / quality + k * k) / scale]
    if gain_db is None:
        return [1.0, -2.0, 1.0], a
    high = 10 ** (gain_db / 20)
    middle = high**0.4996667741545416
    b = [high + middle * k / quality + k * k, 2 * (k * k - high), high - middle * k / quality + k * k]
    return [value / scale for value in b], a


def _block_powers(channels: Array, rate: int) -> Array:
    """[blocks] mean squares, summed over channels, of 0.4 s blocks each 0.1 s; one block where there is less."""
    size, step = round(BLOCK_S * rate), round(STEP_S * rate)
    if len(channels) < size:
        return (channels**2).mean(axis=0).sum(keepdims=True) if len(channels) else np.zeros(0)
    total = np.concatenate([[0.0], (channels**2).sum(axis=1).cumsum()])
    starts = np.arange(0, len(channels) - size + 1, step)
    return (total[starts + size] - total[starts]) / size


def _loudness(power: float) -> float:
    return -0.691 + 10 * math.log10(power)


def _power(loudness: float) -> float:
    return float(10 ** ((loudness + 0.691) / 10))
