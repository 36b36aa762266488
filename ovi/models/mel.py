"""Sound <-> log-mel spectrogram, in the layout of the MMAudio 16 kHz codec (80 mels, hop 256), and back by Griffin-Lim.

Frame k sees samples 256k-384 to 256k+640, so N samples give floor(N/256) frames and k frames give 256k samples back.
The way back is deterministic. It knows nothing of latents.
Try it: `pytest tests/models/test_mel.py`.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

RATE = 16_000
WINDOW, HOP, MELS = 1024, 256, 80
FLOOR = 1e-5  # the smallest mel magnitude: log10 gives -5
MOMENTUM = 0.99  # of the fast Griffin-Lim (Perraudin et al. 2013)
ITERATIONS = 24
INVERSION_STEPS = 12  # of the non-negative least squares from mel to linear magnitudes


def log_mel(audio: Tensor) -> Tensor:
    """audio [B, N] in [-1, 1] (clamped) -> log10 of mel magnitudes, [B, 80, floor(N/256)] float32."""
    edge = (WINDOW - HOP) // 2
    padded = F.pad(audio.float().clamp(-1, 1)[:, None], (edge, edge), mode="reflect")[:, 0]
    spectrum = torch.view_as_real(_spectrum(padded))
    magnitude = (spectrum.square().sum(-1) + 1e-9).sqrt()
    return (magnitude @ filterbank(audio.device).T).clamp_min(FLOOR).log10().transpose(1, 2)


def griffin_lim(mel: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """log-mel [B, 80, T] -> audio [B, 256*T] whose magnitudes come near. Phases start at zero.

    A sound that would leave [-1, 1] is turned down as a whole: cut peaks would be heard as harmonics.
    """
    magnitude = linear_magnitude((10.0 ** mel.float().transpose(1, 2) - FLOOR).clamp_min(0))
    frames = magnitude.shape[1]
    envelope = _overlap(_hann(mel.device).square().expand(1, frames, WINDOW)).clamp_min(1e-3)
    spectrum = torch.complex(magnitude, torch.zeros_like(magnitude))
    before = torch.zeros_like(spectrum)
    for _ in range(iterations):
        rebuilt = _spectrum(_signal(spectrum) / envelope)
        ahead = rebuilt - before * (MOMENTUM / (1 + MOMENTUM))
        spectrum = ahead * (magnitude / ahead.abs().clamp_min(1e-9))
        before = rebuilt
    edge = (WINDOW - HOP) // 2
    audio = (_signal(spectrum) / envelope)[:, edge:-edge]
    return audio / audio.abs().amax(dim=1, keepdim=True).clamp_min(1)


def linear_magnitude(mel: Tensor) -> Tensor:
    """Mel magnitudes [..., 80] -> linear ones [..., 513]: non-negative least squares by multiplicative steps.

    A plain pseudo-inverse is five times farther off in the log-mel of tonal sounds.
    """
    bank = filterbank(mel.device)
    target = mel @ bank
    x = target.clone()
    for _ in range(INVERSION_STEPS):
        x *= target / ((x @ bank.T) @ bank).clamp_min(1e-12)
    return x


@lru_cache(maxsize=4)
def filterbank(device: torch.device) -> Tensor:
    """Slaney's triangular mel filters of unit area over 0-8 kHz: [80, 513] float32."""
    mels = torch.linspace(0, _hz_to_mel(RATE / 2), MELS + 2, dtype=torch.float64)
    edges = torch.where(mels < 15, mels * 200 / 3, 1000 * torch.exp((mels - 15) * (math.log(6.4) / 27)))
    bins = torch.linspace(0, RATE / 2, WINDOW // 2 + 1, dtype=torch.float64)
    rise = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    triangles = torch.minimum(rise, fall).clamp_min(0) * (2 / (edges[2:] - edges[:-2]))[:, None]
    with torch.inference_mode(False):
        return triangles.float().to(device)


def _hz_to_mel(hz: float) -> float:
    """Slaney's scale: linear below 1 kHz, logarithmic above."""
    return hz * 3 / 200 if hz < 1000 else 15 + math.log(hz / 1000) * 27 / math.log(6.4)


@lru_cache(maxsize=4)
def _hann(device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.hann_window(WINDOW, device=device)


def _spectrum(padded: Tensor) -> Tensor:
    """[B, 256*(T+3)] -> [B, T, 513] complex, no padding."""
    return torch.fft.rfft(padded.unfold(-1, WINDOW, HOP) * _hann(padded.device))


def _signal(spectrum: Tensor) -> Tensor:
    """[B, T, 513] complex -> [B, 256*(T+3)], windowed and added, not yet divided by the windows' envelope."""
    return _overlap(torch.fft.irfft(spectrum, WINDOW) * _hann(spectrum.device))


def _overlap(frames: Tensor) -> Tensor:
    """[B, T, 1024] -> [B, 256*(T+3)]: frames added a hop apart."""
    parts = frames.unflatten(-1, (WINDOW // HOP, HOP))
    total = frames.new_zeros(len(frames), frames.shape[1] + WINDOW // HOP - 1, HOP)
    for i in range(WINDOW // HOP):
        total[:, i : i + frames.shape[1]] += parts[:, :, i]
    return total.flatten(1)
