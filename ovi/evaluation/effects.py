"""What each factor of an ablation does to each figure: its main effect, over all cells that differ in it alone.

Cells come in matched pairs: equal in all other factors and in their seed. The effect is the mean difference of the
pairs. Its interval is Student's over pairs, so it holds for other levels of the rest and for other seeds alike, and is
wide where there are few. Holm's correction makes up for looking at many. It does not know how cells were made.
Try it: `pytest tests/evaluation/test_effects.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import t as student

from ovi.evaluation.comparison import holm
from ovi.evaluation.statistics import LEVEL


@dataclass(frozen=True)
class Outcome:
    """A cell: its level of each factor, by name, and what came out; None where a figure could not be computed."""

    levels: Mapping[str, str]
    figures: Mapping[str, float | None]


@dataclass(frozen=True)
class Effect:
    """The `other` level less the `base` one in a figure. Interval and p-values: None where pairs show no spread."""

    figure: str
    factor: str
    base: str
    other: str
    pairs: int
    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    p_holm: float | None = None  # over all effects with a p-value


def main_effects(cells: Sequence[Outcome], factors: Sequence[str], figures: Sequence[str]) -> list[Effect]:
    """The effect of every level of `factors` against the first one, on every figure that all of its cells have."""
    found = [
        effect
        for figure in figures
        for factor in factors
        for other in list(dict.fromkeys(cell.levels[factor] for cell in cells))[1:]
        if (effect := _effect(cells, factor, other, figure)) is not None
    ]
    tested = [place for place, effect in enumerate(found) if effect.p_value is not None]
    for place, p in zip(tested, holm([found[place].p_value or 0.0 for place in tested]), strict=True):
        found[place] = replace(found[place], p_holm=p)
    return found


def _effect(cells: Sequence[Outcome], factor: str, other: str, figure: str) -> Effect | None:
    """None where no pair has the figure on both sides."""
    base = cells[0].levels[factor]
    rest = {level: {_without(cell, factor): cell.figures.get(figure) for cell in cells if cell.levels[factor] == level}
            for level in (base, other)}  # fmt: skip
    pairs = [(rest[base][key], rest[other][key]) for key in rest[base] if key in rest[other]]
    apart = np.array([second - first for first, second in pairs if first is not None and second is not None])
    if not len(apart):
        return None
    n, difference = len(apart), float(apart.mean())
    deviation = float(apart.std(ddof=1)) / math.sqrt(n) if n > 1 else 0.0
    if deviation <= 1e-12 * max(1.0, abs(difference)):
        return Effect(figure, factor, base, other, n, difference, None, None, None)
    half = float(student.ppf((1 + LEVEL) / 2, n - 1)) * deviation
    p_value = 2 * float(student.sf(abs(difference) / deviation, n - 1))
    return Effect(figure, factor, base, other, n, difference, difference - half, difference + half, p_value)


def _without(cell: Outcome, factor: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, level) for name, level in cell.levels.items() if name != factor))
