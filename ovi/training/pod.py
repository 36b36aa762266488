"""The first process of a pod: starts the pod's ranks, passes signals on, reaps, and ends with the code that says why.

It reads what torchrun reads (PET_NNODES, PET_NPROC_PER_NODE, PET_NODE_RANK, PET_MASTER_ADDR, PET_MASTER_PORT) and gives
ranks what torchrun gives them. Unlike torchrun it keeps the ranks' exit codes, 75 and 78 among them, and lets ranks
that were asked to stop take the time they need. It does not know what the command does and starts nothing again.
Try it: `PET_NPROC_PER_NODE=2 ovi launch -- python -c "import os; print(os.environ['RANK'])"`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

from ovi.errors import EXIT_CONFIG, EXIT_PREEMPTED, ConfigError, OviError
from ovi.training.stopping import Stopping

PORT = 29500
GRACE_S = 10.0  # how long the other ranks may take to end, and to say why, once one has failed
NAME_S = 300.0  # how long the first node's name may take to be known
POLL_S = 0.05


@dataclass(frozen=True)
class Layout:
    """Which ranks are this pod's, and where all meet."""

    nodes: int
    processes: int  # of each node
    node: int
    address: str
    port: int

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Layout:
        """Raises ConfigError for values that are no numbers or do not fit together."""
        nodes, processes = _number(environment, "PET_NNODES", 1), _number(environment, "PET_NPROC_PER_NODE", 1)
        node = _number(environment, "PET_NODE_RANK", _number(environment, "JOB_COMPLETION_INDEX", 0))
        if nodes < 1 or processes < 1 or not 0 <= node < nodes:
            raise ConfigError(
                f"PET_NNODES={nodes}, PET_NPROC_PER_NODE={processes}, PET_NODE_RANK={node}: there is no such node"
            )
        address = environment.get("PET_MASTER_ADDR", "127.0.0.1")
        return cls(nodes, processes, node, address, _number(environment, "PET_MASTER_PORT", PORT))

    def environments(self) -> list[dict[str, str]]:
        """What each rank of this pod finds in its environment; nothing where it is the only one of all."""
        ranks = self.nodes * self.processes
        if ranks == 1:
            return [{}]
        shared = {
            "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": self.processes, "GROUP_RANK": self.node,
            "MASTER_ADDR": self.address, "MASTER_PORT": self.port,
        }  # fmt: skip
        own = [{"RANK": self.node * self.processes + local, "LOCAL_RANK": local} for local in range(self.processes)]
        return [{name: str(value) for name, value in (shared | each).items()} for each in own]


def launch(command: list[str], environment: Mapping[str, str] = os.environ) -> int:
    """Run the command once a rank of this pod; the exit code of the whole.

    0 when all ended well; 78 when one says that it can never work; otherwise the code of the first that failed, 128
    more than the signal that killed it; and 75 when all saved their work and stopped.
    """
    layout = Layout.read(environment)
    if layout.nodes > 1:
        _await_name(layout.address)
    with Stopping() as stopping:
        ranks: list[int] = []
        try:
            for own in layout.environments():
                ranks.append(_started(command, {**environment, **own}))
                stopping.pass_on_to(ranks)
            codes = _await(ranks)
        finally:
            _kill(ranks)
    return _verdict(codes, stopping())


def _started(command: list[str], environment: dict[str, str]) -> int:
    """Its pid. It gets a process group of its own, so that nothing of it is left behind in the end."""
    restored = [signal.SIGPIPE, signal.SIGXFSZ]  # which Python ignores
    try:
        return os.posix_spawnp(command[0], command, environment, setpgroup=0, setsigdef=restored)
    except OSError as error:
        raise ConfigError(f"{command[0]}: cannot be run: {error.strerror}") from None


def _await(pids: list[int]) -> list[int]:
    """Exit codes in the order in which the ranks ended; as the first process of a pod it buries orphans as well."""
    codes: list[int] = []
    deadline = None
    while len(codes) < len(pids):
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            if deadline and time.monotonic() > deadline:
                _kill(pids)
            time.sleep(POLL_S)
        elif pid in pids:
            codes.append(os.waitstatus_to_exitcode(status))
            if codes[-1] not in (0, EXIT_PREEMPTED):
                deadline = deadline or time.monotonic() + GRACE_S
    return codes


def _verdict(codes: list[int], stopped: bool) -> int:
    """`codes` as subprocess has them, negative for signals, the first to end first."""
    early = -signal.SIGTERM if stopped else 0  # it had not yet begun to listen for signals, so nothing is lost
    failed = [code for code in codes if code not in (0, EXIT_PREEMPTED, early)]
    if EXIT_CONFIG in failed:
        return EXIT_CONFIG
    if failed:
        return failed[0] if failed[0] > 0 else 128 - failed[0]
    return EXIT_PREEMPTED if any(codes) else 0


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def _await_name(address: str) -> None:
    """A pod's name is known some seconds after it starts; torch gives up at once."""
    deadline = time.monotonic() + NAME_S
    while True:
        try:
            socket.getaddrinfo(address, None)
            return
        except socket.gaierror as error:
            if time.monotonic() > deadline:
                raise OviError(f"PET_MASTER_ADDR: {address} is not known after {NAME_S:.0f} s ({error})") from None
        time.sleep(1.0)


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    value = environment.get(name, str(default))
    if not value.isdecimal():
        raise ConfigError(f"{name}: {value!r} is not a number")
    return int(value)
