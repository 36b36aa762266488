"""Where scenes change, hard or gradually, by TransNet V2 (Soucek and Lokoc, 2020, arXiv 2008.04838).

It knows tiny pictures only, neither files nor clocks nor how probable a change must be to count.
Try it: `pytest tests/perception/test_transnet.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ovi.perception import weights

METHOD = "transnetv2"
HEIGHT, WIDTH = 27, 48  # pixels of a picture
WINDOW, KEPT = 100, slice(25, 75)  # pictures seen at once, and those of them whose values count
STACKS = ((3, 16), (64, 32), (128, 64))  # (channels in, filters); four times the filters come out
DILATIONS = (1, 2, 4, 8)  # in time
NEAR = 50  # pictures on either side that each is compared to
COLOURS = 512  # bins of a histogram: three bits of each colour


class TransNet(nn.Module):
    """Parts are named as in the released file. `cls_layer2`, which marks whole transitions, is loaded but not asked."""

    def __init__(self) -> None:
        super().__init__()
        self.SDDCNN = nn.ModuleList(_Stack(into, filters) for into, filters in STACKS)
        means, near = sum(4 * filters for _, filters in STACKS), 2 * NEAR + 1
        self.frame_sim_layer = nn.ModuleDict({"projection": nn.Linear(means, 128), "fc": nn.Linear(near, 128)})
        self.color_hist_layer = nn.ModuleDict({"fc": nn.Linear(near, 128)})
        cells = (HEIGHT // 8) * (WIDTH // 8)
        self.fc1 = nn.Linear(128 + 128 + cells * 4 * STACKS[-1][1], 1024)
        self.cls_layer1, self.cls_layer2 = nn.Linear(1024, 1), nn.Linear(1024, 1)

    def forward(self, frames: Tensor) -> Tensor:
        """RGB uint8 [B, T, 27, 48, 3] -> how probable it is that a scene changes at each picture, [B, T]."""
        x = frames.permute(0, 4, 1, 2, 3).float() / 255
        means = []
        for stack in self.SDDCNN:
            x = stack(x)
            means.append(x.mean(dim=(3, 4)))
        looks = F.normalize(self.frame_sim_layer["projection"](torch.cat(means, dim=1).transpose(1, 2)), dim=2)
        features = (
            self.color_hist_layer["fc"](_likeness(_histograms(frames))).relu(),
            self.frame_sim_layer["fc"](_likeness(looks)).relu(),
            x.permute(0, 2, 3, 4, 1).flatten(2),
        )
        return self.cls_layer1(self.fc1(torch.cat(features, dim=2)).relu())[..., 0].sigmoid()


def load(path: str | Path, device: str | torch.device = "cpu") -> TransNet:
    """The network with the weights of `path`, laid out as in its PyTorch port. Raises OviError when they do not fit."""
    return weights.fill(TransNet(), weights.read(path), path, device)


@torch.no_grad()
def change_probability(network: TransNet, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 RGB [T, 27, 48, 3] -> float32 [T].

    Seen in windows of 100 pictures, half a window apart, of which the middle counts; beyond the ends the first and the
    last picture are repeated.
    """
    device = next(network.parameters()).device
    step = KEPT.stop - KEPT.start
    windows = -(-len(frames) // step)
    places = np.clip(np.arange(-KEPT.start, windows * step + WINDOW - KEPT.stop), 0, len(frames) - 1)
    found = [
        network(torch.from_numpy(frames[places[at : at + WINDOW]]).to(device)[None])[0, KEPT].cpu().numpy()
        for at in range(0, windows * step, step)
    ]
    return np.concatenate(found)[: len(frames)]


class _Stack(nn.Module):
    """[B, C, T, H, W] -> [B, 4 * filters, T, H/2, W/2]."""

    def __init__(self, into: int, filters: int) -> None:
        super().__init__()
        self.DDCNN = nn.ModuleList((_Dilated(into, filters), _Dilated(4 * filters, filters)))

    def forward(self, x: Tensor) -> Tensor:
        first = self.DDCNN[0](x).relu()
        return F.avg_pool3d(self.DDCNN[1](first).relu() + first, (1, 2, 2))


class _Dilated(nn.Module):
    """Four convolutions side by side that reach differently far in time."""

    def __init__(self, into: int, filters: int) -> None:
        super().__init__()
        for reach in DILATIONS:
            across = nn.Conv3d(into, 2 * filters, (1, 3, 3), padding=(0, 1, 1), bias=False)
            along = nn.Conv3d(
                2 * filters, filters, (3, 1, 1), dilation=(reach, 1, 1), padding=(reach, 0, 0), bias=False
            )
            self.add_module(f"Conv3D_{reach}", nn.ModuleDict({"layers": nn.Sequential(across, along)}))
        self.bn = nn.BatchNorm3d(4 * filters, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.get_submodule(f"Conv3D_{reach}.layers")(x) for reach in DILATIONS]
        return self.bn(torch.cat(parts, dim=1))


def _histograms(frames: Tensor) -> Tensor:
    """uint8 [B, T, H, W, 3] -> [B, T, 512] of length one."""
    red, green, blue = (frames.long() >> 5).unbind(-1)
    bins = (red << 6 | green << 3 | blue).flatten(2)
    counts = torch.zeros(*bins.shape[:2], COLOURS, device=frames.device)
    return F.normalize(counts.scatter_add_(2, bins, torch.ones_like(bins, dtype=counts.dtype)), dim=2)


def _likeness(looks: Tensor) -> Tensor:
    """Unit vectors [B, T, D] -> [B, T, 101]: cosines to the pictures 50 before to 50 after, zero beyond the ends."""
    padded = F.pad(looks @ looks.transpose(1, 2), (NEAR, NEAR))
    count = looks.shape[1]
    near = torch.arange(count, device=looks.device)[:, None] + torch.arange(2 * NEAR + 1, device=looks.device)
    return padded.gather(2, near.expand(len(looks), -1, -1))
