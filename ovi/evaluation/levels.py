"""What can be said of a sound without a network: how loud it is, how much of it is silent or clipped, how high it goes.

It knows arrays only.
Try it: `pytest tests/evaluation/test_levels.py`.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.signal import lfilter

from ovi.errors import OviError
from ovi.media.audio import resample

Array = NDArray[np.float32]

RATE = 48_000  # that the loudness filters are given for
# BS.1770-4, tables 1 and 2: what a head does to a sound, and how little of the lowest tones is heard.
SHELF = ([1.53512485958697, -2.69169618940638, 1.19839281085285], [1.0, -1.69065929318241, 0.73248077421585])
HIGH_PASS = ([1.0, -2.0, 1.0], [1.0, -1.99004745483398, 0.99007225036621])
BLOCK, STEP = 19_200, 4800  # samples: 0.4 s every 0.1 s
OFFSET, ABSOLUTE, RELATIVE = -0.691, -70.0, -10.0  # LUFS; blocks below the gates do not count
SILENT_DB = -50.0
FULL = 0.999
INSIDE = 0.99  # of the energy


def loudness(audio: Array, rate: int) -> float:
    """Integrated loudness of mono [N] in LUFS (ITU-R BS.1770-4). Raises OviError below 0.4 s, and for silence."""
    heard = resample(audio, rate, RATE).astype(np.float64)
    if len(heard) < BLOCK:
        raise OviError(f"loudness needs 0.4 s of sound, there is {len(heard) / RATE:.2f} s")
    for filters in (SHELF, HIGH_PASS):
        heard = lfilter(*filters, heard)
    energy = sliding_window_view(np.square(heard), BLOCK)[::STEP].mean(axis=1)
    kept = energy[_lufs(energy) > ABSOLUTE]
    if not len(kept):
        raise OviError("the clip is silent: nothing in it is above -70 LUFS")
    kept = kept[_lufs(kept) > _lufs(kept.mean()) + RELATIVE]
    return float(_lufs(kept.mean()))


def silence(audio: Array, rate: int) -> float:
    """Share of the 0.1 s stretches of mono [N] whose RMS is below SILENT_DB. Raises OviError where there is none."""
    size = rate // 10
    count = len(audio) // size
    if not count:
        raise OviError("silence is looked for in stretches of 0.1 s, the clip has none")
    power = np.square(audio[: count * size].reshape(count, size), dtype=np.float64).mean(axis=1)
    return float((power < 10 ** (SILENT_DB / 10)).mean())


def clipping(audio: Array) -> float:
    """Share of samples [N] at full scale. Raises OviError where there is none."""
    if not len(audio):
        raise OviError("the clip has no sound")
    return float((np.abs(audio) >= FULL).mean())


def bandwidth(audio: Array, rate: int) -> float:
    """The frequency in Hz below which INSIDE of the energy of mono [N] lies. Raises OviError for no energy."""
    energy = np.square(np.abs(np.fft.rfft(audio - audio.mean(dtype=np.float64)))) if len(audio) else np.zeros(1)
    total = np.cumsum(energy)
    if not total[-1] > 0:
        raise OviError("the clip has no sound")
    return float(np.searchsorted(total, INSIDE * total[-1]) * rate / len(audio))


def _lufs(energy: NDArray[np.float64]) -> NDArray[np.float64]:
    return OFFSET + 10 * np.log10(np.maximum(energy, 1e-20))
