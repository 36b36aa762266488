"""Reads the golden vectors of curation's networks beside it, and makes the weights and inputs they were computed from.

Those are not stored: each value is a hash of its place in its array, of the array's number and of a seed. A network's
tensors are numbered by their names in alphabetical order.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FOLDER = Path(__file__).parent
COUNTER = "num_batches_tracked"  # has no number


def arrays(case: str) -> dict[str, NDArray[Any]]:
    with np.load(FOLDER / f"{case}.npz", allow_pickle=False) as file:
        return dict(file)


def check(got: Tensor | NDArray[Any], want: NDArray[Any], rtol: float, atol: float = 0.0) -> None:
    """Equal within the tolerance that the case was published with; `atol` is a share of the largest value."""
    got = np.asarray(got)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=rtol, atol=atol * np.abs(want).max())


def uniform(seed: int, number: int, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Values in [0, 1)."""
    x = np.arange(prod(shape), dtype=np.uint32) + np.uint32((0x9E3779B9 * number + 0x85EBCA6B * seed) & 0xFFFFFFFF)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x ^= x >> np.uint32(shift)
        x *= np.uint32(factor)
    x ^= x >> np.uint32(16)
    return (x / 2**32).reshape(shape)


def symmetric(seed: int, number: int, shape: tuple[int, ...], bound: float) -> NDArray[np.float32]:
    """Values in [-bound, bound)."""
    return ((2 * uniform(seed, number, shape) - 1) * bound).astype(np.float32)


def filled(state: Mapping[str, Tensor], seed: int, gain: float = 1.0) -> dict[str, Tensor]:
    """Tensors of the names and shapes in `state`, without batch norm's counters."""
    names = sorted(name for name in state if not name.endswith(COUNTER))
    return {name: _tensor(name, tuple(state[name].shape), seed, at, gain) for at, name in enumerate(names)}


def _tensor(name: str, shape: tuple[int, ...], seed: int, number: int, gain: float) -> Tensor:
    if name.endswith("running_var"):
        values = (1 + 0.5 * uniform(seed, number, shape)).astype(np.float32)
    elif len(shape) > 1:
        values = symmetric(seed, number, shape, gain * (3 / prod(shape[1:])) ** 0.5)
    elif name.endswith("weight"):
        values = (1 + 0.2 * (2 * uniform(seed, number, shape) - 1)).astype(np.float32)
    else:
        values = symmetric(seed, number, shape, 0.1)
    return torch.from_numpy(values)
