"""Optical flow of picture pairs by RAFT (Teed and Deng, ECCV 2020), small and large, and from it how much a clip moves.

Where every pixel of the first picture lies in the second one: all pairs of pixels are compared once, at an eighth of
the size, and a recurrent unit then looks up around its present guess and betters it. It knows neither clips' thresholds
nor where weights come from; the file's own tensors tell which of the two networks it is.
Try it: `pytest tests/perception/test_raft.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ovi.errors import OviError
from ovi.perception import weights
from ovi.perception.motion import APART_S

CELL = 8  # pixels along a side of a cell: flow is found for cells and then brought to pixels
LEAST_SIDE = 128  # pixels: below, the coarsest correlations are a single column and cannot be interpolated
LEVELS = 4  # of correlations, each half as fine as the one before
ITERATIONS = 12
LONG_SIDE = 512  # pixels of the picture that a clip's motion is measured on
PAIRS = 8  # at a time; 0.1 GB each at 512 x 512


@dataclass(frozen=True)
class Size:
    """Numbers of channels, and how many cells around a guess are looked up."""

    name: str
    stages: tuple[int, int, int]  # of both encoders; the first stage has as many as the stem
    features: int
    hidden: int
    context: int
    radius: int
    compared: tuple[int, ...]  # layers over the looked-up correlations
    moved: tuple[int, int]  # layers over the present flow
    motion: int  # both together
    flow_head: int

    @property
    def method(self) -> str:
        """Goes with every motion score: scores of different methods, sizes and distances cannot be compared."""
        return f"raft-{self.name}-{LONG_SIDE}px-v1"


SMALL = Size("small", (32, 64, 96), 128, 96, 64, 3, (96,), (64, 32), 80, 128)
LARGE = Size("large", (64, 96, 128), 256, 128, 128, 4, (256, 192), (128, 64), 126, 256)


class Raft(nn.Module):
    """0.99 M (small) or 5.3 M parameters (large), named as in the authors' files."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        norm = nn.BatchNorm2d if size is LARGE else nn.Identity
        self.fnet = _Encoder(size, size.features, nn.InstanceNorm2d)
        self.cnet = _Encoder(size, size.hidden + size.context, norm)
        self.update_block = _Update(size)

    def forward(self, first: Tensor, second: Tensor, iterations: int = ITERATIONS) -> Tensor:
        """RGB 0..255 [B, 3, H, W], sides multiples of 8 and at least 128 -> flow (x, y) [B, 2, H, W] in pixels."""
        return self.to_pixels(*self.cells(first, second, iterations))

    def cells(self, first: Tensor, second: Tensor, iterations: int = ITERATIONS) -> tuple[Tensor, Tensor]:
        """As forward -> flow [B, 2, H/8, W/8] in cells of 8 pixels, and the state that it came from."""
        first, second = 2 * (first / 255) - 1, 2 * (second / 255) - 1
        features = self.fnet(torch.cat((first, second)))
        correlations = _Correlations(features[: len(first)], features[len(first) :], self.size.radius)
        hidden, context = self.cnet(first).split((self.size.hidden, self.size.context), dim=1)
        hidden, context = hidden.tanh(), context.relu()
        height, width = hidden.shape[-2:]
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        origin = torch.stack((x, y)).to(hidden)
        flow = hidden.new_zeros(len(hidden), 2, height, width)
        for _ in range(iterations):
            hidden, change = self.update_block(hidden, context, correlations.around(origin + flow), flow)
            flow = flow + change
        return flow, hidden

    def to_pixels(self, flow: Tensor, hidden: Tensor) -> Tensor:
        """Flow of cells -> flow of pixels [B, 2, H, W]: interpolated, or mixed of the 3 x 3 cells around as learned."""
        if self.update_block.mask is None:
            return CELL * F.interpolate(flow, scale_factor=CELL, mode="bilinear", align_corners=True)
        batch, _, height, width = flow.shape
        share = (0.25 * self.update_block.mask(hidden)).view(batch, 1, 9, CELL, CELL, height, width).softmax(dim=2)
        around = F.unfold(CELL * flow, 3, padding=1).view(batch, 2, 9, 1, 1, height, width)
        mixed = (share * around).sum(dim=2)  # [B, 2, 8, 8, H/8, W/8]
        return mixed.permute(0, 1, 4, 2, 5, 3).reshape(batch, 2, CELL * height, CELL * width)


def load(path: str | Path, device: str | torch.device = "cpu") -> Raft:
    """The network that `path` holds, from the authors' file or torchvision's. Raises OviError when neither fits."""
    state = _authors_names(weights.read(path))
    stem = state.get("fnet.conv1.weight")
    if stem is None:
        raise OviError(f"{path}: not the weights of RAFT: no fnet.conv1 or feature_encoder; give the right file")
    size = SMALL if stem.shape[:1] == SMALL.stages[:1] else LARGE
    return weights.fill(Raft(size), state, path, device)


