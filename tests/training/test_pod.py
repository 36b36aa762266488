"""`ovi launch` as the first process of a pod, with ranks that are small scripts."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ovi.errors import ConfigError, OviError
from ovi.progress import Silent
from ovi.training import launch, pod
from ovi.training.place import Place
from ovi.training.pod import Layout
from tests.training import made

NODE = {"PET_NNODES": "3", "PET_NPROC_PER_NODE": "2", "PET_NODE_RANK": "1", "PET_MASTER_ADDR": "job-0.job"}
RANK = "import os, signal, sys, time; from pathlib import Path; rank = int(os.environ['RANK']); "


class Pod:
    """A running `ovi launch` of two ranks that all run the same line of Python."""

    def __init__(self, folder: Path, line: str, **environment: str) -> None:
        own = {"PET_NPROC_PER_NODE": "2", "OUT": str(folder), **environment}
        command = [sys.executable, "-c", "import sys; from ovi.cli import main; sys.argv[0] = 'ovi'; main()", "launch"]
        self.process = subprocess.Popen(
            [*command, "--", sys.executable, "-c", RANK + line], env={**os.environ, **own}, cwd=folder,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def heard(self, lines: int) -> list[str]:
        assert self.process.stdout is not None
        return sorted(self.process.stdout.readline().strip() for _ in range(lines))

    def end(self) -> int:
        self.process.communicate(timeout=120)
        return self.process.returncode


@pytest.fixture
def pods() -> Iterator[list[Pod]]:
    started: list[Pod] = []
    yield started
    for each in started:
        family = psutil.Process(each.process.pid).children(recursive=True) if each.process.poll() is None else []
        for member in [*family, each.process]:
            member.kill()
        each.process.communicate()


def test_ranks_are_told_what_torchrun_tells_them() -> None:
    first, second = Layout.read(NODE).environments()
    assert first == {
        "RANK": "2", "LOCAL_RANK": "0", "WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "1",
        "MASTER_ADDR": "job-0.job", "MASTER_PORT": "29500",
    }  # fmt: skip
    assert second == {**first, "RANK": "3", "LOCAL_RANK": "1"}
    assert Layout.read({}).environments() == [{}]
    by_index = {name: value for name, value in NODE.items() if name != "PET_NODE_RANK"} | {"JOB_COMPLETION_INDEX": "1"}
    assert Layout.read(by_index) == Layout.read(NODE)


@pytest.mark.parametrize("change", [{"PET_NNODES": "1:4"}, {"PET_NODE_RANK": "3"}, {"PET_NPROC_PER_NODE": "gpu"}])
def test_a_node_that_cannot_be_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        Layout.read(NODE | change)


@pytest.mark.parametrize(
    ("codes", "stopped", "verdict"),
    [
        ([0, 0], False, 0), ([75, 75], False, 75), ([0, 75], True, 75), ([1, 78], False, 78), ([3, 1], False, 3),
        ([-9, 1], False, 137), ([75, 1], True, 1), ([-15, -15], True, 75), ([-15, 0], False, 143),
    ],
)  # fmt: skip
def test_the_code_says_why(codes: list[int], stopped: bool, verdict: int) -> None:
    assert pod._verdict(codes, stopped) == verdict


@pytest.mark.parametrize(("line", "code"), [
    ("pass", 0), ("sys.exit(75)", 75), ("sys.exit(78 if rank else 1)", 78), ("os.kill(os.getpid(), 9)", 137),
])  # fmt: skip
def test_codes_are_kept(tmp_path: Path, pods: list[Pod], line: str, code: int) -> None:
    pods.append(Pod(tmp_path, line))
    assert pods[0].end() == code


def test_asked_to_stop_it_asks_and_waits_for_the_slowest(tmp_path: Path, pods: list[Pod]) -> None:
    """Rank 0 takes its time; it is told when rank 1 is gone, and only then ends."""
    line = (
        "gone, asked = Path(os.environ['OUT'], 'gone'), []\n"
        "signal.signal(signal.SIGTERM, lambda *_: asked.append(1)); os.write(1, f'{rank} {os.getpid()}\\n'.encode())\n"
        "while not asked or rank == 0 and not gone.exists(): time.sleep(0.01)\n"
        "Path(os.environ['OUT'], f'saved{rank}').touch(); sys.exit(75)"
    )
    pods.append(Pod(tmp_path, line))
    first, second = (psutil.Process(int(words.split()[1])) for words in pods[0].heard(2))
    pods[0].process.send_signal(signal.SIGTERM)
    psutil.wait_procs([second], timeout=60)
    assert first.is_running()
    assert pods[0].process.poll() is None
    (tmp_path / "gone").touch()
    assert pods[0].end() == 75
    assert {path.name for path in tmp_path.iterdir()} == {"gone", "saved0", "saved1"}


def test_one_that_fails_ends_the_others_and_what_they_started(tmp_path: Path) -> None:
    line = (
        "import subprocess\n"
        "child = subprocess.Popen(['sleep', '600']) if rank else None\n"
        "Path(os.environ['OUT'], f'{rank}.tmp').write_text(str(child.pid if child else 0))\n"
        "Path(os.environ['OUT'], f'{rank}.tmp').rename(Path(os.environ['OUT'], f'{rank}'))\n"
        "while rank == 0 and not Path(os.environ['OUT'], '1').exists(): time.sleep(0.01)\n"
        "sys.exit(5) if rank == 0 else time.sleep(600)"
    )
    code = "import sys; from ovi.training import pod; pod.GRACE_S = 0.1; sys.exit(pod.launch(sys.argv[1:]))"
    environment = {**os.environ, "PET_NPROC_PER_NODE": "2", "OUT": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code, sys.executable, "-c", RANK + line], env=environment, timeout=60)
    assert done.returncode == 5
    grandchild = int((tmp_path / "1").read_text())
    until = time.monotonic() + 10
    while psutil.pid_exists(grandchild):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_the_first_nodes_name_may_take_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [False, False, True]

    def getaddrinfo(*_: object) -> None:
        if not answers.pop(0):
            raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(pod.socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(pod.time, "sleep", lambda _: None)
    pod._await_name("job-0.job")
    assert answers == []
    monkeypatch.setattr(pod, "NAME_S", -1.0)
    answers.append(False)
    with pytest.raises(OviError, match=r"PET_MASTER_ADDR: job-0\.job is not known after"):
        pod._await_name("job-0.job")


def test_an_only_rank_runs_as_by_hand(tmp_path: Path) -> None:
    code = "import sys; from ovi.training import pod; sys.exit(pod.launch(sys.argv[1:]))"
    show = "import json, os; print(json.dumps(sorted(name for name in os.environ if name in ('RANK', 'WORLD_SIZE'))))"
    done = subprocess.run([sys.executable, "-c", code, sys.executable, "-c", show], capture_output=True, text=True)
    assert (done.returncode, json.loads(done.stdout)) == (0, [])


def test_a_process_knows_whether_it_is_a_rank() -> None:
    told = Layout.read(NODE).environments()[1]
    assert Place.of(told) == Place(3, 6, local=1)
    assert Place.of({}) is None
    with pytest.raises(ConfigError, match="no numbers; unset them"):
        Place.of({**told, "RANK": "first"})


def test_ranks_need_an_engine_of_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    settings = made.settings(folder=tmp_path)
    with pytest.raises(ConfigError, match=r"training\.engine: torch is one process, not 2; use deepspeed"):
        launch.train("fusion", settings, tmp_path, tmp_path, tmp_path, Silent())


def test_a_command_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nonsense: cannot be run"):
        pod.launch([str(tmp_path / "nonsense")], {"PET_NPROC_PER_NODE": "2"})
