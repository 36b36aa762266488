"""Which model people prefer, from votes on pairs of clips: rates, strengths, agreement and the bias to one side.

Votes of one rater, and votes on one item, go together: intervals draw both again, and are up to twice as wide as those
that take votes for independent. It does not know how votes are gathered or who may vote.
Try it: `pytest tests/evaluation/test_votes.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import expit, log_expit, log_softmax
from scipy.stats import beta, binomtest

from ovi.errors import OviError
from ovi.evaluation.statistics import LEVEL

Array = NDArray[np.float64]
Index = NDArray[np.int64]

DRAWS = 4000
ELO = 400 / np.log(10)  # points to a factor of e in the odds
RIDGE = 1e-5  # of the mean curvature; strengths are known up to a constant only
TOLERANCE = 1e-7  # of the gradient, in votes


@dataclass(frozen=True)
class Votes:
    """Columns [n]: `first` and `second` are models by number; outcome 1 = first, 0 = second, 0.5 = tie."""

    rater: Index
    item: Index
    first: Index
    second: Index
    first_on_left: NDArray[np.bool_]
    outcome: Array

    def between(self, one: int, other: int) -> Votes:
        """Those on two models, turned so that `one` is first."""
        same, turned = (self.first == one) & (self.second == other), (self.first == other) & (self.second == one)
        kept, back = same | turned, turned[same | turned]
        return Votes(
            self.rater[kept], self.item[kept], np.full(kept.sum(), one), np.full(kept.sum(), other),
            self.first_on_left[kept] ^ back, np.where(back, 1 - self.outcome[kept], self.outcome[kept]),
        )  # fmt: skip


@dataclass(frozen=True)
class Preference:
    """How often the first of two models is preferred."""

    wins: int
    losses: int
    ties: int

    @classmethod
    def of(cls, votes: Votes) -> Preference:
        """Counts of votes on one pair of models, see `Votes.between`."""
        return cls(*(int((votes.outcome == outcome).sum()) for outcome in (1, 0, 0.5)))

    @property
    def decided(self) -> int:
        return self.wins + self.losses

    @property
    def rate(self) -> float | None:
        """Share of the decided votes; its interval for independent votes is `statistics.wilson`. None without one."""
        return self.wins / self.decided if self.decided else None

    @property
    def rate_with_ties(self) -> float | None:
        """Share of all votes, ties one half; its interval is `clustered`."""
        count = self.decided + self.ties
        return (self.wins + self.ties / 2) / count if count else None

    def exact_interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Of `rate` (Clopper and Pearson, 1934), as if votes were independent."""
        low = beta.ppf((1 - level) / 2, self.wins, self.losses + 1) if self.wins else 0.0
        high = beta.ppf((1 + level) / 2, self.wins + 1, self.losses) if self.losses else 1.0
        return float(low), float(high)

    def p_value(self) -> float:
        """Exact two-sided test of `rate` against 1/2, as if votes were independent; too small where they are not."""
        return float(binomtest(self.wins, self.decided).pvalue) if self.decided else 1.0


@dataclass(frozen=True)
class Interval:
    low: float
    high: float
    deviation: float  # of the draws: the standard error


@dataclass(frozen=True)
class Strengths:
    """Of each model on the scale of log odds, their mean zero: [models]. In Elo's points: 1000 + ELO * strength."""

    strength: Array
    deviation: Array | None  # standard errors of independent votes, robust to a wrong model (sandwich)
    tie: float  # how likely ties are, Davidson's nu; 0 where ties count as half a win
    loss: float  # negative log likelihood


def clustered(votes: Votes, seed: int, draws: int = DRAWS, level: float = LEVEL) -> Interval:
    """Interval of the rate with ties on one pair of models: raters and items are drawn again, their weights multiplied.

    Raises OviError without votes.
    """
    if not len(votes.outcome):
        raise OviError("there are no votes on this pair of models")
    generator = np.random.default_rng([seed, 5])
    weights = [_drawn_again(column, generator, draws) for column in (votes.rater, votes.item)]
    together = weights[0] * weights[1]
    total = together.sum(axis=1)
    rates = (together[total > 0] @ votes.outcome) / total[total > 0]
    low, high = np.quantile(rates, ((1 - level) / 2, (1 + level) / 2))
    return Interval(float(low), float(high), float(rates.std()))


def bradley_terry(votes: Votes, models: int) -> Strengths:
    """P(i is preferred to j) = 1 / (1 + exp(s_j - s_i)) (Bradley and Terry, 1952), a tie as half a vote for each.

    Raises OviError where the strengths are not finite: a model, or group of models, that never lost or never won.
    """
    _comparable(votes, models)

    def loss(strength: Array) -> tuple[float, Array]:
        apart = strength[votes.first] - strength[votes.second]
        gradient = _by_model(expit(apart) - votes.outcome, votes, models)
        return -float((votes.outcome * apart + log_expit(-apart)).sum()), gradient

    strength, least = _minimum(loss, models)
    strength -= strength.mean()
    wins = expit(strength[votes.first] - strength[votes.second])
    bread = np.linalg.inv(_pairwise(wins * (1 - wins), votes, models) + RIDGE * len(wins) * np.eye(models))
    spread = bread @ _pairwise((votes.outcome - wins) ** 2, votes, models) @ bread
    return Strengths(strength, np.sqrt(np.diag(spread)), 0.0, least)


