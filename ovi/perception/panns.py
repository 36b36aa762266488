"""What a clip sounds like, by PANNs' Cnn14 at 16 kHz (Kong et al., 2020, arXiv 1912.10211).

2048 features for the Fréchet distance, and 527 logits of AudioSet's classes for the inception score and the divergence.
It takes sound as it is: who mixes to mono, takes off the mean, resamples and crops is the caller.
Try it: `pytest tests/perception/test_panns.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ovi.errors import OviError
from ovi.perception import weights
from ovi.perception.mel import log_mel, slaney

METHOD = "panns-cnn14-16k"
RATE = 16_000
SIZE, HOP, MELS, LOW, HIGH = 512, 160, 64, 50, 8000
CHANNELS = (64, 128, 256, 512, 1024, 2048)
FEATURES, CLASSES = 2048, 527
SHORTEST = 31 * HOP  # samples: 32 frames, of which five halvings leave one
FRONT_END = "spectrogram_extractor."  # sines and cosines in the released file; a Fourier transform needs none


class Cnn14(nn.Module):
    """81 M parameters, named as in the released file."""

    def __init__(self) -> None:
        super().__init__()
        bank = nn.Parameter(slaney(RATE, SIZE, MELS, LOW, HIGH).T, requires_grad=False)
        self.logmel_extractor = nn.ParameterDict({"melW": bank})
        self.bn0 = nn.BatchNorm2d(MELS)
        self.blocks = len(CHANNELS)
        for at, (into, out) in enumerate(zip((1, *CHANNELS), CHANNELS, strict=False), 1):
            self.add_module(f"conv_block{at}", _Block(into, out))
        self.fc1 = nn.Linear(CHANNELS[-1], FEATURES)
        self.fc_audioset = nn.Linear(FEATURES, CLASSES)

    def forward(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Mono [B, N] in [-1, 1], N >= 4960 -> features [B, 2048], not negative, and logits [B, 527]."""
        x = log_mel(audio, self.logmel_extractor["melW"].T, HOP)[:, None]
        x = self.bn0(x.transpose(1, 3)).transpose(1, 3)  # each mel band has its own mean and spread
        for at in range(1, self.blocks + 1):
            x = self.get_submodule(f"conv_block{at}")(x)
            x = F.avg_pool2d(x, 2) if at < self.blocks else x
        x = x.mean(dim=3)
        features = self.fc1(x.amax(dim=2) + x.mean(dim=2)).relu()
        return features, self.fc_audioset(features)


def load(path: str | Path, device: str | torch.device = "cpu") -> Cnn14:
    """The network with the weights of `path` (released as Cnn14_16k_mAP=0.438.pth).

    Raises OviError when they do not fit; those of the 32 kHz network do not, by their filters.
    """
    state = {key: tensor for key, tensor in weights.read(path).items() if not key.startswith(FRONT_END)}
    return weights.fill(Cnn14(), state, path, device)


@torch.no_grad()
def describe(network: Cnn14, clips: Sequence[NDArray[np.float32]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mono clips float32 [N] at 16 kHz, of any lengths -> features [B, 2048] and logits [B, 527].

    One after the other: a clip's numbers do not depend on its company. Raises OviError for a clip below 0.31 s.
    """
    device = next(network.parameters()).device
    features, logits = np.zeros((len(clips), FEATURES), np.float32), np.zeros((len(clips), CLASSES), np.float32)
    for at, clip in enumerate(clips):
        if len(clip) < SHORTEST:
            raise OviError(f"sound of {len(clip) / RATE:.2f} s is too short: PANNs needs {SHORTEST / RATE:.2f} s")
        found = network(torch.from_numpy(clip).to(device)[None])
        features[at], logits[at] = found[0][0].cpu().numpy(), found[1][0].cpu().numpy()
    return features, logits


class _Block(nn.Module):
    """[B, C, T, M] -> [B, C', T, M]."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(into, out, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(out), nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.bn1(self.conv1(x)).relu_())).relu_()
