"""Small studies for the tests: clips of two models, a prepared folder, votes of simulated raters."""

from __future__ import annotations

import math
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from ovi.media.encode import write_clip
from services.study import store as storing
from services.study.design import QUESTIONS, Comparison, Trial, checks_for, sitting
from services.study.pairs import Check, Pairs
from services.study.store import StudyStore

MODELS = ("wombat", "zebra")
KINDS = [("late", "sync"), ("silent", "audio"), ("coarse", "video"), ("noise", "audio")]


def lay_clips(folder: Path, items: int = 3, seconds: float = 2.0) -> Path:
    """PAIRS/MODEL/ITEM.mp4: the second model's clips are larger, louder and a little longer."""
    for number, model in enumerate(MODELS):
        (folder / model).mkdir(parents=True)
        side, level, length = (96, 0.05, seconds) if number == 0 else (128, 0.5, seconds + 0.25)
        for item in range(items):
            frames = np.zeros((int(length * 24), side, side, 3), np.uint8)
            for k, frame in enumerate(frames):
                at = (5 * k + 17 * item) % (side - 16)
                frame[20:52, at : at + 16] = (255, 90, 40) if number else (60, 160, 255)
            time_s = np.arange(int(length * 16000)) / 16000
            tone = level * np.sin(2 * np.pi * (300 + 100 * item) * time_s) * (np.sin(2 * np.pi * 3 * time_s) > -0.5)
            write_clip(folder / model / f"item{item}.mp4", frames, 24, tone.astype(np.float32), 16000)
    return folder


def paper_pairs(items: int = 6, models: tuple[str, ...] = MODELS, seconds: float = 0.0) -> Pairs:
    """A study of clips that are names only; no time has to go by before a clip counts as heard."""
    clips = {f"item{i}": {model: f"{i:02d}{model}.mp4" for model in models} for i in range(items)}
    checks = [Check(kind, question, f"{kind}-good.mp4", f"{kind}-bad.mp4", seconds) for kind, question in KINDS]
    return Pairs(clips, dict.fromkeys(clips, seconds), checks)


def begin(store: StudyStore, key: str) -> int:
    """The rater of an invitation, past the tones."""
    rater = store.rater(key)
    assert rater is not None
    pass_tones(store, rater)
    return rater


def pass_tones(store: StudyStore, rater: int, right: bool = True) -> None:
    for number in range(1, 7):
        at = store.sitting(rater)
        tones = store.tones(rater)
        assert tones is not None
        store.answer_tones(rater, at.attempt, number, tones[0] if right else tones[1])


def judge(store: StudyStore, rater: int, number: int, answer: str = "left") -> None:
    """Hears, answers and closes one trial."""
    for side in storing.SIDES:
        store.heard(rater, number, side)
    for question in QUESTIONS:
        store.vote(rater, number, question, answer)
    store.finish(rater, number)


def simulated(
    seed: int, raters: int = 50, items: int = 24, strength: float = 0.4, ties: float = 0.2, item_spread: float = 0.5,
    rater_spread: float = 0.3, side: float = 0.15, careless: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """The export of a study by the real plan: `wombat` beats `zebra` by `strength` in log odds, give or take.

    `side` pulls to the left; the last `careless` raters always answer left.
    """
    rng = np.random.default_rng([seed, 77])
    names_of_items = [f"item{i:02d}" for i in range(items)]
    trials, each = [], min(24, items)
    of_item = rng.normal(0, item_spread, (items, 3)).tolist()
    for slot in range(raters):
        own = np.random.default_rng([seed, 78, slot])
        of_rater = float(own.normal(0, rater_spread))
        chances = own.random((each + checks_for(each) + 1, 3, 2)).tolist()
        for number, planned in enumerate(_planned(items, each, slot, seed % 10)):
            votes, check = {}, planned.kind == "check"
            for place, question in enumerate(QUESTIONS):
                first, second = chances[number][place]
                plain = check and KINDS[planned.number][1] == question
                pull = 6.0 * plain if check else strength + of_item[planned.number][place] + of_rater
                left = second < 1 / (1 + math.exp(-side - (pull if planned.first_left else -pull)))
                votes[question] = "tie" if first < (0.01 if plain else ties) else "left" if left else "right"
            if slot >= raters - careless:
                votes = dict.fromkeys(QUESTIONS, "left")
            names = ("good", "bad") if check else MODELS
            left, right = names if planned.first_left else names[::-1]
            item = KINDS[planned.number][0] if check else names_of_items[planned.number]
            trials.append({
                "rater": slot, "number": number + 1, "kind": planned.kind, "item": item, "left_model": left,
                "right_model": right, "votes": votes, "question": KINDS[planned.number][1] if check else None,
                "expected": ("left" if planned.first_left else "right") if check else None,
            })  # fmt: skip
    study = {"seed": seed, "each": each, "models": list(MODELS), "items": names_of_items}
    people = [{"id": slot, "slot": slot, "stage": "done", "started_at": time.time()} for slot in range(raters)]
    return {"study": study, "raters": people, "trials": trials}


@cache
def _planned(items: int, each: int, slot: int, seed: int) -> list[Trial]:
    pairs = [Comparison(str(i), *MODELS) for i in range(items)]
    return sitting(pairs, each, checks_for(each), slot, seed)


def true_rate(strength: float, ties: float, item_spread: float, rater_spread: float, side: float) -> float:
    """Over all items and raters there could be, ties as halves."""
    points, weights = np.polynomial.hermite_e.hermegauss(60)
    spread = np.hypot(item_spread, rater_spread)
    decided = [(expit(strength + way + spread * points) * weights).sum() / weights.sum() for way in (side, -side)]
    return float(ties / 2 + (1 - ties) * np.mean(decided))
