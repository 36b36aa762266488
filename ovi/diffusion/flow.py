"""The straight path between data and noise (paper 4.2): x = (1-sigma)*data + sigma*noise, velocity = noise - data.

Training and sampling meet here; neither the model nor a schedule is known.
Try it: `pytest tests/diffusion/test_flow.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:  # nothing here needs torch itself, and the service's front process never imports it
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

TIMESTEPS = 1000.0  # the network's timestep is 1000 * sigma
Levels = TypeVar("Levels", "Tensor", "NDArray[np.float64]")


def interpolate(data: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """The point at sigma [B] or [B, L] in [0, 1] on the way from data [B, L, ...] to noise [B, L, ...]."""
    return data + _spread(sigma, data) * (noise - data)


def velocity_target(data: Tensor, noise: Tensor) -> Tensor:
    """What the network learns to say anywhere on the path: noise - data."""
    return noise - data


def shifted(sigma: Levels, shift: float) -> Levels:
    """Noise levels in [0, 1] moved towards noise: S*sigma / (1 + (S-1)*sigma). A shift of 1 leaves them."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def estimate_data(x: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
    """The data that x [B, ...] and a velocity at sigma [B] point to."""
    return x - _spread(sigma, x) * velocity


def _spread(sigma: Tensor, like: Tensor) -> Tensor:
    return sigma.reshape(*sigma.shape, *[1] * (like.ndim - sigma.ndim)).to(like.dtype)
