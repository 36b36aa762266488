"""The executor of this machine, with real process trees: what it hears, what it leaves behind, whatever happens."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows import local
from flows.jobs import JobSpec, Outcome, Status
from flows.local import LocalExecutor
from tests.waiting import wait_for

# A stage with a rank in a session of its own, as a launcher makes them. argv: a file for the two pids, then what to do.
TREE = """
import os, pathlib, signal, subprocess, sys, time
pids, how = sys.argv[1:3]
if how == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
rank = subprocess.Popen([sys.executable, "-c", "import signal, time; " +
    ("signal.signal(signal.SIGTERM, signal.SIG_IGN); " if how == "stubborn" else "") + "time.sleep(300)"],
    start_new_session=True)
if how == "saves":
    def save(*_):
        rank.terminate()
        print("saved", flush=True)
        sys.exit(75)
    signal.signal(signal.SIGTERM, save)
pathlib.Path(pids + ".new").write_text(f"{os.getpid()} {rank.pid}")  # from now on it is ready to be stopped
os.replace(pids + ".new", pids)
if how == "orphan":
    sys.exit(0)
time.sleep(300)
"""


def python(code: str, *words: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code, *words)


def execute(root: Path, command: tuple[str, ...], **more: Any) -> tuple[Outcome, list[dict[str, Any]]]:
    heard: list[dict[str, Any]] = []
    spec = JobSpec("stage", command, **{"grace_s": 1.0, "deadline_s": 60.0, **more})
    return LocalExecutor(root).run(spec, lambda word: heard.append(dict(word))), heard


def pids_in(path: Path) -> list[int]:
    wait_for(path.exists)
    return [int(word) for word in path.read_text().split()]


def running(pids: list[int]) -> list[int]:
    return [pid for pid in pids if _runs(pid)]


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_words_and_lines_are_heard_and_logged(tmp_path: Path) -> None:
    code = """
import json, sys
print(json.dumps({"event": "start", "what": "work", "total": 2, "unit": "files"}), flush=True)
print("a library chats", file=sys.stderr, flush=True)
sys.stderr.write("half a line "); sys.stderr.flush()
print(json.dumps({"event": "progress", "what": "work", "done": 2, "total": 2}), flush=True)
print('{"not": "an event"}')
print("bar 1\\rbar 2")
print(json.dumps({"event": "result", "clips": 3}), flush=True)
print("\\xff", end="")
"""
    outcome, heard = execute(tmp_path, python(code))
    assert outcome.status is Status.SUCCEEDED
    assert outcome.result == {"clips": 3}
    events = [word for word in heard if word["event"] != "line"]
    assert [word["event"] for word in events] == ["start", "progress", "result"]
    assert events[1]["done"] == 2
    lines = [word["text"] for word in heard if word["event"] == "line"]
    assert lines == ["a library chats", '{"not": "an event"}', "bar 1", "bar 2", "ÿ"]
    assert "a library chats" in (tmp_path / "out" / "logs" / "stage.log").read_text()


@pytest.mark.parametrize(
    ("command", "status", "exit_code", "said", "ours"),
    [
        (python("import sys; sys.exit('ovi: broken')"), Status.FAILED, 1, "ovi: broken", 1),
        (python("import sys; sys.exit(75)"), Status.PREEMPTED, 75, "", 75),
        (python("import sys; sys.exit(78)"), Status.CONFIG_ERROR, 78, "", 78),
        (python("import os; os.kill(os.getpid(), 9)"), Status.FAILED, 137, "", 1),
        (python("import os; os.kill(os.getpid(), 15)"), Status.CANCELLED, 143, "", 1),
        (("no-such-command",), Status.FAILED, 127, "no-such-command: No such file or directory", 1),
    ],
)
def test_exit_codes_mean_what_the_platform_says(
    tmp_path: Path, command: tuple[str, ...], status: Status, exit_code: int, said: str, ours: int
) -> None:
    outcome, _ = execute(tmp_path, command)
    assert (outcome.status, outcome.exit_code, outcome.last_line) == (status, exit_code, said)
    error = outcome.error("stage", "out/logs/stage.log")
    assert error.exit_code == ours  # what the flow itself exits with
    line = str(error)
    assert "\n" not in line
    assert outcome.advice in line


def test_no_shell_reads_the_command(tmp_path: Path) -> None:
    outcome, _ = execute(tmp_path, ("echo", "$HOME", ";", "touch", str(tmp_path / "made")))
    assert outcome.last_line == f"$HOME ; touch {tmp_path / 'made'}"
    assert not (tmp_path / "made").exists()


def test_commands_of_this_python_are_found_first(tmp_path: Path) -> None:
    outcome, _ = execute(tmp_path, ("python", "-c", "import sys; print(sys.prefix)"))
    assert outcome.last_line == sys.prefix


def test_a_deadline_ends_the_whole_tree(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    began = time.monotonic()
    outcome, _ = execute(tmp_path, python(TREE, str(pids), "stubborn"), deadline_s=3.0)
    assert outcome.status is Status.TIMED_OUT
    assert time.monotonic() - began < 30
    assert running(pids_in(pids)) == []


def test_a_job_that_saves_when_asked_to_stop_is_heard_to_its_end(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    heard: list[Any] = []
    executor = LocalExecutor(tmp_path)

    def interrupt(word: Any) -> None:
        heard.append(word)

    stopper = threading.Timer(0.0, lambda: (pids_in(pids), time.sleep(0.5), os.kill(os.getpid(), signal.SIGINT)))
    stopper.start()
    with pytest.raises(KeyboardInterrupt):
        executor.run(JobSpec("stage", python(TREE, str(pids), "saves"), grace_s=20.0), interrupt)
    stopper.join()
    assert running(pids_in(pids)) == []
    assert "saved" in (tmp_path / "out" / "logs" / "stage.log").read_text()
    assert {"event": "line", "text": "saved"} in heard


def test_what_a_job_leaves_behind_is_ended(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    outcome, _ = execute(tmp_path, python(TREE, str(pids), "orphan"))
    assert outcome.status is Status.SUCCEEDED
    assert running(pids_in(pids)) == []


@pytest.mark.parametrize("how", ["plain", "stubborn"])
def test_killing_the_flow_kills_the_tree(tmp_path: Path, how: str) -> None:
    pids = tmp_path / "pids"
    code = (
        "import sys; from flows.jobs import JobSpec; from flows.local import LocalExecutor;"
        "LocalExecutor(sys.argv[1]).run(JobSpec('stage', tuple(sys.argv[2:]), grace_s=1.0), print)"
    )
    command = python(code, str(tmp_path), *python(TREE, str(pids), how))
    flow = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[2])
    tree = pids_in(pids)
    assert running(tree) == tree
    flow.kill()
    flow.wait()
    wait_for(lambda: running(tree) == [], 30)


def test_a_stop_that_meets_the_end_of_the_command_is_no_hang() -> None:
    code = """
