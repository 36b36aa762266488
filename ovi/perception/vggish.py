"""What each 0.96 s of a clip sounds like, by VGGish (Hershey et al., 2017, arXiv 1609.09430) in torchvggish's layout.

The 128 values are those before the last ReLU, as the Fréchet audio distance of recent papers takes them; `quantised`
makes of them the 8-bit numbers that AudioSet was published as. Who mixes to mono and resamples is the caller.
Try it: `pytest tests/perception/test_vggish.py`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor, nn

from ovi.errors import OviError
from ovi.perception import weights

METHOD = "vggish-no-relu-no-pca"
RATE = 16_000
WINDOW, STEP, FFT = 400, 160, 512  # samples: 25 ms every 10 ms
ROWS, MELS, LOW, HIGH = 96, 64, 125, 7500  # an example is 0.96 s; 64 bands over these Hz
FLOOR = 0.01  # added to a band's magnitude before its logarithm
SHORTEST = (ROWS - 1) * STEP + WINDOW  # samples, 0.975 s
FEATURES = 128
CLIP = 2.0  # quantised values reach from -2 to 2
Array = NDArray[np.float64]


class VGGish(nn.Module):
    """72 M parameters. The names of the two parts and the places in them are those of the released file."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_layer(1, 64), nn.MaxPool2d(2),
            *_layer(64, 128), nn.MaxPool2d(2),
            *_layer(128, 256), *_layer(256, 256), nn.MaxPool2d(2),
            *_layer(256, 512), *_layer(512, 512), nn.MaxPool2d(2),
        )  # fmt: skip
        cells = (ROWS // 16) * (MELS // 16)
        self.embeddings = nn.Sequential(
            nn.Linear(cells * 512, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, FEATURES)
        )

    def forward(self, examples: Tensor) -> Tensor:
        """Log-mel examples [P, 96, 64] -> [P, 128], of either sign."""
        seen = self.features(examples[:, None])
        return self.embeddings(seen.permute(0, 2, 3, 1).flatten(1))  # channels last, as in the original


def load(path: str | Path, device: str | torch.device = "cpu") -> VGGish:
    """The network with the weights of `path` (released as vggish-10086976.pth). Raises OviError if they do not fit."""
    return weights.fill(VGGish(), weights.read(path), path, device)


@torch.no_grad()
def describe(network: VGGish, clip: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mono float32 [N] at 16 kHz -> [P, 128], a row for each of its `examples`. Raises OviError where there is none."""
    device = next(network.parameters()).device
    return network(torch.from_numpy(examples(clip)).to(device)).cpu().numpy()


def examples(clip: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mono [N] at 16 kHz -> log-mel examples [P, 96, 64], side by side; what is left at the end is dropped.

    Raises OviError for a clip below 0.975 s, which has none.
    """
    if len(clip) < SHORTEST:
        raise OviError(f"sound of {len(clip) / RATE:.2f} s is too short: VGGish needs {SHORTEST / RATE:.3f} s")
    frames = sliding_window_view(clip.astype(np.float64), WINDOW)[::STEP]
    frames = frames[: len(frames) // ROWS * ROWS]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    magnitude = np.abs(np.fft.rfft(frames * window, FFT))
    return np.log(magnitude @ _bank().T + FLOOR).astype(np.float32).reshape(-1, ROWS, MELS)


def quantised(
    points: NDArray[np.float32], vectors: NDArray[np.float32], means: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Not negative points [P, 128] (after the last ReLU) -> uint8 [P, 128] along principal components.

    `vectors` [128, 128] holds a component a row, `means` [128] are taken off first; -2 becomes 0 and 2 becomes 255.
    """
    along = np.clip((points - means) @ vectors.T, -CLIP, CLIP)
    return np.round((along + CLIP) * (255 / (2 * CLIP))).astype(np.uint8)


def _layer(into: int, out: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(into, out, 3, padding=1), nn.ReLU(inplace=True)


@cache
def _bank() -> Array:
    """[64, 257] triangles over the mels of the FFT's bins (1127 ln(1 + hz / 700)), evenly spaced; no constant part."""
    corners = np.linspace(_mel(LOW), _mel(HIGH), MELS + 2)
    bins = _mel(np.linspace(0, RATE / 2, FFT // 2 + 1))
    rise = (bins - corners[:-2, None]) / np.diff(corners)[:-1, None]
    fall = (corners[2:, None] - bins) / np.diff(corners)[1:, None]
    bank: Array = np.maximum(np.minimum(rise, fall), 0)
    bank[:, 0] = 0
    return bank


def _mel(hz: float | Array) -> Array:
    return 1127 * np.log1p(np.asarray(hz) / 700)
