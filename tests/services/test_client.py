"""The client against a real server, one that refuses, and connections that are cut."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ovi import storage
from ovi.config import Settings
from ovi.errors import OviError
from services.client import Client, ClipFailed, ServiceError
from tests.services.models import lay_bundle
from tests.services.test_server import WORK, Running
from tests.services.test_uploads import picture


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, settings: Settings, model: Path) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("client")
    running = Running(lay_bundle(folder / "bundle", model, settings), folder / "state")
    running.start()
    yield running
    running.end()


@pytest.fixture
def ovi(server: Running) -> Iterator[Client]:
    with Client(f"http://127.0.0.1:{server.port}") as client:
        yield client


def test_from_a_prompt_to_a_file(ovi: Client, tmp_path: Path) -> None:
    (tmp_path / "first.png").write_bytes(picture())
    how = {"seed": 5, "steps": 4, "guidance": {"video": 3.0, "audio": 2.5}}
    job = ovi.generate("A lamp.", tmp_path / "clip.mp4", tmp_path / "first.png", **how)
    assert storage.sha256(tmp_path / "clip.mp4") == job["sha256"]
    assert (job["effective"]["image"], job["effective"]["guidance"]) == (True, how["guidance"])
    same = ovi.generate("A lamp.", tmp_path / "same.mp4", picture(), **how)
    assert same["sha256"] == job["sha256"] != ovi.generate("A lamp.", tmp_path / "no.mp4", **how)["sha256"]
    assert ovi.download(job["id"], tmp_path / "m.json", "manifest").read_bytes().startswith(b"{")
    assert [one["id"] for one in ovi.jobs()][-1] == job["id"]
    assert ovi.models()[0]["id"] == job["model"]
    assert ovi.validate("A lamp.")["effective"]["steps"] == 4
    ovi.delete(job["id"])
    with pytest.raises(ServiceError, match="answered 404"):
        ovi.get(job["id"])


def test_events_tell_a_life_and_go_on_where_they_stopped(ovi: Client) -> None:
    job = ovi.create("A lamp.", steps=60)["id"]
    told = list(ovi.events(job))
    assert [told[0].name, told[-1].name] == ["state", "done"]
    assert {"step", "preview"} <= {event.name for event in told}
    steps = [event.data["step"] for event in told if event.name == "step"]
    assert steps == sorted(steps)
    middle = next(event for event in told if event.name == "step")
    assert [event.name for event in ovi.events(job, after=middle.id)] == ["done"]
    assert list(ovi.events(job, after=told[-1].id)) == []


def test_what_does_not_become_a_clip_is_said(ovi: Client, tmp_path: Path) -> None:
    job = ovi.create("A lamp.", steps=200)["id"]
    with pytest.raises(OviError, match=r"still (queued|in_progress) after 0"):
        ovi.wait(job, seconds=0)
    ovi.cancel(job)
    with pytest.raises(ClipFailed, match="cancelled") as ended:
        ovi.wait(job)
    assert ended.value.job["id"] == job
    with pytest.raises(ServiceError, match=r"guidance\.video") as refused:
        ovi.create("A lamp.", guidance={"video": -1.0})
    assert (refused.value.status, refused.value.field) == (422, "guidance.video")
    with pytest.raises(ServiceError, match="410"):
        ovi.download(job, tmp_path / "clip.mp4")
    assert list(tmp_path.iterdir()) == []


def test_one_creation_however_often_it_is_sent(ovi: Client) -> None:
    first = ovi.create("A lamp.", idempotency_key="one")
    assert ovi.create("A lamp.", idempotency_key="one")["id"] == first["id"]
    with pytest.raises(ServiceError, match="409"):
        ovi.create("Another.", idempotency_key="one")


class Cutting:
    """Passes connections on to the server and cuts each after so many bytes of the answer, the first so many times."""

    def __init__(self, port: int, after: int, times: int) -> None:
        self._to, self._after, self.left = port, after, times
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                one, _ = self._listener.accept()
            except OSError:
                return
            other = socket.create_connection(("127.0.0.1", self._to))
            threading.Thread(target=self._pass, args=(one, other, None), daemon=True).start()
            threading.Thread(target=self._pass, args=(other, one, self._after), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, most: int | None) -> None:
        passed = 0
        try:
            while data := source.recv(1024):
                passed += len(data)
                if most is not None and passed > most and self.left > 0:
                    self.left -= 1
                    break
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # the other thread, which waits on it, hears of it
            end.close()

    def close(self) -> None:
        self._listener.close()


def test_cut_connections_lose_nothing(server: Running, ovi: Client, tmp_path: Path) -> None:
    job = ovi.wait(ovi.create(**WORK)["id"])
    between = Cutting(server.port, after=4000, times=3)
    with Client(f"http://127.0.0.1:{between.port}") as cut:
        cut.download(job["id"], tmp_path / "clip.mp4")
        assert between.left < 3
        assert storage.sha256(tmp_path / "clip.mp4") == job["sha256"]
        between.left = 3
        names = [event.name for event in cut.events(cut.create(**WORK | {"steps": 20})["id"])]
        assert between.left < 3
    between.close()
    assert names[-1] == "done"
    assert names.count("done") == 1


def test_nobody_there_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}", patience_s=0) as client, pytest.raises(OviError, match="no answer") as said:
        client.models()
    assert "\n" not in str(said.value)
