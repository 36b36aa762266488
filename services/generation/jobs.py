"""Jobs that outlive every process: a small state machine in a SQL table (SQLite here, PostgreSQL by address).

    queued -> in_progress -> completed | failed | cancelled        in_progress -> queued: its worker was lost

A job is committed before `submit` returns. A worker holds a job by a lease (owner, attempt, deadline); whoever lets the
deadline pass has lost it, and every later word of theirs is refused (`LeaseLost`), so no job is finished twice.
Several servers may share one PostgreSQL; their clocks may differ by less than a lease.
It knows nothing of HTTP, of the model or of files. Try it: `pytest tests/services/test_jobs.py`.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import sqlalchemy as sql

from ovi.errors import OviError
from services.generation.table import LOCAL, Database, Job, attachments
from services.generation.table import jobs as _jobs

ACTIVE = frozenset({"queued", "in_progress"})
FINAL = frozenset({"completed", "failed", "cancelled"})
TRANSITIONS = frozenset({
    ("queued", "in_progress"), ("queued", "cancelled"), ("in_progress", "queued"),
    ("in_progress", "completed"), ("in_progress", "failed"), ("in_progress", "cancelled"),
})  # fmt: skip
_ORDER = (_jobs.c.priority.desc(), _jobs.c.number)  # who runs next
PRIORITIES = {"batch": 0, "interactive": 1}
MAX_ATTEMPTS = 2  # a job whose worker died runs once more, in a fresh process
LEASE_S = 10.0
RETENTION_S = 24 * 3600.0  # from its end until a job and its clip are forgotten
WORKER_LOST = {"code": "worker_lost", "message": "The process that made this clip was lost twice.", "retryable": True}


class QueueFull(OviError):
    """There is no place; `retry_after` is a guess in whole seconds of when there is one again."""

    def __init__(self, code: str, message: str, retry_after: int) -> None:
        super().__init__(f"{message}; try again in about {retry_after} s")
        self.code, self.retry_after = code, retry_after


class KeyConflict(OviError):
    """The idempotency key belongs to a job with another body."""


class LeaseLost(OviError):
    """The job is no longer this worker's: its lease ran out, or the job was deleted."""


