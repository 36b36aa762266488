"""Packing and serving for real: what is refused, what is in the Bento, a clip over HTTP, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import bentoml
import httpx
import psutil
import pytest
from bentoml.exceptions import BentoMLException

from ovi import config, storage
from ovi.config import Settings
from ovi.errors import ConfigError, OviError
from ovi.models.folder import ModelFolder
from ovi.progress import Silent
from services.generation import clip as clips
from services.generation.keys import add
from services.generation.launch import launch
from services.generation.package import package
from services.generation.places import KEYS
from tests.services.models import tiny_settings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def promotion(tmp_path: Path, model: Path) -> Path:
    decision = {"promoted": True, "digest": ModelFolder.open(model).digest, "model": "ovi", "version": "3"}
    storage.write_json(tmp_path / "promotion.json", decision)
    return tmp_path / "promotion.json"


@pytest.fixture
def hollow(tmp_path: Path) -> Path:
    """A package that has everything but a service."""
    storage.write_bytes(tmp_path / "package" / "bento" / "bento.yaml", b"")
    storage.write_json(tmp_path / "package" / "package.json", {"bento": "bento"})
    return tmp_path / "package"


@pytest.mark.parametrize(
    ("decision", "words"),
    [
        ({"promoted": False}, "was not promoted"),
        ({}, "was not promoted"),
        ({"promoted": True, "digest": "0" * 64}, "another digest"),
    ],
)
def test_only_the_promoted_model_is_packed(
    tmp_path: Path, settings: Settings, model: Path, decision: dict[str, object], words: str
) -> None:
    storage.write_json(tmp_path / "promotion.json", decision)
    with pytest.raises(OviError, match=words):
        package(settings, tmp_path / "promotion.json", model, tmp_path / "package", Silent())
    assert not (tmp_path / "package").exists()


def test_a_damaged_model_is_not_packed(tmp_path: Path, settings: Settings, model: Path, promotion: Path) -> None:
    with pytest.raises(OviError, match="not a model folder"):
        package(settings, promotion, tmp_path, tmp_path / "package", Silent())


def test_a_busy_port_is_one_line_that_says_what_to_do(hollow: Path, tmp_path: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        with pytest.raises(OviError, match=f"port {port} on 127.0.0.1 is in use.*--set service.port=N") as found:
            launch(hollow, tmp_path / "state", "127.0.0.1", port)
    assert "\n" not in str(found.value)


def test_what_is_not_a_package_is_refused(tmp_path: Path, hollow: Path) -> None:
    with pytest.raises(OviError, match="make one with `ovi package`"):
        launch(tmp_path, tmp_path / "state", "127.0.0.1", 0)
    with pytest.raises(OviError, match="cannot listen there"):
        launch(hollow, tmp_path / "state", "192.0.2.1", 0, {KEYS: "keys.json"})
    with pytest.raises(OviError, match=r"service\.host: 0\.0\.0\.0: others could call .* `ovi key NAME`"):
        launch(hollow, tmp_path / "state", "0.0.0.0", 0)
    (hollow / "bento" / "bento.yaml").unlink()
    with pytest.raises(OviError, match="its Bento is missing"):
        launch(hollow, tmp_path / "state", "127.0.0.1", 0)


def test_a_service_that_ends_at_once_says_its_last_words(hollow: Path, tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(OviError, match=r"the service ended with code 1; its last words: .*Error") as found:
        clips.clip(settings, hollow, tmp_path / "clip.mp4", Silent())
    assert "\n" not in str(found.value)
    assert not (tmp_path / "clip.mp4").exists()


def test_an_empty_prompt_can_never_work(hollow: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"service\.prompt"):
        clips.clip(tiny_settings(service__prompt="''"), hollow, tmp_path / "clip.mp4", Silent())


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, settings: Settings, model: Path) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    decision = {"promoted": True, "digest": ModelFolder.open(model).digest, "model": "ovi", "version": "3"}
    storage.write_json(folder / "promotion.json", decision)
    (folder / "settings.yaml").write_text(config.dump(settings))
    package(settings, folder / "promotion.json", model, folder / "package", Silent())
    return folder


def ours(word: Path) -> list[psutil.Process]:
    """Living processes that name the folder in their command or hold it as their state."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(word) in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.e2e
