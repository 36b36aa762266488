"""The tables behind the job store, in SQLite or PostgreSQL: columns, one row as a dataclass, how each is opened.

A table that an earlier version made gets the columns it lacks. It knows nothing of states or leases.
Try it: `pytest tests/services/test_jobs.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sql
from sqlalchemy import JSON, Column, Float, Integer, LargeBinary, String
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from ovi.errors import OviError

SERIAL_LOCK = 0x6F7669  # of PostgreSQL's advisory locks: any number, the same in every replica

LOCAL = "local"  # the tenant where there are no keys

tables = sql.MetaData()
jobs = sql.Table(
    "jobs", tables,
    Column("number", Integer, primary_key=True),  # order of arrival
    Column("id", String(40), nullable=False, unique=True),
    Column("status", String(12), nullable=False, index=True),
    Column("cancel_requested", Integer, nullable=False, default=0),
    Column("idempotency_key", String(400), unique=True),  # tenant/key
    Column("fingerprint", String(64), nullable=False),
    Column("effective", JSON, nullable=False),
    Column("owner", String(120)), Column("lease_until", Float(53)),
    Column("attempt", Integer, nullable=False, default=0),
    Column("step", Integer, nullable=False, default=0), Column("steps", Integer, nullable=False),
    Column("created_at", Float(53), nullable=False), Column("started_at", Float(53)),
    Column("completed_at", Float(53)),
    Column("timings", JSON(none_as_null=True)), Column("error", JSON(none_as_null=True)),
    Column("sha256", String(64)), Column("bytes", Integer),
    Column("tenant", String(80), nullable=False, default=LOCAL, server_default=LOCAL),
    Column("priority", Integer, nullable=False, default=0, server_default="0"),  # the higher runs first
    Column("revision", Integer, nullable=False, default=1, server_default="1"),  # grows with every visible change
    Column("expires_at", Float(53), index=True),
    Column("ran", JSON(none_as_null=True)), Column("trace", String(60)),
)  # fmt: skip
attachments = sql.Table(
    "attachments", tables,
    Column("job", String(40), primary_key=True),
    Column("kind", String(8), primary_key=True),  # image: what the caller sent; preview: how it looks by now
    Column("data", LargeBinary, nullable=False),
)  # fmt: skip


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
    tenant: str = LOCAL
    priority: int = 0
    revision: int = 1
    expires_at: float | None = None
    ran: dict[str, Any] | None = None  # what really ran
    trace: str | None = None  # its caller's place in a trace, as W3C's traceparent

    @classmethod
    def of(cls, row: sql.Row[Any]) -> Job:
        return cls(**{column.name: getattr(row, column.name) for column in fields(cls)})


class Database:
    """Transactions on one database. One object per process; safe to use from several threads."""

    def __init__(self, url: str) -> None:
        try:
            self._engine = sql.create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError):
            words = "service.database: not an address of SQLite or PostgreSQL, as postgresql+psycopg://user@host/name"
            raise OviError(words) from None
        self._shared = self._engine.dialect.name == "postgresql"
        if not self._shared:
            _tune_sqlite(self._engine)
        with self.write(serial=True) as db:
            tables.create_all(db)
            _add_missing_columns(db)

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def write(self, serial: bool = False, durable: bool = True) -> Iterator[sql.Connection]:
        """A transaction that changes rows it locked. `serial`: no other serial one is under way at the same time.

        SQLite has one writer at a time anyway. What is not `durable` survives every process, but may be lost when the
        machine fails; it does not wait for the disk.
        """
        with self._engine.connect().execution_options(write=True, durable=durable) as db, db.begin():
            if serial and self._shared:
                db.execute(sql.select(sql.func.pg_advisory_xact_lock(SERIAL_LOCK)))
            if not durable and self._shared:
                db.exec_driver_sql("SET LOCAL synchronous_commit = off")
            yield db

    @contextmanager
    def read(self) -> Iterator[sql.Connection]:
        with self._engine.connect() as db:
            yield db


def _tune_sqlite(engine: sql.Engine) -> None:
    """Write-ahead log, synced at durable commits. Writers take the lock when they begin, so none fails half-way."""

    @sql.event.listens_for(engine, "connect")
    def connect(connection: Any, record: Any) -> None:  # noqa: ARG001
        connection.isolation_level = None  # we say BEGIN ourselves
        for pragma in ("busy_timeout=30000", "journal_mode=WAL"):
            connection.execute(f"PRAGMA {pragma}")

    @sql.event.listens_for(engine, "begin")
    def begin(db: sql.Connection) -> None:
        how = db.get_execution_options()
        if how.get("write"):
            db.exec_driver_sql(f"PRAGMA synchronous={'FULL' if how['durable'] else 'NORMAL'}")
        db.exec_driver_sql("BEGIN IMMEDIATE" if how.get("write") else "BEGIN")


def _add_missing_columns(db: sql.Connection) -> None:
    there = {column["name"] for column in sql.inspect(db).get_columns("jobs")}
    for column in jobs.columns:
        if column.name not in there:
            kind = column.type.compile(db.dialect)
            default = f" NOT NULL DEFAULT '{column.server_default.arg}'" if column.server_default is not None else ""
            db.exec_driver_sql(f"ALTER TABLE jobs ADD COLUMN {column.name} {kind}{default}")
