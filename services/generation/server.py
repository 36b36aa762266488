"""One server process: takes the state folder, starts the workers, builds the HTTP interface over both, drains.

It knows nothing of BentoML. Try it: `pytest tests/services/test_server.py`.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ovi.errors import OviError, one_line
from services.generation.jobs import JobStore
from services.generation.places import Places
from services.generation.processes import die_with_parent
from services.generation.results import ResultStore
from services.generation.schemas import Served
from services.generation.supervisor import SOURCE, Supervisor

LOCK_S = 15.0  # how long a server that is shutting down may still hold the state folder
TIDY_S = 5.0  # between two looks for what is to be forgotten and what is to be served


class Server:
    """Serves the bundle this code lies in, with what it keeps in `places`.

    Raises OviError when the folder cannot be written, another server has it, or the bundle is not one.
    """

    def __init__(self, places: Places, bundle: Path = SOURCE) -> None:
        die_with_parent()
        self._link = places.bundle or bundle
        bundle = self._link.resolve()
        served = Served.read(bundle)
        self._lock = _lock(places.state)
        jobs, results = JobStore(places.database, served.retention_s), ResultStore(places.results)
        replica = places.replica()
        jobs.lost(f"{replica}/")  # workers hang on their server: those of our former life are dead
        if not places.shared:
            results.sweep(jobs.completed())
        self.workers = Supervisor(bundle, places.state, jobs, served.workers, replica)
        self.workers.start()
        # Imported only now: the workers load their model meanwhile, and a cold start is a second shorter.
        from services.generation.api import create_app
        from services.generation.backend import Backend
        from services.generation.guard import Guard
        from services.generation.keys import Keys
        from services.generation.metrics import Meter
        from services.generation.problems import BodyLimit
        from services.generation.tokens import Tokens
        from services.generation.watch import Watch

        keys = None if places.keys is None else Keys.read(places.keys)
        self.backend = Backend(
            jobs, results, served, self.workers, Meter(jobs), Watch(jobs), Tokens(bundle, served), keys
        )
        self.app = Guard(BodyLimit(create_app(self.backend, self.hear_the_end)), keys)
        self._ended = threading.Event()
        threading.Thread(target=self._tidy, daemon=True).start()

    def ready(self) -> bool:
        return self.workers.ready() and not self.backend.draining

    def hear_the_end(self) -> None:
        """From now on SIGTERM makes the service refuse new jobs and lets open streams go, before its server acts on it.

        Called in the event loop's thread, once whoever runs the loop has set up its own handling.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        loop, before = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)

        def drain(number: int, frame: Any) -> None:
            self.backend.draining = True
            loop.call_soon_threadsafe(self.backend.watch.close)
            if callable(before):
                before(number, frame)

        signal.signal(signal.SIGTERM, drain)

    def close(self) -> None:
        """Lets running jobs finish for a while, gives the rest back, ends every worker, lets go of the folder."""
        self.backend.draining = True
        self._ended.set()
        self.workers.stop()
        self.backend.jobs.close()
        os.close(self._lock)

    def _tidy(self) -> None:
        """Forgets jobs whose time is over, takes back those whose worker is gone, also another server's, and serves
        another model when there is one."""
        jobs, results = self.backend.jobs, self.backend.results
        while not self._ended.wait(TIDY_S):
            try:
                for identity in jobs.expire():
                    results.delete(identity)
                jobs.reap()
                self._follow()
            except Exception as error:  # tried again soon; nothing waits for it
                print(f"tidying: {one_line(error)}", file=sys.stderr, flush=True)

    def _follow(self) -> None:
        """When the bundle's link leads to another model, workers change over to it after the job in hand."""
        from services.generation.tokens import Tokens

        bundle = self._link.resolve()
        served = Served.read(bundle)
        if served.model == self.backend.served.model:
            return
        print(f"serving {served.model} instead of {self.backend.served.model}", file=sys.stderr, flush=True)
        self.backend.served, self.backend.tokens = served, Tokens(bundle, served)
        self.workers.swap(bundle)


def _lock(state: Path) -> int:
    """Holds the state folder for this process; the system lets go of it however the process ends."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        handle = os.open(state / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise OviError(f"{state}: the service cannot write there ({error.strerror}); name another folder") from None
    deadline = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise OviError(f"{state}: another service uses this folder; stop it or name another") from None
            time.sleep(0.1)
