"""Votes against the golden rates, strengths and agreement; what has no strength."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from ovi.errors import OviError
from ovi.evaluation import votes as study
from ovi.evaluation.statistics import wilson
from ovi.evaluation.votes import Preference, Votes
from tests.golden import evaluation as golden

CASE = golden.arrays("pwr")
NAMES = [str(name) for name in CASE["names"]]
ALL = Votes(CASE["rater"], CASE["item"], CASE["a"], CASE["b"], CASE["a_on_left"].astype(bool), CASE["outcome"])
PAIRS = [(0, 1), (0, 2), (1, 2)]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_rates_and_their_intervals_are_the_golden_ones(one: int, other: int) -> None:
    want = {key.split(".")[1]: value for key, value in CASE.items() if key.startswith(f"{NAMES[one]}|{NAMES[other]}.")}
    mine = ALL.between(one, other)
    found = Preference.of(mine)
    assert (found.wins, found.losses, found.ties) == (want["wins"], want["losses"], want["ties"])
    assert found.rate == pytest.approx(float(want["pwr_no_ties"]))
    assert found.rate_with_ties == pytest.approx(float(want["pwr_half"]))
    np.testing.assert_allclose(wilson(found.rate, found.decided), want["wilson"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.exact_interval(), want["clopper_pearson"], rtol=0, atol=1e-9)
    assert found.p_value() == pytest.approx(float(want["binom_p"]), rel=1e-9)
    together = study.clustered(mine, seed=0)
    np.testing.assert_allclose((together.low, together.high), want["cluster_boot_ci"], rtol=0, atol=0.01)
    assert together.deviation == pytest.approx(float(want["cluster_boot_se"]), abs=0.005)
    assert together.deviation > 1.4 * float(want["naive_se"])
    assert study.clustered(mine, seed=0) == together


def test_a_pair_turned_round_is_the_same_pair() -> None:
    there, back = ALL.between(0, 1), ALL.between(1, 0)
    np.testing.assert_array_equal(there.outcome, 1 - back.outcome)
    np.testing.assert_array_equal(there.first_on_left, ~back.first_on_left)
    assert study.left_bias(there) == study.left_bias(back)


def test_strengths_are_the_golden_ones() -> None:
    found = study.bradley_terry(ALL, 3)
    np.testing.assert_allclose(found.strength, CASE["bt.theta_centered"], rtol=0, atol=1e-5)
    order = [NAMES.index(str(name)) for name in CASE["arena.competitors"]]
    elo, half = 1000 + study.ELO * found.strength[order], 1.959964 * study.ELO * found.deviation[order]
    np.testing.assert_allclose(elo, CASE["arena.ratings"], rtol=0, atol=1e-3)
    np.testing.assert_allclose(elo - half, CASE["arena.rating_lower"], rtol=0, atol=1e-3)
    np.testing.assert_allclose(elo + half, CASE["arena.rating_upper"], rtol=0, atol=1e-3)


def test_strengths_with_ties_of_their_own_are_the_golden_ones() -> None:
    found = study.davidson(ALL, 3)
    np.testing.assert_allclose(found.strength, CASE["davidson.theta_centered"], rtol=0, atol=1e-4)
    assert found.tie == pytest.approx(float(CASE["davidson.nu"]), abs=1e-4)
    assert found.loss == pytest.approx(float(CASE["davidson.nll"]), abs=1e-4)


def test_agreement_is_the_golden_one() -> None:
    assert study.alpha(CASE["reliability_matrix"]) == pytest.approx(float(CASE["alpha_nominal"]), abs=1e-12)
    assert study.kappa(CASE["fleiss_table"]) == pytest.approx(float(CASE["fleiss_kappa"]), abs=1e-12)
    assert study.alpha(np.array([[0.0, 1, np.nan], [0, 1, 1]])) == 1
    assert study.alpha(np.full((3, 4), np.nan)) is study.alpha(np.zeros((2, 2))) is None
    assert study.kappa(np.array([[3, 0], [3, 0]])) is None
    with pytest.raises(OviError, match="as many ratings"):
        study.kappa(np.array([[3, 0], [1, 1]]))


def test_the_bias_to_the_left_is_the_golden_one() -> None:
    share, p_value = study.left_bias(ALL)
    assert share == pytest.approx(float(CASE["left_win_rate"]))
    assert p_value == pytest.approx(float(CASE["left_bias_p"]), rel=1e-9)


def some(kept: np.ndarray) -> Votes:
    return Votes(*(getattr(ALL, field.name)[kept] for field in fields(Votes)))


def test_strengths_without_bounds_are_refused() -> None:
    apart = some((ALL.first == 0) & (ALL.second == 1))  # the third never met them
    unbeaten = some((ALL.first != 0) | (ALL.outcome == 1))
    for votes in (apart, unbeaten):
        for fit in (study.bradley_terry, study.davidson):
            with pytest.raises(OviError, match="have no bounds"):
                fit(votes, 3)
    with pytest.raises(OviError, match="needs a tie"):
        study.davidson(some(ALL.outcome != 0.5), 3)


def test_no_votes_and_no_decided_votes() -> None:
    none = some(np.zeros(len(ALL.outcome), bool))
    empty = Preference.of(none)
    assert empty.rate is empty.rate_with_ties is None
    assert empty.p_value() == 1
    assert empty.exact_interval() == (0, 1)
    assert Preference(0, 5, 0).exact_interval()[0] == 0
    assert Preference(5, 0, 0).exact_interval()[1] == 1
    for ask in (lambda: study.clustered(none, 0), lambda: study.left_bias(some(ALL.outcome == 0.5))):
        with pytest.raises(OviError):
            ask()
