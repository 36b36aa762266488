"""Do the intervals cover what they say? Simulated, seeded; and the Fréchet distance of drawn sets, quickly."""

from __future__ import annotations

import time

import numpy as np
import pytest

from ovi.errors import OviError
from ovi.evaluation import frechet, intervals
from ovi.evaluation.evidence import Frechet, Inception, Mean, weighted_distance
from ovi.evaluation.frechet import Moments


def features(n: int, d: int, rng: np.random.Generator, rows: int = 1) -> Frechet:
    """Of n clips with some rows each; the true distance is d (0.3^2 + 0.2^2)."""
    owner = np.repeat(np.arange(n), rows)
    return Frechet(n, rng.normal(size=(n * rows, d)), owner, 1.2 * rng.normal(size=(n * rows, d)) + 0.3, owner)


def names(n: int) -> list[str]:
    return [str(at) for at in range(n)]


@pytest.mark.parametrize("kind", ["normal", "skewed", "clustered"])
def test_the_interval_of_a_mean_covers_it(kind: str) -> None:
    covered, trials = 0, 400
    for trial in range(trials):
        rng = np.random.default_rng([1, trial])
        if kind == "clustered":  # forty prompts, three clips each, which have much in common
            values = (rng.normal(size=(40, 1)) + 0.3 * rng.normal(size=(40, 3))).ravel()
            prompts = [str(at // 3) for at in range(120)]
        else:
            values = rng.normal(size=60) if kind == "normal" else rng.gamma(2, size=60) - 2
            prompts = names(60)
        found = intervals.interval(Mean.of(values), prompts, trial, 500)
        covered += found.low <= 0 <= found.high
    print(f"{kind}: {covered / trials:.1%}")
    assert 0.92 <= covered / trials <= 0.98


@pytest.mark.parametrize("each", [1, 3])
def test_the_interval_of_a_median_covers_it(each: int) -> None:
    covered, trials = 0, 200
    for trial in range(trials):
        rng = np.random.default_rng([3, trial])
        values = (rng.laplace(size=(24, 1)) + 0.3 * rng.normal(size=(24, each))).ravel()  # one prompt: much in common
        found = intervals.of_median(values, [str(at // each) for at in range(24 * each)], trial, 200)
        covered += found.low <= 0 <= found.high
    print(f"{each} a prompt: {covered / trials:.1%}")
    assert 0.92 <= covered / trials <= 0.99
    with pytest.raises(OviError, match="3 prompts, there are 2"):
        intervals.of_median(values, ["a", "b"] * (12 * each), 0, 200)
    with pytest.raises(OviError, match="no spread"):
        intervals.of_median(np.ones(9), names(9), 0, 200)


def test_the_interval_of_a_frechet_distance_covers_it_and_a_percentile_one_does_not() -> None:
    covered, by_percentiles, trials, truth = 0, 0, 150, 8 * (0.3**2 + 0.2**2)
    for trial in range(trials):
        evidence = features(120, 8, np.random.default_rng([2, trial]))
        draws = intervals.drawn([evidence], np.arange(120), np.random.default_rng(trial), 150)[:, 0]
        found = intervals.basic(evidence.exact(), draws)
        covered += found.low <= truth <= found.high
        low, high = np.quantile(draws, (0.025, 0.975))
        by_percentiles += low <= truth <= high
    print(f"basic {covered / trials:.1%}, percentile {by_percentiles / trials:.1%}")
    assert 0.92 <= covered / trials <= 0.98
    assert by_percentiles / trials < 0.2


def test_clips_of_one_prompt_go_together() -> None:
    values = np.repeat(np.random.default_rng(0).normal(size=10), 8)
    apart = intervals.interval(Mean.of(values), names(80), 0, 2000)
    together = intervals.interval(Mean.of(values), [str(at // 8) for at in range(80)], 0, 2000)
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_a_rate_is_of_all_words_together() -> None:
    evidence = Mean(np.array([1.0, 0.0, 2.0, 5.0]), np.array([1.0, 100.0, 10.0, 9.0]))
    found = intervals.interval(evidence, names(4), 0, 500)
    assert evidence.exact() == 8 / 120
    assert 0 < found.low < 8 / 120 < found.high < 1


@pytest.mark.parametrize(("n", "d"), [(40, 6), (12, 30)])
def test_counted_rows_are_repeated_rows(n: int, d: int) -> None:
    """In both forms: by covariances, and by the rows' products where these are fewer."""
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(n, d)), rng.normal(size=(n + 3, d)) + 0.5
    counts, others = rng.integers(0, 3, n), rng.integers(0, 3, n + 3)
    got = weighted_distance(one, other, counts, others)
    want = frechet.distance(Moments.of(np.repeat(one, counts, axis=0)), Moments.of(np.repeat(other, others, axis=0)))
    assert got == pytest.approx(want, rel=1e-7)
    evidence = Frechet(n, one, np.arange(n), other, np.arange(n + 3))
    assert evidence.value(np.ones(n, int)) == pytest.approx(evidence.exact(), rel=1e-7)


def test_a_distance_of_infinitely_many_vectors() -> None:
    evidence, truth = features(900, 16, np.random.default_rng(3)), 16 * (0.3**2 + 0.2**2)
    plain, far = evidence.exact(), intervals.at_infinity(evidence, 0)
    assert abs(far - truth) < abs(plain - truth)
    assert far == pytest.approx(truth, abs=0.15)
    with pytest.raises(OviError, match="needs 32 vectors, there are 20"):
        intervals.at_infinity(features(20, 16, np.random.default_rng(3)), 0)


def test_draws_of_a_distance_are_quick() -> None:
    """A thousand in a minute, of 400 clips with five rows of 128 features each: here a twentieth of them."""
    evidence = features(400, 128, np.random.default_rng(0), rows=5)
    took = []
    for _ in range(3):
        began = time.thread_time()  # other threads of a linear algebra library wait for each other by spinning
        intervals.drawn([evidence], np.arange(400), np.random.default_rng(0), 50)
        took.append(time.thread_time() - began)
    assert min(took) < 3


def test_an_inception_score_has_an_interval_too() -> None:
    logits = 3 * np.random.default_rng(0).normal(size=(60, 20))
    found = intervals.interval(Inception(logits), names(60), 0, 200)
    assert found.method == "basic"
    assert 0 < found.low < found.high


def test_what_has_no_interval() -> None:
    with pytest.raises(OviError, match="needs 3 prompts, there are 2"):
        intervals.interval(Mean.of([1.0, 2.0, 3.0]), ["a", "b", "b"], 0, 100)
    with pytest.raises(OviError, match="one value"):
        intervals.interval(Mean.of([1.0] * 5), names(5), 0, 100)
