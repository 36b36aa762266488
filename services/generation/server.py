"""One server process: takes the state folder, starts the workers, builds the HTTP interface over both, drains.

It knows nothing of BentoML. Try it: `pytest tests/services/test_server.py`.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from ovi.errors import OviError
from services.generation.jobs import JobStore
from services.generation.processes import die_with_parent
from services.generation.results import ResultStore
from services.generation.schemas import Served
from services.generation.supervisor import SOURCE, Supervisor

LOCK_S = 15.0  # how long a server that is shutting down may still hold the state folder


class Server:
    """Serves the bundle this code lies in, with its state in `state`.

    Raises OviError when the folder cannot be written, another server has it, or the bundle is not one.
    """

    def __init__(self, state: Path, bundle: Path = SOURCE) -> None:
        die_with_parent()
        served = Served.read(bundle)
        self._lock = _lock(state)
        jobs, results = JobStore.in_folder(state), ResultStore(state / "results")
        jobs.reap(everything=True)  # their workers hung on the server that held the lock before us
        results.sweep(jobs.completed())
        self.workers = Supervisor(bundle, state, jobs, served.workers)
        self.workers.start()
        # Imported only now: the workers load their model meanwhile, and a cold start is a second shorter.
        from services.generation.api import Backend, create_app
        from services.generation.metrics import Meter
        from services.generation.problems import BodyLimit

        self.backend = Backend(jobs, results, served, self.workers, Meter(jobs))
        self.app = BodyLimit(create_app(self.backend))

    def close(self) -> None:
        """Lets running jobs finish for a while, gives the rest back, ends every worker, lets go of the folder."""
        self.workers.stop()
        self.backend.jobs.close()
        os.close(self._lock)


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
