"""The tables: no vote lost, none twice, none of another's; places in the plan without gaps; what survives a kill."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from ovi.errors import OviError
from services.study import headphones
from services.study.design import QUESTIONS
from services.study.store import StudyStore, TooEarly
from tests.services.study.made import begin, judge, paper_pairs, pass_tones

TRIALS = 9  # six comparisons, two checks, the repeat


def invited(store: StudyStore, raters: int = 1) -> list[str]:
    return store.invite(raters)


def votes(store: StudyStore) -> list[tuple[int, int, str, str]]:
    return [
        (trial["rater"], trial["number"], question, answer)
        for trial in store.export()["trials"] for question, answer in trial["votes"].items()
    ]  # fmt: skip


def test_a_whole_sitting(store: StudyStore) -> None:
    rater = begin(store, *invited(store))
    for number in range(1, TRIALS + 1):
        at = store.sitting(rater)
        assert at.trial is not None
        assert (at.stage, at.trial.number, at.trials, at.trial.votes) == ("trials", number, TRIALS, {})
        judge(store, rater, number)
    assert store.sitting(rater).stage == "done"
    assert store.sitting(rater).trial is None
    assert len(votes(store)) == 3 * TRIALS


def test_a_vote_may_change_until_the_trial_is_closed_and_stands_then(store: StudyStore) -> None:
    rater = begin(store, *invited(store))
    for side in ("left", "right"):
        store.heard(rater, 1, side)
    store.vote(rater, 1, "audio", "left")
    store.vote(rater, 1, "audio", "right")
    store.vote(rater, 1, "audio", "right")
    assert votes(store) == [(rater, 1, "audio", "right")]
    with pytest.raises(TooEarly, match="all three"):
        store.finish(rater, 1)
    for question in QUESTIONS[1:]:
        store.vote(rater, 1, question, "tie")
    assert store.finish(rater, 1).trial.number == 2  # type: ignore[union-attr]
    for again in (lambda: store.finish(rater, 1), lambda: store.vote(rater, 1, "audio", "tie"),
                  lambda: store.heard(rater, 1, "left")):  # fmt: skip
        assert again().trial.number == 2  # type: ignore[union-attr]
    assert votes(store) == [(rater, 1, "audio", "right"), (rater, 1, "video", "tie"), (rater, 1, "sync", "tie")]
    with pytest.raises(TooEarly, match="later"):
        store.vote(rater, 3, "audio", "tie")


def test_nobody_answers_what_they_have_not_heard(tmp_path: Path) -> None:
    store = StudyStore.in_folder(tmp_path)
    store.open(paper_pairs(seconds=0.4), 6, 0)
    rater = begin(store, *invited(store))
    for too_early in (lambda: store.heard(rater, 1, "left"), lambda: store.vote(rater, 1, "audio", "tie"),
                      lambda: store.finish(rater, 1)):  # fmt: skip
        with pytest.raises(TooEarly, match="play"):
            too_early()
    threading.Event().wait(0.37)
    assert store.heard(rater, 1, "right").trial.heard == (False, True)  # type: ignore[union-attr]
    with pytest.raises(TooEarly):
        store.heard(rater, 1, "left")
    threading.Event().wait(0.37)
    assert store.heard(rater, 1, "left").trial.heard == (True, True)  # type: ignore[union-attr]
    store.vote(rater, 1, "audio", "tie")
    store.close()


def test_equal_words_at_once_are_one_vote(store: StudyStore) -> None:
    rater = begin(store, *invited(store))
    for side in ("left", "right"):
        store.heard(rater, 1, side)
    words = [lambda q=q: store.vote(rater, 1, q, "left") for q in QUESTIONS] * 8
    together(words)
    together([lambda: store.finish(rater, 1)] * 12)
    assert Counter((trial, question) for _, trial, question, _ in votes(store)) == dict.fromkeys(
        [(1, question) for question in QUESTIONS], 1
    )
    assert store.sitting(rater).trial.number == 2  # type: ignore[union-attr]


def test_raters_who_come_at_once_get_places_without_gaps(store: StudyStore) -> None:
    keys = invited(store, 12)
    together([lambda key=key: begin(store, key) for key in keys])
    export = store.export()
    assert sorted(rater["slot"] for rater in export["raters"]) == list(range(12))
    shown: Counter[str] = Counter()
    for trial in export["trials"]:
        if trial["kind"] == "pair":
            shown[trial["item"]] += 1 if trial["left_model"] == "zebra" else -1
    assert set(shown.values()) == {0}


def together(words: list) -> None:  # type: ignore[type-arg]
    threads = [threading.Thread(target=word) for word in words]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_without_headphones_the_sitting_ends_and_takes_no_place(store: StudyStore) -> None:
    lost, other = invited(store, 2)
    rater = store.rater(lost)
    assert rater is not None
    for attempt in range(1, headphones.ATTEMPTS + 1):
        assert store.sitting(rater).attempt == attempt
        pass_tones(store, rater, right=False)
    assert store.sitting(rater).stage == "refused"
    assert store.tones(rater) is None
    begin(store, other)
    assert [row["slot"] for row in store.export()["raters"]] == [None, 0]


def test_a_round_of_tones_is_answered_once(store: StudyStore) -> None:
    rater = store.rater(*invited(store))
    assert rater is not None
    store.answer_tones(rater, 1, 1, 0)
    store.answer_tones(rater, 1, 1, 2)
    store.answer_tones(rater, 2, 2, 2)
    assert store.sitting(rater).round == 2
    assert store.export()["raters"][0]["answers"] == [0]


def test_invitations_are_kept_as_hashes_and_only_missing_ones_are_made(store: StudyStore, tmp_path: Path) -> None:
    keys = invited(store, 3)
    assert len(set(keys)) == 3
    assert invited(store, 3) == []
    assert len(invited(store, 4)) == 1
    store.close()
    stored = b"".join(path.read_bytes() for path in (tmp_path / "study").iterdir())
    assert not [key for key in keys if key.encode() in stored]
    assert store.rater("") is None
    assert store.rater(keys[0][:-1]) is None
    assert store.rater("\udc80") is None


def test_a_study_goes_on_with_the_same_clips_only(store: StudyStore) -> None:
    store.open(paper_pairs(), each=6, seed=3)
    for pairs, each, seed in ((paper_pairs(5), 6, 3), (paper_pairs(), 5, 3), (paper_pairs(), 6, 4)):
        with pytest.raises(OviError, match="begun with other"):
            store.open(pairs, each, seed)


def test_a_database_that_cannot_be_opened_is_one_line() -> None:
    for url in ("sqlite:////no/such/folder/x.db", "nonsense", "postgresql+nodriver://x/y"):
        with pytest.raises(OviError, match="--database"):
            StudyStore(url)


CRASH = """
import os, sys
from pathlib import Path
from services.study.store import StudyStore
store, rater = StudyStore.in_folder(Path(sys.argv[1])), int(sys.argv[2])
for side in ("left", "right"):
    store.heard(rater, 1, side)
