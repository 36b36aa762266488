"""What a study found, from its export: rates with intervals, strengths, agreement, bias, and who was left out and why.

The rules of exclusion are these and no others, fixed before the first vote; nobody is left out by what they prefer:
a rater counts who finished the sitting and did not fail half of the attention checks or more. The repeated pair is
reported, never counted. Equal exports give equal results.
Try it: `ovi study results --state out/study`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import t as student

from ovi.errors import OviError
from ovi.evaluation import votes as preference
from ovi.evaluation.results import Results
from ovi.evaluation.statistics import LEVEL, wilson
from ovi.evaluation.votes import Preference, Votes
from services.study.design import QUESTIONS
from services.study.store import ANSWERS

Record = dict[str, Any]
UNFINISHED = {
    "tones": "did not finish the headphone check",
    "refused": "failed the headphone check three times",
    "trials": "did not finish the sitting",
}


@dataclass(frozen=True)
class Estimate:
    """A rate with the interval that two-way clustering gives."""

    rate: float
    low: float
    high: float
    deviation: float  # standard error
    p_value: float  # two-sided, against 1/2


def two_way(votes: Votes, level: float = LEVEL) -> Estimate | None:
    """Rate with ties as halves; votes of one rater, and votes on one item, go together (Cameron, Gelbach, Miller 2011).

    Variance: over raters + over items - over votes; quantiles of Student's t with the smaller number of clusters less
    one. `votes.clustered` draws raters and items again and multiplies their weights: that counts the noise of single
    votes three times, and covers too often where it dominates, as with 50 raters (measured: docs/study.md). None where
    one rater or one item is all there is.
    """
    n = len(votes.outcome)
    apart = votes.outcome - (votes.outcome.mean() if n else 0.0)
    sums = [np.bincount(np.unique(column, return_inverse=True)[1], apart) for column in (votes.rater, votes.item)]
    clusters = min(map(len, sums))
    if clusters < 2:
        return None
    ways = [float((s**2).sum()) * len(s) / (len(s) - 1) for s in sums]
    deviation = math.sqrt(max(sum(ways) - float((apart**2).sum()), *ways)) / n
    rate = float(votes.outcome.mean())
    if deviation == 0:  # all said the same, which is not certainty: as if each rater, or item, were one vote
        return Estimate(rate, *wilson(rate, clusters, level), 0.0, 1.0 if rate == 0.5 else 2 * 0.5**clusters)
    half = float(student.ppf((1 + level) / 2, clusters - 1)) * deviation
    p_value = 2 * float(student.sf(abs(rate - 0.5) / deviation, clusters - 1))
    return Estimate(rate, max(0.0, rate - half), min(1.0, rate + half), deviation, p_value)


def analyse(export: Record) -> Record:
    """Everything as JSON values; `metrics` is flat, with null and a reason where there is no number."""
    trials = _by_rater(export)
    came = [
        rater for rater in export["raters"] if rater["stage"] != "tones" or rater["answers"] or rater["attempt"] > 1
    ]
    exclusions = [found for rater in came if (found := _exclusion(rater, trials.get(rater["id"], [])))]
    out = {one["rater"] for one in exclusions}
    counted = {rater: rows for rater, rows in trials.items() if rater not in out}
    metrics = Results()
    questions = {name: _question(name, counted, export["study"], metrics) for name in QUESTIONS}
    _correct([pair for found in questions.values() for pair in found["pairs"]])
    for name, value in (("raters", len(counted)), ("excluded", len(exclusions))):
        metrics.set(f"study/{name}", value)
    for reason in (*UNFINISHED, "checks"):
        metrics.set(f"study/excluded/{reason}", sum(one["reason"] == reason for one in exclusions))
    return {
        "study": export["study"] | {"invited": len(export["raters"]), "came": len(came), "counted": len(counted)},
        "exclusions": exclusions,
        "questions": questions,
        "repeats": {name: _consistency(name, counted) for name in QUESTIONS},
        "largest_imbalance": _imbalance(trials),
        "metrics": metrics.values,
        "reasons": metrics.reasons,
    }


def votes_on(question: str, trials: dict[int, list[Record]], study: Record) -> Votes:
    """The counted votes on one question; models and items by their numbers in `study`, the first model the lower."""
    rows = [
        (rater, trial, trial["votes"][question])
        for rater, mine in sorted(trials.items()) for trial in mine
        if trial["kind"] == "pair" and question in trial["votes"]
    ]  # fmt: skip
    number = {model: place for place, model in enumerate(study["models"])}
    item = {name: place for place, name in enumerate(study["items"])}
    sides = [sorted((number[trial["left_model"]], number[trial["right_model"]])) for _, trial, _ in rows]
    on_left = np.array(
        [number[t["left_model"]] == first for (_, t, _), (first, _) in zip(rows, sides, strict=True)], bool
    )
    left = np.array([1 - ANSWERS.index(answer) / 2 for _, _, answer in rows])
    return Votes(
        np.array([rater for rater, _, _ in rows], np.int64), np.array([item[t["item"]] for _, t, _ in rows], np.int64),
        np.array([first for first, _ in sides], np.int64), np.array([second for _, second in sides], np.int64),
        on_left, np.where(on_left, left, 1 - left),
    )  # fmt: skip


def _by_rater(export: Record) -> dict[int, list[Record]]:
    trials: dict[int, list[Record]] = {}
    for trial in export["trials"]:
        trials.setdefault(trial["rater"], []).append(trial)
    return trials


def _exclusion(rater: Record, trials: list[Record]) -> Record | None:
    if rater["stage"] != "done":
        return {"rater": rater["id"], "reason": rater["stage"], "words": UNFINISHED[rater["stage"]]}
    checks = [trial for trial in trials if trial["kind"] == "check"]
    failed = sum(trial["votes"].get(trial["question"]) != trial["expected"] for trial in checks)
    if 2 * failed < max(1, len(checks)):
        return None
    return {"rater": rater["id"], "reason": "checks", "words": f"failed {failed} of {len(checks)} attention checks"}


def _question(name: str, counted: dict[int, list[Record]], study: Record, metrics: Results) -> Record:
    votes, models = votes_on(name, counted, study), study["models"]
    pairs = [_pair(name, votes.between(i, j), models[i], models[j], metrics)
             for i, j in combinations(range(len(models)), 2)]  # fmt: skip
    davidson, alpha, left = _strengths(preference.davidson, votes, models), _agreement(votes), _left(votes)
    for model in models:
        metrics.take(f"study/{name}/elo/{model}", davidson.get("elo", {}).get(model), davidson.get("reason", ""))
    metrics.take(f"study/{name}/alpha", alpha, "raters had nothing to disagree about")
    for part in ("share", "p_value"):
        metrics.take(f"study/{name}/left_{part}", left.get(part), left.get("reason", ""))
    return {
        "pairs": pairs, "bradley_terry": _strengths(preference.bradley_terry, votes, models), "davidson": davidson,
        "alpha": alpha, "left": left,
    }  # fmt: skip


def _pair(question: str, votes: Votes, first: str, second: str, metrics: Results) -> Record:
    counts, estimate = Preference.of(votes), two_way(votes)
    name = f"study/{question}/{first}_over_{second}"
    metrics.set(f"{name}/n", len(votes.outcome))
    for part, value in (("rate", "rate"), ("ci_low", "low"), ("ci_high", "high"), ("p_value", "p_value")):
        metrics.take(f"{name}/{part}", getattr(estimate, value, None), "fewer than two counted raters or two items")
    independent = math.sqrt(max(float(votes.outcome.var()), 1e-12) / len(votes.outcome)) if estimate else None
    return {
        "first": first, "second": second, "n": len(votes.outcome),
        "wins": counts.wins, "ties": counts.ties, "losses": counts.losses,
        "rate": counts.rate_with_ties, "interval": [estimate.low, estimate.high] if estimate else None,
        "p_value": estimate.p_value if estimate else None,
        "design_effect": (estimate.deviation / independent) ** 2 if estimate and independent else None,
        "decided_rate": counts.rate, "decided_interval_if_independent": list(counts.exact_interval()),
    }  # fmt: skip


def _correct(pairs: Sequence[Record]) -> None:
    """Adds `p_holm`: over all questions and pairs at once (Holm 1979)."""
    tested = sorted((pair for pair in pairs if pair["p_value"] is not None), key=lambda pair: pair["p_value"])
    least = 0.0
    for place, pair in enumerate(tested):
        least = max(least, min(1.0, (len(tested) - place) * pair["p_value"]))
        pair["p_holm"] = least


def _strengths(fit: Any, votes: Votes, models: list[str]) -> Record:
    try:
        found = fit(votes, len(models))
    except OviError as error:
        return {"reason": str(error)}
    deviations = [None] * len(models) if found.deviation is None else found.deviation.tolist()
    return {
        "elo": {model: 1000 + preference.ELO * s for model, s in zip(models, found.strength.tolist(), strict=True)},
        "elo_deviation_if_independent": {
            model: None if d is None else preference.ELO * d for model, d in zip(models, deviations, strict=True)
        },
        "tie": found.tie,
    }


def _agreement(votes: Votes) -> float | None:
    """Krippendorff's alpha over comparisons: do raters say the same of the same two clips?"""
    if not len(votes.outcome):
        return None
    units = np.unique(np.stack([votes.item, votes.first, votes.second]), axis=1, return_inverse=True)[1].ravel()
    raters = np.unique(votes.rater, return_inverse=True)[1]
    ratings = np.full((raters.max() + 1, units.max() + 1), np.nan)
    ratings[raters, units] = 2 * votes.outcome
    return preference.alpha(ratings)


