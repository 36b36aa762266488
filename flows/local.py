"""The executor of this machine: a stage as a process tree, its words as they come, its memory, its deadline.

The stage writes straight into its log file and we read along: a flow that dies leaves a whole log and no broken pipe.
flows/guard.py stands between us and the stage and ends the tree whatever happens to us; see there.
Knows nothing of Prefect, DVC or MLflow.
Try it: `pytest tests/flows/test_local.py`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from flows import environment
from flows.jobs import JobSpec, Listener, Outcome, Status, judge
from flows.words import Words
from ovi.errors import OviError

GUARD = Path(__file__).with_name("guard.py")
POLL_S = 0.1
SAMPLE_S, FIRST_SAMPLE_S = 2.0, 0.2  # between two looks at the tree's memory (one holds it up); before the first
AFTER_GRACE_S = 10.0  # what the guard gets beyond the grace before we end the tree ourselves
LONGEST_LINE = 1 << 16
KEPT = (Status.SUCCEEDED, Status.PREEMPTED)  # outcomes whose work is not lost


class LocalExecutor:
    """Runs jobs one at a time in `root`, each logging to `root`/out/logs/<stage>.log."""

    def __init__(
        self, root: str | Path, keep_open: tuple[int, ...] = (), stop: Callable[[], bool] = lambda: False
    ) -> None:
        """`keep_open`: file descriptors that live as long as any process of ours, such as the workspace's lock.
        `stop` is asked while a job runs; True stops it, for a caller in a thread that no signal reaches.
        """
        self._root = Path(root)
        self._keep_open = keep_open
        self._stop = stop

    def run(self, spec: JobSpec, listen: Listener) -> Outcome:
        """The outcome of the job. Whatever is raised meanwhile (Ctrl-C, SIGTERM's exception) stops its tree first."""
        began = time.monotonic()
        log = log_path(self._root, spec.stage)
        log.parent.mkdir(parents=True, exist_ok=True)
        words = Words(listen)
        with log.open("wb") as sink, log.open("rb") as source:
            tree = Tree(start(spec.command, spec.grace_s, self._root, dict(spec.env), sink, self._keep_open))
            reader = Reader(source, words)
            try:
                timed_out = self._follow(tree, reader, began + spec.deadline_s)
            finally:
                tree.stop(spec.grace_s, reader.read)
                reader.read(last=True)  # what it said as it ended is heard too, however it was ended
        status, advice = judge(tree.exit_code, timed_out)
        seconds = time.monotonic() - began
        return Outcome(
            status, tree.exit_code, seconds, tree.peak_bytes, words.last_line, advice, words.result,
            gpu_seconds=seconds * spec.gpus, gpu_seconds_lost=seconds * spec.gpus * (status not in KEPT),
        )  # fmt: skip

    def _follow(self, tree: Tree, reader: Reader, deadline: float) -> bool:
        """Until the job ends (False) or its deadline passes (True)."""
        while tree.alive:
            reader.read()
            tree.sample()
            if time.monotonic() > deadline:
                return True
            if self._stop():
                raise OviError("stopped")
            time.sleep(POLL_S)
        return False


def log_path(root: str | Path, stage: str) -> Path:
    return Path(root) / "out" / "logs" / f"{stage}.log"


def start(
    command: tuple[str, ...],
    grace_s: float,
    root: Path,
    env: dict[str, str],
    sink: Any,
    keep_open: tuple[int, ...] = (),
) -> subprocess.Popen[bytes]:
    """`command` behind a guard, in a session of its own, so that a terminal's Ctrl-C reaches us alone."""
    guard = [sys.executable, "-I", str(GUARD), str(os.getpid()), str(grace_s), *command]
    return subprocess.Popen(
        guard,
        cwd=root,
        env=environment.for_stage(env),
        stdin=subprocess.DEVNULL,
        stdout=sink,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=keep_open,
    )


class Tree:
    """A guard and everything below it."""

    def __init__(self, guard: subprocess.Popen[bytes]) -> None:
        self._guard = guard
        self._seen: set[psutil.Process] = set()
        self._sampled = time.monotonic() - SAMPLE_S + FIRST_SAMPLE_S
        self.peak_bytes = 0

    @property
    def pid(self) -> int:
        return self._guard.pid

    @property
    def alive(self) -> bool:
        return self._guard.poll() is None

    @property
    def exit_code(self) -> int:
        code = self._guard.returncode
        return code if code >= 0 else 128 - code

    def sample(self) -> None:
        """Remember who is there, and the most memory they held together (PSS: pages they share count once)."""
        if time.monotonic() - self._sampled < SAMPLE_S:
            return
        self._sampled = time.monotonic()
        try:
            members = psutil.Process(self._guard.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return
        self._seen.update(members)
        self.peak_bytes = max(self.peak_bytes, sum(_memory(member) for member in members))

    def stop(self, grace_s: float, meanwhile: Any = lambda: None) -> None:
        """Nothing of the tree is alive afterwards. An interrupt while waiting means: at once."""
        if self.alive:
            self._guard.send_signal(signal.SIGTERM)
        until = time.monotonic() + grace_s + AFTER_GRACE_S
        impatient: BaseException | None = None
        while self.alive and time.monotonic() < until:
            try:
                meanwhile()
                time.sleep(POLL_S)
            except BaseException as interrupt:
                impatient = interrupt
                self._guard.send_signal(signal.SIGTERM)  # the guard's second one: kill now
        if self.alive:
            self._guard.kill()
            self._guard.wait()
        left = [process for process in self._seen if process.is_running()]  # none, unless the guard itself was killed
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, AFTER_GRACE_S)
        if impatient is not None:
            raise impatient


class Reader:
    """Follows a growing log and hears its lines."""

    def __init__(self, source: Any, words: Words) -> None:
        self._source, self._words = source, words
        self._rest = b""

    def read(self, last: bool = False) -> None:
        *lines, self._rest = (self._rest + self._source.read()).replace(b"\r", b"\n").split(b"\n")
        if last or len(self._rest) > LONGEST_LINE:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            self._words.hear(line.decode(errors="replace"))


def _memory(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except (psutil.AccessDenied, AttributeError):
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
