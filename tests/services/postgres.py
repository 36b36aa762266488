"""A PostgreSQL of our own: in a temporary folder, on a free port of loopback, as an ordinary user, gone afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.exc import OperationalError

START_S = 60.0


def missing() -> str | None:
    """Why there can be none here."""
    if _programs() is None:
        return "no PostgreSQL here; on Debian: apt-get install postgresql"
    if os.geteuid() == 0 and _user() is None:
        return "PostgreSQL does not run as root, and there is no user postgres to run it"
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "no driver: pip install 'psycopg[binary]'"
    return None


@contextmanager
def postgres() -> Iterator[str]:
    """Its address for SQLAlchemy. Not synced to disk: it is never killed here, the service is."""
    programs, folder = _programs(), Path(tempfile.mkdtemp(prefix="ovi-pg-"))
    assert programs is not None
    who: dict[str, Any] = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    if os.geteuid() == 0 and (user := _user()) is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)
        who |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    data, port = folder / "data", free_port()
    try:
        words = [programs / "initdb", "-D", data, "--auth=trust", "--username=ovi", "--no-sync", "--encoding=UTF8"]
        subprocess.run(words, check=True, **who)
        options = ["-p", str(port), "-h", "127.0.0.1", "-k", str(folder), "-F", "-c", "max_connections=200"]
        server = subprocess.Popen([programs / "postgres", "-D", data, *options], **who)
        try:
            url = f"postgresql+psycopg://ovi@127.0.0.1:{port}/postgres"
            _wait(url, server)
            yield url
        finally:
            server.send_signal(signal.SIGINT)  # its fast shutdown
            server.wait(timeout=START_S)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def empty(url: str) -> None:
    """Every table gone."""
    engine = sql.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as db:
        db.exec_driver_sql("DROP SCHEMA public CASCADE")
        db.exec_driver_sql("CREATE SCHEMA public")
    engine.dispose()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _programs() -> Path | None:
    """Debian keeps each version's in a folder of its own, the newest last."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((folder for folder in reversed(folders) if (folder / "postgres").exists()), None)


def _user() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return None


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    engine, deadline = sql.create_engine(url), time.monotonic() + START_S
    while True:
        try:
            engine.connect().close()
            break
        except OperationalError:
            assert server.poll() is None, "PostgreSQL ended"
            assert time.monotonic() < deadline, "PostgreSQL does not answer"
            time.sleep(0.05)
    engine.dispose()
