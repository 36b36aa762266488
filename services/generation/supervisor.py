"""Keeps the sampler processes alive: starts them, listens for their beat, starts them again, drains them.

A worker that ends or falls silent gives its job back at once and is replaced; later and later if it never gets ready.
Workers hang on a pipe from this process, so none survives it, however it dies. It knows neither HTTP nor the model.
Try it: `pytest tests/services/test_supervisor.py`.
"""

from __future__ import annotations

import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from services.generation.jobs import JobStore
from services.generation.log import defect, log

DEVICES = Path("/dev")
SOURCE = Path(__file__).resolve().parents[2]  # the folder that holds services/ and ovi/
SILENCE_S = 60.0  # of a worker that is ready
START_S = 300.0  # before it is: importing and loading may be quiet for long on a busy machine with a slow disk
BACKOFF_S = (0.1, 0.5, 2.0, 5.0, 15.0, 30.0)
DRAIN_S = 30.0  # how long a running job may go on once the service shall end
RECALL_S = 5.0  # how long giving it back may take


class Supervisor:
    """`workers` sampler processes for the bundle and the state folder, spread over the GPUs there are; 0: one a GPU.

    `replica` begins their names in the table.
    """

    def __init__(self, bundle: Path, state: Path, jobs: JobStore, workers: int, replica: str = "") -> None:
        self.listener: Callable[[], None] = lambda: None  # called, in any thread, when a worker has ended a job
        devices = gpus()
        count = workers or max(1, len(devices))
        words = ["--state", str(state), "--threads", str(_threads(count))]
        self._slots = [
            _Slot(
                f"worker-{index}", replica, bundle, words, jobs, devices[index % len(devices)] if devices else None,
                ended=lambda: self.listener(),
            )
            for index in range(count)
        ]  # fmt: skip

    def start(self) -> None:
        for slot in self._slots:
            slot.start()

    def wake(self) -> None:
        """There is a new job: whoever is idle looks now."""
        for slot in self._slots:
            slot.wake()

    def states(self) -> list[dict[str, Any]]:
        return [
            {"name": slot.name, "state": slot.state, "restarts": slot.restarts, "memory": slot.memory}
            for slot in self._slots
        ]

    def swap(self, bundle: Path) -> None:
        """From now on workers serve this bundle; each changes over when it has finished the job in hand."""
        for slot in self._slots:
            slot.swap(bundle)

    def ready(self) -> bool:
        """At least one worker has its model loaded and warm."""
        return any(slot.state == "ready" for slot in self._slots)

    def stop(self, drain_s: float = DRAIN_S) -> None:
        """Workers finish the job in hand if they can within `drain_s`, else give it back. None is left afterwards."""
        for slot in self._slots:
            slot.drain()
        deadline = time.monotonic() + drain_s
        for slot in self._slots:
            slot.join(max(0.0, deadline - time.monotonic()))
        for slot in self._slots:
            slot.recall()
        deadline = time.monotonic() + RECALL_S
        for slot in self._slots:
            slot.join(max(0.0, deadline - time.monotonic()))
            slot.kill()
            slot.join()


def gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may name: as it says itself, else every NVIDIA device of the machine."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    return sorted((path.name.removeprefix("nvidia") for path in DEVICES.glob("nvidia[0-9]*")), key=int)


def _threads(workers: int) -> int:
    """Each worker's share of the processors this process may use, unless OMP_NUM_THREADS says otherwise."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit():
        return max(1, int(wanted))
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, processors // workers)


class _Slot(threading.Thread):
    """One place for a worker: a thread that starts a process, listens to it, and starts the next when it ends."""

    def __init__(
        self, name: str, replica: str, bundle: Path, words: list[str], jobs: JobStore, gpu: str | None,
        ended: Callable[[], None],
    ) -> None:  # fmt: skip
        super().__init__(name=name, daemon=True)
        self.state, self.restarts = "starting", 0
        self.memory: dict[str, int] = {}  # bytes, as the worker last said
        self._replica, self._bundle, self._words, self._jobs = replica, bundle, words, jobs
        self._ended = ended  # what to do when it says that a job has ended
        self._sees = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
        self._swapped = False
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()

    def run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            owner = f"{self._replica}/{self.name}-{secrets.token_hex(8)}"
            try:
                self._live(owner)
                self._jobs.lost(owner)
            except Exception as error:  # no process to be had, no database: as transient as a worker's own death
                defect("no_worker", error, worker=self.name)
            if self._stopping.is_set():
                break
            if self._swapped:
                failures, self._swapped = 0, False
                continue
            failures = 0 if self.state == "ready" else failures  # a job cannot kill it more than MAX_ATTEMPTS times
            self.state = "waiting"
            self._stopping.wait(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
            failures += 1
            self.restarts += 1
        self.state = "stopped"

    def wake(self) -> None:
        process = self._process
        if process is not None and process.stdin is not None:
            with suppress(OSError, ValueError):
                process.stdin.write(b"\n")

    def drain(self) -> None:
        self._stopping.set()
        self._signal(signal.SIGTERM if self.state == "ready" else signal.SIGKILL)  # one that loads has no job yet

    def swap(self, bundle: Path) -> None:
        self._bundle, self._swapped = bundle, True
        self._signal(signal.SIGTERM if self.state == "ready" else signal.SIGKILL)

    def recall(self) -> None:
        process = self._process
        if process is not None and process.stdin is not None:
            with suppress(OSError):
                process.stdin.close()

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _live(self, owner: str) -> None:
        """One process from start to end."""
        command = [sys.executable, "-m", "services.generation.worker", "--bundle", str(self._bundle), *self._words]
        command += ["--name", owner]
        path = os.pathsep.join(part for part in (str(SOURCE), os.environ.get("PYTHONPATH")) if part)
        self.state = "starting"
        environment = os.environ | {"PYTHONPATH": path} | self._sees
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=environment)
        self._process = process
        if self._stopping.is_set():  # drain came before there was a process to tell
            process.kill()
        try:
            self._listen(process)
        finally:
            process.kill()
            process.wait()
            self._process = None
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        """Until it closes its stdout, which it does by ending, or falls silent."""
        assert process.stdout is not None
        rest = b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while selector.select(patience := SILENCE_S if self.state == "ready" else START_S):
                data = os.read(process.stdout.fileno(), 65536)
                if not data:
                    return
                *lines, rest = (rest + data).split(b"\n")
                for said in map(json.loads, lines):
                    self.memory = said["memory"]
                    if said["event"] == "ready":
                        self.state = "ready"
                    if said["event"] == "ended":
                        self._ended()
        log("worker_silent", worker=self.name, seconds=patience)

    def _signal(self, number: signal.Signals) -> None:
        process = self._process
        if process is not None:
            with suppress(ProcessLookupError):
                process.send_signal(number)
