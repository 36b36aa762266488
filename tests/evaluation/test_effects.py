"""Effects of factors: what was planted is found, what was not is not, and few pairs make no certainty."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ovi.evaluation.effects import Effect, Outcome, main_effects

FACTORS = ("prompt", "fusion")


def cells(seeds: int, fused: float, noise: float, rng: np.random.Generator) -> list[Outcome]:
    """AUC falls by `fused` without fusion; prompts change nothing; `ridge` is exact."""
    made = []
    for prompt, fusion, seed in itertools.product(("combined", "separate"), ("fused", "alone"), range(seeds)):
        auc = 0.9 - fused * (fusion == "alone") + noise * rng.normal()
        figures = {"auc": auc, "ridge": 1.0 if fusion == "fused" else 0.25, "wer": None}
        made.append(Outcome({"prompt": prompt, "fusion": fusion, "seed": str(seed)}, figures))
    return made


def found(grid: list[Outcome]) -> dict[tuple[str, str], Effect]:
    return {(one.figure, one.factor): one for one in main_effects(grid, FACTORS, ("auc", "ridge", "wer"))}


def test_a_planted_effect_is_found_and_another_is_not() -> None:
    effects = found(cells(4, 0.4, 0.02, np.random.default_rng(0)))
    fusion, prompt = effects["auc", "fusion"], effects["auc", "prompt"]
    assert (fusion.base, fusion.other, fusion.pairs) == ("fused", "alone", 8)
    assert fusion.low is not None
    assert fusion.high is not None
    assert fusion.low < -0.4 < fusion.high < 0
    assert fusion.p_holm is not None
    assert fusion.p_value is not None
    assert prompt.p_value is not None
    assert fusion.p_value < fusion.p_holm < 0.001 < prompt.p_value
    assert ("wer", "fusion") not in effects  # no cell has it


def test_what_shows_no_spread_has_no_interval() -> None:
    ridge = found(cells(2, 0.0, 0.1, np.random.default_rng(1)))["ridge", "fusion"]
    assert (ridge.difference, ridge.low, ridge.p_value, ridge.p_holm) == (-0.75, None, None, None)
    one = main_effects(cells(1, 0.4, 0.1, np.random.default_rng(1))[:2], ("fusion",), ("auc",))
    assert [(effect.pairs, effect.low) for effect in one] == [(1, None)]


def test_intervals_cover_the_truth() -> None:
    covered, trials = 0, 300
    for trial in range(trials):
        effect = found(cells(2, 0.3, 0.1, np.random.default_rng([2, trial])))["auc", "fusion"]
        assert effect.low is not None
        assert effect.high is not None
        covered += effect.low <= -0.3 <= effect.high
    assert 0.92 <= covered / trials <= 0.98


def test_a_cell_without_a_figure_takes_its_pair_out() -> None:
    grid = cells(2, 0.4, 0.02, np.random.default_rng(3))
    grid[0] = Outcome(grid[0].levels, {**grid[0].figures, "auc": None})
    assert found(grid)["auc", "fusion"].pairs == 3
    assert found(grid)["ridge", "fusion"].pairs == 4


def test_three_levels_are_each_compared_with_the_first() -> None:
    grid = [Outcome({"solver": name}, {"loss": value}) for name, value in (("a", 1.0), ("b", 2.0), ("c", 4.0))]
    effects = main_effects(grid, ("solver",), ("loss",))
    assert [(one.other, one.difference) for one in effects] == [("b", 1.0), ("c", pytest.approx(3.0))]
