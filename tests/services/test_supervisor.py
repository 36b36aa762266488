"""The supervisor with workers that cannot start, fall silent or are not there yet."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import psutil
import pytest

from services.generation import supervisor
from services.generation.jobs import JobStore
from services.generation.supervisor import Supervisor


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def test_a_worker_that_cannot_start_is_tried_again_and_never_ready(
    tmp_path: Path, jobs: JobStore, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(supervisor, "BACKOFF_S", (0.01,))
    before = children()
    workers = Supervisor(tmp_path, tmp_path / "state", jobs, 1)  # no service.json there
    workers.start()
    deadline = time.monotonic() + 120
    while workers.states()[0]["restarts"] < 2:
        assert not workers.ready()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    workers.stop()
    assert workers.states()[0]["state"] == "stopped"
    assert children() == before
    assert f"{tmp_path}/service.json: no such file" in capfd.readouterr().err


def test_a_silent_worker_is_replaced(
    tmp_path: Path, jobs: JobStore, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(supervisor, "START_S", 0.05)  # it takes longer than that to import anything
    monkeypatch.setattr(supervisor, "BACKOFF_S", (0.01,))
    workers = Supervisor(tmp_path, tmp_path / "state", jobs, 1)
    workers.start()
    deadline = time.monotonic() + 120
    while workers.states()[0]["restarts"] < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    workers.stop()
    assert "worker_silent" in capfd.readouterr().err


def test_a_worker_that_was_ready_is_replaced_at_once_however_often_it_dies(
    tmp_path: Path, jobs: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies = tmp_path / "dies-when-ready"
    dies.write_text("""#!/bin/sh\necho '{"event": "ready", "memory": {}}'\nkill -9 $$\n""")
    dies.chmod(0o755)
    monkeypatch.setattr(supervisor.sys, "executable", str(dies))
    monkeypatch.setattr(supervisor, "BACKOFF_S", (0.01, 1000.0))
    workers = Supervisor(tmp_path, tmp_path / "state", jobs, 1)
    workers.start()
    deadline = time.monotonic() + 60
    while workers.states()[0]["restarts"] < 5:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    workers.stop()


def test_stopping_what_has_just_started_is_quick_and_complete(tmp_path: Path, jobs: JobStore) -> None:
    before, threads = children(), set(threading.enumerate())
    workers = Supervisor(tmp_path, tmp_path / "state", jobs, 3)
    workers.start()
    workers.wake()
    began = time.monotonic()
    workers.stop()
    assert time.monotonic() - began < supervisor.DRAIN_S
    assert children() == before
    assert set(threading.enumerate()) <= threads


@pytest.mark.parametrize(
    ("visible", "files", "workers", "seen"),
    [
        ("0,1", [], 2, ["0", "1"]),
        ("0,1", [], 3, ["0", "1", "0"]),
        ("GPU-a, MIG-b", [], 0, ["GPU-a", "MIG-b"]),
        (None, ["nvidia10", "nvidia2", "nvidiactl", "nvidia-uvm"], 0, ["2", "10"]),
        (None, [], 2, ["all there is"] * 2),
        ("", ["nvidia0"], 0, [""]),
    ],
)
def test_workers_are_spread_over_the_gpus(
    tmp_path: Path, jobs: JobStore, monkeypatch: pytest.MonkeyPatch, visible: str | None, files: list[str],
    workers: int, seen: list[str],
) -> None:  # fmt: skip
    """Each process is told its own GPU; what it was told is read from the process itself."""
    devices = tmp_path / "dev"
    devices.mkdir()
    for name in files:
        (devices / name).touch()
    monkeypatch.setattr(supervisor, "DEVICES", devices)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    crew = Supervisor(tmp_path, tmp_path / "state", jobs, workers)
    crew.start()
    try:
        told: list[str] = []
        for slot in crew._slots:
            deadline = time.monotonic() + 60
            while slot._process is None:
                assert time.monotonic() < deadline
                time.sleep(0.005)
            told.append(psutil.Process(slot._process.pid).environ().get("CUDA_VISIBLE_DEVICES", "all there is"))
        assert told == seen
    finally:
        crew.stop()
