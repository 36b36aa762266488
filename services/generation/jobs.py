"""Jobs that outlive every process: a small state machine in a SQL table (SQLite here, PostgreSQL by address).

    queued -> in_progress -> completed | failed | cancelled        in_progress -> queued: its worker was lost

A job is committed before `submit` returns. A worker holds a job by a lease (owner, attempt, deadline); whoever lets the
deadline pass has lost it, and every later word of theirs is refused (`LeaseLost`), so no job is finished twice.
It knows nothing of HTTP, of the model or of files. Try it: `pytest tests/services/test_jobs.py`.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy import JSON, Column, Float, Integer, String

from ovi.errors import OviError

ACTIVE = frozenset({"queued", "in_progress"})
FINAL = frozenset({"completed", "failed", "cancelled"})
TRANSITIONS = frozenset({
    ("queued", "in_progress"), ("queued", "cancelled"), ("in_progress", "queued"),
    ("in_progress", "completed"), ("in_progress", "failed"), ("in_progress", "cancelled"),
})  # fmt: skip
MAX_ATTEMPTS = 2  # a job whose worker died runs once more, in a fresh process
LEASE_S = 10.0
WORKER_LOST = {"code": "worker_lost", "message": "The process that made this clip was lost twice.", "retryable": True}

_tables = sql.MetaData()
_jobs = sql.Table(
    "jobs", _tables,
    Column("number", Integer, primary_key=True),  # order of arrival
    Column("id", String(40), nullable=False, unique=True),
    Column("status", String(12), nullable=False, index=True),
    Column("cancel_requested", Integer, nullable=False, default=0),
    Column("idempotency_key", String(255), unique=True),
    Column("fingerprint", String(64), nullable=False),
    Column("effective", JSON, nullable=False),
    Column("owner", String(80)), Column("lease_until", Float), Column("attempt", Integer, nullable=False, default=0),
    Column("step", Integer, nullable=False, default=0), Column("steps", Integer, nullable=False),
    Column("created_at", Float, nullable=False), Column("started_at", Float), Column("completed_at", Float),
    Column("timings", JSON(none_as_null=True)), Column("error", JSON(none_as_null=True)),
    Column("sha256", String(64)), Column("bytes", Integer),
)  # fmt: skip


class QueueFull(OviError):
    """The bounded queue has no place; `retry_after` is a guess in whole seconds of when it has one again."""

    def __init__(self, bound: int, retry_after: int) -> None:
        super().__init__(f"the queue is full ({bound} waiting); try again in about {retry_after} s")
        self.retry_after = retry_after


class KeyConflict(OviError):
    """The idempotency key belongs to a job with another body."""


class LeaseLost(OviError):
    """The job is no longer this worker's: its lease ran out, or the job was deleted."""


@dataclass(frozen=True)
class Job:
    """One row. Times are Unix seconds; `effective` is everything the worker needs, with all defaults filled in."""

    number: int
    id: str
    status: str
    fingerprint: str
    effective: dict[str, Any]
    steps: int
    created_at: float
    step: int = 0
    cancel_requested: int = 0
    idempotency_key: str | None = None
    owner: str | None = None
    lease_until: float | None = None
    attempt: int = 0
    started_at: float | None = None
    completed_at: float | None = None
    timings: dict[str, float] | None = None  # seconds by stage
    error: dict[str, Any] | None = None
    sha256: str | None = None
    bytes: int | None = None


