"""All a study remembers, in SQL tables: raters, their trials, their votes (SQLite here, PostgreSQL by address).

    stage of a rater:   tones -> trials -> done        tones -> refused (no headphones)

A vote is one row with the key (rater, trial, question), written in one transaction before it is acknowledged. Until the
trial is closed the rater may change it; then it stands, however often it is sent again. Of an invitation only its hash
is kept. It knows nothing of HTTP, and files by name only. Try it: `pytest tests/services/study/test_store.py`.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy import JSON, Column, Float, ForeignKey, Integer, String

from ovi.errors import OviError
from services.study import headphones
from services.study.design import QUESTIONS, Trial, checks_for, sitting
from services.study.pairs import Pairs

ANSWERS = ("left", "tie", "right")
SIDES = ("left", "right")
WATCHED = 0.9  # of the time that a clip lasts must have gone by before it counts as heard

_tables = sql.MetaData()
_study = sql.Table(
    "study", _tables,
    Column("id", Integer, primary_key=True), Column("seed", Integer, nullable=False),
    Column("each", Integer, nullable=False), Column("pairs", JSON, nullable=False),
)  # fmt: skip
_raters = sql.Table(
    "raters", _tables,
    Column("id", Integer, primary_key=True), Column("key_hash", String(64), nullable=False, unique=True),
    Column("slot", Integer, unique=True), Column("stage", String(8), nullable=False),
    Column("attempt", Integer, nullable=False), Column("rounds", JSON, nullable=False),
    Column("answers", JSON, nullable=False), Column("invited_at", Float, nullable=False), Column("started_at", Float),
    Column("ended_at", Float),
)  # fmt: skip
_trials = sql.Table(
    "trials", _tables,
    Column("id", Integer, primary_key=True), Column("rater", ForeignKey("raters.id"), nullable=False),
    Column("number", Integer, nullable=False), Column("kind", String(8), nullable=False),
    Column("item", String(255), nullable=False), Column("left_model", String(64), nullable=False),
    Column("right_model", String(64), nullable=False), Column("left_clip", String(40), nullable=False),
    Column("right_clip", String(40), nullable=False), Column("left_token", String(40), nullable=False, unique=True),
    Column("right_token", String(40), nullable=False, unique=True), Column("seconds", Float, nullable=False),
    Column("question", String(8)), Column("expected", String(8)), Column("shown_at", Float),
    Column("left_heard_at", Float), Column("right_heard_at", Float), Column("closed_at", Float),
    sql.UniqueConstraint("rater", "number"),
)  # fmt: skip
_votes = sql.Table(
    "votes", _tables,
    Column("rater", ForeignKey("raters.id"), primary_key=True),
    Column("trial", ForeignKey("trials.id"), primary_key=True), Column("question", String(8), primary_key=True),
    Column("answer", String(8), nullable=False), Column("at", Float, nullable=False),
)  # fmt: skip


class TooEarly(OviError):
    """Asked to go on before both clips were played to their ends, or every question answered."""


@dataclass(frozen=True)
class Shown:
    """The trial a rater is at: nothing in it tells a model."""

    number: int  # from 1
    tokens: tuple[str, str]  # of the clips, left and right
    seconds: float
    heard: tuple[bool, bool]
    votes: dict[str, str]


@dataclass(frozen=True)
class Sitting:
    """Where a rater is."""

    stage: str
    attempt: int  # at the tones, from 1
    round: int  # of the tones, from 1
    trials: int
    seconds: float  # of the longest clip
    trial: Shown | None


class StudyStore:
    """One object a process; safe to use from several threads and several processes."""

    def __init__(self, url: str) -> None:
        try:
            self._engine = sql.create_engine(url)
            if self._engine.dialect.name == "sqlite":
                _tune_sqlite(self._engine)
            _tables.create_all(self._engine)
        except (sql.exc.SQLAlchemyError, ImportError) as error:
            reason = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise OviError(f"the study's database cannot be opened ({reason}); see --database") from None

    @classmethod
    def in_folder(cls, folder: Path) -> StudyStore:
        """The store in `folder`, in SQLite."""
        folder.mkdir(parents=True, exist_ok=True)
        return cls(f"sqlite:///{folder.absolute() / 'study.db'}")

    def close(self) -> None:
        self._engine.dispose()

    # What the organiser does

    def open(self, pairs: Pairs, each: int, seed: int) -> None:
        """Begins the study, or goes on with it. OviError when it was begun with other clips, another length or seed."""
        each = min(each, len(pairs.comparisons))
        with self._write() as db:
            row = db.execute(sql.select(_study)).first()
            if row is None:
                db.execute(_study.insert().values(id=1, seed=seed, each=each, pairs=pairs.as_json()))
            elif (row.seed, row.each, row.pairs) != (seed, each, pairs.as_json()):
                raise OviError("the study was begun with other clips, --each or --seed; use those, or another --state")

    def invite(self, raters: int) -> list[str]:
        """New keys, so that there are `raters` invitations in all. They cannot be shown again: give them out now."""
        with self._write() as db:
            _lock(db)
            there = db.execute(sql.select(sql.func.count()).select_from(_raters)).scalar_one()
            keys = [secrets.token_urlsafe(24) for _ in range(max(0, raters - there))]
            for key in keys:
                db.execute(_raters.insert().values(
                    key_hash=_hash(key), stage="tones", attempt=1, rounds=headphones.draw(), answers=[],
                    invited_at=time.time(),
                ))  # fmt: skip
            return keys

    def export(self) -> dict[str, Any]:
        """Everything but invitations and tokens, as JSON values. OviError before the study was begun."""
        with self._read() as db:
            study = db.execute(sql.select(_study)).first()
            if study is None:
                raise OviError("no study was begun here; start one with `ovi study serve --pairs DIR`")
            votes: dict[int, dict[str, str]] = {}
            for vote in db.execute(sql.select(_votes)):
                votes.setdefault(vote.trial, {})[vote.question] = vote.answer
            hidden = {"key_hash", "left_token", "right_token", "left_clip", "right_clip"}
            raters = [_visible(row, hidden) for row in db.execute(sql.select(_raters).order_by(_raters.c.id))]
            trials = [
                _visible(row, hidden) | {"votes": votes.get(row.id, {})}
                for row in db.execute(sql.select(_trials).order_by(_trials.c.rater, _trials.c.number))
            ]
            pairs = Pairs.from_json(study.pairs)
            models = sorted({model for item in pairs.clips.values() for model in item})
            about = {"seed": study.seed, "each": study.each, "models": models, "items": sorted(pairs.clips)}
            return {"study": about, "raters": raters, "trials": trials}

    # What a rater does

    def rater(self, key: str) -> int | None:
        """The rater with this invitation."""
        with self._read() as db:
            return db.execute(sql.select(_raters.c.id).where(_raters.c.key_hash == _hash(key))).scalar()

    def sitting(self, rater: int) -> Sitting:
        with self._read() as db:
            return _sitting(db, rater)

    def tones(self, rater: int) -> headphones.Round | None:
        """The round of tones the rater is at."""
        with self._read() as db:
            row = _row(db, rater)
            if row.stage != "tones":
                return None
            quiet, opposite = row.rounds[len(row.answers)]
            return quiet, opposite

    def answer_tones(self, rater: int, attempt: int, number: int, answer: int) -> Sitting:
        """Which tone was the quietest in round `number` (from 1). Any round but the one the rater is at: no effect.

        After the last round the trials begin, or the tones again, or the sitting ends.
        """
        with self._write() as db:
            _lock(db)
            row = _row(db, rater)
            if row.stage == "tones" and (attempt, number) == (row.attempt, len(row.answers) + 1):
                answers = [*row.answers, answer]
                if len(answers) < len(row.rounds):
                    _change(db, rater, answers=answers)
                elif headphones.passed(row.rounds, answers):
                    self._begin(db, rater, answers)
                elif row.attempt < headphones.ATTEMPTS:
                    _change(db, rater, attempt=row.attempt + 1, rounds=headphones.draw(), answers=[])
                else:
                    _change(db, rater, answers=answers, stage="refused", ended_at=time.time())
            return _sitting(db, rater)

    def heard(self, rater: int, number: int, side: str) -> Sitting:
        """Both clips were played to the end with the sound of `side`. TooEarly when there was no time for that."""
        with self._write() as db:
            trial = _open_trial(db, rater, number)
            if trial is not None and getattr(trial, f"{side}_heard_at") is None:
                before = sum(getattr(trial, f"{other}_heard_at") is not None for other in SIDES)
                if time.time() - trial.shown_at < WATCHED * trial.seconds * (before + 1):
                    raise TooEarly("play the clips to their end first")
                _mark(db, trial, **{f"{side}_heard_at": time.time()})
            return _sitting(db, rater)

    def vote(self, rater: int, number: int, question: str, answer: str) -> Sitting:
        """Writes or changes one vote on the trial the rater is at; no effect on one that is closed."""
        with self._write() as db:
            trial = _open_trial(db, rater, number)
            if trial is not None:
                _need_heard(trial)
                key = (_votes.c.rater == rater) & (_votes.c.trial == trial.id) & (_votes.c.question == question)
                values = {"answer": answer, "at": time.time()}
                if db.execute(_votes.update().where(key).values(values)).rowcount == 0:
                    db.execute(_votes.insert().values(rater=rater, trial=trial.id, question=question, **values))
            return _sitting(db, rater)

    def finish(self, rater: int, number: int) -> Sitting:
        """Closes the trial: its votes stand. TooEarly when one is missing; no effect when it is closed already."""
        with self._write() as db:
            trial = _open_trial(db, rater, number)
            if trial is not None:
                _need_heard(trial)
                if len(_answers(db, trial.id)) < len(QUESTIONS):
                    raise TooEarly("answer all three questions first")
                now = time.time()
                _mark(db, trial, closed_at=now)
                after = (_trials.c.rater == rater) & (_trials.c.number == number + 1)
                if db.execute(_trials.update().where(after).values(shown_at=now)).rowcount == 0:
                    _change(db, rater, stage="done", ended_at=now)
            return _sitting(db, rater)

    def clip(self, rater: int, token: str) -> str | None:
        """The name of the clip behind a token of the trial this rater is at."""
        with self._read() as db:
            trial = _current(db, rater)
            if trial is None or token not in (trial.left_token, trial.right_token):
                return None
            return str(trial.left_clip if token == trial.left_token else trial.right_clip)

    def _begin(self, db: sql.Connection, rater: int, answers: list[int]) -> None:
        """Gives the rater the next place in the plan, and its trials."""
        study = db.execute(sql.select(_study)).one()
        pairs, now = Pairs.from_json(study.pairs), time.time()
        last = db.execute(sql.select(sql.func.max(_raters.c.slot))).scalar()
        slot = 0 if last is None else last + 1
        planned = sitting(pairs.comparisons, study.each, checks_for(study.each), slot, study.seed)
        for number, trial in enumerate(planned, 1):
            shown_at = now if number == 1 else None
            db.execute(_trials.insert().values(
                rater=rater, number=number, shown_at=shown_at, left_token=secrets.token_urlsafe(16),
                right_token=secrets.token_urlsafe(16), **_filled(trial, pairs),
            ))  # fmt: skip
        _change(db, rater, answers=answers, stage="trials", slot=slot, started_at=now)

    @contextmanager
    def _write(self) -> Iterator[sql.Connection]:
        with self._engine.connect().execution_options(write=True) as db, db.begin():
            yield db

    @contextmanager
    def _read(self) -> Iterator[sql.Connection]:
        with self._engine.connect() as db:
            yield db


def _filled(trial: Trial, pairs: Pairs) -> dict[str, Any]:
    """The columns of a planned trial that say what is on which side."""
    if trial.kind == "check":
        check = pairs.checks[trial.number]
        sides = [("good", check.good), ("bad", check.bad)]
        about: dict[str, Any] = {"item": check.kind, "seconds": check.seconds, "question": check.question}
        about["expected"] = "left" if trial.first_left else "right"
    else:
        pair = pairs.comparisons[trial.number]
        sides = [(model, pairs.clips[pair.item][model]) for model in (pair.first, pair.second)]
        about = {"item": pair.item, "seconds": pairs.seconds[pair.item]}
    left, right = sides if trial.first_left else sides[::-1]
    return about | {
        "kind": trial.kind, "left_model": left[0], "right_model": right[0], "left_clip": left[1],
        "right_clip": right[1],
    }  # fmt: skip


def _lock(db: sql.Connection) -> None:
    """One at a time from here on: places in the plan are given out without gaps. (SQLite has one writer anyway.)"""
    db.execute(sql.select(_study.c.id).with_for_update())


def _row(db: sql.Connection, rater: int) -> sql.Row[Any]:
    return db.execute(sql.select(_raters).where(_raters.c.id == rater)).one()


def _change(db: sql.Connection, rater: int, **values: Any) -> None:
    db.execute(_raters.update().where(_raters.c.id == rater).values(**values))


def _mark(db: sql.Connection, trial: sql.Row[Any], **values: Any) -> None:
    db.execute(_trials.update().where(_trials.c.id == trial.id).values(**values))


def _current(db: sql.Connection, rater: int) -> sql.Row[Any] | None:
    """The first trial that is not closed, once there are trials."""
    still = (_trials.c.rater == rater) & (_trials.c.closed_at.is_(None))
    return db.execute(sql.select(_trials).where(still).order_by(_trials.c.number).limit(1)).first()


def _open_trial(db: sql.Connection, rater: int, number: int) -> sql.Row[Any] | None:
    """The rater's current trial, locked, if it has this number; None for an earlier one. TooEarly for a later one."""
    db.execute(sql.select(_raters.c.id).where(_raters.c.id == rater).with_for_update())
    trial = _current(db, rater)
    if trial is None or number < trial.number:
        return None
    if number > trial.number:
        raise TooEarly("this page comes later")
    return trial


