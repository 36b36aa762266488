"""The Fréchet distance against the golden ones: few vectors, one dimension, in parts; its time; its extrapolation."""

from __future__ import annotations

import time

import numpy as np
import pytest

from ovi.errors import OviError
from ovi.evaluation.frechet import Moments, distance, extrapolate, without_repeats
from tests.golden import evaluation as golden

CASE = golden.arrays("frechet")
SETS = ("tiny", "mid", "n_lt_d", "n_ll_d", "one_dim", "identical")


def moments(case: str) -> tuple[Moments, Moments]:
    return Moments.of(CASE[f"{case}.x"]), Moments.of(CASE[f"{case}.y"])


@pytest.mark.parametrize("case", SETS)
def test_distances_are_the_golden_ones(case: str) -> None:
    """Also with fewer vectors than dimensions, and in one dimension, where published scorers give up."""
    found, want = distance(*moments(case)), float(CASE[f"{case}.fd_nuclear"])
    assert found == pytest.approx(want, rel=1e-9, abs=1e-9)
    published = float(CASE[f"{case}.fd_avbench_f64"])
    if case != "one_dim":
        assert found == pytest.approx(published, rel=1e-6, abs=1e-9)


def test_the_large_case_made_by_formula() -> None:
    one, other, size = CASE["big.n"]
    x = golden.normal((one, size), "public-fd-big|x")
    y = 1.1 * golden.normal((other, size), "public-fd-big|y") + 0.05
    assert distance(Moments.of(x), Moments.of(y)) == pytest.approx(float(CASE["big.fd_nuclear"]), rel=1e-9)


@pytest.mark.parametrize("case", SETS)
@pytest.mark.parametrize("parts", [2, 7])
def test_a_set_may_come_in_parts(case: str, parts: int) -> None:
    whole, other = moments(case)
    first, *rest = (Moments.of(part) for part in np.array_split(CASE[f"{case}.x"], parts))
    together = sum(rest, start=first)
    assert together.n == whole.n
    np.testing.assert_allclose(together.mean, whole.mean, rtol=1e-12, atol=1e-12)
    assert len(together.factor) <= max(2 * len(whole.mean), whole.n)
    assert distance(together, other) == pytest.approx(distance(whole, other), rel=1e-9, abs=1e-9)


def test_a_distance_is_one_way_and_of_a_shift_its_square() -> None:
    x, y = moments("mid")
    assert distance(x, y) == pytest.approx(distance(y, x), rel=1e-12)
    assert distance(x, Moments.of(CASE["mid.x"] + np.float64(3))) == pytest.approx(16 * 9, rel=1e-9)


def test_964_clips_of_2048_features_take_less_than_ten_seconds() -> None:
    rng = np.random.default_rng(0)
    one, other = (rng.normal(size=(964, 2048)).astype(np.float32) for _ in range(2))
    start = time.perf_counter()
    found = distance(Moments.of(one), Moments.of(other))
    assert time.perf_counter() - start < 10
    assert 1700 < found < 2000  # of two samples of one distribution: all of it bias


def test_the_published_extrapolation_is_the_golden_one() -> None:
    """With repeats, from the old generator."""
    vectors, sizes = CASE["fadinf.x"], CASE["fadinf.ns"].tolist()
    old = np.random.RandomState(int(CASE["fadinf.seed"]))
    found = extrapolate(
        vectors, Moments.of(CASE["fadinf.y"]), sizes, lambda n: old.choice(len(vectors), n, replace=True)
    )
    np.testing.assert_allclose(found.points, CASE["fadinf.points"], rtol=1e-9)
    assert found.distance == pytest.approx(float(CASE["fadinf.score"]), rel=1e-9)
    assert found.slope == pytest.approx(float(CASE["fadinf.slope"]), rel=1e-9)


def test_without_repeats_the_extrapolation_takes_the_bias_away() -> None:
    """Of two samples of one distribution, whose distance is zero."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(1000, 16)), Moments.of(rng.normal(size=(200_000, 16)))
    found = extrapolate(x, y, range(200, 1001, 100), without_repeats(len(x), 0))
    again = extrapolate(x, y, range(200, 1001, 100), without_repeats(len(x), 0))
    assert found == again
    assert abs(found.distance) < 0.3 * found.points[-1]
    assert found.points[-1] == pytest.approx(distance(Moments.of(x), y), rel=1e-9)


def test_what_has_no_distance() -> None:
    x, _ = moments("tiny")
    with pytest.raises(OviError, match="two vectors on each side, there are 64 and 1"):
        distance(x, Moments.of(CASE["tiny.y"][:1]))
    with pytest.raises(OviError, match="8 and of 16 dimensions"):
        distance(x, moments("mid")[0])
    with pytest.raises(OviError, match="not finite"):
        Moments.of(np.array([[0.0, np.nan]]))
    with pytest.raises(OviError, match="n >= 1"):
        Moments.of(np.zeros((0, 3)))
    with pytest.raises(OviError, match="two sizes or more"):
        extrapolate(CASE["tiny.x"], x, [64], without_repeats(64, 0))
