"""A worker's hold on the job in hand: a thread keeps its lease, tells the table its steps, hears a wish to cancel.

The sampler leaves word here and goes on; it never waits for the database. It does not know what the job makes.
Try it: `pytest tests/services/test_hold.py`.
"""

from __future__ import annotations

import threading
from types import TracebackType

from sqlalchemy.exc import OperationalError

from services.generation.jobs import JobStore
from services.generation.table import Job

BEAT_S = 1.0  # between two renewals of a lease
TELL_S = 0.1  # between two words about a job, at least: steps of small models are shorter


class Cancelled(Exception):
    """The caller no longer wants this clip."""


class Hold:
    """For as long as the job runs: `with Hold(jobs, job) as hold`."""

    def __init__(self, jobs: JobStore, lease: Job) -> None:
        self._jobs, self._lease = jobs, lease
        self._changed = threading.Condition()
        self._step: int | None = None
        self._preview: bytes | None = None  # not in the table yet
        self._said = self._told = 0  # words left here, words that are in the table
        self._hurry = threading.Event()  # somebody waits: no pause now. A step must not wake who pauses, it costs time
        self._over = False
        self._away: OperationalError | None = None  # the last try to reach the database
        self._stop: Exception | None = None  # why the job should not go on
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> Hold:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()
        self._hurry.set()
        self._thread.join()

    def tell(self, step: int, preview: bytes | None = None) -> None:
        """The step reached and a picture of it. Raises Cancelled or LeaseLost if that is known by now."""
        with self._changed:
            self._leave(step, preview)
            if self._stop is not None:
                raise self._stop

    def settle(self, step: int) -> None:
        """The same, and returns when the table has it: the job is still ours. OperationalError: it cannot be asked."""
        with self._changed:
            self._leave(step, None)
            wanted, self._away = self._said, None
            self._hurry.set()
            self._changed.wait_for(lambda: self._told >= wanted or self._away or self._stop)
            self._hurry.clear()
            if (error := self._stop or self._away) is not None:
                raise error

    def _leave(self, step: int, preview: bytes | None) -> None:
        self._step, self._preview = step, preview or self._preview
        self._said += 1
        self._changed.notify_all()

    def _keep(self) -> None:
        while not self._over and self._stop is None:
            with self._changed:
                self._changed.wait_for(lambda: self._over or self._said > self._told, BEAT_S)
                if self._over:
                    return
                said, preview = self._said, self._preview
                step = self._step if said > self._told else None
            error = self._renew(step, preview)
            with self._changed:
                if isinstance(error, OperationalError):  # it comes back, or the lease runs out
                    self._away = error
                else:
                    self._told, self._stop = said, error
                    self._preview = None if self._preview is preview else self._preview
                self._changed.notify_all()
            self._hurry.wait(TELL_S)

    def _renew(self, step: int | None, preview: bytes | None) -> Exception | None:
        try:
            return Cancelled() if self._jobs.renew(self._lease, step, preview) else None
        except Exception as error:
            return error
