"""How sure a figure is: 95 % intervals by drawing clips again, each kind of figure by the method that covers it.

Clips of one prompt are drawn together. A mean has a bias-corrected accelerated interval (Efron, 1987), its level
widened for few prompts (Hesterberg, 2015). A Fréchet distance and an inception score are biased by the number of clips,
and drawing again adds the same bias once more: the basic interval takes it off, so it is of the value that infinitely
many clips would give, and the figure itself can lie outside. A percentile interval would hardly ever cover that one.
Try it: `pytest tests/evaluation/test_intervals.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import t

from ovi.errors import OviError
from ovi.evaluation import frechet
from ovi.evaluation.evidence import Evidence, Frechet, Mean
from ovi.evaluation.frechet import Moments
from ovi.evaluation.statistics import LEVEL, bca

Array = NDArray[np.float64]
FEWEST = 3  # prompts; of two there is nothing to say
NO_SPREAD = "all clips have one value, which shows no spread"
SIZES = 16  # numbers of vectors that an extrapolation is fitted to


@dataclass(frozen=True)
class Interval:
    low: float
    high: float
    deviation: float  # standard error
    method: str


def interval(evidence: Evidence, prompts: Sequence[str], seed: int, draws: int) -> Interval:
    """That of `evidence`, whose clips were made for `prompts` [n].

    Raises OviError when there are fewer than FEWEST prompts, or all clips have the same value.
    """
    groups = _enough(prompts)
    generator = np.random.default_rng([seed, 6])
    if isinstance(evidence, Mean):
        if np.ptp(evidence.rates) == 0:
            raise OviError(NO_SPREAD)
        return _of_mean(evidence, groups, generator, draws)
    found = basic(evidence.exact(), drawn([evidence], groups, generator, draws)[:, 0])
    return replace(found, low=max(0.0, found.low), high=max(0.0, found.high))  # neither kind can be negative


def of_median(values: Array, prompts: Sequence[str], seed: int, draws: int) -> Interval:
    """That of the median of values [n]: percentiles of the draws, widened for few prompts. Raises as `interval`."""
    groups = _enough(prompts)
    if np.ptp(values) == 0:
        raise OviError(NO_SPREAD)
    generator, level = np.random.default_rng([seed, 6]), widened(int(groups.max()) + 1)
    found = np.array([np.median(np.repeat(values, again(groups, generator))) for _ in range(draws)])
    low, high = np.quantile(found, ((1 - level) / 2, (1 + level) / 2))
    return Interval(float(low), float(high), float(found.std()), "percentile")


def basic(value: float, found: Array) -> Interval:
    """The draws mirrored about the value, so that a bias which both have falls out."""
    low, high = np.quantile(found, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Interval(2 * value - float(high), 2 * value - float(low), float(found.std()), "basic")


def drawn(sides: Sequence[Evidence], groups: NDArray[np.int64], generator: np.random.Generator, draws: int) -> Array:
    """Values [draws, sides] with whole groups of clips drawn again, the same for all sides, which are of one kind and
    the same clips; of a Fréchet distance the reference's clips, too. Draws without a value are left out.
    """
    values = np.empty((draws, len(sides)))
    for at in range(draws):
        counts, these = again(groups, generator), list(sides)
        if isinstance(sides[0], Frechet):
            theirs = again(np.arange(int(sides[0].reference_owner.max()) + 1), generator)
            these = [side.against(theirs) for side in sides if isinstance(side, Frechet)]
        values[at] = [side.value(counts) for side in these]
    return values[np.isfinite(values).all(axis=1)]


def again(groups: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """How often each clip counts when as many groups as there are are drawn with repeats."""
    count = int(groups.max()) + 1
    return np.bincount(generator.integers(count, size=count), minlength=count)[groups]


def grouped(names: Sequence[str]) -> NDArray[np.int64]:
    """Equal names -> equal numbers from 0 on."""
    return np.unique(np.asarray(names, dtype=str), return_inverse=True)[1].astype(np.int64)


def at_infinity(evidence: Frechet, seed: int) -> float:
    """The Fréchet distance that infinitely many vectors would have, by its fall with 1 / n (Chong and Forsyth, 2020).

    Raises OviError with fewer vectors than twice their dimensions: below one, the fall has another form.
    """
    count, size = evidence.features.shape
    if count < 2 * size:
        raise OviError(f"extrapolating a distance of {size} features needs {2 * size} vectors, there are {count}")
    sizes = np.unique(np.round(1 / np.linspace(1 / max(size, count // 4), 1 / count, SIZES)).astype(int)).tolist()
    reference = Moments.of(evidence.reference)
    return frechet.extrapolate(evidence.features, reference, sizes, frechet.without_repeats(count, seed)).distance


def widened(groups: int) -> float:
    """The level at which draws of so few groups cover LEVEL: Student's quantile, and their spread is too small."""
    quantile = float(t.ppf((1 + LEVEL) / 2, groups - 1)) * np.sqrt(groups / (groups - 1))
    return float(2 * ndtr(quantile) - 1)


def _enough(prompts: Sequence[str]) -> NDArray[np.int64]:
    groups = grouped(prompts)
    if groups.max(initial=-1) + 1 < FEWEST:
        raise OviError(f"an interval needs {FEWEST} prompts, there are {groups.max(initial=-1) + 1}")
    return groups


def _of_mean(evidence: Mean, groups: NDArray[np.int64], generator: np.random.Generator, draws: int) -> Interval:
    count = int(groups.max()) + 1
    values, parts = (np.bincount(groups, column, count) for column in (evidence.values, evidence.parts))
    weights = generator.multinomial(count, np.full(count, 1 / count), size=draws).astype(np.float64)
    total = weights @ parts
    found = (weights @ values)[total > 0] / total[total > 0]
    left = parts.sum() - parts
    without_one = (values.sum() - values)[left > 0] / left[left > 0]
    low, high = bca(float(values.sum() / parts.sum()), found, without_one, widened(count))
    return Interval(low, high, float(found.std() * np.sqrt(count / (count - 1))), "bca")
