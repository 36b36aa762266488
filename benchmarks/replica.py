"""A server with its workers as a benchmark sees it: started, asked over HTTP, killed, started again on what it left.

Beside it, what the benchmarks of the service share. Try it: `.venv/bin/python -m benchmarks.serving --only drain`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from moto.server import ThreadedMotoServer

from services.generation.launch import launch
from tests.services import postgres

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 180.0


@dataclass
class Bars:
    """The bars so far, each said when it is known."""

    done: list[dict[str, Any]] = field(default_factory=list)

    def check(self, name: str, passed: bool, figure: object) -> None:
        self.done.append({"name": name, "passed": bool(passed), "figure": str(figure)})
        print(f"{'PASS' if passed else 'FAIL'}  {name}: {figure}", flush=True)


class Replica:
    """One server with its workers; may be killed and started again on what it left."""

    def __init__(self, bench: Bench, name: str, **environment: str) -> None:
        self.state, self._bench, self.port = bench.folder / name, bench, postgres.free_port()
        self._environment = os.environ | {"OMP_NUM_THREADS": "1"} | environment
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60, trust_env=False)
        self.process: subprocess.Popen[bytes] | None = None
        self.started_s = self.start()

    def start(self) -> float:
        """Seconds until it is ready."""
        began = time.monotonic()
        with open(self._bench.folder / f"{self.state.name}.log", "ab") as log:
            if self._bench.package is None:
                words = [sys.executable, "-m", "tests.services.serve", self._bench.bundle, self.state, self.port]
                command, environment = list(map(str, words)), self._environment
            else:
                how = launch(self._bench.package, self.state, "127.0.0.1", self.port)
                command, environment = how.command, how.environment | self._environment
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        self.until_ready()
        return time.monotonic() - began

    def until_ready(self) -> None:
        wait(lambda: self.get("/readyz") == 200, "ready", 0.1)

    def get(self, path: str) -> int | None:
        try:
            return self.client.get(path).status_code
        except httpx.TransportError:
            assert self.process is not None
            assert self.process.poll() is None, f"the server ended: see {self.state}.log"
            return None

    def workers(self) -> list[psutil.Process]:
        assert self.process is not None
        family = psutil.Process(self.process.pid).children(recursive=True)
        return [one for one in family if "services.generation.worker" in one.cmdline()]

    def submit(self, body: dict[str, Any]) -> str:
        answer = self.client.post("/v1/videos", json=body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def look(self, job: str) -> dict[str, Any]:
        return dict(self.client.get(f"/v1/videos/{job}").json())

    def finish(self, job: str) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            seen = dict(self.client.get(f"/v1/videos/{job}", params={"wait": 30}).json())
            if seen["status"] not in ("queued", "in_progress"):
                return seen
        raise AssertionError(f"{job} does not end")

    def reach(self, job: str, step: int) -> None:
        wait(lambda: self.look(job)["step"] >= step, f"step {step}")

    def kill(self) -> None:
        assert self.process is not None
        family = psutil.Process(self.process.pid).children(recursive=True) if self._bench.package else []
        for one in (self.process, *family):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        self.process.wait()
        psutil.wait_procs(family)  # until they are gone, the port is theirs

    def stop(self) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=PATIENCE_S)


@contextlib.contextmanager
def bucket() -> Iterator[tuple[str, dict[str, str]]]:
    """An S3 store of our own on loopback, in memory: the address of a bucket and the variables that lead there."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it tells every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    leads = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    try:
        httpx.put(f"http://{host}:{port}/clips", trust_env=False).raise_for_status()
        yield "s3://clips", leads
    finally:
        server.stop()


@dataclass
class Bench:
    """What all benchmarks share: the model, how many points, where to write, a server that most of them ask."""

    folder: Path
    bars: Bars
    points: int
    long: bool
    package: Path | None
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"

    @contextlib.contextmanager
    def replica(self, name: str, **environment: str) -> Iterator[Replica]:
        replica = Replica(self, name, **environment)
        try:
            yield replica
        finally:
            replica.stop()
            replica.client.close()


def wait(until: Callable[[], bool], what: str, every_s: float = 0.02) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not until():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(every_s)
