"""What a training tells its MLflow run, which may be away for hours: training goes on, and what it said is sent later.

A thread sends, so that no step waits for a server, a database or a bucket. What is unsent when a training is stopped or
fails is not waited for: the curve is in its checkpoint too, and is sent again when it goes on.
Try it: `pytest tests/training/test_record.py`.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ovi.errors import one_line
from ovi.tracking import Run, TrackingError

AGAIN_S = 30.0  # between two tries at a store that is away; MLflow's client has tried for minutes before it says so
LEAVE_S = 10.0  # what a training that was stopped waits at most: its place may be wanted


class Record:
    """Takes figures and files for `run` at once and sends them. `note` hears when that fails or works again."""

    def __init__(self, run: Run, note: Callable[[str], None]) -> None:
        self._run, self._note = run, note
        self._said: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._files: list[tuple[str | Path, str]] = []  # not sent yet
        self._failure: Exception | None = None
        self._told = ""
        self._sender = threading.Thread(target=self._send, daemon=True)
        self._sender.start()

    def log_metrics(self, values: dict[str, float | None], step: int = 0) -> None:
        self._said.put(("figures", (values, step)))
        self._tell()

    def log_file(self, path: str | Path, folder: str = "") -> None:
        self._said.put(("file", (path, folder)))
        self._tell()

    def close(self) -> None:
        """All is sent and the run is FINISHED; raises TrackingError when that cannot be."""
        self._end("FINISHED", None)
        if isinstance(self._failure, TrackingError):
            said = f"{one_line(self._failure)}; what was trained is kept: mend that and run the same"
            raise TrackingError(said, self._failure.code)
        if self._failure:
            raise self._failure

    def leave(self, status: str) -> None:
        """The run ends as `status`, KILLED or FAILED, if MLflow takes that soon; an error is on its way already."""
        self._end(status, LEAVE_S)

    def _end(self, status: str, seconds: float | None) -> None:
        self._said.put(("end", status))
        self._sender.join(seconds)

    def _send(self) -> None:
        status, again = None, 0.0
        try:
            while status is None:
                status = self._hear(None if self._failure is None else AGAIN_S)
                if status is None and time.monotonic() < again:
                    continue
                self._failure = self._deliver(status)
                again = time.monotonic() + AGAIN_S if self._failure else 0.0
        except Exception as defect:  # raised by `close`, as it would be without a thread
            self._failure = defect

    def _hear(self, seconds: float | None) -> str | None:
        """Takes what was said meanwhile, waiting for it; the status to end with, once that was said."""
        try:
            while True:
                kind, words = self._said.get(timeout=seconds)
                if kind == "end":
                    return str(words)
                if kind == "file":
                    self._files.append(words)
                else:
                    self._run.log_metrics(*words)
                seconds = 0.0
        except queue.Empty:
            return None

    def _deliver(self, status: str | None) -> TrackingError | None:
        """Why not all was taken. A bucket that refuses files keeps back nothing else."""
        failure = None
        try:
            self._run.flush()
            try:
                while self._files:
                    self._run.log_file(*self._files[0])
                    self._files.pop(0)
            except TrackingError as error:
                failure = error
            if status:
                self._run.close("FAILED" if failure and status == "FINISHED" else status)
        except TrackingError as error:
            failure = error
        return failure

    def _tell(self) -> None:
        """In the caller's thread, which the terminal belongs to. The same is not told twice."""
        failure = one_line(self._failure) if self._failure else ""
        if failure and failure != self._told:
            self._note(f"{failure}; training goes on, and what it says is sent later")
        elif self._told and not failure:
            self._note("tracking.uri and tracking.artifacts take everything again")
        self._told = failure
