"""Linear layers for inference: several projections of one tensor as one, their weights as stored or in eight bits.

Eight-bit weights save memory, not time: each is scaled per output channel and widened when it is used. It knows nothing
of what the projections are for.
Try it: `pytest tests/models/test_packed.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Storage = Literal["stored", "fp8", "int8"]
STORAGES = get_args(Storage)
KINDS = {"fp8": (torch.float8_e4m3fn, 448.0), "int8": (torch.int8, 127.0)}


class Packed(nn.Module):
    """y = x W^T + b for the rows of all parts (weight [out, in], bias [out]) one after the other."""

    def __init__(
        self,
        parts: Sequence[tuple[Tensor, Tensor]],
        device: torch.device,
        dtype: torch.dtype | None = None,
        storage: Storage = "stored",
    ) -> None:
        super().__init__()
        weight = _joined([part[0] for part in parts], device, dtype)
        self.bias = nn.Parameter(_joined([part[1] for part in parts], device, dtype), requires_grad=False)
        scale = None
        if storage != "stored":
            weight, scale = narrowed(weight, storage)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.scale = None if scale is None else nn.Parameter(scale, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        weight = self.weight if self.scale is None else self.weight.to(x.dtype) * self.scale
        return F.linear(x, weight, self.bias)


def narrowed(weight: Tensor, storage: Storage) -> tuple[Tensor, Tensor]:
    """weight [out, in] -> its eight-bit form and the scale [out, 1] by which it is widened again."""
    kind, largest = KINDS[storage]
    scale = weight.float().abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / largest
    scaled = weight.float() / scale
    narrow = scaled.round().to(kind) if kind == torch.int8 else scaled.to(kind)
    return narrow, scale.to(weight.dtype)


def _joined(parts: Sequence[Tensor], device: torch.device, dtype: torch.dtype | None) -> Tensor:
    """The parts, moved first: on the device they are joined without a second copy in the host's memory."""
    moved = [part.detach().to(device, dtype) for part in parts]
    return moved[0] if len(moved) == 1 else torch.cat(moved)
