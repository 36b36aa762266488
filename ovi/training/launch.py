"""A stage as the command runs it: in this process, or in `training.ranks` processes that this one starts and ends.

With ranks of its own this process never trains. It shows their progress, writes their figures to MLflow, passes signals
on, and outlives them all: when it returns or dies, none is left. They meet at a file, so no port is needed.
A process that `ovi launch` or torchrun started is a rank itself, and there are as many as they say.
Try it: `ovi train video-backbone --set training.video_backbone.steps=20`.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ovi.config import Settings
from ovi.errors import EXIT_CONFIG, EXIT_PREEMPTED, ConfigError, OviError, Preempted, one_line
from ovi.progress import Progress
from ovi.tracking import Run
from ovi.training.job import Job
from ovi.training.place import Place
from ovi.training.rank import Mute, lost_peer
from ovi.training.record import Record
from ovi.training.stopping import Stopping

Lines = queue.Queue[tuple["Rank", dict[str, Any] | None]]
GRACE_S = 5.0  # how long the other ranks may take to say why they failed, once one has


def train(
    stage: str, settings: Settings, latents: str | Path, models: Path, checkpoints: Path, progress: Progress
) -> dict[str, Any]:
    """Train one stage into models/<stage>; the stage's metrics.

    Raises OviError for missing inputs and for a failed rank, Preempted after a signal once the state is saved.
    """
    place = Place.of(os.environ)
    if place:
        settings = _with_ranks(settings, place.ranks)
    job = Job.make(stage, settings, latents, models, checkpoints)
    several = settings.training.engine == "deepspeed" and settings.training.ranks > 1
    with tempfile.TemporaryDirectory(prefix="ovi-") as folder, Stopping() as stopping:
        meeting = Path(folder) / "meeting"
        if place and place.rank:
            return _as_other_rank(job, place, stopping)["metrics"]
        if several and not place:
            result = _in_ranks(job, meeting, progress, stopping)
        else:
            result = _here(job, place or Place(meeting=meeting), progress, stopping)
    progress.result(model=str(job.out), **result["summary"])
    return result["metrics"]


def _with_ranks(settings: Settings, ranks: int) -> Settings:
    if ranks > 1 and settings.training.engine != "deepspeed":
        raise ConfigError(f"training.engine: {settings.training.engine} is one process, not {ranks}; use deepspeed")
    return settings.model_copy(update={"training": settings.training.model_copy(update={"ranks": ranks})})


def _here(job: Job, place: Place, progress: Progress, stopping: Stopping) -> dict[str, Any]:
    from ovi.training import loop

    with _record(job, progress) as record:
        return loop.train(job, place, progress, record, stopping)


def _as_other_rank(job: Job, place: Place, stopping: Stopping) -> dict[str, Any]:
    """Of several machines or GPUs, one that only computes; the first rank shows the progress and keeps the figures."""
    from ovi.training import loop

    try:
        return loop.train(job, place, Mute(), Mute(), stopping)
    except Exception as error:
        if isinstance(error, OviError) or not lost_peer(error):
            raise
        raise OviError(f"rank {place.rank}: another rank is gone and says why ({one_line(error)})") from error


def _in_ranks(job: Job, meeting: Path, progress: Progress, stopping: Stopping) -> dict[str, Any]:
    job.folder.mkdir(parents=True, exist_ok=True)
    lines: Lines = queue.Queue()
    ranks: list[Rank] = []
    try:
        for number in range(job.settings.training.ranks):
            ranks.append(Rank(job, number, meeting, lines))
            stopping.pass_on_to([rank.process.pid for rank in ranks])
        with _record(job, progress) as record:  # MLflow takes seconds to import; meanwhile the ranks import torch
            return _listen(ranks, lines, {"progress": progress, "run": record}, stopping)
    finally:
        for rank in ranks:
            rank.end()


def _listen(ranks: list[Rank], lines: Lines, targets: dict[str, Any], stopping: Stopping) -> dict[str, Any]:
    """Do what the ranks say until all have ended; the result of the first of them, or the reason there is none."""
    last: dict[int, dict[str, Any]] = {rank.number: {} for rank in ranks}
    failures: list[tuple[int, OviError]] = []
    running, patience = len(ranks), None
    while running:
        try:
            rank, line = lines.get(timeout=patience)
        except queue.Empty:
            break
        if line is None:
            running -= 1
            failure = rank.failure(last[rank.number])
            if failure:
                failures.append(failure)
                if not isinstance(failure[1], Preempted):  # the first rank may still be copying what it saved
                    patience = GRACE_S
        elif "call" in line:
            getattr(targets[line["to"]], line["call"])(*line["args"], **line["named"])
        else:
            last[rank.number] = line
    if not failures:
        return last[0]["done"]
    cause = min(failures, key=lambda failure: failure[0])[1]
    if stopping() and not any("done" in line or "error" in line for line in last.values()):
        raise Preempted("stopped before the first step; run the same command again")
    raise cause


@contextlib.contextmanager
def _record(job: Job, progress: Progress) -> Iterator[Record]:
    """Of the stage's MLflow run; a restarted training goes on in the same one."""
    run = Run.open(job.settings.tracking, job.stage, key=job.name, tags={"ovi.stage": job.stage})
    record = Record(run, progress.note)
    try:
        settings = job.settings.model_dump(mode="json")
        run.log_params(
            {"seed": job.settings.seed, "model": settings["model"], "training": settings["training"][job.stage]}
        )
        run.log_dataset("latents", job.latents, job.key["data"])
        yield record
    except BaseException as error:
        record.leave("KILLED" if isinstance(error, Preempted) else "FAILED")
        raise
    record.close()


