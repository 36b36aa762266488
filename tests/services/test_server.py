"""A server with real workers and a real, tiny, model: clips, equal bytes, cancel, and every kind of violent death."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import httpx
import psutil
import pytest
from PIL import Image

from ovi import storage
from ovi.config import Settings
from services.generation.clip import check
from services.generation.jobs import JobStore
from services.generation.schemas import EARLIER, Served
from tests.services.models import lay_bundle, save_tiny_model
from tests.services.test_uploads import picture

PATIENCE_S = 240.0  # the machine may be busy; nothing here waits longer than it must
ROOT = Path(__file__).parents[2]
WORK = {"prompt": "A lamp blinks. <AUDCAP>Beeps.<ENDAUDCAP>", "seed": 5}
LONG = WORK | {"steps": 60}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, settings: Settings, model: Path) -> Path:
    """A link to the one that is served."""
    folder = tmp_path_factory.mktemp("bundle")
    lay_bundle(folder / "first", model, settings)
    lay_bundle(folder / "second", save_tiny_model(folder / "other", settings, seed=1), settings)
    (folder / "current").symlink_to("first")
    return folder / "current"


class Running:
    """A server process and a client for it; may be killed and started again on the same state."""

    def __init__(self, bundle: Path, state: Path, **environment: str) -> None:
        self.bundle, self.state = bundle, state
        self.environment = os.environ | {"OMP_NUM_THREADS": "1"} | environment
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60, trust_env=False)
        self.process: subprocess.Popen[bytes]

    def start(self) -> None:
        words = [sys.executable, "-m", "tests.services.serve", str(self.bundle), str(self.state), str(self.port)]
        self.process = subprocess.Popen(words, cwd=ROOT, env=self.environment)
        wait(self.listening, "the server listens")

    def listening(self) -> bool:
        try:
            return self.client.get("/v1/models").status_code == 200
        except httpx.TransportError:
            assert self.process.poll() is None, "the server ended"
            return False

    def ready(self) -> bool:
        return all(worker["state"] == "ready" for worker in self.client.get("/v1/capacity").json()["workers"])

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def submit(self, body: dict[str, Any]) -> str:
        answer = self.client.post("/v1/videos", json=body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def look(self, job: str) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get(f"/v1/videos/{job}").json()
        return found

    def finish(self, job: str) -> dict[str, Any]:
        wait(lambda: self.look(job)["status"] not in ("queued", "in_progress"), "the job ends")
        return self.look(job)

    def reach(self, job: str, step: int) -> None:
        wait(lambda: self.look(job)["step"] >= step, f"step {step}")
        assert self.look(job)["status"] == "in_progress"

    def end(self) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=PATIENCE_S)


def wait(until: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not until():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(bundle, tmp_path_factory.mktemp("service") / "state")
    running.start()
    yield running
    running.end()


@pytest.fixture(scope="module")
def long_sha256(server: Running) -> str:
    """What the long job gives when nobody disturbs it."""
    done = server.finish(server.submit(LONG))
    assert done["status"] == "completed", done
    assert done["attempt"] == 1
    return str(done["sha256"])


def test_a_clip_is_as_promised_and_equal_requests_give_equal_bytes(
    server: Running, settings: Settings, tmp_path: Path
) -> None:
    first, again, other = (server.submit(WORK | {"seed": seed}) for seed in (5, 5, 6))
    done, same, different = (server.finish(job) for job in (first, again, other))
    assert done["status"] == "completed", done
    assert done["sha256"] == same["sha256"] != different["sha256"]
    assert (done["step"], done["progress"], done["error"]) == (4, 100, None)
    assert set(done["timings"]) == {"queue", "text", "denoise", "decode", "mux"}
    answer = server.client.get(f"/v1/videos/{first}/content")
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(answer.content)
    assert storage.sha256(clip) == done["sha256"]
    assert len(answer.content) == done["bytes"]
    facts = check(clip, settings)
    assert (facts["frames"], facts["width"], facts["height"]) == (121, 64, 64)
    part = server.client.get(f"/v1/videos/{first}/content", headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")
    ran, size = done["ran"], done["effective"]["size"]
    assert (ran["size"], ran["frames"], ran["solver"], ran["seed"], ran["steps"]) == (size, 121, "unipc", 5, 4)
    assert (ran["path"], ran["accelerators"], ran["truncated"]) == ("reference", [], False)
    assert (ran["sha256"], ran["seconds"]) == (done["sha256"], done["timings"])
    assert ran["prompt_tokens"] == len(WORK["prompt"]) + 1  # type: ignore[arg-type]
    manifest = server.client.get(f"/v1/videos/{first}/content", params={"variant": "manifest"}).json()
    assert manifest["ran"] == ran
    for variant, about in manifest["files"].items():
        file = server.client.get(f"/v1/videos/{first}/content", params={"variant": variant})
        assert file.headers["content-type"] == about["media_type"]
        assert hashlib.sha256(file.content).hexdigest() == about["sha256"]


def test_a_first_frame_a_size_and_accelerators_are_really_used(server: Running) -> None:
    files = {"image": ("a.png", picture(), "image/png")}
    fields = {"prompt": "A lamp.", "seed": "5", "steps": "4", "size": "64x16", "stride": "2", "guidance_until": "0.5"}
    shown = server.finish(server.client.post("/v1/videos", data=fields, files=files).json()["id"])
    assert shown["status"] == "completed", shown
    assert (shown["ran"]["image"], shown["ran"]["size"]) == (True, shown["size"])
    assert shown["ran"]["accelerators"] == ["guidance_until=0.5", "stride=2"]
    body = {"prompt": "A lamp.", "seed": 5, "steps": 4, "size": "64x16", "stride": 2, "guidance_until": 0.5}
    without = server.finish(server.submit(body))
    assert without["sha256"] not in (None, shown["sha256"])
    assert not without["ran"]["image"]


def test_a_running_job_shows_itself(server: Running) -> None:
    job, shown = server.submit(LONG), ""
    with server.client.stream("GET", f"/v1/videos/{job}/events") as answer:
        for line in answer.iter_lines():
            if line.startswith("data: ") and "data:image/jpeg" in line:
                shown = json.loads(line.removeprefix("data: "))["image"]
    preview = Image.open(io.BytesIO(base64.b64decode(shown.partition(",")[2])))
    assert f"{preview.width}x{preview.height}" == server.look(job)["size"]


def test_a_clip_plays_before_it_is_whole(server: Running, tmp_path: Path) -> None:
    """The stream is the clip in fragments; who is too slow for so short a clip gets the clip itself."""
    path, kinds = tmp_path / "clip.mp4", set()
    for _ in range(9):
        job = server.submit(WORK)
        path.write_bytes(server.client.get(f"/v1/videos/{job}/content", params={"variant": "stream"}).content)
        with av.open(str(path)) as container:
            assert sum(1 for _ in container.decode(video=0)) == 121
        kinds.add(b"moof" in path.read_bytes())
        if True in kinds:
            break
    assert True in kinds
    assert list((server.state / "making").iterdir()) == []


def test_a_running_job_is_cancelled_at_its_next_step_and_the_worker_is_free(server: Running) -> None:
    long, short = server.submit(LONG), server.submit(WORK)
    server.reach(long, 2)
    server.client.post(f"/v1/videos/{long}/cancel")
    ended = server.finish(long)
    assert (ended["status"], ended["sha256"]) == ("cancelled", None)
    assert ended["step"] < LONG["steps"]
    assert server.client.get(f"/v1/videos/{long}/content").status_code == 410
    assert server.finish(short)["status"] == "completed"


def test_deleting_a_running_job_stops_it_and_leaves_no_file(server: Running) -> None:
    long, short = server.submit(LONG), server.submit(WORK)
    server.reach(long, 2)
    assert server.client.delete(f"/v1/videos/{long}").status_code == 200
    assert server.client.get(f"/v1/videos/{long}").status_code == 404
    assert server.finish(short)["status"] == "completed"
    assert [path for path in (server.state / "results").iterdir() if long in path.name] == []


def test_a_job_queued_for_another_model_is_refused_in_words(server: Running) -> None:
    effective = server.look(server.submit(WORK))["effective"] | {"model": "ovi:of-yesterday", "pinned": True}
    jobs = JobStore.in_folder(server.state)
    job, _ = jobs.submit(effective, bound=99)
    known = server.look(server.submit(WORK))["effective"]
    older, _ = jobs.submit({key: value for key, value in known.items() if key not in EARLIER}, bound=99)
    jobs.close()
    refused = server.finish(job.id)
    assert server.finish(older.id)["status"] == "completed"
    assert (refused["status"], refused["error"]["code"]) == ("failed", "refused")
    assert "no longer served" in refused["error"]["message"]


def test_a_killed_worker_costs_one_attempt_and_no_byte(server: Running, long_sha256: str) -> None:
    job = server.submit(LONG)
    server.reach(job, 3)
    (worker,) = server.workers()
    worker.kill()
    wait(lambda: server.look(job)["status"] == "queued", "the job waits again")
    assert not server.ready()
    done = server.finish(job)
    assert (done["status"], done["attempt"], done["sha256"]) == ("completed", 2, long_sha256)
    assert server.client.get("/v1/capacity").json()["workers"][0]["restarts"] == 1


def test_a_killed_server_takes_its_workers_along_and_loses_nothing(server: Running, long_sha256: str) -> None:
    running, waiting = server.submit(LONG), server.submit(LONG)
    server.reach(running, 3)
    (worker,) = server.workers()
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    wait(lambda: not worker.is_running(), "the worker ends too")
    (server.state / "results" / f".{running}.mp4.half.mp4").write_bytes(b"half a clip")
    server.start()
    assert not (server.state / "results" / f".{running}.mp4.half.mp4").exists()
    for job in (running, waiting):
        done = server.finish(job)
        assert (done["status"], done["sha256"]) == ("completed", long_sha256)


def test_a_newly_promoted_model_takes_over_between_jobs_and_can_be_rolled_back(server: Running) -> None:
    def serve(name: str) -> str:
        link = server.bundle.with_name("next")
        link.symlink_to(name)
        link.replace(server.bundle)
        served = Served.read(server.bundle).model
        wait(lambda: bool(server.client.get("/v1/models").json()["data"][0]["id"] == served), f"{served} is served")
        return served

    old = server.finish(server.submit(WORK))
    running = server.submit(LONG | {"steps": 200})
    server.reach(running, 1)
    new = serve("second")
    waiting, pinned = server.submit(WORK), server.submit(WORK | {"model": new})
    assert server.finish(running)["ran"]["model"] == old["model"]
    done = server.finish(waiting)
    assert (done["ran"]["model"], server.finish(pinned)["status"]) == (new, "completed")
    assert done["sha256"] != old["sha256"]
    assert serve("first") == old["model"]
    assert server.finish(server.submit(WORK))["sha256"] == old["sha256"]


def test_sigterm_lets_the_running_job_finish_and_keeps_the_waiting_one(server: Running) -> None:
    """Last of the module: the server is gone afterwards."""
    running, waiting = server.submit(LONG), server.submit(WORK)
    server.reach(running, 1)
    server.process.terminate()
    assert server.process.wait(timeout=PATIENCE_S) == 0
    jobs = JobStore.in_folder(server.state)
    left = {job.id: job.status for job in jobs.newest(2)}
    jobs.close()
    assert left == {running: "completed", waiting: "queued"}