def test_the_bento_is_complete_and_made_of_its_inputs_alone(packed: Path, settings: Settings, model: Path) -> None:
    record = storage.read_json(packed / "package" / "package.json")
    digest = ModelFolder.open(model).digest
    assert (record["model_digest"], record["tag"]) == (digest, f"ovi:{digest[:16]}")
    bento = packed / "package" / record["bento"]
    assert ModelFolder.open(bento / "src" / "model").digest == digest
    recipe = (bento / "env" / "docker" / "Dockerfile").read_text().splitlines()
    assert [line for line in recipe if line.startswith("USER ")][-1] == "USER bentoml"
    assert "torch==" in (bento / "env" / "python" / "requirements.txt").read_text()
    for file in storage.list_files(packed / "package"):
        assert str(packed) not in Path(file).read_bytes().decode("utf-8", "ignore"), file
    before = storage.sha256_folder(packed / "package")
    package(settings, packed / "promotion.json", model, packed / "package", Silent())
    assert storage.sha256_folder(packed / "package") == before
    assert [path.name for path in packed.iterdir() if path.name.startswith(".")] == []


@pytest.mark.e2e
def test_a_clip_over_http_leaves_nothing_but_the_clip(packed: Path, settings: Settings) -> None:
    before = storage.sha256_folder(packed / "package")
    facts = clips.clip(settings, packed / "package", packed / "first.mp4", Silent())
    assert (facts["frames"], facts["width"]) == (121, 64)
    assert storage.sha256(packed / "first.mp4") == facts["sha256"]
    assert ours(packed) == []
    assert storage.sha256_folder(packed / "package") == before


class Serving:
    """`ovi serve` as a user starts it, on a free port."""

    def __init__(self, packed: Path, state: Path, keys: Path, key: str) -> None:
        words = ["serve", "--params", str(packed / "settings.yaml"), "--package", str(packed / "package")]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ovi.cli", *words, "--state", str(state), "--set", f"service.keys={keys}"], cwd=ROOT,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stderr is not None
        self.url, self.key = self.process.stderr.readline().decode().split()[0], key
        headers = {"Authorization": f"Bearer {key}"}
        self.client = httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=60)

    def wait(self, path: str, good: Callable[[httpx.Response], bool]) -> httpx.Response:
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            try:
                if good(answer := self.client.get(path)):
                    return answer
            except httpx.TransportError:
                assert self.process.poll() is None, "the server ended"
            time.sleep(0.02)
        raise AssertionError(f"waited in vain for {path}")

    def end(self, number: signal.Signals) -> int:
        assert self.process.stderr is not None
        self.process.send_signal(number)
        self.process.stderr.close()
        self.client.close()
        return self.process.wait(timeout=240)


@pytest.mark.e2e
def test_the_whole_server_may_be_killed_and_loses_nothing(packed: Path, temporary: Path) -> None:
    keys = temporary / "keys.json"
    key = add(keys, "team-a", per_minute=99, concurrency=9)
    server = Serving(packed, temporary / "state", keys, key)
    server.wait("/readyz", lambda answer: answer.status_code == 200)
    work = {"prompt": "A lamp.", "seed": 9, "steps": 200}
    worker, job = held(server, work, temporary)
    other = server.client.post("/v1/videos", json=work).json()["id"]
    assert server.end(signal.SIGKILL) == -9
    worker.resume()
    gone = time.monotonic() + 30
    while ours(temporary):
        assert time.monotonic() < gone, ours(temporary)
        time.sleep(0.05)

    server = Serving(packed, temporary / "state", keys, key)
    done = [server.wait(f"/v1/videos/{name}", lambda answer: answer.json()["sha256"]).json() for name in (job, other)]
    assert done[0]["sha256"] == done[1]["sha256"]
    assert [one["status"] for one in done] == ["completed", "completed"]
    for nowhere in ("/nowhere", "/v1/videos/%0A"):
        assert server.client.get(nowhere).headers["content-type"] == "application/problem+json", nowhere
    server.wait("/readyz", lambda answer: answer.status_code == 200)
    assert "ovi_workers_up 1.0" in server.client.get("/metrics").text
    assert "<title>" in server.client.get("/").text
    nobody_passes_by_bentoml(server)
    bentos_own_clients_get_the_same_jobs(server)
    assert server.end(signal.SIGTERM) == 0
    assert ours(temporary) == []