class Rank:
    """One rank's process. Its lines go into a queue shared by all; the end of them as None."""

    def __init__(self, job: Job, number: int, meeting: Path, lines: Lines) -> None:
        self.number = number
        self.log = job.folder / f"rank-{number}.log"
        training = job.settings.training
        own = {"OMP_NUM_THREADS": str(training.threads)}
        if sys.platform == "linux":
            own["GLOO_SOCKET_IFNAME"] = "lo"  # all ranks are on this machine, whatever its name resolves to
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ovi.training.rank"],
                env={**os.environ, **own}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        task = {"job": job.to_json(), "rank": number, "ranks": training.ranks, "meeting": str(meeting)}
        threading.Thread(target=self._read, args=(lines,), daemon=True).start()
        with contextlib.suppress(BrokenPipeError):  # it died at once: its end of lines will tell
            self._stdin.write(json.dumps(task) + "\n")
            self._stdin.flush()

    @property
    def _stdin(self) -> IO[str]:
        assert self.process.stdin is not None
        return self.process.stdin

    def end(self) -> None:
        """No process is left after this."""
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()

    def failure(self, last: dict[str, Any]) -> tuple[int, OviError] | None:
        """Why the ended rank did not do its work, with how near that is to the cause (0: nearest); None if it did."""
        code = self.process.wait()
        if "done" in last or code == 0:
            return None
        if "error" in last:
            kind = {EXIT_CONFIG: ConfigError, EXIT_PREEMPTED: Preempted}.get(last["code"], OviError)
            return (3 if kind is Preempted else 0), kind(last["error"])
        if "crash" in last:
            return (2 if last["lost_peer"] else 1), OviError(
                f"rank {self.number} failed: {last['crash']}; see {self.log}"
            )
        if code < 0:
            name = signal.Signals(-code).name
            return 1, OviError(f"rank {self.number} was killed by {name}; if nobody did that, memory ran out")
        return 1, OviError(f"rank {self.number} ended with code {code}; see {self.log}")

    def _read(self, lines: Lines) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            lines.put((self, json.loads(line)))
        lines.put((self, None))
