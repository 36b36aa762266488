"""One sampler process: takes jobs from the table, samples, writes the clip, says what it does.

Its supervisor holds its stdin: a line wakes it, the end of stdin means "stop now, give the job back", SIGTERM means
"finish this job and leave". On stdout it speaks JSON lines: beat, ready, ended. So a worker never outlives its
server, and a job it had to drop waits again. Equal requests give equal bytes: the same threads, one job at a time.
Try it: `python -m services.generation.worker --bundle BENTO/src --state /tmp/state --name me`; Ctrl-D stops it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from sqlalchemy.exc import OperationalError

from ovi.config import Runtime
from ovi.errors import OviError, one_line
from services.generation import policy as policies
from services.generation import signing
from services.generation.admission import Admission, is_out_of_memory
from services.generation.hold import Cancelled, Hold
from services.generation.jobs import MAX_ATTEMPTS, JobStore, LeaseLost
from services.generation.log import defect, log
from services.generation.making import Clock, Making, NotStored, request
from services.generation.places import Places
from services.generation.policy import Withheld
from services.generation.results import ResultStore
from services.generation.schemas import EARLIER, Served, VideoRequest, resolve
from services.generation.table import Job
from services.generation.tracing import Tracer

if TYPE_CHECKING:
    from ovi.diffusion.sampler import Sampler

BEAT_S = 1.0  # between two signs of life
RECALL_S = 10.0  # a recalled worker that has not stopped by then is stuck
IDLE_S = 1.0  # jobs submitted elsewhere are found by looking this often


class Recalled(Exception):
    """The server is gone or cannot wait: give the job back."""


class Control:
    """What the supervisor wants. A thread hears stdin; the main thread waits on a pipe that a signal can write to."""

    def __init__(self) -> None:
        self.draining = False  # take no further job
        self.recalled = False  # nor finish this one
        self._hear, self._tell = os.pipe()
        os.set_blocking(self._tell, False)
        signal.signal(signal.SIGTERM, lambda *_: self._drain())
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the server decides
        threading.Thread(target=self._listen, daemon=True).start()

    def wait(self, seconds: float) -> None:
        if select.select([self._hear], [], [], seconds)[0]:
            os.read(self._hear, 4096)

    def _drain(self) -> None:
        self.draining = True
        self._wake()

    def _wake(self) -> None:
        with suppress(BlockingIOError):
            os.write(self._tell, b"\n")

    def _listen(self) -> None:
        while os.read(0, 4096):
            self._wake()
        self.recalled = True
        self._drain()


class Worker:
    """Takes one job after the other until told to stop."""

    def __init__(
        self, name: str, places: Places, served: Served, sampler: Sampler, admission: Admission, control: Control,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._name, self._served, self._admission, self._control = name, served, admission, control
        self._say = say
        self._jobs = JobStore(places.database, served.retention_s)
        self._results = ResultStore(places.results, places.workshop)
        policy, signer = policies.load(places.policy), signing.load(places.certificate, places.certificate_key)
        self._making = Making(sampler, served, self._results, policy, signer)
        self._tracer = Tracer(served)

    def run(self) -> None:
        while not self._control.draining:
            try:
                job = self._jobs.claim(self._name)
            except OperationalError as error:  # the database is away; it comes back, or we are replaced
                log("store_away", worker=self._name, error=one_line(error))
                job = None
            if job is None:
                self._control.wait(IDLE_S)
                continue
            self._making.clock = Clock()
            try:
                self._one(dataclasses.replace(job, effective=EARLIER | job.effective))
            finally:
                self._say("ended")
                self._tell(job)
        self._tracer.flush()

    def _one(self, job: Job) -> None:
        """Every way a job can end. What is not listed here ends the process, and the job runs again in a fresh one."""
        try:
            if job.effective["pinned"] and job.effective["model"] != self._served.model:
                raise OviError("the model this job was queued for is no longer served; submit it again")
            self._admission.check()
            image = self._jobs.attachment(job.id, "image") if job.effective["image"] else None
            with Hold(self._jobs, job) as hold:
                made = self._making.run(job, image, _Watched(hold, self._control))
            self._jobs.complete(job, made.sha256, made.size, made.seconds, made.ran)
        except Cancelled:
            with suppress(LeaseLost):
                self._jobs.stop(job)
        except Recalled:
            self._jobs.release(job)
        except LeaseLost:
            self._forget(job)
        except Withheld as reason:
            self._fail(job, "withheld", str(reason), retryable=False)
        except NotStored as error:
            if job.attempt >= MAX_ATTEMPTS:
                self._fail(job, "not_stored", str(error), retryable=True)
            raise
        except OviError as error:
            self._fail(job, "refused", one_line(error), retryable=False)
        except OperationalError:
            raise  # the lease runs out, and the job runs again
        except Exception as error:
            if is_out_of_memory(error):
                if job.attempt >= MAX_ATTEMPTS:
                    message = "There was too little memory for this clip, twice; try again later."
                    self._fail(job, "insufficient_memory", message, retryable=True)
                raise  # what is left of this process is not worth trusting
            defect("defect", error, job=job.id)
            message = "The generation failed; the service's log has the details."
            self._fail(job, "internal_error", message, retryable=True)

    def _fail(self, job: Job, code: str, message: str, retryable: bool) -> None:
        with suppress(LeaseLost):
            self._jobs.fail(job, code, message, retryable)
            self._results.delete(job.id)  # whatever was made of it

    def _tell(self, job: Job) -> None:
        """The log and the trace say how it ended; telling never gets in the way of the next one."""
        times, ended = self._making.clock.times, time.time()
        try:
            now = self._jobs.get(job.id)
            status = "deleted" if now is None else now.status
            took = round(ended - (job.started_at or ended), 3)
            log("job", job=job.id, status=status, attempt=job.attempt, seconds=took, trace=job.trace, worker=self._name)
            self._tracer.tell(job, ended, status, times)
        except Exception as error:
            defect("not_told", error, job=job.id)

    def _forget(self, job: Job) -> None:
        """The lease is gone. If the job is too, it was deleted: so is its clip. Otherwise another worker has it."""
        if self._jobs.get(job.id) is None:
            self._results.delete(job.id)


class _Watched:
    """What a job tells between its steps, and whether it may go on."""

    def __init__(self, hold: Hold, control: Control) -> None:
        self._hold, self._control = hold, control

    def tell(self, step: int, preview: bytes | None = None) -> None:
        self._hold.tell(step, preview)
        if self._control.recalled:
            raise Recalled

    def settle(self, step: int) -> None:
        self._hold.settle(step)


def load_sampler(served: Served, model: Path, threads: int) -> Sampler:
    """The sampler with its model loaded and warm: one step and one decode have run, so no caller pays for set-up."""
    import torch

    from ovi.diffusion.sampler import Sampler

    torch.set_num_threads(threads)
    sampler = Sampler.open(model, Runtime())
    trial = resolve(VideoRequest(prompt="warm", seed=0, steps=1), served)
    *_, last = sampler.run(sampler.plan([request(trial)]))
    sampler.decode(last)
    return sampler


class _Voice:
    """JSON lines to the supervisor. Whatever a library prints goes to stderr instead."""

    def __init__(self) -> None:
        self._line = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)

        self.loaded = False

    def say(self, event: str) -> None:
        line = {"event": event, "memory": _memory(self.loaded)}
        with suppress(BrokenPipeError):
            self._line.write(json.dumps(line).encode() + b"\n")


def _memory(loaded: bool) -> dict[str, int]:
    """Bytes this process holds, of the machine's memory and, once its model is loaded, of its GPU's."""
    held = {"resident": psutil.Process().memory_info().rss}
    if loaded:
        import torch  # not before: another thread may be in the middle of importing it

        if torch.cuda.is_available():
            held["gpu"] = torch.cuda.memory_reserved()
    return held


def main() -> None:
    parser = argparse.ArgumentParser(description="One sampler process of the service.")
    parser.add_argument("--bundle", type=Path, required=True, help="folder with service.json and model/")
    parser.add_argument("--state", type=Path, required=True, help="the server's folder")
    parser.add_argument("--name", required=True, help="whose leases these are; never used twice")
    parser.add_argument("--threads", type=int, default=1)
    words = parser.parse_args()
    voice, control = _Voice(), Control()
    threading.Thread(target=_beat, args=(voice, control), daemon=True).start()
    try:
        served = Served.read(words.bundle)
        sampler = load_sampler(served, words.bundle / "model", words.threads)
        admission = Admission(sampler, words.bundle / "model")
        worker = Worker(words.name, Places.read(words.state), served, sampler, admission, control, voice.say)
    except OviError as error:
        sys.exit(f"{words.name}: {one_line(error)}")
    voice.loaded = True
    voice.say("ready")
    worker.run()
    os._exit(0)  # everything is on disk; taking torch down in order takes longer than a restart may


def _beat(voice: _Voice, control: Control) -> None:
    """Says every second that the process lives; ends a recalled one that is stuck in a step: its lease runs out."""
    while not control.recalled:
        voice.say("beat")
        time.sleep(BEAT_S)
    time.sleep(RECALL_S)
    os._exit(1)


if __name__ == "__main__":
    main()
