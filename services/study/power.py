"""How many raters a study needs: power, and the smallest preference it can find, before anybody is asked.

Votes of one rater, and votes on one item, go together, so votes beyond a point buy nothing where items are few. The
spreads are of log odds; 0.5 over items and 0.3 over raters is what comparisons of close models look like.
It knows no votes. Try it: `ovi study plan`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from scipy.optimize import brentq
from scipy.stats import t as student

POWER, LEVEL = 0.8, 0.95
MOST = 10_000  # raters; beyond that the answer is "never"


@dataclass(frozen=True)
class Plan:
    """A study of two models. `each` comparisons a rater, of `items` there are; `rate` of decided votes is the truth."""

    raters: int = 50
    each: int = 24
    items: int = 24
    rate: float = 0.6
    ties: float = 0.2  # share of votes that are ties; they count as half a win
    item_spread: float = 0.5
    rater_spread: float = 0.3

    @property
    def votes(self) -> int:
        return self.raters * min(self.each, self.items)

    def _variances(self) -> tuple[float, float, float]:
        """Of one vote's value (0, 1/2, 1): between items, between raters, the rest."""
        slope = (1 - self.ties) * self.rate * (1 - self.rate)
        items, raters = (slope * self.item_spread) ** 2, (slope * self.rater_spread) ** 2
        whole = (1 - self.ties) * self.rate + self.ties / 4 - self.mean**2
        return items, raters, max(whole - items - raters, 0.0)

    @property
    def mean(self) -> float:
        """The rate with ties as halves."""
        return self.ties / 2 + (1 - self.ties) * self.rate

    @property
    def deviation(self) -> float:
        """Standard error of the rate with ties."""
        items, raters, rest = self._variances()
        return math.sqrt(items / self.items + raters / self.raters + rest / self.votes)

    @property
    def design_effect(self) -> float:
        """The variance, in variances of as many independent votes."""
        return self.deviation**2 * self.votes / sum(self._variances())

    @property
    def power(self) -> float:
        """Chance that the interval leaves out 1/2: Student's t, moved by the true distance in standard errors."""
        degrees = min(self.raters, self.items) - 1
        bound = student.ppf((1 + LEVEL) / 2, degrees)
        far = abs(self.mean - 0.5) / self.deviation
        return float(student.sf(bound - far, degrees) + student.cdf(-bound - far, degrees))

    @property
    def smallest(self) -> float | None:
        """The smallest rate of decided votes above 1/2 that is found with a chance of POWER; None: none is."""
        if replace(self, rate=0.9999).power < POWER:
            return None
        return float(brentq(lambda rate: replace(self, rate=rate).power - POWER, 0.5001, 0.9999, xtol=1e-4))

    @property
    def needed(self) -> int | None:
        """The fewest raters for POWER; None where no number is enough, because items are too few."""
        enough = (n for n in range(2, 400) if replace(self, raters=n).power >= POWER)
        more = (n for n in range(400, MOST, 50) if replace(self, raters=n).power >= POWER)
        return next(enough, None) or next(more, None)