def _left(votes: Votes) -> Record:
    try:
        share, p_value = preference.left_bias(votes)
    except OviError as error:
        return {"reason": str(error)}
    return {"share": share, "p_value": p_value}


def _consistency(question: str, counted: dict[int, list[Record]]) -> Record:
    """How often a rater said the same of the pair that came twice with its sides turned."""
    same = total = 0
    for mine in counted.values():
        for again in (trial for trial in mine if trial["kind"] == "repeat"):
            before = next(t for t in mine if t["kind"] == "pair" and _clips(t) == _clips(again))
            turned = ANSWERS[2 - ANSWERS.index(again["votes"][question])]
            same, total = same + (before["votes"][question] == turned), total + 1
    return {"same": same, "of": total}


def _clips(trial: Record) -> tuple[str, str, str]:
    return trial["item"], *sorted((trial["left_model"], trial["right_model"]))


def _imbalance(trials: dict[int, list[Record]]) -> Record:
    """How much oftener one was on the left than on the right: of a comparison over raters, of a model to one rater."""
    pairs = [(rater, trial) for rater, mine in trials.items() for trial in mine if trial["kind"] == "pair"]
    comparison: Counter[tuple[str, str, str]] = Counter()
    model: Counter[tuple[int, str]] = Counter()
    for rater, trial in pairs:
        comparison[_clips(trial)] += 1 if trial["left_model"] < trial["right_model"] else -1
        model[rater, trial["left_model"]] += 1
        model[rater, trial["right_model"]] -= 1
    return {
        "comparison": max(map(abs, comparison.values()), default=0),
        "model": max(map(abs, model.values()), default=0),
    }
