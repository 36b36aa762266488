"""Where one tower looks in the other: attention weights of the fused layers, averaged over heads and layers.

Recording costs one more product a layer, so it is meant for a step or two of a clip. Both forms of the model are
watched in the same way: their layers hand over queries and keys when somebody watches.
Try it: `ovi generate --prompt "A dog barks." --attention maps.safetensors`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ovi.models.attention import CrossAttention
from ovi.models.fast import Half

ROWS = 1024  # queries whose weights are held at once


@dataclass
class Maps:
    """Sums over what was recorded, of the batch's first sample."""

    counts: dict[str, int] = field(default_factory=dict)
    sums: dict[str, Tensor] = field(default_factory=dict)

    def mean(self, name: str) -> Tensor:
        """Of "audio_to_video" [L, F*h*w] or "video_to_audio" [F*h*w, L], float32; every row sums to 1."""
        return self.sums[name] / self.counts[name]

    def add(self, name: str, weights: Tensor) -> None:
        self.sums[name] = self.sums[name] + weights if name in self.sums else weights
        self.counts[name] = self.counts.get(name, 0) + 1


@contextmanager
def recording(model: nn.Module, layers: Sequence[int] | None = None) -> Iterator[Maps]:
    """Record all passes of a FusionModel or FastFusion inside the block, at some layers (None: at all)."""
    maps, watched = Maps(), []
    for name, layer in model.named_modules():
        if isinstance(layer, CrossAttention | Half) and (layers is None or _depth(name) in layers):
            layer.watch = _watch(maps, "video_to_audio" if "video" in name else "audio_to_video")
            watched.append(layer)
    try:
        yield maps
    finally:
        for layer in watched:
            layer.watch = None


def _depth(name: str) -> int:
    return next(int(part) for part in name.split(".") if part.isdigit())


def _watch(maps: Maps, name: str) -> Callable[[Tensor, Tensor], None]:
    def look(q: Tensor, k: Tensor) -> None:
        """q [B, heads, L, d] and k [B, heads, M, d], turned by their positions."""
        query, key = q[0].float() * q.shape[-1] ** -0.5, k[0].float()
        parts = [(rows @ key.transpose(1, 2)).softmax(-1).mean(0) for rows in query.split(ROWS, dim=1)]
        maps.add(name, torch.cat(parts))

    return look