class JobStore:
    """The table of jobs. One object per process; safe to use from several threads."""

    def __init__(self, url: str) -> None:
        self._engine = sql.create_engine(url)
        if self._engine.dialect.name == "sqlite":
            _tune_sqlite(self._engine)
        _tables.create_all(self._engine)

    @classmethod
    def in_folder(cls, folder: Path) -> JobStore:
        """The store in `folder`, in SQLite."""
        folder.mkdir(parents=True, exist_ok=True)
        return cls(f"sqlite:///{folder.absolute() / 'jobs.db'}")

    def close(self) -> None:
        self._engine.dispose()

    # What the API does

    def submit(
        self, effective: dict[str, Any], *, bound: int, fingerprint: str = "", idempotency_key: str | None = None
    ) -> tuple[Job, bool]:
        """The new job and True, or the job that holds this idempotency key and False.

        Raises QueueFull when `bound` jobs are waiting, KeyConflict when the key's job has another fingerprint.
        """
        with self._write() as db:
            if idempotency_key is not None:
                held = _one(db, _jobs.c.idempotency_key == idempotency_key)
                if held is not None and held.fingerprint != fingerprint:
                    raise KeyConflict("this Idempotency-Key was used for another request; choose a new key")
                if held is not None:
                    return held, False
            if _count(db, _jobs.c.status == "queued") >= bound:
                raise QueueFull(bound, _seconds_a_job(db))
            identity = f"video_{secrets.token_hex(16)}"
            db.execute(_jobs.insert().values(
                id=identity, status="queued", fingerprint=fingerprint, idempotency_key=idempotency_key,
                effective=effective, steps=effective["steps"], created_at=time.time(),
            ))  # fmt: skip
            job = _one(db, _jobs.c.id == identity)
            assert job is not None
            return job, True

    def get(self, identity: str) -> Job | None:
        with self._read() as db:
            return _one(db, _jobs.c.id == identity)

    def newest(self, limit: int, after: str | None = None) -> list[Job]:
        """Up to `limit` jobs, newest first, those older than the job `after`."""
        query = sql.select(_jobs).order_by(_jobs.c.number.desc()).limit(limit)
        if after is not None:
            number = sql.select(_jobs.c.number).where(_jobs.c.id == after).scalar_subquery()
            query = query.where(_jobs.c.number < number)
        with self._read() as db:
            return [_job(row) for row in db.execute(query)]

    def position(self, job: Job) -> int | None:
        """1 for the job that runs next; None when it is not waiting."""
        if job.status != "queued":
            return None
        with self._read() as db:
            return 1 + _count(db, (_jobs.c.status == "queued") & (_jobs.c.number < job.number))

    def cancel(self, identity: str) -> Job | None:
        """Ends a waiting job now and a running one at its next step; a finished job stays as it is."""
        with self._write() as db:
            job = _one(db, _jobs.c.id == identity)
            if job is None:
                return None
            if job.status == "queued":
                _move(db, job, "cancelled", completed_at=time.time())
            elif job.status == "in_progress":
                db.execute(_jobs.update().where(_jobs.c.id == identity).values(cancel_requested=1))
            return _one(db, _jobs.c.id == identity)

    def delete(self, identity: str) -> bool:
        """Forgets a job in any state; the worker that runs it loses its lease."""
        with self._write() as db:
            return db.execute(_jobs.delete().where(_jobs.c.id == identity)).rowcount == 1

    def completed(self) -> set[str]:
        """Ids of the jobs that have a result."""
        with self._read() as db:
            return set(db.execute(sql.select(_jobs.c.id).where(_jobs.c.status == "completed")).scalars())

    def statistics(self) -> dict[str, Any]:
        """Counts by status and, over completed jobs, seconds by stage, for the metrics page."""
        by_status = sql.select(_jobs.c.status, sql.func.count()).group_by(_jobs.c.status)
        with self._read() as db:
            counts = dict.fromkeys(sorted(ACTIVE | FINAL), 0)
            counts |= {row[0]: row[1] for row in db.execute(by_status)}
            seconds: dict[str, float] = {}
            for (timings,) in db.execute(sql.select(_jobs.c.timings).where(_jobs.c.status == "completed")):
                for stage, value in timings.items():
                    seconds[stage] = seconds.get(stage, 0.0) + value
        return {"counts": counts, "seconds": seconds}

    # What a worker does

    def claim(self, owner: str, lease_s: float = LEASE_S) -> Job | None:
        """The oldest waiting job, now leased to `owner`; None when nothing waits."""
        self.reap()
        with self._read() as db:  # a look without a lock: an idle worker takes none
            if not _count(db, _jobs.c.status == "queued"):
                return None
        with self._write() as db:
            oldest = sql.select(_jobs).where(_jobs.c.status == "queued").order_by(_jobs.c.number).limit(1)
            row = db.execute(oldest.with_for_update(skip_locked=True)).first()
            if row is None:
                return None
            job, now = _job(row), time.time()
            lease = {"owner": owner, "lease_until": now + lease_s, "attempt": job.attempt + 1}
            _move(db, job, "in_progress", step=0, started_at=now, **lease)
            return _one(db, _jobs.c.id == job.id)

    def renew(self, lease: Job, step: int | None = None, lease_s: float = LEASE_S) -> bool:
        """Prolongs the lease, with the step reached if given. True: stop, someone asked to cancel."""
        values: dict[str, Any] = {"lease_until": time.time() + lease_s} | ({} if step is None else {"step": step})
        with self._write() as db:
            if db.execute(_jobs.update().where(_held(lease)).values(values)).rowcount != 1:
                raise LeaseLost(f"{lease.id}: the lease of attempt {lease.attempt} is gone")
            return bool(db.execute(sql.select(_jobs.c.cancel_requested).where(_jobs.c.id == lease.id)).scalar())

    def complete(self, lease: Job, sha256: str, size: int, timings: dict[str, float]) -> None:
        self._finish(lease, "completed", step=lease.steps, sha256=sha256, bytes=size, timings=timings)

    def fail(self, lease: Job, code: str, message: str, retryable: bool) -> None:
        error = {"code": code, "message": message, "retryable": retryable}
        self._finish(lease, "failed", error=error)

    def stop(self, lease: Job) -> None:
        """The worker has heard the request to cancel and stopped."""
        self._finish(lease, "cancelled")

    def release(self, lease: Job) -> None:
        """Gives an unfinished job back unharmed: an orderly stop is not the job's fault and costs it no attempt."""
        with self._write() as db:
            job = _one(db, _held(lease))
            if job is not None:
                _requeue(db, job, job.attempt - 1)

    def lost(self, owner: str) -> int:
        """The worker `owner` is dead: its job runs once more, or has failed if that was its second life."""
        return self._recover((_jobs.c.status == "in_progress") & (_jobs.c.owner == owner))

    def reap(self, everything: bool = False) -> int:
        """The same for every job whose lease ran out, or for every running job when no worker can be alive."""
        overdue = _jobs.c.status == "in_progress"
        if not everything:
            overdue &= _jobs.c.lease_until < time.time()
        with self._read() as db:
            if not _count(db, overdue):
                return 0
        return self._recover(overdue)

    def _recover(self, which: sql.ColumnElement[bool]) -> int:
        with self._write() as db:
            jobs = [_job(row) for row in db.execute(sql.select(_jobs).where(which).with_for_update(skip_locked=True))]
            for job in jobs:
                if job.cancel_requested:
                    _move(db, job, "cancelled", completed_at=time.time())
                elif job.attempt < MAX_ATTEMPTS:
                    _requeue(db, job, job.attempt)
                else:
                    _move(db, job, "failed", completed_at=time.time(), error=WORKER_LOST)
            return len(jobs)

    def _finish(self, lease: Job, status: str, **values: Any) -> None:
        with self._write() as db:
            job = _one(db, _held(lease))
            if job is None:
                raise LeaseLost(f"{lease.id}: the lease of attempt {lease.attempt} is gone")
            _move(db, job, status, completed_at=time.time(), **values)

    @contextmanager
    def _write(self) -> Iterator[sql.Connection]:
        with self._engine.connect().execution_options(write=True) as db, db.begin():
            yield db

    @contextmanager
    def _read(self) -> Iterator[sql.Connection]:
        with self._engine.connect() as db:
            yield db