store.vote(rater, 1, "audio", "right")
store.vote(rater, 1, "video", "tie")
print("acknowledged", flush=True)
os.kill(os.getpid(), 9)
"""


def test_what_was_acknowledged_is_there_after_kill_9(store: StudyStore, tmp_path: Path) -> None:
    rater = begin(store, *invited(store))
    words = [sys.executable, "-c", CRASH, str(tmp_path / "study"), str(rater)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (-9, "acknowledged\n"), ended.stderr
    assert votes(store) == [(rater, 1, "audio", "right"), (rater, 1, "video", "tie")]


@pytest.mark.skipif("OVI_TEST_POSTGRES" not in os.environ, reason="OVI_TEST_POSTGRES names no empty database")
def test_the_same_in_postgresql() -> None:
    store = StudyStore(os.environ["OVI_TEST_POSTGRES"])
    store.open(paper_pairs(), 6, 3)
    keys = invited(store, 8)
    together([lambda key=key: begin(store, key) for key in keys])
    assert sorted(rater["slot"] for rater in store.export()["raters"]) == list(range(8))
    rater = store.rater(keys[0])
    assert rater is not None
    for side in ("left", "right"):
        store.heard(rater, 1, side)
    together([lambda q=q: store.vote(rater, 1, q, "left") for q in QUESTIONS] * 6)
    together([lambda: store.finish(rater, 1)] * 6)
    assert len(votes(store)) == 3
    for number in range(2, TRIALS + 1):
        judge(store, rater, number)
    assert store.sitting(rater).stage == "done"
    store.close()