@torch.no_grad()
def flow(network: Raft, first: Tensor, second: Tensor) -> Tensor:
    """Pictures uint8 RGB [B, H, W, 3] of any size -> float32 [B, 2, H, W] on the network's device: how far to the right
    and how far down, in pixels, each pixel of `first` lies in `second`.

    Edges are repeated on all sides up to the next size that the network takes.
    """
    height, width = first.shape[1:3]
    down, right = (max(LEAST_SIDE, -(-side // CELL) * CELL) - side for side in (height, width))
    frame = (right // 2, right - right // 2, down // 2, down - down // 2)
    device = next(network.parameters()).device
    pair = [F.pad(one.to(device).permute(0, 3, 1, 2).float(), frame, mode="replicate") for one in (first, second)]
    return network(*pair)[..., frame[2] : frame[2] + height, frame[0] : frame[0] + width]


def mean_flow(network: Raft, frames: Sequence[NDArray[np.uint8]], fps: float) -> float:
    """Mean length of the flow between frames 0.5 s apart, in frame diagonals, of pictures uint8 RGB [H, W, 3].

    Zero for a single frame. It is what `motion.Motion.flow` estimates; `network.size.method` tells them apart.
    """
    height, width = frames[0].shape[:2]
    scale = LONG_SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    chosen = frames[:: max(1, round(APART_S * fps))]
    small = torch.from_numpy(np.stack([cv2.resize(frame, size, interpolation=how) for frame in chosen]))
    starts = range(0, len(small) - 1, PAIRS)
    parts = [small[at : at + PAIRS + 1] for at in starts]
    lengths = [flow(network, part[:-1], part[1:]).norm(dim=1).mean(dim=(1, 2)) for part in parts]
    return float(torch.cat(lengths).mean()) / float(np.hypot(*size)) if lengths else 0.0


class _Encoder(nn.Module):
    """[B, 3, H, W] -> [B, out, H/8, W/8]."""

    def __init__(self, size: Size, out: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        block = _Narrowing if size is SMALL else _Residual
        first, second, third = size.stages
        self.conv1 = nn.Conv2d(3, first, 7, 2, 3)
        self.norm1 = norm(first)
        self.layer1 = nn.Sequential(block(first, first, 1, norm), block(first, first, 1, norm))
        self.layer2 = nn.Sequential(block(first, second, 2, norm), block(second, second, 1, norm))
        self.layer3 = nn.Sequential(block(second, third, 2, norm), block(third, third, 1, norm))
        self.conv2 = nn.Conv2d(third, out, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        x = self.norm1(self.conv1(pictures)).relu()
        return self.conv2(self.layer3(self.layer2(self.layer1(x))))


class _Residual(nn.Module):
    def __init__(self, into: int, out: int, stride: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(into, out, 3, stride, 1), norm(out)
        self.conv2, self.norm2 = nn.Conv2d(out, out, 3, 1, 1), norm(out)
        self.downsample = _shortcut(into, out, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(self.conv1(x)).relu()
        y = self.norm2(self.conv2(y)).relu()
        return (self.downsample(x) + y).relu()


class _Narrowing(nn.Module):
    def __init__(self, into: int, out: int, stride: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        narrow = out // 4
        self.conv1, self.norm1 = nn.Conv2d(into, narrow, 1), norm(narrow)
        self.conv2, self.norm2 = nn.Conv2d(narrow, narrow, 3, stride, 1), norm(narrow)
        self.conv3, self.norm3 = nn.Conv2d(narrow, out, 1), norm(out)
        self.downsample = _shortcut(into, out, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(self.conv1(x)).relu()
        y = self.norm2(self.conv2(y)).relu()
        y = self.norm3(self.conv3(y)).relu()
        return (self.downsample(x) + y).relu()


def _shortcut(into: int, out: int, stride: int, norm: Callable[[int], nn.Module]) -> nn.Module:
    return nn.Identity() if stride == 1 else nn.Sequential(nn.Conv2d(into, out, 1, stride), norm(out))


class _Correlations:
    """How alike each cell of the first picture is to each of the second, coarser from level to level."""

    def __init__(self, first: Tensor, second: Tensor, radius: int) -> None:
        batch, channels, height, width = first.shape
        alike = first.flatten(2).transpose(1, 2) @ second.flatten(2) / channels**0.5
        self._levels = [alike.view(batch * height * width, 1, height, width)]
        for _ in range(LEVELS - 1):
            self._levels.append(F.avg_pool2d(self._levels[-1], 2))
        steps = torch.arange(-radius, radius + 1)
        # the first axis of this window runs along x: the released weights were trained on that order
        self._window = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), dim=-1).to(first)

    def around(self, places: Tensor) -> Tensor:
        """Places (x, y) in the second picture, in cells [B, 2, h, w] -> [B, levels * (2 * radius + 1)^2, h, w]."""
        batch, _, height, width = places.shape
        centres = places.permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)
        found = []
        for at, level in enumerate(self._levels):
            ends = level.new_tensor((level.shape[-1] - 1, level.shape[-2] - 1))
            grid = 2 * (centres / 2**at + self._window) / ends - 1
            found.append(F.grid_sample(level, grid, align_corners=True).view(batch, height, width, -1))
        return torch.cat(found, dim=-1).permute(0, 3, 1, 2)


class _Update(nn.Module):
    """One step of betterment: new hidden state, and how the flow changes."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.encoder = _Motion(size)
        kernels = {"": (3, 3)} if size is SMALL else {"1": (1, 5), "2": (5, 1)}
        self.gru = _Gru(size.hidden, size.context + size.motion + 2, kernels)
        self.flow_head = _FlowHead(size.hidden, size.flow_head)
        self.mask = None
        if size is LARGE:
            layers = nn.Conv2d(size.hidden, 256, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(256, 9 * CELL**2, 1)
            self.mask = nn.Sequential(*layers)

    def forward(self, hidden: Tensor, context: Tensor, found: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.gru(hidden, torch.cat((context, self.encoder(found, flow)), dim=1))
        return hidden, self.flow_head(hidden)


class _FlowHead(nn.Module):
    def __init__(self, hidden: int, between: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(hidden, between, 3, padding=1), nn.Conv2d(between, 2, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.conv2(self.conv1(hidden).relu())


class _Motion(nn.Module):
    """Looked-up correlations and the present flow as one; the flow itself comes last."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.convc1 = nn.Conv2d(LEVELS * (2 * size.radius + 1) ** 2, size.compared[0], 1)
        self.convc2 = nn.Conv2d(*size.compared, 3, padding=1) if len(size.compared) > 1 else None
        self.convf1 = nn.Conv2d(2, size.moved[0], 7, padding=3)
        self.convf2 = nn.Conv2d(*size.moved, 3, padding=1)
        self.conv = nn.Conv2d(size.compared[-1] + size.moved[-1], size.motion, 3, padding=1)

    def forward(self, found: Tensor, flow: Tensor) -> Tensor:
        found = self.convc1(found).relu()
        if self.convc2 is not None:
            found = self.convc2(found).relu()
        moved = self.convf2(self.convf1(flow).relu()).relu()
        return torch.cat((self.conv(torch.cat((found, moved), dim=1)).relu(), flow), dim=1)


class _Gru(nn.Module):
    """A gated recurrent unit of convolutions, once for each kernel; the key is what its layers' names end in."""

    def __init__(self, hidden: int, inputs: int, kernels: dict[str, tuple[int, int]]) -> None:
        super().__init__()
        self._turns = [tuple(f"conv{gate}{turn}" for gate in "zrq") for turn in kernels]
        for names, (down, across) in zip(self._turns, kernels.values(), strict=True):
            for name in names:
                padding = (down // 2, across // 2)
                self.add_module(name, nn.Conv2d(hidden + inputs, hidden, (down, across), padding=padding))

    def forward(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        for names in self._turns:
            update, reset, new = (self.get_submodule(name) for name in names)
            both = torch.cat((hidden, inputs), dim=1)
            share = update(both).sigmoid()
            fresh = new(torch.cat((reset(both).sigmoid() * hidden, inputs), dim=1)).tanh()
            hidden = (1 - share) * hidden + share * fresh
        return hidden


# torchvision's names -> the authors'
RENAMES = (
    (r"^feature_encoder\.", "fnet."),
    (r"^context_encoder\.", "cnet."),
    (r"^(.net)\.convnormrelu\.0\.", r"\1.conv1."),
    (r"^(.net)\.convnormrelu\.1\.", r"\1.norm1."),
    (r"^(.net)\.conv\.", r"\1.conv2."),
    (r"\.convnormrelu(\d)\.0\.", r".conv\1."),
    (r"\.convnormrelu(\d)\.1\.", r".norm\1."),
    (r"\.motion_encoder\.conv\.0\.", ".encoder.conv."),
    (r"\.motion_encoder\.conv(c|f)(?:orr|low)(\d)\.0\.", r".encoder.conv\1\2."),
    (r"\.recurrent_block\.convgru(\d)\.conv(.)\.", r".gru.conv\2\1."),
    (r"^mask_predictor\.convrelu\.0\.", "update_block.mask.0."),
    (r"^mask_predictor\.conv\.", "update_block.mask.2."),
)
SECOND_NAME = re.compile(r"\.layer\d\.0\.norm3\.")  # of downsample.1


def _authors_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state under the names that the authors' network has, without its second names.

    Their files were saved from a parallel wrapper (`module.`), and hold the norm of a shortcut under two names.
    """
    names = {key: _authors_name(key.removeprefix("module.")) for key in state}
    if "update_block.gru.convz2.weight" not in names.values():  # the small network's GRU runs once and has no number
        names = {key: re.sub(r"\.gru\.conv(.)1\.", r".gru.conv\1.", name) for key, name in names.items()}
    return {name: state[key] for key, name in names.items() if not SECOND_NAME.search(name)}


def _authors_name(name: str) -> str:
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name
