"""Who judges what, in which order and on which side: the plan of a study, the same for equal seeds.

Raters come in couples: both judge the same comparisons, each with the sides of the other turned round. So at any time
a comparison was shown either way equally often, give or take one; and so were, to each rater, each model and each pair
of models. It does not know clips, votes or raters. Try it: `pytest tests/services/study/test_design.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

QUESTIONS = ("audio", "video", "sync")
COMPARISONS_A_CHECK = 6  # with the repeat, checks are 10 to 15 % of a long sitting


@dataclass(frozen=True)
class Comparison:
    """Two models on one item. `first` comes before `second` in the alphabet."""

    item: str
    first: str
    second: str


@dataclass(frozen=True)
class Trial:
    """One page of a sitting: a comparison, the repeat of one with its sides turned, or an attention check by number."""

    kind: str  # pair, repeat, check
    number: int  # of the comparison or the check
    first_left: bool  # for a check: the good clip is on the left


def sitting(comparisons: Sequence[Comparison], each: int, checks: int, slot: int, seed: int) -> list[Trial]:
    """What the rater who came as number `slot` (from 0) judges: comparisons, checks among them, a repeat last."""
    couple, turned = slot // 2, slot % 2 == 1
    chosen = _chosen(len(comparisons), each, couple, seed)
    common = np.random.default_rng([seed, 1, couple])  # the couple's: which sides
    own = np.random.default_rng([seed, 2, slot])  # the rater's: which order
    sides = balanced([(comparisons[n].first, comparisons[n].second) for n in chosen], common)
    pages = [Trial("pair", n, left ^ turned) for n, left in zip(chosen, sides, strict=True)]
    own.shuffle(pages)
    again = pages[int(own.integers(max(1, len(pages) // 2)))]
    good_left = common.permutation(np.arange(checks) % 2 == 0)
    part = len(pages) / max(checks, 1)
    for place, number in reversed(list(enumerate(own.permutation(checks).tolist()))):  # from the back: places stay
        at = max(1, round((place + own.uniform(0.3, 0.9)) * part))
        pages.insert(at, Trial("check", number, bool(good_left[number]) ^ turned))
    return [*pages, Trial("repeat", again.number, not again.first_left)]


def checks_for(each: int) -> int:
    """An even number, so that one who always answers the same side fails half of them: 4 for 24 comparisons."""
    return 2 if each < 2 * COMPARISONS_A_CHECK else 4


def balanced(pairs: Sequence[tuple[str, str]], rng: np.random.Generator) -> list[bool]:
    """True where the first of a pair goes left: every model, and every pair of models, either way as often, +-1."""
    left = [False] * len(pairs)
    alike: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number in rng.permutation(len(pairs)).tolist():
        alike[pairs[number]].append(number)
    rest: list[int] = []
    for numbers in alike.values():
        even = len(numbers) // 2 * 2
        for place, number in enumerate(numbers[:even]):
            left[number] = place % 2 == 0
        rest += numbers[even:]
    # What is left is a graph with one edge a pair of models. Walk along it: one comes to a model on its right side and
    # leaves it on its left. Walks that begin where the number of edges is odd end there too.
    while rest:
        ends = [model for number in rest for model in pairs[number]]
        odd = [model for model in ends if ends.count(model) % 2 == 1]
        at = (odd or ends)[0]
        while (number := next((n for n in rest if at in pairs[n]), None)) is not None:
            rest.remove(number)
            first, second = pairs[number]
            left[number] = first == at
            at = second if first == at else first
    return left


def _chosen(total: int, each: int, couple: int, seed: int) -> list[int]:
    """`each` of `total` numbers for one couple: all are dealt out before any comes again, none twice to one couple."""
    rng = np.random.default_rng([seed, 0])
    row: list[int] = []
    waiting: list[int] = []
    for _ in range(couple + 1):
        row, waiting = waiting[:each], waiting[each:]
        if len(row) < each:
            fresh = rng.permutation(total).tolist()
            deck = [n for n in fresh if n not in row] + [n for n in fresh if n in row]
            missing = each - len(row)
            row, waiting = row + deck[:missing], deck[missing:]
    return row