def held(server: Serving, work: dict[str, Any], temporary: Path) -> tuple[psutil.Process, str]:
    """The worker, stopped with a job in hand, and that job: on a busy machine it may end before a kill."""
    (worker,) = (process for process in ours(temporary) if "services.generation.worker" in process.cmdline())
    for _ in range(8):
        job = server.client.post("/v1/videos", json=work).json()["id"]
        server.wait(f"/v1/videos/{job}", lambda answer: answer.json()["status"] != "queued")
        worker.suspend()
        if server.client.get(f"/v1/videos/{job}").json()["status"] == "in_progress":
            return worker, job
        worker.resume()
    raise AssertionError("every job ended before its worker could be stopped")


def nobody_passes_by_bentoml(server: Serving) -> None:
    """What BentoML itself serves is behind the same keys, limits and rules of origin as the rest."""
    with httpx.Client(base_url=server.url, trust_env=False) as stranger:
        for path in ("/schema.json", "/docs.json", "/generate_task/status?task_id=x", "/v1/videos", "/metrics"):
            assert stranger.get(path).status_code == 401, path
        for path in ("/generate", "/generate_task", "/generate_task/submit"):
            assert stranger.post(path, json={"prompt": "x"}).status_code == 401, path
    pickled = {"content-type": "application/vnd.bentoml+pickle"}
    assert server.client.post("/generate", content=b"\x80\x04.", headers=pickled).status_code == 415
    assert server.client.post("/generate", content=b"a" * (2 << 20)).status_code == 413
    assert server.client.get("/schema.json", headers={"Origin": "http://elsewhere.example"}).status_code == 403


def bentos_own_clients_get_the_same_jobs(server: Serving) -> None:
    job = server.client.post("/v1/videos", json={"prompt": "A lamp.", "seed": 9, "steps": 4}).json()["id"]
    sha256 = server.wait(f"/v1/videos/{job}", lambda answer: answer.json()["sha256"]).json()["sha256"]
    words = {"prompt": "A lamp.", "seed": 9, "settings": {"steps": 4}}

    async def by_task() -> dict[str, Any]:
        # The other client's `submit` of this BentoML fails in its own last line (1.4.39).
        async with bentoml.AsyncHTTPClient(server.url, token=server.key) as client:
            task = await client.generate_task.submit(**words)
            while (await task.get_status()).value == "in_progress":
                await asyncio.sleep(0.1)
            return dict(await task.get())

    with bentoml.SyncHTTPClient(server.url, token=server.key) as client:
        made, later = client.generate(**words), asyncio.run(by_task())
        with pytest.raises(BentoMLException, match="steps"):
            client.generate(prompt="A lamp.", settings={"steps": 0})
    for job in (made, later):
        assert (job["status"], job["sha256"]) == ("completed", sha256)
        assert server.client.get(f"/v1/videos/{job['id']}").json()["sha256"] == sha256
        assert server.client.get(f"/v1/videos/{job['id']}/content").headers["content-type"] == "video/mp4"
    assert made["id"] != later["id"]


@pytest.fixture
def temporary(tmp_path: Path) -> Iterator[Path]:
    """A folder that no process of a failed test survives: servers name it nowhere but in their environment."""
    yield tmp_path
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if str(tmp_path) in " ".join((*process.cmdline(), *process.environ().values())):
                process.kill()
    for process in ours(tmp_path):
        process.kill()


@pytest.mark.e2e
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_clip_takes_the_service_along(packed: Path, temporary: Path, number: signal.Signals) -> None:
    words = ["clip", "--params", str(packed / "settings.yaml"), "--package", str(packed / "package")]
    process = subprocess.Popen(
        [sys.executable, "-m", "ovi.cli", *words, "--out", str(temporary / "clip.mp4")], cwd=ROOT,
        env=os.environ | {"TMPDIR": str(temporary)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test run in the background ignores it
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while not any("services.generation.worker" in child.cmdline() for child in ours(temporary)):
        assert process.poll() is None, "the command ended"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    assert process.stderr is not None
    error = process.stderr.read().decode()
    code = process.wait(timeout=240)
    assert code == {signal.SIGTERM: 75, signal.SIGINT: 130, signal.SIGKILL: -9}[number], error
    deadline = time.monotonic() + 30
    while ours(temporary):
        assert time.monotonic() < deadline, ours(temporary)
        time.sleep(0.05)
    if number != signal.SIGKILL:
        assert list(temporary.iterdir()) == []
        assert "Traceback" not in error