class JobStore:
    """The table of jobs. One object per process; safe to use from several threads."""

    def __init__(self, url: str, retention_s: float = RETENTION_S) -> None:
        self._database, self._retention_s = Database(url), retention_s

    @classmethod
    def in_folder(cls, folder: Path) -> JobStore:
        """The store in `folder`, in SQLite."""
        return cls(sqlite(folder))

    def close(self) -> None:
        self._database.close()

    # What the API does

    def submit(
        self, effective: dict[str, Any], *, bound: int, fingerprint: str = "", idempotency_key: str | None = None,
        tenant: str = LOCAL, concurrency: int | None = None, priority: int = 0, image: bytes | None = None,
        trace: str | None = None,
    ) -> tuple[Job, bool]:  # fmt: skip
        """The new job and True, or the job that holds this tenant's idempotency key and False.

        Raises QueueFull when `bound` jobs are waiting or the tenant has `concurrency` unfinished ones, KeyConflict
        when the key's job has another fingerprint.
        """
        key = None if idempotency_key is None else f"{tenant}/{idempotency_key}"
        with self._database.write(serial=True) as db:
            if key is not None:
                held = _one(db, _jobs.c.idempotency_key == key)
                if held is not None and held.fingerprint != fingerprint:
                    raise KeyConflict("this Idempotency-Key was used for another request; choose a new key")
                if held is not None:
                    return held, False
            if _count(db, _jobs.c.status == "queued") >= bound:
                raise QueueFull("queue_full", f"the queue is full ({bound} waiting)", _whole_seconds(db))
            unfinished = (_jobs.c.tenant == tenant) & _jobs.c.status.in_(ACTIVE)
            if concurrency is not None and _count(db, unfinished) >= concurrency:
                words = f"this key has {concurrency} unfinished jobs, as many as it may"
                raise QueueFull("too_many_jobs", words, _whole_seconds(db))
            identity = f"video_{secrets.token_hex(16)}"
            db.execute(_jobs.insert().values(
                id=identity, status="queued", fingerprint=fingerprint, idempotency_key=key, effective=effective,
                steps=effective["steps"], created_at=time.time(), tenant=tenant, priority=priority, trace=trace,
            ))  # fmt: skip
            if image is not None:
                db.execute(attachments.insert().values(job=identity, kind="image", data=image))
            job = _one(db, _jobs.c.id == identity)
            assert job is not None
            return job, True

    def get(self, identity: str) -> Job | None:
        with self._database.read() as db:
            return _one(db, _jobs.c.id == identity)

    def newest(self, limit: int, after: str | None = None, tenant: str | None = None) -> list[Job]:
        """Up to `limit` jobs, newest first, those older than the job `after`; of one tenant if given."""
        query = sql.select(_jobs).order_by(_jobs.c.number.desc()).limit(limit)
        if after is not None:
            number = sql.select(_jobs.c.number).where(_jobs.c.id == after).scalar_subquery()
            query = query.where(_jobs.c.number < number)
        if tenant is not None:
            query = query.where(_jobs.c.tenant == tenant)
        with self._database.read() as db:
            return [Job.of(row) for row in db.execute(query)]

    def position(self, job: Job) -> int | None:
        """1 for the job that runs next; None when it is not waiting."""
        if job.status != "queued":
            return None
        earlier = (_jobs.c.priority == job.priority) & (_jobs.c.number < job.number)
        before = (_jobs.c.status == "queued") & ((_jobs.c.priority > job.priority) | earlier)
        with self._database.read() as db:
            return 1 + _count(db, before)

    def attachment(self, identity: str, kind: str) -> bytes | None:
        """The picture a job came with ("image") or how its clip looks by now ("preview")."""
        with self._database.read() as db:
            which = (attachments.c.job == identity) & (attachments.c.kind == kind)
            return db.execute(sql.select(attachments.c.data).where(which)).scalar()

    def cancel(self, identity: str) -> Job | None:
        """Ends a waiting job now and a running one at its next step; a finished job stays as it is."""
        with self._database.write() as db:
            job = _locked(db, _jobs.c.id == identity)
            if job is None:
                return None
            if job.status == "queued":
                self._move(db, job, "cancelled")
            elif job.status == "in_progress":
                _set(db, _jobs.c.id == identity, cancel_requested=1)
            return _one(db, _jobs.c.id == identity)

    def delete(self, identity: str) -> bool:
        """Forgets a job in any state; the worker that runs it loses its lease."""
        with self._database.write() as db:
            db.execute(attachments.delete().where(attachments.c.job == identity))
            return db.execute(_jobs.delete().where(_jobs.c.id == identity)).rowcount == 1

    def expire(self) -> list[str]:
        """Forgets the jobs whose time is over; their ids, so that their clips can be forgotten too."""
        over = _jobs.c.expires_at < time.time()
        with self._database.read() as db:
            if not _count(db, over):
                return []
        with self._database.write() as db:
            return [row[0] for row in db.execute(_jobs.delete().where(over).returning(_jobs.c.id))]

    def completed(self) -> set[str]:
        """Ids of the jobs that have a result."""
        with self._database.read() as db:
            return set(db.execute(sql.select(_jobs.c.id).where(_jobs.c.status == "completed")).scalars())

    def revisions(self, identities: Collection[str]) -> dict[str, tuple[int, int | None]]:
        """(revision, place in the queue) of each of these jobs that there is: what a watcher compares."""
        queue = sql.select(_jobs.c.id).where(_jobs.c.status == "queued").order_by(*_ORDER)
        with self._database.read() as db:
            places = {row[0]: index + 1 for index, row in enumerate(db.execute(queue))}
            known = sql.select(_jobs.c.id, _jobs.c.revision).where(_jobs.c.id.in_(identities))
            return {row[0]: (row[1], places.get(row[0])) for row in db.execute(known)}

    def pace(self) -> float | None:
        """Seconds a step, all included, of the last ten completed jobs; None before any has completed."""
        with self._database.read() as db:
            return _mean(db, (_jobs.c.completed_at - _jobs.c.started_at) / _jobs.c.steps)

    def statistics(self) -> dict[str, Any]:
        """For the metrics page: counts by status, waiting by priority, seconds by stage and steps of completed jobs."""
        by_status = sql.select(_jobs.c.status, sql.func.count()).group_by(_jobs.c.status)
        waiting = sql.select(_jobs.c.priority, sql.func.count()).where(_jobs.c.status == "queued")
        with self._database.read() as db:
            counts = dict.fromkeys(sorted(ACTIVE | FINAL), 0) | {row[0]: row[1] for row in db.execute(by_status)}
            queued = {row[0]: row[1] for row in db.execute(waiting.group_by(_jobs.c.priority))}
            seconds: dict[str, float] = {}
            steps = 0
            done = sql.select(_jobs.c.timings, _jobs.c.steps).where(_jobs.c.status == "completed")
            for timings, made in db.execute(done):
                steps += made
                for stage, value in timings.items():
                    seconds[stage] = seconds.get(stage, 0.0) + value
        depth = {name: queued.get(number, 0) for name, number in PRIORITIES.items()}
        return {"counts": counts, "queued": depth, "seconds": seconds, "steps": steps}

    # What a worker does

    def claim(self, owner: str, lease_s: float = LEASE_S) -> Job | None:
        """The next waiting job, now leased to `owner`; None when nothing waits."""
        self.reap()
        with self._database.read() as db:  # a look without a lock: an idle worker takes none
            if not _count(db, _jobs.c.status == "queued"):
                return None
        with self._database.write() as db:
            following = sql.select(_jobs).where(_jobs.c.status == "queued").order_by(*_ORDER).limit(1)
            row = db.execute(following.with_for_update(skip_locked=True)).first()
            if row is None:
                return None
            job, now = Job.of(row), time.time()
            lease = {"owner": owner, "lease_until": now + lease_s, "attempt": job.attempt + 1}
            self._move(db, job, "in_progress", step=0, started_at=now, **lease)
            return _one(db, _jobs.c.id == job.id)

    def renew(
        self, lease: Job, step: int | None = None, preview: bytes | None = None, lease_s: float = LEASE_S
    ) -> bool:
        """Prolongs the lease, with the step reached and its picture if given. True: stop, someone asked to cancel."""
        values: dict[str, Any] = {"lease_until": time.time() + lease_s}
        if step is not None:
            values |= {"step": step, "revision": _jobs.c.revision + 1}
        with self._database.write(durable=False) as db:  # how far a job is need not outlive the machine
            if db.execute(_jobs.update().where(_held(lease)).values(values)).rowcount != 1:
                raise LeaseLost(f"{lease.id}: the lease of attempt {lease.attempt} is gone")
            if preview is not None:
                db.execute(attachments.delete().where(_preview(lease)))
                db.execute(attachments.insert().values(job=lease.id, kind="preview", data=preview))
            return bool(db.execute(sql.select(_jobs.c.cancel_requested).where(_jobs.c.id == lease.id)).scalar())

    def complete(
        self, lease: Job, sha256: str, size: int, timings: dict[str, float], ran: dict[str, Any] | None = None
    ) -> None:
        self._finish(lease, "completed", step=lease.steps, sha256=sha256, bytes=size, timings=timings, ran=ran)

    def fail(self, lease: Job, code: str, message: str, retryable: bool) -> None:
        error = {"code": code, "message": message, "retryable": retryable}
        self._finish(lease, "failed", error=error)

    def stop(self, lease: Job) -> None:
        """The worker has heard the request to cancel and stopped."""
        self._finish(lease, "cancelled")

    def release(self, lease: Job) -> None:
        """Gives an unfinished job back unharmed: an orderly stop is not the job's fault and costs it no attempt."""
        with self._database.write() as db:
            job = _locked(db, _held(lease))
            if job is not None:
                self._requeue(db, job, job.attempt - 1)

    def lost(self, owner: str) -> int:
        """All workers whose name begins with `owner` are dead.

        A job of theirs runs once more, or has failed if that was its second life.
        """
        return self._recover((_jobs.c.status == "in_progress") & _jobs.c.owner.startswith(owner, autoescape=True))

    def reap(self) -> int:
        """The same for every job whose lease ran out."""
        overdue = (_jobs.c.status == "in_progress") & (_jobs.c.lease_until < time.time())
        with self._database.read() as db:
            if not _count(db, overdue):
                return 0
        return self._recover(overdue)

    def _recover(self, which: sql.ColumnElement[bool]) -> int:
        with self._database.write() as db:
            jobs = [Job.of(row) for row in db.execute(sql.select(_jobs).where(which).with_for_update(skip_locked=True))]
            for job in jobs:
                if job.cancel_requested:
                    self._move(db, job, "cancelled")
                elif job.attempt < MAX_ATTEMPTS:
                    self._requeue(db, job, job.attempt)
                else:
                    self._move(db, job, "failed", error=WORKER_LOST)
            return len(jobs)

    def _finish(self, lease: Job, status: str, **values: Any) -> None:
        with self._database.write() as db:
            job = _locked(db, _held(lease))
            if job is None:
                raise LeaseLost(f"{lease.id}: the lease of attempt {lease.attempt} is gone")
            self._move(db, job, status, **values)

    def _requeue(self, db: sql.Connection, job: Job, attempt: int) -> None:
        self._move(db, job, "queued", attempt=attempt, step=0, started_at=None)

    def _move(self, db: sql.Connection, job: Job, status: str, **values: Any) -> None:
        """The one place where a state changes; `job` is locked by this transaction."""
        assert (job.status, status) in TRANSITIONS, f"{job.id}: {job.status} -> {status}"
        if status != "in_progress":
            values |= {"owner": None, "lease_until": None}
            db.execute(attachments.delete().where(_preview(job)))
        if status in FINAL:
            now = time.time()
            values |= {"completed_at": now, "expires_at": now + self._retention_s}
            db.execute(attachments.delete().where(attachments.c.job == job.id))
        _set(db, _jobs.c.id == job.id, status=status, **values)