def _tune_sqlite(engine: sql.Engine) -> None:
    """Write-ahead log, synced at every commit; writers take the lock when they begin, so that none fails half-way."""

    @sql.event.listens_for(engine, "connect")
    def connect(connection: Any, record: Any) -> None:  # noqa: ARG001
        connection.isolation_level = None  # we say BEGIN ourselves
        for pragma in ("busy_timeout=30000", "journal_mode=WAL", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}")

    @sql.event.listens_for(engine, "begin")
    def begin(db: sql.Connection) -> None:
        db.exec_driver_sql("BEGIN IMMEDIATE" if db.get_execution_options().get("write") else "BEGIN")


def _move(db: sql.Connection, job: Job, status: str, **values: Any) -> None:
    assert (job.status, status) in TRANSITIONS, f"{job.id}: {job.status} -> {status}"
    if status != "in_progress":
        values |= {"owner": None, "lease_until": None}
    db.execute(_jobs.update().where(_jobs.c.id == job.id).values(status=status, **values))


def _requeue(db: sql.Connection, job: Job, attempt: int) -> None:
    _move(db, job, "queued", attempt=attempt, step=0, started_at=None)


def _held(lease: Job) -> sql.ColumnElement[bool]:
    """Still the lease that was given: same job, same owner, same attempt, not reaped."""
    return (
        (_jobs.c.id == lease.id) & (_jobs.c.status == "in_progress")
        & (_jobs.c.owner == lease.owner) & (_jobs.c.attempt == lease.attempt)
    )  # fmt: skip


def _one(db: sql.Connection, which: sql.ColumnElement[bool]) -> Job | None:
    row = db.execute(sql.select(_jobs).where(which)).first()
    return None if row is None else _job(row)


def _job(row: sql.Row[Any]) -> Job:
    return Job(**{column.name: getattr(row, column.name) for column in fields(Job)})


def _count(db: sql.Connection, which: sql.ColumnElement[bool]) -> int:
    return db.execute(sql.select(sql.func.count()).select_from(_jobs).where(which)).scalar_one()


def _seconds_a_job(db: sql.Connection) -> int:
    """Mean of the last ten completed jobs, at least 1; 5 before any has completed."""
    recent = (
        sql.select((_jobs.c.completed_at - _jobs.c.started_at).label("seconds"))
        .where(_jobs.c.status == "completed").order_by(_jobs.c.number.desc()).limit(10).subquery()
    )  # fmt: skip
    mean = db.execute(sql.select(sql.func.avg(recent.c.seconds))).scalar()
    return max(1, math.ceil(mean)) if mean is not None else 5
