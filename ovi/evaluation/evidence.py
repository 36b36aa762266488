"""What a figure rests on, clip by clip, so that it can be computed again with clips drawn anew or exchanged.

Three kinds: a mean or ratio over clips, a Fréchet distance, an inception score. Each gives its value with every clip
counted so and so often. It does not know how clips are drawn, nor what the numbers measure.
Try it: `pytest tests/evaluation/test_intervals.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ovi.evaluation import scores

Array = NDArray[np.float64]
Counts = NDArray[np.integer]


class Evidence(Protocol):
    """Of n clips, in an order that belongs to their names."""

    @property
    def clips(self) -> int: ...

    def value(self, counts: Counts) -> float:
        """The figure with clip i counted counts[i] >= 0 times; NaN where those leave nothing to compute it from."""

    def exchanged(self, other: Evidence, places: NDArray[np.bool_]) -> Evidence:
        """That with the clips at `places` taken from `other`, which is of the same clips and the same kind."""


@dataclass(frozen=True)
class Mean:
    """Sum of `values` over sum of `parts`: a mean where all parts are 1, a rate of errors where they are words."""

    values: Array  # [n]
    parts: Array  # [n]

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        return cls(np.asarray(values, np.float64), np.ones(len(values)))

    @property
    def clips(self) -> int:
        return len(self.values)

    def value(self, counts: Counts) -> float:
        total = float(counts @ self.parts)
        return float(counts @ self.values) / total if total else float("nan")

    def exchanged(self, other: Evidence, places: NDArray[np.bool_]) -> Mean:
        assert isinstance(other, Mean)
        return Mean(np.where(places, other.values, self.values), np.where(places, other.parts, self.parts))


@dataclass(frozen=True)
class Frechet:
    """Features of the clips and of the reference; a clip may own several rows."""

    features: NDArray[np.floating]  # [N, d]
    owner: NDArray[np.integer]  # [N]: the clip of each row
    reference: NDArray[np.floating]  # [M, d]
    reference_owner: NDArray[np.integer]  # [M]
    reference_counts: Counts | None = None  # of the reference's clips; None: each once
    clips: int = 0

    def value(self, counts: Counts) -> float:
        theirs = np.ones(len(self.reference)) if self.reference_counts is None else (
            self.reference_counts[self.reference_owner].astype(np.float64)
        )  # fmt: skip
        return weighted_distance(self._rows, self._reference_rows, counts[self.owner].astype(np.float64), theirs)

    def exchanged(self, other: Evidence, places: NDArray[np.bool_]) -> Frechet:
        assert isinstance(other, Frechet)
        mine, theirs = ~places[self.owner], places[other.owner]
        return replace(
            self,
            features=np.concatenate((self.features[mine], other.features[theirs])),
            owner=np.concatenate((self.owner[mine], other.owner[theirs])),
        )

    def against(self, reference_counts: Counts) -> Frechet:
        """With the reference's clips counted otherwise."""
        again = replace(self, reference_counts=reference_counts)
        for name in ("_rows", "_reference_rows"):
            again.__dict__[name] = getattr(self, name)
        return again

    @cached_property
    def _rows(self) -> Array:
        return self.features.astype(np.float64)

    @cached_property
    def _reference_rows(self) -> Array:
        return self.reference.astype(np.float64)


@dataclass(frozen=True)
class Inception:
    """Logits [n, C] of the clips."""

    logits: NDArray[np.floating]

    @property
    def clips(self) -> int:
        return len(self.logits)

    def value(self, counts: Counts) -> float:
        drawn = self.logits[np.repeat(np.arange(len(counts)), counts)]
        return scores.inception_score(drawn)[0] if len(drawn) >= scores.SPLITS else float("nan")

    def exchanged(self, other: Evidence, places: NDArray[np.bool_]) -> Inception:
        assert isinstance(other, Inception)
        return Inception(np.where(places[:, None], other.logits, self.logits))


def weighted_distance(one: Array, other: Array, weights: Array, other_weights: Array) -> float:
    """`frechet.distance` of rows [N, d] and [M, d] counted so often. NaN where a side counts fewer than two.

    With fewer rows than dimensions the singular values of the rows' products are as many, and much cheaper.
    """
    if min(weights.sum(), other_weights.sum()) < 2:
        return float("nan")
    mean, factor = _scaled(one, weights)
    other_mean, other_factor = _scaled(other, other_weights)
    spread = np.square(factor).sum() + np.square(other_factor).sum()
    if min(len(factor), len(other_factor)) < factor.shape[1]:
        shared = np.linalg.svd(factor @ other_factor.T, compute_uv=False).sum()
    else:
        shared = _root_trace(factor.T @ factor, other_factor.T @ other_factor)
    return float(np.square(mean - other_mean).sum() + spread - 2 * shared)


def _scaled(rows: Array, weights: Array) -> tuple[Array, Array]:
    """The weighted mean [d], and rows whose products are the covariance."""
    seen = weights > 0
    rows, weights = rows[seen], weights[seen]
    mean = weights @ rows / weights.sum()
    return mean, (rows - mean) * np.sqrt(weights / (weights.sum() - 1))[:, None]


def _root_trace(one: Array, other: Array) -> float:
    """Trace of the square root of the product of two covariances."""
    values, vectors = np.linalg.eigh(one)
    root = vectors * np.sqrt(np.maximum(values, 0))
    return float(np.sqrt(np.maximum(np.linalg.eigvalsh(root.T @ other @ root), 0)).sum())
