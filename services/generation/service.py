"""The Bento: the HTTP interface mounted in a BentoML service, over a job store and a supervisor of sampler processes.

It serves the model that lies beside it in the bundle (`ovi package` lays it out) and keeps its state, the jobs and the
clips, in the folder OVI_SERVICE_STATE names; one service a folder. /livez and /readyz are BentoML's: ready means that a
worker has its model loaded and warm. There is no authentication yet: bind it to loopback or put a gateway before it.
Try it: `ovi serve`, or `bentoml serve` with the folder of a built Bento.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import bentoml

from ovi.errors import OviError
from services.generation.api import Backend, create_app
from services.generation.jobs import JobStore
from services.generation.metrics import Meter
from services.generation.problems import BodyLimit
from services.generation.processes import die_with_parent
from services.generation.results import ResultStore
from services.generation.schemas import Served
from services.generation.supervisor import SOURCE, Supervisor

STATE = "OVI_SERVICE_STATE"
LOCK_S = 15.0  # how long a service that is shutting down may still hold the state folder

_running: Generation | None = None


def _backend() -> Backend:
    assert _running is not None, "BentoML starts the service before it takes requests"
    return _running.backend


# BentoML's own metrics label every job's address apart; ours count by route and status, from the job table.
@bentoml.service(name="ovi", workers=1, metrics={"enabled": False})
@bentoml.asgi_app(BodyLimit(create_app(_backend)), path="/")
class Generation:
    """One per server process."""

    def __init__(self) -> None:
        global _running
        die_with_parent()
        state = Path(os.environ.get(STATE) or _default_state()).absolute()
        served = Served.read(SOURCE)
        self._lock = _lock(state)
        jobs, results = JobStore.in_folder(state), ResultStore(state / "results")
        jobs.reap(everything=True)  # their workers hung on the server that held the lock before us
        results.sweep(jobs.completed())
        self._workers = Supervisor(SOURCE, state, jobs, served.workers)
        self.backend = Backend(jobs, results, served, self._workers, Meter(jobs))
        self._workers.start()
        _running = self

    def __is_ready__(self) -> bool:
        return self._workers.ready()

    @bentoml.on_shutdown
    def drain(self) -> None:
        self._workers.stop()
        os.close(self._lock)


def _default_state() -> Path:
    """Beside what BentoML itself keeps: the working directory is inside the Bento by the time this is asked."""
    from bentoml._internal.configuration.containers import BentoMLContainer

    return Path(BentoMLContainer.bentoml_home.get()) / "ovi-service"


def _lock(state: Path) -> int:
    """Holds the state folder for this process; the system lets go of it however the process ends."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        handle = os.open(state / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise OviError(f"{state}: cannot be written ({error.strerror}); name another folder in {STATE}") from None
    deadline = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except BlockingIOError:
            if time.monotonic() > deadline:
                words = f"{state}: another service uses this folder; stop it or name another in {STATE}"
                raise OviError(words) from None
            time.sleep(0.1)
