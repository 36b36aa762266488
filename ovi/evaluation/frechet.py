"""How far apart two sets of features lie, as the Fréchet distance of the Gaussians with their means and covariances.

With centred data A and B, whose covariances are A'A and B'B, the trace of the square root of their product is the sum
of the singular values of AB'. So no matrix is rooted: that is exact, never complex, and holds with fewer vectors than
dimensions. It does not know what the features are. The distance falls with the number of vectors even where the sets
are alike: compare equal numbers, or `extrapolate`.
Try it: `pytest tests/evaluation/test_frechet.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ovi.errors import OviError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Mean and scatter of n vectors; those of more vectors are the sum of two, so a set need not be held at once."""

    n: int
    mean: Array  # [d]
    factor: Array  # [at most max(n, 2 d), d]; factor.T @ factor is the sum of outer products of what leaves the mean

    @classmethod
    def of(cls, vectors: NDArray[np.floating]) -> Moments:
        """Those of [n, d], n >= 1. Raises OviError when there is no vector or one is not finite."""
        if vectors.ndim != 2 or not len(vectors):
            raise OviError(f"moments are taken of [n, d] with n >= 1, not of {list(vectors.shape)}")
        if not np.isfinite(vectors).all():
            raise OviError("a feature vector is not finite: its network or its sound is broken")
        exact = vectors.astype(np.float64)
        mean = exact.mean(axis=0)
        return cls(len(exact), mean, _short(exact - mean))

    def __add__(self, other: Moments) -> Moments:
        """Moments of both sets together (Chan et al., 1979): the means' difference is one more row of scatter."""
        n = self.n + other.n
        apart = other.mean - self.mean
        between = np.sqrt(self.n * other.n / n) * apart
        factor = np.vstack((self.factor, other.factor, between))
        return Moments(n, self.mean + apart * (other.n / n), _short(factor))


@dataclass(frozen=True)
class Extrapolation:
    """The line through distances over 1 / n: `distance` is where it meets infinitely many vectors."""

    distance: float
    slope: float
    sizes: list[int]
    points: list[float]  # the distance at each size


def distance(one: Moments, other: Moments) -> float:
    """Squared Fréchet distance (Dowson and Landau, 1982; Heusel et al., 2017), covariances over n - 1, in float64.

    Raises OviError with fewer than two vectors on a side, or vectors of different lengths.
    """
    if len(one.mean) != len(other.mean):
        raise OviError(f"features of {len(one.mean)} and of {len(other.mean)} dimensions cannot be compared")
    if min(one.n, other.n) < 2:
        raise OviError(f"a Fréchet distance needs two vectors on each side, there are {one.n} and {other.n}")
    left, right = (side.factor / np.sqrt(side.n - 1) for side in (one, other))
    spread = np.square(left).sum() + np.square(right).sum()
    shared = np.linalg.svd(_square(left) @ _square(right).T, compute_uv=False).sum()
    return max(0.0, float(np.square(one.mean - other.mean).sum() + spread - 2 * shared))


def extrapolate(
    vectors: NDArray[np.floating], reference: Moments, sizes: Sequence[int], draw: Callable[[int], NDArray[np.integer]]
) -> Extrapolation:
    """The distance of infinitely many vectors (Chong and Forsyth, 2020): `draw(n)` gives n places in `vectors` [N, d].

    The bias falls with 1 / n, so a line is fitted to the distances at `sizes`. Raises OviError for fewer than two.
    """
    if len(set(sizes)) < 2:
        raise OviError("an extrapolated distance needs two sizes or more; there are too few vectors")
    points = [distance(Moments.of(vectors[draw(n)]), reference) for n in sizes]
    slope, at_infinity = np.polyfit(1 / np.asarray(sizes, np.float64), points, 1)
    return Extrapolation(float(at_infinity), float(slope), list(sizes), points)


def without_repeats(count: int, seed: int) -> Callable[[int], NDArray[np.int64]]:
    """Draws of n different places below `count`, the same for the same seed. Repeats would lower the scatter."""
    generator = np.random.default_rng([seed, 4])
    return lambda n: generator.choice(count, n, replace=False)


def _short(factor: Array) -> Array:
    """A factor of the same scatter with at most 2 d rows."""
    return factor if len(factor) <= 2 * factor.shape[1] else _square(factor)


def _square(factor: Array) -> Array:
    """A factor of the same scatter with at most d rows."""
    return factor if len(factor) <= factor.shape[1] else np.asarray(np.linalg.qr(factor, mode="r"))
