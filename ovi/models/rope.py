"""Rotary positions: one clock for both towers (paper 4.1, Figure 2).

A head of width d is rotated in d/2 pairs of neighbouring channels. A video token turns by its latent frame, row and
column, each with its own ladder of frequencies; an audio token turns only the temporal pairs, slowed by `scale`, so
that an audio latent and the video latent of the same moment turn alike. Tables are real float32 (cos, sin), made in
float64 once for each shape. This module knows nothing of attention.
Try it: `pytest tests/models/test_rope.py`.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

THETA = 10_000.0


def widths(head_dim: int) -> tuple[int, int, int]:
    """Channels of a head given to time, rows and columns: 128 -> (44, 42, 42)."""
    spatial = 2 * (head_dim // 6)
    return head_dim - 2 * spatial, spatial, spatial


@lru_cache(maxsize=32)
def video_table(
    frames: int, rows: int, columns: int, head_dim: int, device: torch.device, theta: float = THETA
) -> Tensor:
    """(cos, sin) of every token of a video grid, columns fastest: [frames*rows*columns, head_dim/2, 2] float32."""
    time, high, wide = widths(head_dim)
    grid = (frames, rows, columns)
    parts = [
        _angles(frames, time, theta)[:, None, None].expand(*grid, -1),
        _angles(rows, high, theta)[None, :, None].expand(*grid, -1),
        _angles(columns, wide, theta)[None, None, :].expand(*grid, -1),
    ]
    return _table(torch.cat(parts, dim=-1).flatten(0, 2), device)


@lru_cache(maxsize=32)
def audio_table(length: int, head_dim: int, scale: float, device: torch.device, theta: float = THETA) -> Tensor:
    """(cos, sin) of every audio token: [length, head_dim/2, 2] float32. Pairs after the temporal ones do not turn."""
    angles = torch.zeros(length, head_dim // 2, dtype=torch.float64)
    temporal = _angles(length, widths(head_dim)[0], theta, scale)
    angles[:, : temporal.shape[1]] = temporal
    return _table(angles, device)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn x [B, L, heads, d] by a table [L, d/2, 2]; computed in float32, returned in x's type.

    A pair (a, b) is multiplied as the complex number a+bi: one pass over memory instead of four, forward and backward.
    """
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.view_as_complex(table)[:, None]).flatten(-2).to(x.dtype)


def rotate_real(x: Tensor, table: Tensor) -> Tensor:
    """As `rotate`, in real numbers: what compilers for GPUs fuse with the operations around it."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = table[:, None].unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2).to(x.dtype)


def _angles(length: int, width: int, theta: float, scale: float = 1.0) -> Tensor:
    """position * scale / theta^(2j/width): [length, width/2] float64."""
    ladder = scale / theta ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
    return torch.arange(length, dtype=torch.float64)[:, None] * ladder


def _table(angles: Tensor, device: torch.device) -> Tensor:
    # A table made while sampling is used again while training, so it must never be an inference tensor.
    with torch.inference_mode(False):
        return torch.stack((angles.cos(), angles.sin()), dim=-1).float().to(device)
