"""Do lips and speech of a face track agree, and how far are they apart? SyncNet v2 (Chung and Zisserman, 2016).

Pictures of a face and the sound under them become points; where they belong together, the points are near. It knows
face crops only: who finds, follows and crops faces and brings pictures to 25 a second is the caller. Two of the
original's conventions end here: it takes BGR, and its offset is in frames and positive for early sound. Ours is in
milliseconds and positive for late sound.
Try it: `pytest tests/perception/test_syncnet.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ovi.errors import OviError
from ovi.perception import weights
from ovi.perception.mfcc import mfcc

METHOD = "syncnet-v2"
FPS, FRAME_MS = 25, 40.0
SIDE = 224  # pixels of a face crop
FRAMES, ROWS = 5, 20  # a window: 0.2 s of pictures, and the MFCC rows that begin with them
ROWS_PER_FRAME, SAMPLES_PER_FRAME = 4, 640
REACH = 15  # frames of offset that are looked at on either side
BATCH = 20  # windows at a time: 0.1 GB for the pictures' first layer


class SyncNet(nn.Module):
    """13.6 M parameters. The names of the four parts and the places in them are those of the released file."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = nn.Sequential(
            *_layer(nn.Conv2d(1, 64, 3, padding=1)),
            nn.Identity(),
            *_layer(nn.Conv2d(64, 192, 3, padding=1)),
            nn.MaxPool2d(3, (1, 2)),
            *_layer(nn.Conv2d(192, 384, 3, padding=1)),
            *_layer(nn.Conv2d(384, 256, 3, padding=1)),
            *_layer(nn.Conv2d(256, 256, 3, padding=1)),
            nn.MaxPool2d(3, 2),
            *_layer(nn.Conv2d(256, 512, (5, 4))),
        )
        self.netcnnlip = nn.Sequential(
            *_layer(nn.Conv3d(3, 96, (FRAMES, 7, 7), (1, 2, 2))),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_layer(nn.Conv3d(96, 256, (1, 5, 5), (1, 2, 2), (0, 1, 1))),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            *_layer(nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1))),
            *_layer(nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1))),
            *_layer(nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1))),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_layer(nn.Conv3d(256, 512, (1, 6, 6))),
        )
        self.netfcaud, self.netfclip = _head(), _head()

    def lips(self, faces: Tensor) -> Tensor:
        """BGR 0..255 [B, 3, T, 224, 224] -> [B, T - 4, 1024], one for each window of five pictures.

        Only the first layer looks across pictures, so windows need not be laid out one by one.
        """
        seen = self.netcnnlip(faces)[..., 0, 0].transpose(1, 2)
        return self.netfclip(seen.flatten(0, 1)).unflatten(0, seen.shape[:2])

    def speech(self, rows: Tensor) -> Tensor:
        """MFCC [B, 1, 13, 20] -> [B, 1024]."""
        return self.netfcaud(self.netcnnaud(rows).flatten(1))


@dataclass(frozen=True)
class LipSync:
    """offset_ms: positive = audio late. confidence: how much nearer the best offset is than the median one. distance:
    mean distance at the best offset. The masked values leave out pairs whose sound lies outside the clip.
    """

    offset_ms: float
    confidence: float
    distance: float
    masked_offset_ms: float
    masked_confidence: float


def load(path: str | Path, device: str | torch.device = "cpu") -> SyncNet:
    """The network with the weights of `path` (released as syncnet_v2.model). Raises OviError when they do not fit."""
    return weights.fill(SyncNet(), weights.read(path), path, device)


@torch.no_grad()
def embed(network: SyncNet, faces: NDArray[np.uint8], audio: NDArray[np.int16]) -> tuple[Tensor, Tensor]:
    """Face crops uint8 RGB [T, 224, 224, 3] at 25 fps, and mono int16 [N] at 16 kHz that begins with them
    -> points of the pictures and of the sound, both [n, 1024] float32 on the network's device.

    n = min(T, floor(N / 640)) - 5: as in the original, the last possible window is not used. Raises OviError if n < 1.
    """
    count = min(len(faces), len(audio) // SAMPLES_PER_FRAME) - FRAMES
    if count < 1:
        raise OviError(f"lip sync needs {FRAMES + 1} pictures with their sound, there are {max(0, count + FRAMES)}")
    device = next(network.parameters()).device
    rows = torch.from_numpy(mfcc(audio)).float().to(device)
    heard = rows.unfold(0, ROWS, ROWS_PER_FRAME)[:count, None]  # [n, 1, 13, 20]
    lips, speech = [], []
    for first in range(0, count, BATCH):
        last = min(first + BATCH, count)
        shown = torch.tensor(faces[first : last + FRAMES - 1], device=device).flip(-1)  # RGB -> BGR
        lips.append(network.lips(shown.permute(3, 0, 1, 2)[None].float())[0])
        speech.append(network.speech(heard[first:last]))
    return torch.cat(lips), torch.cat(speech)


def distances(lips: Tensor, speech: Tensor, reach: int = REACH) -> Tensor:
    """Points [n, D] of pictures and of sound -> [n, 2 * reach + 1], row i the distances of picture window i to sound
    windows i - reach .. i + reach. Beyond the clip's ends the sound is the zero point, as in the original.
    """
    padded = F.pad(speech, (0, 0, reach, reach))
    near = padded.unfold(0, 2 * reach + 1, 1).transpose(1, 2)
    return F.pairwise_distance(lips[:, None], near)  # adds 1e-6 to each difference, as in the original


def lip_sync(apart: Tensor) -> LipSync:
    """What the table of `distances` says of a clip. Of equal minima the one of the earliest sound counts.

    Where picture and sound have nothing in common, the zero points at the ends can be nearest and the offset runs to
    +-reach: the masked values do not know them, but in clips hardly longer than the reach rest on few pairs.
    """
    count, reach = len(apart), apart.shape[1] // 2
    place = torch.arange(count)[:, None] + torch.arange(-reach, reach + 1)
    inside = ((place >= 0) & (place < count)).to(apart.device)
    seen = inside.any(0)  # of a short clip not every offset; those that are seen lie evenly about zero
    masked = (apart * inside).sum(0)[seen] / inside.sum(0)[seen]
    return LipSync(*_best(apart.mean(0)), *_best(masked)[:2])


def _best(curve: Tensor) -> tuple[float, float, float]:
    """(offset in ms, confidence, distance) from mean distances over offsets that lie evenly about zero."""
    place = int(curve.argmin())
    nearest = float(curve[place])
    return (place - len(curve) // 2) * FRAME_MS, float(curve.median()) - nearest, nearest


def _layer(convolution: nn.Conv2d | nn.Conv3d) -> tuple[nn.Module, ...]:
    norm = nn.BatchNorm2d if isinstance(convolution, nn.Conv2d) else nn.BatchNorm3d
    return convolution, norm(convolution.out_channels), nn.ReLU(inplace=True)


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(inplace=True), nn.Linear(512, 1024))
