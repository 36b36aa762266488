"""One server process: takes the state folder, starts the workers, builds the HTTP interface over both, drains.

It knows nothing of BentoML. Try it: `pytest tests/services/test_server.py`.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovi.config import Tracking
from ovi.errors import OviError, one_line
from services.generation import policy as policies
from services.generation import signing
from services.generation.bundle import fetch
from services.generation.jobs import JobStore
from services.generation.log import log
from services.generation.places import MODEL, TRACKING, Places
from services.generation.processes import die_with_parent
from services.generation.results import ResultStore
from services.generation.schemas import Served
from services.generation.supervisor import SOURCE, Supervisor

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from services.generation.registry import Registry

LOCK_S = 15.0  # how long a server that is shutting down may still hold the state folder
TIDY_S = 5.0  # between two looks for what is to be forgotten and what is to be served


class Server:
    """Serves the bundle this code lies in, with what it keeps in `places`.

    Raises OviError when the folder cannot be written, another server has it, or the bundle is not one.
    """

    def __init__(self, places: Places, bundle: Path = SOURCE) -> None:
        die_with_parent()
        policy = policies.load(places.policy)
        signing.load(places.certificate, places.certificate_key)  # by the workers; what cannot sign is known at once
        self._lock = _lock(places.state)
        self._own = _complete(bundle, places.models)
        self._registry = None if places.model is None else _registry(places, Served.read(self._own))
        self._link = self._registry.link if self._registry is not None else places.bundle
        bundle = self._bundle()
        served = Served.read(bundle)
        jobs = JobStore(places.database, served.retention_s)
        results = ResultStore(places.results, places.workshop)
        replica = places.replica()
        jobs.lost(f"{replica}/")  # workers hang on their server: those of our former life are dead
        results.tidy_workshop()
        if not places.shared:
            results.sweep(jobs.completed())
        self.workers = Supervisor(bundle, places.state, jobs, served.workers, replica)
        self.workers.start()
        # Imported only now: the workers load their model meanwhile, and a cold start is a second shorter.
        from services.generation.api import create_app
        from services.generation.backend import Backend
        from services.generation.keys import Keys
        from services.generation.metrics import Meter
        from services.generation.tokens import Tokens
        from services.generation.watch import Watch

        keys = None if places.keys is None else Keys.read(places.keys)
        self.backend = Backend(
            jobs, results, served, self.workers, Meter(jobs), Watch(jobs), Tokens(bundle, served), keys, policy
        )
        self.workers.listener = self.backend.watch.look
        self.api = create_app(self.backend, self.hear_the_end)
        self._ended = threading.Event()
        threading.Thread(target=self._tidy, daemon=True).start()
        if self._registry is not None:
            threading.Thread(target=self._registry.follow, args=(self._ended,), daemon=True).start()

    def guarded(self, app: ASGIApp) -> ASGIApp:
        """An app that only those who may call get to, and no body beyond the limit."""
        from services.generation.guard import Guard
        from services.generation.problems import BodyLimit

        return Guard(BodyLimit(app), self.backend.keys)

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
                log("not_tidied", error=one_line(error))

    def _bundle(self) -> Path:
        """What is to be served now; until a registry has answered for the first time, what came with this code."""
        if self._link is None or (self._registry is not None and not self._link.exists()):
            return self._own
        return self._link.resolve()

    def _follow(self) -> None:
        """When the bundle's link leads to another model, workers change over to it after the job in hand."""
        from services.generation.tokens import Tokens

        bundle = self._bundle()
        served = Served.read(bundle)
        if served.model == self.backend.served.model:
            return
        log("model_changed", model=served.model, before=self.backend.served.model)
        self.backend.served, self.backend.tokens = served, Tokens(bundle, served)
        self.workers.swap(bundle)


def _complete(bundle: Path, models: Path) -> Path:
    """The bundle itself, or one with the weights that it names by address and digest."""
    served = Served.read(bundle)
    if served.weights is None:
        return bundle
    return fetch(served.weights, served.digest, served, models, served.origin)


def _registry(places: Places, like: Served) -> Registry:
    """Having looked once, so that the first model to be loaded is the right one."""
    from services.generation.registry import Registry

    if places.tracking is None:
        raise OviError(f"{MODEL}: {places.model}: set {TRACKING}, too, so that it is known which registry is meant")
    registry = Registry(str(places.model), Tracking(uri=places.tracking), like, places.models)
    registry.look()
    return registry


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