def sqlite(folder: Path) -> str:
    """The address of the database in a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder.absolute() / 'jobs.db'}"


def _set(db: sql.Connection, which: sql.ColumnElement[bool], **values: Any) -> None:
    db.execute(_jobs.update().where(which).values(revision=_jobs.c.revision + 1, **values))


def _held(lease: Job) -> sql.ColumnElement[bool]:
    """Still the lease that was given: same job, same owner, same attempt, not reaped."""
    return (
        (_jobs.c.id == lease.id) & (_jobs.c.status == "in_progress")
        & (_jobs.c.owner == lease.owner) & (_jobs.c.attempt == lease.attempt)
    )  # fmt: skip


def _preview(job: Job) -> sql.ColumnElement[bool]:
    return (attachments.c.job == job.id) & (attachments.c.kind == "preview")


def _one(db: sql.Connection, which: sql.ColumnElement[bool]) -> Job | None:
    row = db.execute(sql.select(_jobs).where(which)).first()
    return None if row is None else Job.of(row)


def _locked(db: sql.Connection, which: sql.ColumnElement[bool]) -> Job | None:
    """The same, and nobody else changes it until the transaction ends."""
    row = db.execute(sql.select(_jobs).where(which).with_for_update()).first()
    return None if row is None else Job.of(row)


def _count(db: sql.Connection, which: sql.ColumnElement[bool]) -> int:
    return db.execute(sql.select(sql.func.count()).select_from(_jobs).where(which)).scalar_one()


def _mean(db: sql.Connection, value: sql.ColumnElement[Any]) -> float | None:
    """Over the last ten completed jobs."""
    recent = (
        sql.select(value.label("value")).where(_jobs.c.status == "completed")
        .order_by(_jobs.c.number.desc()).limit(10).subquery()
    )  # fmt: skip
    return db.execute(sql.select(sql.func.avg(recent.c.value))).scalar()


def _whole_seconds(db: sql.Connection) -> int:
    """Of a job, at least 1; 5 before any has completed."""
    mean = _mean(db, _jobs.c.completed_at - _jobs.c.started_at)
    return 5 if mean is None else max(1, math.ceil(mean))
