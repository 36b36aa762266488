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
    monkeypatch.setattr(supervisor, "SILENCE_S", 0.05)  # it takes longer than that to import anything
    monkeypatch.setattr(supervisor, "BACKOFF_S", (0.01,))
    workers = Supervisor(tmp_path, tmp_path / "state", jobs, 1)
    workers.start()
    deadline = time.monotonic() + 120
    while workers.states()[0]["restarts"] < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    workers.stop()
    assert "silent for" in capfd.readouterr().err


def test_stopping_what_has_just_started_is_quick_and_complete(tmp_path: Path, jobs: JobStore) -> None:
    before, threads = children(), threading.active_count()
    workers = Supervisor(tmp_path, tmp_path / "state", jobs, 3)
    workers.start()
    workers.wake()
    began = time.monotonic()
    workers.stop()
    assert time.monotonic() - began < supervisor.DRAIN_S
    assert children() == before
    assert threading.active_count() == threads