def _need_heard(trial: sql.Row[Any]) -> None:
    if trial.left_heard_at is None or trial.right_heard_at is None:
        raise TooEarly("play both clips to their end first")


def _answers(db: sql.Connection, trial: int) -> dict[str, str]:
    rows = db.execute(sql.select(_votes.c.question, _votes.c.answer).where(_votes.c.trial == trial))
    return {row.question: row.answer for row in rows}


def _sitting(db: sql.Connection, rater: int) -> Sitting:
    row, study = _row(db, rater), db.execute(sql.select(_study)).one()
    trials = study.each + checks_for(study.each) + 1
    trial, shown = (_current(db, rater) if row.stage == "trials" else None), None
    if trial is not None:
        heard = trial.left_heard_at is not None, trial.right_heard_at is not None
        tokens = trial.left_token, trial.right_token
        shown = Shown(trial.number, tokens, trial.seconds, heard, _answers(db, trial.id))
    return Sitting(
        row.stage, row.attempt, len(row.answers) + 1, trials, max(study.pairs["seconds"].values()), shown
    )  # fmt: skip


def _visible(row: sql.Row[Any], hidden: set[str]) -> dict[str, Any]:
    return {name: value for name, value in row._mapping.items() if name not in hidden}


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


def _tune_sqlite(engine: sql.Engine) -> None:
    """Write-ahead log, synced at every commit; writers take the lock when they begin, so that none fails half-way."""

    @sql.event.listens_for(engine, "connect")
    def connect(connection: Any, record: Any) -> None:  # noqa: ARG001
        connection.isolation_level = None  # we say BEGIN ourselves
        for pragma in ("busy_timeout=30000", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sql.event.listens_for(engine, "begin")
    def begin(db: sql.Connection) -> None:
        db.exec_driver_sql("BEGIN IMMEDIATE" if db.get_execution_options().get("write") else "BEGIN")