import os, sys, time
import psutil
from flows.guard import Guard
guard = Guard(os.getppid(), 5.0, ["true"])
while psutil.Process(guard._child.pid).status() != psutil.STATUS_ZOMBIE:
    time.sleep(0.01)
guard._on_stop()
sys.exit(guard.watch())
"""
    assert subprocess.run(python(code), cwd=Path(__file__).parents[2], timeout=60, check=False).returncode == 0


def test_killing_the_guard_is_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[int] = set()
    memory = local._memory
    monkeypatch.setattr(local, "_memory", lambda process: seen.add(process.pid) or memory(process))
    pids = tmp_path / "pids"
    outcomes: list[Outcome] = []
    spec = JobSpec("stage", python(TREE, str(pids), "plain"), grace_s=1.0)
    thread = threading.Thread(target=lambda: outcomes.append(LocalExecutor(tmp_path).run(spec, lambda word: None)))
    thread.start()
    stage, rank = pids_in(pids)
    wait_for(lambda: seen >= {stage, rank})  # the executor knows the tree
    psutil.Process(stage).parent().kill()  # type: ignore[union-attr]
    thread.join(30)
    assert outcomes[0].status is Status.FAILED
    assert running([stage, rank]) == []


def test_peak_memory_is_that_of_the_whole_tree(tmp_path: Path) -> None:
    code = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "x = bytearray(b'x') * 80_000_000; import time; time.sleep(3)"])
x = bytearray(b'x') * 60_000_000
child.wait()
"""
    outcome, _ = execute(tmp_path, python(code))
    assert 140e6 < outcome.peak_bytes < 260e6
    assert outcome.seconds >= 3


def test_descriptors_given_stay_open_until_the_tree_is_gone(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.set_inheritable(write, True)
    code = "import pathlib, time\npathlib.Path('up').touch()\nwhile not pathlib.Path('go').exists(): time.sleep(0.01)"
    spec = JobSpec("stage", python(code), grace_s=1.0)
    thread = threading.Thread(target=lambda: LocalExecutor(tmp_path, keep_open=(write,)).run(spec, lambda word: None))
    thread.start()
    wait_for((tmp_path / "up").exists)
    os.close(write)
    assert select.select([read], [], [], 0.3)[0] == []  # no end of file before the guard is gone
    (tmp_path / "go").touch()
    assert os.read(read, 1) == b""
    os.close(read)
    thread.join()
