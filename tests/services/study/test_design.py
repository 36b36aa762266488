"""The plan of a study: balance at every moment, checks and the repeat in their places, the same for equal seeds."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.study.design import Comparison, Trial, balanced, checks_for, sitting


def comparisons(items: int, models: int) -> list[Comparison]:
    return [Comparison(f"i{i}", a, b) for i in range(items) for a, b in combinations("abcdef"[:models], 2)]


@pytest.mark.parametrize(("items", "models", "each"), [(24, 2, 24), (48, 2, 24), (7, 3, 10), (5, 4, 30), (3, 2, 1)])
def test_sides_differ_by_one_at_most_after_every_rater(items: int, models: int, each: int) -> None:
    there = comparisons(items, models)
    shown: Counter[int] = Counter()
    seen: Counter[int] = Counter()
    for slot in range(50):
        pages = [page for page in sitting(there, each, checks_for(each), slot, 5) if page.kind == "pair"]
        assert len({page.number for page in pages}) == len(pages) == each
        by_model: Counter[str] = Counter()
        by_pair: Counter[tuple[str, str]] = Counter()
        for page in pages:
            pair, sign = there[page.number], 1 if page.first_left else -1
            shown[page.number] += sign
            seen[page.number] += 1
            by_model.update({pair.first: sign})
            by_model.update({pair.second: -sign})
            by_pair[pair.first, pair.second] += sign
        for counts in (shown, by_model, by_pair):
            assert max(map(abs, counts.values())) <= 1
        assert max(seen.values()) - min(seen[n] for n in range(len(there))) <= 2  # a couple comes together
    assert max(seen.values()) - min(seen[n] for n in range(len(there))) <= 2


@given(st.lists(st.sampled_from(list(combinations("abcdef", 2))), max_size=40), st.integers(0, 99))
@settings(max_examples=200, deadline=None)
def test_any_list_of_pairs_can_be_balanced(pairs: list[tuple[str, str]], seed: int) -> None:
    left = balanced(pairs, np.random.default_rng(seed))
    models: Counter[str] = Counter()
    both: Counter[tuple[str, str]] = Counter()
    for (first, second), first_left in zip(pairs, left, strict=True):
        sign = 1 if first_left else -1
        models.update({first: sign})
        models.update({second: -sign})
        both[first, second] += sign
    assert all(abs(count) <= 1 for count in [*models.values(), *both.values()])


def test_a_sitting_has_its_checks_inside_and_the_repeat_turned_round_at_the_end() -> None:
    there = comparisons(48, 2)
    for slot in range(20):
        pages = sitting(there, 24, 4, slot, 1)
        checks = [place for place, page in enumerate(pages) if page.kind == "check"]
        assert Counter(page.kind for page in pages) == {"pair": 24, "check": 4, "repeat": 1}
        assert 0.10 <= len(checks) / len(pages) <= 0.15
        assert sorted(pages[place].number for place in checks) == [0, 1, 2, 3]
        assert sum(pages[place].first_left for place in checks) == 2
        assert checks[0] > 0
        assert checks[-1] > 14
        first = next(place for place, page in enumerate(pages) if page.number == pages[-1].number)
        assert pages[-1] == Trial("repeat", pages[first].number, not pages[first].first_left)
        assert len(pages) - 1 - first >= 12


def test_equal_seeds_give_equal_plans_and_others_others() -> None:
    there = comparisons(48, 2)
    assert sitting(there, 24, 4, 3, 1) == sitting(there, 24, 4, 3, 1) != sitting(there, 24, 4, 3, 2)
    one, other = (sitting(there, 24, 4, slot, 1) for slot in (2, 3))
    assert {(page.number, page.first_left) for page in one if page.kind == "pair"} == {
        (page.number, not page.first_left) for page in other if page.kind == "pair"
    }
    assert [page.number for page in one] != [page.number for page in other]
