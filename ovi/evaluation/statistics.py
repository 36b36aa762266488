"""Is it real, and how sure is that: the matched-against-shuffled AUC, its p-value and its interval.

Input is a matrix of scores, a row per picture and a column per sound; the diagonal holds the pairs that belong
together. It does not know what the scores measure or where they come from. Everything is seeded and vectorised.
Try it: `python -c "import numpy as np; from ovi.evaluation import statistics as s; print(s.separation(np.eye(8), 0))"`.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import norm

LEVEL = 0.95
RESAMPLES = 4000

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Separation:
    """How well matched pairs stand out from mismatched ones."""

    auc: float  # share of comparisons "own sound against another's" that the own sound wins, ties half
    low: float  # 95 % interval over clips
    high: float
    p_value: float  # one-sided: how often a random pairing of the same pictures and sounds does as well
    n: int  # clips
    pairings: int  # how many pairings the p-value tried
    exact: bool  # those were all there are, not a random sample


def separation(scores: Array, seed: int, permutations: int = 10_000) -> Separation:
    """Matched-against-shuffled AUC of scores [n, n] (picture i, sound j) with interval and p-value; n >= 2.

    AUC is the mean over i and j != i of 1[S_ii > S_ij] (ties 1/2). The p-value permutes which sound goes with which
    picture and redoes the AUC each time; with few clips all pairings are tried. The interval is the bias-corrected
    accelerated bootstrap over clips (Efron 1987).
    """
    ranks = _twice_ranks(scores)
    p_value, pairings, exact = _permutation_p(ranks, np.random.default_rng([seed, 1]), permutations)
    low, high = interval(scores, seed)
    return Separation(auc(scores), low, high, p_value, len(scores), pairings, exact)


def auc(scores: Array) -> float:
    """Mean over i and j != i of 1[S_ii > S_ij], ties one half. Raises ValueError for fewer than two clips."""
    n = len(scores)
    return float(np.trace(_twice_ranks(scores)) / (2 * n * (n - 1)))


def interval(scores: Array, seed: int) -> tuple[float, float]:
    """95 % interval of the AUC: clips are drawn again, a drawn clip is never compared with a copy of itself."""
    n, generator = len(scores), np.random.default_rng([seed, 2])
    own = np.diag(scores)[:, None]
    wins = np.where(own > scores, 1.0, np.where(own == scores, 0.5, 0.0))
    np.fill_diagonal(wins, 0.0)
    estimate = wins.sum() / (n * (n - 1))
    off_diagonal = wins[~np.eye(n, dtype=bool)]
    if n < 3 or np.all(off_diagonal == off_diagonal[0]):
        # Every comparison ended alike: redrawing clips shows no spread at all, which is not certainty.
        return wilson(float(estimate), n)
    weights = generator.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)
    pairs = n * n - (weights**2).sum(1)  # 0 when one clip was drawn n times: nothing to compare, leave that draw out
    draws = (((weights @ wins) * weights).sum(1)[pairs > 0]) / pairs[pairs > 0]
    without_one = (wins.sum() - wins.sum(0) - wins.sum(1)) / ((n - 1) * (n - 2))
    return bca(float(estimate), draws, without_one)


def derangements(n: int, count: int, seed: int) -> NDArray[np.int64]:
    """`count` pairings [count, n] of n >= 2 pictures with sounds in which no picture keeps its own: a cycle each."""
    generator = np.random.default_rng([seed, 3])
    pairings = np.empty((count, n), dtype=np.int64)
    for pairing in pairings:
        order = generator.permutation(n)
        pairing[order] = np.roll(order, 1)
    return pairings


def bca(estimate: float, draws: Array, jackknife: Array, level: float = LEVEL) -> tuple[float, float]:
    """Bias-corrected accelerated bootstrap interval from draws [b] and leave-one-out estimates [n] (Efron 1987)."""
    below = np.mean(draws < estimate) + np.mean(draws == estimate) / 2
    bias = ndtri(np.clip(below, 1 / (2 * len(draws)), 1 - 1 / (2 * len(draws))))
    spread = jackknife.mean() - jackknife
    square = float((spread**2).sum())
    acceleration = float((spread**3).sum()) / (6 * square**1.5) if square > 0 else 0.0
    z = bias + ndtri([(1 - level) / 2, (1 + level) / 2])
    low, high = np.quantile(draws, ndtr(bias + z / (1 - acceleration * z)))
    return float(low), float(high)


def wilson(share: float, n: float, level: float = LEVEL) -> tuple[float, float]:
    """Score interval of a share seen in n independent trials (Wilson 1927)."""
    z = float(norm.ppf((1 + level) / 2))
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def _twice_ranks(scores: Array) -> NDArray[np.int64]:
    """R[i, j] = 2 #{k != j: S_ik < S_ij} + #{k != j: S_ik = S_ij}: whole numbers, so that sums compare exactly."""
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1] or len(scores) < 2:
        raise ValueError(f"scores must be [n, n] with n >= 2, not {list(scores.shape)}")
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite")
    mine, others = scores[:, :, None], scores[:, None, :]
    return 2 * (others < mine).sum(2) + (others == mine).sum(2) - 1


def _permutation_p(ranks: NDArray[np.int64], generator: np.random.Generator, count: int) -> tuple[float, int, bool]:
    """(p, pairings tried, all there are). The seen pairing counts itself once, so that p is never zero."""
    n = len(ranks)
    seen = np.trace(ranks)
    exact = math.factorial(n) <= count
    if exact:
        pairings = np.array(list(itertools.permutations(range(n))))
    else:
        pairings = generator.permuted(np.tile(np.arange(n), (count, 1)), axis=1)
    as_good = int((ranks[np.arange(n), pairings].sum(1) >= seen).sum())
    p_value = as_good / len(pairings) if exact else (as_good + 1) / (count + 1)
    return p_value, len(pairings), exact