def davidson(votes: Votes, models: int) -> Strengths:
    """Bradley and Terry's model with ties as an outcome of their own (Davidson, 1970): P(tie) ~ nu sqrt(p_i p_j).

    It gives no deviations. Raises OviError where the strengths are not finite, or there is no tie.
    """
    _comparable(votes, models)
    if not (votes.outcome == 0.5).any():
        raise OviError("Davidson's model needs a tie, there is none; use Bradley and Terry's")
    seen = np.stack([votes.outcome == outcome for outcome in (1, 0, 0.5)], axis=1).astype(np.float64)

    def loss(point: Array) -> tuple[float, Array]:
        left, right = point[votes.first], point[votes.second]
        log_p = log_softmax(np.stack((left, right, point[-1] + (left + right) / 2), axis=1), axis=1)
        push = np.exp(log_p) - seen  # [n, 3]
        gradient = np.zeros(models + 1)
        np.add.at(gradient, votes.first, push[:, 0] + push[:, 2] / 2)
        np.add.at(gradient, votes.second, push[:, 1] + push[:, 2] / 2)
        gradient[-1] = push[:, 2].sum()
        return -float((seen * log_p).sum()), gradient

    point, least = _minimum(loss, models + 1)
    strength = point[:-1] - point[:-1].mean()
    return Strengths(strength, None, float(np.exp(point[-1])), least)


def alpha(ratings: Array) -> float | None:
    """Krippendorff's alpha (nominal) of ratings [raters, units] in whole categories, NaN where one did not rate.

    0 = as by chance, 1 = all agree. Low values are usual for close pairs. None where nothing can disagree.
    """
    categories = np.unique(ratings[~np.isnan(ratings)])
    counts = (ratings[None] == categories[:, None, None]).sum(axis=1).astype(np.float64)  # [categories, units]
    counts = counts[:, counts.sum(axis=0) > 1]
    rated, total = counts.sum(axis=0), counts.sum(axis=1)
    n = total.sum()
    expected = n * n - (total**2).sum()
    observed = ((rated**2 - (counts**2).sum(axis=0)) / (rated - 1)).sum()
    return float(1 - (n - 1) * observed / expected) if expected else None


def kappa(counts: Array) -> float | None:
    """Fleiss' kappa of counts [units, categories], as many ratings for every unit. None where nothing can disagree."""
    raters = counts[0].sum()
    if raters < 2 or not (counts.sum(axis=1) == raters).all():
        raise OviError("Fleiss' kappa needs as many ratings, two or more, of every unit; use Krippendorff's alpha")
    agreed = ((counts * (counts - 1)).sum(axis=1) / (raters * (raters - 1))).mean()
    chance = ((counts.sum(axis=0) / counts.sum()) ** 2).sum()
    return float((agreed - chance) / (1 - chance)) if chance < 1 else None


def left_bias(votes: Votes) -> tuple[float, float]:
    """(share of the decided votes that went to the left clip, p-value against one half). OviError without one."""
    decided = votes.outcome != 0.5
    if not decided.any():
        raise OviError("there is no decided vote, so none for the left")
    left = int(((votes.outcome == 1) == votes.first_on_left)[decided].sum())
    return left / int(decided.sum()), float(binomtest(left, int(decided.sum())).pvalue)


def _drawn_again(column: Index, generator: np.random.Generator, draws: int) -> Array:
    """[draws, n]: how often the rater, or the item, of each vote was drawn."""
    names, place = np.unique(column, return_inverse=True)
    drawn = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    return drawn[:, place].astype(np.float64)


def _comparable(votes: Votes, models: int) -> None:
    """Strengths are finite where every model beats, or ties with, every other one along some chain (Ford, 1957)."""
    won, lost = votes.outcome > 0, votes.outcome < 1
    winner = np.concatenate((votes.first[won], votes.second[lost]))
    loser = np.concatenate((votes.second[won], votes.first[lost]))
    graph = coo_array((np.ones(len(winner)), (winner, loser)), shape=(models, models))
    if connected_components(graph, connection="strong")[0] > 1:
        raise OviError("some models never won, never lost or never met the others: their strengths have no bounds")


def _minimum(loss: Callable[[Array], tuple[float, Array]], size: int) -> tuple[Array, float]:
    found = minimize(loss, np.zeros(size), jac=True, method="BFGS", options={"gtol": TOLERANCE})
    return found.x, float(found.fun)


def _by_model(values: Array, votes: Votes, models: int) -> Array:
    """[models] sums of values [n], added for the first model and taken off for the second."""
    return np.asarray(np.bincount(votes.first, values, models) - np.bincount(votes.second, values, models), np.float64)


def _pairwise(values: Array, votes: Votes, models: int) -> Array:
    """[models, models] sum of values [n] times the outer product of each vote's difference of models."""
    apart = np.zeros((len(values), models))
    np.add.at(apart, (np.arange(len(values)), votes.first), 1)
    np.add.at(apart, (np.arange(len(values)), votes.second), -1)
    return (apart * values[:, None]).T @ apart
