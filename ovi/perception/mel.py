"""Sound -> log-mel spectrogram in decibels, as networks hear it that were trained on librosa's.

It knows neither what rates and sizes a network wants nor what it makes of the picture.
Try it: `pytest tests/perception/test_panns.py tests/perception/test_clap.py`.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

FLOOR = 1e-10  # the smallest power: -100 dB
BEND = 1000.0  # Hz; Slaney's scale is linear below it, 200 Hz to three mels, and logarithmic above
STEEP = 27 / math.log(6.4)  # mels to a factor of e above the bend


def log_mel(audio: Tensor, bank: Tensor, hop: int) -> Tensor:
    """audio [B, N] -> dB [B, 1 + floor(N / hop), mels]; frame k is centred on sample k * hop, the ends are mirrored.

    `bank` [mels, bins] gives the size of the Fourier transform, 2 * (bins - 1), which is that of the Hann window too;
    N must be more than half of it.
    """
    size = 2 * (bank.shape[1] - 1)
    padded = F.pad(audio[:, None], (size // 2, size // 2), mode="reflect")[:, 0]
    power = sum((padded.unfold(-1, size, hop) @ waves).square() for waves in _waves(size, audio.device))
    return 10 * (power @ bank.T).clamp_min(FLOOR).log10()


@lru_cache(maxsize=8)
def _waves(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Windowed cosines and sines, [size, bins] float32: the transform as the networks' front ends have it.

    A fast transform rounds otherwise, which in bins next to silence is a tenth of a decibel and more.
    """
    sample, bins = torch.arange(size, dtype=torch.float64), torch.arange(size // 2 + 1, dtype=torch.float64)
    angles = 2 * math.pi / size * (sample[:, None] * bins % size)
    window = torch.hann_window(size, dtype=torch.float64)[:, None]
    with torch.inference_mode(False):
        return (window * angles.cos()).float().to(device), (window * angles.sin()).float().to(device)


def slaney(rate: int, size: int, mels: int, low: float, high: float) -> Tensor:
    """Triangles of unit area, evenly spaced in Slaney's mels from `low` to `high` Hz: [mels, size // 2 + 1] float32."""
    points = torch.linspace(_mel(low), _mel(high), mels + 2, dtype=torch.float64)
    bend = _mel(BEND)
    edges = torch.where(points < bend, points * 200 / 3, BEND * torch.exp((points - bend) / STEEP))
    bins = torch.linspace(0, rate / 2, size // 2 + 1, dtype=torch.float64)
    rise = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return (torch.minimum(rise, fall).clamp_min(0) * (2 / (edges[2:] - edges[:-2]))[:, None]).float()


def _mel(hz: float) -> float:
    return hz * 3 / 200 if hz < BEND else 15 + STEEP * math.log(hz / BEND)
