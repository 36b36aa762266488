"""The analysis against what was simulated: coverage of the true rate, exclusions, bias, power, equal results."""

from __future__ import annotations

import json
from dataclasses import replace
from math import isfinite

import numpy as np
import pytest

from services.study.analysis import analyse, two_way, votes_on
from services.study.design import QUESTIONS
from services.study.power import Plan
from services.study.store import StudyStore
from tests.services.study.made import begin, judge, simulated, true_rate

STUDIES = 200
TRUTH = {"strength": 0.4, "ties": 0.2, "item_spread": 0.5, "rater_spread": 0.3, "side": 0.15}


def test_intervals_hold_the_true_rate_and_the_power_is_as_planned() -> None:
    """200 studies of 50 raters with three questions each; 0.95 +- 0.02 is +- 2.2 standard errors of 600."""
    truth, held, found = true_rate(**TRUTH), [], []
    for seed in range(1000, 1000 + STUDIES):
        export = simulated(seed, **TRUTH)
        trials: dict[int, list] = {}  # type: ignore[type-arg]
        for trial in export["trials"]:
            trials.setdefault(trial["rater"], []).append(trial)
        for question in QUESTIONS:
            estimate = two_way(votes_on(question, trials, export["study"]))
            assert estimate is not None
            held.append(estimate.low <= truth <= estimate.high)
            found.append(estimate.low > 0.5)
    assert 0.93 <= np.mean(held) <= 0.97
    decided = (truth - TRUTH["ties"] / 2) / (1 - TRUTH["ties"])
    plan = Plan(rate=decided, ties=0.2, item_spread=0.5, rater_spread=0.3)
    assert -0.02 < np.mean(found) - plan.power < 0.09  # the plan is a little cautious


def test_two_way_intervals_are_wider_than_those_of_independent_votes() -> None:
    found = analyse(simulated(4))
    pair, count = found["questions"]["audio"]["pairs"][0], 24 * found["study"]["counted"]
    assert (pair["first"], pair["second"], pair["n"]) == ("wombat", "zebra", count)
    assert pair["wins"] + pair["ties"] + pair["losses"] == count
    assert pair["rate"] == pytest.approx((pair["wins"] + pair["ties"] / 2) / count)
    assert 1.5 < pair["design_effect"] < 6
    assert pair["p_value"] <= pair["p_holm"] <= 3 * pair["p_value"]
    low, high = pair["interval"]
    assert low < pair["rate"] < high


def test_careless_raters_are_left_out_with_the_reason_and_the_rest_is_as_without_them() -> None:
    whole, careless = simulated(2, raters=20), simulated(2, raters=24, careless=4)
    found = analyse(careless)
    assert [one["rater"] for one in found["exclusions"]] == [20, 21, 22, 23]
    assert found["exclusions"][0]["words"] == "failed 2 of 4 attention checks"
    assert found["questions"] == analyse(whole)["questions"]
    assert (found["study"]["invited"], found["study"]["counted"]) == (24, 20)
    assert found["largest_imbalance"]["model"] <= 1
    assert found["largest_imbalance"]["comparison"] <= 1


def test_bias_to_the_left_is_seen_and_does_not_move_the_rate() -> None:
    found = analyse(simulated(1, strength=0.0, side=0.6))["questions"]["video"]
    assert found["left"]["share"] > 0.58
    assert found["left"]["p_value"] < 1e-6
    low, high = found["pairs"][0]["interval"]
    assert low < 0.5 < high


def test_strengths_and_agreement_are_reported() -> None:
    found = analyse(simulated(5, strength=1.0))
    for question in QUESTIONS:
        part = found["questions"][question]
        for model in ("bradley_terry", "davidson"):
            assert part[model]["elo"]["wombat"] - part[model]["elo"]["zebra"] > 60
        assert part["davidson"]["tie"] > 0
        assert 0 < part["alpha"] < 0.3
        assert found["repeats"][question]["of"] == found["study"]["counted"]
        assert found["repeats"][question]["same"] > 15
    metrics, audio = found["metrics"], found["questions"]["audio"]
    assert metrics["study/audio/wombat_over_zebra/rate"] > 0.6
    assert metrics["study/audio/elo/wombat"] == pytest.approx(audio["davidson"]["elo"]["wombat"], rel=1e-5)
    assert metrics["study/audio/alpha"] == pytest.approx(audio["alpha"], rel=1e-5)
    assert metrics["study/audio/left_share"] == pytest.approx(audio["left"]["share"], rel=1e-5)
    assert found["reasons"] == {}


def test_results_are_json_and_equal_for_equal_votes() -> None:
    export = simulated(3, raters=6)
    words = json.dumps(analyse(export), allow_nan=False, sort_keys=True)
    assert words == json.dumps(analyse(json.loads(json.dumps(export))), allow_nan=False, sort_keys=True)


def test_a_study_nobody_finished_has_reasons_and_no_numbers(store: StudyStore) -> None:
    first, second, _ = store.invite(3)
    judge(store, begin(store, first), 1)
    store.answer_tones(store.rater(second) or 0, 1, 1, 0)
    found = analyse(store.export())
    assert [one["reason"] for one in found["exclusions"]] == ["trials", "tones"]
    assert (found["study"]["invited"], found["study"]["came"]) == (3, 2)
    assert found["metrics"]["study/raters"] == 0
    assert [found["metrics"][f"study/excluded/{why}"] for why in ("tones", "refused", "trials", "checks")] == [
        1,
        0,
        1,
        0,
    ]
    for part in ("alpha", "left_share", "elo/zebra"):
        assert found["metrics"][f"study/sync/{part}"] is None
        assert found["reasons"][f"study/sync/{part}"]
    assert found["metrics"]["study/audio/wombat_over_zebra/rate"] is None
    assert "fewer than two" in found["reasons"]["study/audio/wombat_over_zebra/rate"]


def test_a_real_store_and_its_export_give_what_was_voted(store: StudyStore) -> None:
    for key in store.invite(3):
        rater = begin(store, key)
        while (at := store.sitting(rater)).trial is not None:
            trial = next(t for t in store.export()["trials"] if t["rater"] == rater and t["number"] == at.trial.number)
            best = trial["expected"] or ("left" if trial["left_model"] == "zebra" else "right")
            judge(store, rater, at.trial.number, best)
    found = analyse(store.export())
    assert found["exclusions"] == []
    pair = found["questions"]["sync"]["pairs"][0]
    assert (pair["wins"], pair["losses"], pair["ties"]) == (0, 18, 0)
    assert pair["interval"][1] > 0.3  # three raters agreeing are not certainty
    assert pair["p_value"] == 0.25
    assert "never won" in found["questions"]["sync"]["bradley_terry"]["reason"]
    assert found["repeats"]["sync"] == {"same": 3, "of": 3}


def test_the_plan_knows_what_more_raters_and_more_items_buy() -> None:
    usual = Plan()
    assert usual.votes == 1200
    assert 0.8 < usual.power < 0.95
    assert usual.smallest is not None
    assert replace(usual, rate=usual.smallest).power == pytest.approx(0.8, abs=0.01)
    assert usual.needed is not None
    assert replace(usual, raters=usual.needed).power >= 0.8 > replace(usual, raters=usual.needed - 1).power
    assert replace(usual, items=6, each=6).needed is None
    independent = Plan(raters=194, each=1, items=194, rate=0.6, ties=0, item_spread=0, rater_spread=0)
    assert independent.design_effect == pytest.approx(1)
    assert independent.power == pytest.approx(0.8, abs=0.01)
    assert all(isfinite(value) for value in (usual.deviation, usual.design_effect))
