"""Reads the golden vectors of the metrics beside it, and makes the weights and inputs they were computed from.

Those are not stored: each value is a hash (splitmix64) of its place in its array and of the array's name. What is here
is what is small enough of the published vectors; frechet.npz and logits.npz are excerpts without the largest cases.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FOLDER = Path(__file__).parent
COUNTER = "num_batches_tracked"  # stays as it is
GOLDEN_RATIO = 0x9E3779B97F4A7C15
BLOCK = 1 << 16  # values at a time: they stay in the processor's cache
# (name's beginning, lowest, width) of statistics that must lie where decibels do
DECIBELS = {
    "cnn14:bn0.running_mean": (-30.0, 20.0),
    "cnn14:bn0.running_var": (200.0, 100.0),
    "htsat:bn0.running_mean": (-40.0, 20.0),
    "htsat:bn0.running_var": (200.0, 100.0),
}


def arrays(case: str) -> dict[str, NDArray[Any]]:
    with np.load(FOLDER / f"{case}.npz", allow_pickle=False) as file:
        return dict(file)


def layout(network: str) -> dict[str, list[int]]:
    """Names and shapes of the tensors in a released file."""
    return json.loads((FOLDER / "layouts.json").read_text())[network]


def relative_error(got: Tensor | NDArray[Any], want: NDArray[Any]) -> float:
    """Length of the difference as a share of the length of `want`."""
    got = np.asarray(got)
    assert got.shape == want.shape
    return float(np.linalg.norm(got.astype(np.float64) - want) / np.linalg.norm(want.astype(np.float64)))


def uniform(count: int, name: str) -> NDArray[np.float64]:
    """Values in [0, 1)."""
    values = np.empty(count)
    start = np.uint64(zlib.crc32(name.encode()) << 32)
    for at in range(0, count, BLOCK):
        x = np.arange(at + 1, min(at + BLOCK, count) + 1, dtype=np.uint64)
        x *= np.uint64(GOLDEN_RATIO)
        x += start
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            x ^= x >> np.uint64(shift)
            x *= np.uint64(factor)
        x ^= x >> np.uint64(31)
        values[at : at + BLOCK] = x >> np.uint64(11)
    values /= 1 << 53
    return values


def symmetric(count: int, name: str, bound: float = 1.0) -> NDArray[np.float64]:
    """Values in [-bound, bound)."""
    values = uniform(count, name)
    values *= 2 * bound
    values -= bound
    return values


def normal(shape: tuple[int, ...], name: str) -> NDArray[np.float64]:
    """Gaussian values (Box and Muller)."""
    first, second = (uniform(prod(shape), f"{name}/u{at}") for at in (1, 2))
    return (np.sqrt(-2 * np.log(1 - first)) * np.cos(2 * np.pi * second)).reshape(shape)


def chirp(rate: int, seconds: float, low: float, high: float, height: float) -> NDArray[np.float64]:
    """A sine that rises from `low` to `high` Hz."""
    time = np.arange(round(rate * seconds)) / rate
    return height * np.sin(2 * np.pi * (low * time + (high - low) * time**2 / (2 * seconds)))


def filled(state: Mapping[str, Tensor], network: str) -> dict[str, Tensor]:
    """Tensors of the names and shapes in `state`; counters and whole numbers stay."""
    return {name: _tensor(f"{network}:{name}", tensor) for name, tensor in state.items()}


def _tensor(name: str, like: Tensor) -> Tensor:
    if not like.is_floating_point() or name.endswith(COUNTER):
        return like
    count, shape = like.numel(), tuple(like.shape)
    if name in DECIBELS:
        low, width = DECIBELS[name]
        values = low + width * uniform(count, name)
    elif name.endswith("running_var"):
        values = 1 + 0.5 * uniform(count, name)
    elif name.endswith("running_mean"):
        values = symmetric(count, name, 0.1)
    elif len(shape) > 1:
        values = symmetric(count, name, (6 / prod(shape[1:])) ** 0.5)
    elif name.endswith("weight"):
        values = 1 + symmetric(count, name, 0.1)
    else:
        values = symmetric(count, name, 0.05)
    return torch.from_numpy(values.astype(np.float32).reshape(shape))
