"""What a figure rests on, clip by clip, so that it can be computed again with clips drawn anew or exchanged.

Three kinds: a mean or ratio over clips, a Fréchet distance, an inception score. Each gives its value with every clip
counted so and so often. It does not know how clips are drawn, nor what the numbers measure.
Try it: `pytest tests/evaluation/test_intervals.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ovi.evaluation import frechet, scores
from ovi.evaluation.frechet import Moments

Array = NDArray[np.float64]
Counts = NDArray[np.integer]


class Evidence(Protocol):
    """Of n clips, in an order that belongs to their names."""

    @property
    def clips(self) -> int: ...

    def exact(self) -> float:
        """The figure. Raises OviError where the clips are too few for it."""

    def value(self, counts: Counts) -> float:
        """The figure with clip i counted counts[i] >= 0 times; NaN where those leave nothing to compute it from."""

    def exchanged(self, other: Evidence, places: NDArray[np.bool_]) -> Evidence:
        """That with the clips at `places` taken from `other`, which is of the same clips and the same kind."""

    def chosen(self, places: Counts) -> Evidence:
        """That of some of the clips, in the order of `places`."""


@dataclass(frozen=True)
class Mean:
    """Sum of `values` over sum of `parts`: a mean where all parts are 1, a rate of errors where they are words."""

    values: Array  # [n]
    parts: Array  # [n], none of them zero

    @classmethod
    def of(cls, values: Sequence[float] | Array) -> Mean:
        return cls(np.asarray(values, np.float64), np.ones(len(values)))

    @property
    def clips(self) -> int:
        return len(self.values)

    @property
    def rates(self) -> Array:
        """The figure of each clip alone."""
        return self.values / self.parts

    def exact(self) -> float:
        return self.value(np.ones(self.clips, np.int64))

    def value(self, counts: Counts) -> float:
        total = float(counts @ self.parts)
        return float(counts @ self.values) / total if total else float("nan")

    def exchanged(self, other: Evidence, places: NDArray[np.bool_]) -> Mean:
        assert isinstance(other, Mean)
        return Mean(np.where(places, other.values, self.values), np.where(places, other.parts, self.parts))

    def chosen(self, places: Counts) -> Mean:
        return Mean(self.values[places], self.parts[places])


@dataclass(frozen=True)
class Frechet:
    """Features of the clips and of the reference, float64; a clip may own several rows."""

    clips: int
    features: Array  # [N, d]
    owner: Counts  # [N]: the clip of each row
    reference: Array  # [M, d]
    reference_owner: Counts  # [M]
    reference_counts: Counts | None = None  # of the reference's clips; None: each once

    def exact(self) -> float:
        return frechet.distance(Moments.of(self.features), Moments.of(self.reference))

    def value(self, counts: Counts) -> float:
        count = int(self.reference_owner.max(initial=-1)) + 1
        theirs: Counts = np.ones(count, np.int64) if self.reference_counts is None else self.reference_counts
        return weighted_distance(self.features, self.reference, counts[self.owner], theirs[self.reference_owner])

    def exchanged(self, other: Evidence, places: NDArray[np.bool_]) -> Frechet:
        assert isinstance(other, Frechet)
        mine, theirs = ~places[self.owner], places[other.owner]
        features = np.concatenate((self.features[mine], other.features[theirs]))
        return replace(self, features=features, owner=np.concatenate((self.owner[mine], other.owner[theirs])))

    def chosen(self, places: Counts) -> Frechet:
        rows = [np.flatnonzero(self.owner == place) for place in places]
        owner = np.repeat(np.arange(len(rows)), [len(part) for part in rows])
        return replace(self, clips=len(rows), features=self.features[np.concatenate(rows)], owner=owner)

    def against(self, reference_counts: Counts) -> Frechet:
        """With the reference's clips counted otherwise."""
        return replace(self, reference_counts=reference_counts)


@dataclass(frozen=True)
class Inception:
    """Logits [n, C] of the clips."""

    logits: NDArray[np.floating]

    @property
    def clips(self) -> int:
        return len(self.logits)

    def exact(self) -> float:
        return scores.inception_score(self.logits)[0]

    def value(self, counts: Counts) -> float:
        drawn = self.logits[np.repeat(np.arange(len(counts)), counts)]
        return scores.inception_score(drawn)[0] if len(drawn) >= scores.SPLITS else float("nan")

    def exchanged(self, other: Evidence, places: NDArray[np.bool_]) -> Inception:
        assert isinstance(other, Inception)
        return Inception(np.where(places[:, None], other.logits, self.logits))

    def chosen(self, places: Counts) -> Inception:
        return Inception(self.logits[places])


def weighted_distance(one: Array, other: Array, weights: Counts, other_weights: Counts) -> float:
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


def _scaled(rows: Array, weights: Counts) -> tuple[Array, Array]:
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
