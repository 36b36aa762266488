"""What a stage is to a machine: a JobSpec goes in, an Outcome comes out, an Executor is whatever stands between.

Plain values. Nothing here knows Prefect, DVC, Kubernetes or how a process is started, so a stage run on this machine
and a stage run in a cluster are described by the same words.
Try it: `python -c "from flows.jobs import JobSpec; print(JobSpec('hello', ('echo', 'hello')))"`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from ovi.config import Resources
from ovi.errors import EXIT_CONFIG, EXIT_FAILED, EXIT_PREEMPTED, ConfigError, OviError, Preempted


@dataclass(frozen=True)
class JobSpec:
    """One stage, ready to run: `nodes` machines, each with `processes` workers and the resources named here.

    `apart`: the nodes are no gang. Each works its share, the command with `--shard i/n`, and is retried alone; then the
    command itself puts the shares together on one node. A machine of its own needs no shares and runs the command.
    """

    stage: str
    command: tuple[str, ...]
    nodes: int = 1
    processes: int = 1  # per node
    cpus: float = 1.0  # per node, as are memory and GPUs
    memory_gib: float = 1.0
    gpus: int = 0
    grace_s: float = 30.0  # between "please stop" and "stop"
    deadline_s: float = 3600.0
    apart: bool = False
    parcel: str = ""  # where its inputs are, for a machine that shares no folder with the flow (flows/parcel.py)
    retries: int = 0  # of each share; a whole stage is tried again by who runs it
    devices: Mapping[str, int] = field(default_factory=dict)  # others a node, such as {"rdma/hca": 8}
    image: str | None = None  # this and the next four: of this stage alone; None: as all others of the cluster
    queue: str | None = None
    priority: str | None = None
    shared_memory_gib: float | None = None
    secrets: Sequence[str] | None = None  # names of Secrets, never their values
    env: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, stage: str, command: tuple[str, ...], needs: Resources, **more: Any) -> JobSpec:
        """The spec of a stage with the resources its settings ask for, one worker a GPU; `more`: env, labels."""
        return cls(
            stage=stage,
            command=command,
            nodes=needs.nodes,
            processes=max(needs.gpus, 1),
            cpus=needs.cpus,
            memory_gib=needs.memory_gib,
            gpus=needs.gpus,
            devices=needs.devices,
            grace_s=needs.grace_s,
            deadline_s=needs.deadline_s,
            apart=needs.apart,
            retries=needs.retries,
            image=needs.image,
            queue=needs.queue,
            priority=needs.priority,
            shared_memory_gib=needs.shared_memory_gib,
            secrets=needs.secrets,
            **more,
        )


class Status(StrEnum):
    SUCCEEDED = "succeeded"
    PREEMPTED = "preempted"  # exit 75: stopped after saving; running it again continues
    CONFIG_ERROR = "config_error"  # exit 78: can never work; not retried
    FAILED = "failed"
    CANCELLED = "cancelled"  # somebody stopped it from outside
    TIMED_OUT = "timed_out"  # longer than deadline_s


@dataclass(frozen=True)
class Outcome:
    """How a stage ended. `result` is the last JSON `result` event it spoke."""

    status: Status
    exit_code: int
    seconds: float
    peak_bytes: int = 0
    last_line: str = ""
    advice: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)
    attempts: int = 1  # more than one after preemptions, which are no failures; of shares, of the one begun most often
    gpu_seconds: float = 0.0  # of all attempts
    gpu_seconds_lost: float = 0.0  # of those that neither succeeded nor saved their state
    image: str = ""  # that it ran in, by digest; empty: in none

    def error(self, stage: str, log: str) -> OviError:
        """The one line a user reads about an outcome that is not a success."""
        said = f": {self.last_line.removeprefix('ovi: ')}" if self.last_line else ""
        text = f"stage {stage}: {_WORDS[self.status].format(code=self.exit_code)}{said}; {self.advice} (log: {log})"
        if self.status is Status.CONFIG_ERROR:
            return ConfigError(text)
        if self.status is Status.PREEMPTED:
            return Preempted(text)
        return OviError(text)


_WORDS = {
    Status.PREEMPTED: "stopped after saving its state",
    Status.CONFIG_ERROR: "settings that can never work",
    Status.FAILED: "failed with exit code {code}",
    Status.CANCELLED: "stopped from outside",
    Status.TIMED_OUT: "took longer than its deadline",
}

Word = Mapping[str, Any]  # one event of a stage: {"event": "start"|"progress"|"note"|"result"|"line", ...}
Listener = Callable[[Word], None]


class Executor(Protocol):
    """Runs one job to its end and tells `listen` every word it says; leaves nothing running, whatever is raised."""

    def run(self, spec: JobSpec, listen: Listener) -> Outcome: ...


def judge(exit_code: int, timed_out: bool = False) -> tuple[Status, str]:
    """Status and advice for an exit code, the same for a process here and a container elsewhere (128 + n: signal n)."""
    if timed_out:
        return Status.TIMED_OUT, "raise resources.<stage>.deadline_s if the work is that long"
    if exit_code == 0:
        return Status.SUCCEEDED, ""
    if exit_code == EXIT_PREEMPTED:
        return Status.PREEMPTED, "run the same command again to continue"
    if exit_code == EXIT_CONFIG:
        return Status.CONFIG_ERROR, "change the setting named and run again"
    if exit_code in (128 + 2, 128 + 15):
        return Status.CANCELLED, "run the same command again"
    if exit_code == 128 + 9:
        return Status.FAILED, "killed, most often for lack of memory: lower the stage's batch or workers"
    if exit_code in (128 + 11, 128 + 6, 128 + 4):
        return Status.FAILED, "a native library crashed"
    if exit_code == EXIT_FAILED:
        return Status.FAILED, "mend that and run the same command again, what is finished stays"
    return Status.FAILED, "read its log"
