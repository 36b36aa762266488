from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from ovi.evaluation import statistics


def brute_auc(scores: np.ndarray) -> float:
    n, won = len(scores), 0.0
    for i in range(n):
        for j in range(n):
            if i != j:
                won += float(scores[i, i] > scores[i, j]) + 0.5 * float(scores[i, i] == scores[i, j])
    return won / (n * (n - 1))


def drawn(n: int, strength: float, seed: int, ties: bool = False) -> np.ndarray:
    """Scores with clips of different quality and sounds that fit anything better or worse."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n, n)) + 0.3 * rng.normal(size=n)[None, :]
    scores[np.diag_indices(n)] += rng.normal(strength, 0.5, n)
    return np.round(scores * 2) if ties else scores


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n", [2, 3, 9, 24])
def test_auc_is_the_share_of_comparisons_won(n: int, ties: bool) -> None:
    scores = drawn(n, 1.0, seed=n, ties=ties)
    assert statistics.auc(scores) == pytest.approx(brute_auc(scores), abs=1e-12)


def test_auc_at_its_ends_and_at_no_information() -> None:
    assert statistics.auc(np.eye(6)) == 1.0
    assert statistics.auc(-np.eye(6)) == 0.0
    assert statistics.auc(np.zeros((6, 6))) == 0.5


def test_p_value_of_few_clips_goes_through_all_pairings() -> None:
    scores = drawn(5, 1.0, seed=3)
    pairings = list(itertools.permutations(range(5)))
    as_good = sum(brute_auc(scores[:, list(p)]) >= brute_auc(scores) - 1e-12 for p in pairings)
    found = statistics.separation(scores, seed=0, permutations=1000)
    assert found.exact
    assert found.pairings == 120
    assert found.p_value == pytest.approx(as_good / 120)


def test_sampled_p_value_agrees_with_the_exact_one() -> None:
    scores = drawn(7, 0.5, seed=4)
    exact = statistics.separation(scores, seed=0, permutations=5040)
    sampled = statistics.separation(scores, seed=0, permutations=5000)
    assert exact.exact
    assert not sampled.exact
    assert sampled.p_value == pytest.approx(exact.p_value, abs=4 * (exact.p_value / 5000) ** 0.5)


def test_p_value_is_never_zero_and_one_when_nothing_can_be_told() -> None:
    assert statistics.separation(np.eye(24), seed=0, permutations=999).p_value == pytest.approx(1 / 1000)
    assert statistics.separation(np.zeros((24, 24)), seed=0, permutations=999).p_value == 1.0


def test_p_value_is_uniform_when_sound_and_picture_are_strangers() -> None:
    p_values = np.array([statistics.separation(drawn_null(9, seed), seed, 99).p_value for seed in range(200)])
    for level in (0.05, 0.2, 0.5, 0.8):
        share = np.mean(p_values <= level)
        assert share == pytest.approx(level, abs=3.5 * (level * (1 - level) / 200) ** 0.5)


def drawn_null(n: int, seed: int) -> np.ndarray:
    """No pair belongs together, but some pictures and some sounds score high with everything."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, n)) + rng.normal(size=n)[None, :] + rng.normal(size=n)[:, None]


@pytest.mark.parametrize("strength", [0.0, 1.0, 2.5])
def test_interval_covers_the_true_auc_about_as_often_as_it_says(strength: float) -> None:
    truth = np.mean([statistics.auc(drawn(40, strength, seed)) for seed in range(200)])
    covered = 0
    for seed in range(100):
        found = statistics.separation(drawn(24, strength, 1000 + seed), seed, permutations=1)
        covered += found.low <= truth <= found.high
    assert 87 <= covered <= 99


def test_interval_of_a_perfect_score_is_not_certainty() -> None:
    few, many = (statistics.separation(np.eye(n), seed=0, permutations=10) for n in (4, 24))
    assert few.high == many.high == 1.0
    assert 0.4 < few.low < many.low < 0.9


def test_equal_seeds_give_equal_results_and_quickly() -> None:
    scores = drawn(64, 1.0, seed=1)
    began = time.thread_time()
    first = statistics.separation(scores, seed=5)
    assert time.thread_time() - began < 2.0
    assert first == statistics.separation(scores, seed=5)
    assert first.p_value != statistics.separation(drawn(64, 0.05, seed=1), seed=5).p_value


def test_derangements_keep_no_pair() -> None:
    for n in (2, 3, 24):
        pairings = statistics.derangements(n, 8, seed=0)
        assert pairings.shape == (8, n)
        assert not (pairings == np.arange(n)).any()
        assert (np.sort(pairings, axis=1) == np.arange(n)).all()


def test_wilson_against_published_values() -> None:
    # Newcombe 1998, Table I, method 3: 81/263, 15/148, 0/20, 1/29.
    for hits, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert statistics.wilson(hits / n, n) == pytest.approx((low, high), abs=1e-4)


def test_bca_agrees_with_scipy() -> None:
    from scipy.stats import bootstrap

    data = np.random.default_rng(0).gamma(1.5, size=40)
    ours = np.random.default_rng(1).choice(data, (20000, 40)).mean(axis=1)
    low, high = statistics.bca(data.mean(), ours, np.array([np.delete(data, k).mean() for k in range(40)]))
    theirs = bootstrap((data,), np.mean, n_resamples=20000, method="BCa", rng=2).confidence_interval
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


@pytest.mark.parametrize("bad", [np.zeros((1, 1)), np.zeros((0, 0)), np.zeros((2, 3)), np.full((3, 3), np.nan)])
def test_what_cannot_be_compared_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="scores must be"):
        statistics.auc(bad)
