"""Finding, waiting for and stopping servers, with a small real one in place of the big ones."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest

from flows import environment, server
from flows.server import Server
from flows.workspace import Workspace
from ovi import storage
from ovi.errors import OviError
from tests.flows import toy


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(toy.make(tmp_path / "clone"))


@pytest.fixture
def healthy() -> Iterator[str]:
    """The address of something that answers every GET with 200."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    httpd = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


def test_a_server_is_waited_for_and_stopped(tmp_path: Path) -> None:
    port = server.free_port()
    running = Server(tmp_path, "files", ("http.server", "--bind", "127.0.0.1", str(port)), port, "/", {})
    running.ready()
    assert server.answers(running.url)
    tree = psutil.Process(running.pid).children(recursive=True)
    running.stop()
    assert not server.answers(running.url)
    assert not any(process.is_running() for process in tree)


def test_a_server_that_ends_is_one_line_with_its_last_words(tmp_path: Path) -> None:
    running = Server(tmp_path, "files", ("http.server", "no-port"), server.free_port(), "/", {})
    with pytest.raises(OviError, match=r"the files server did not start: .*no-port.*out/logs/files\.log"):
        running.ready()


def test_a_port_in_use_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OviError, match=rf"service\.port: port {port} on 127\.0\.0\.1 is in use"):
            server.require_port("127.0.0.1", port, "service.port")
    server.require_port("127.0.0.1", 0, "service.port")


def test_a_database_that_is_away_is_one_line(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    there = "ovi:hidden@127.0.0.1:9/ovi"
    stores = toy.settings(workspace.root, f"tracking.uri=postgresql+psycopg://{there}")
    with (
        pytest.raises(OviError, match=r"tracking\.uri: no database answers at 127\.0\.0\.1:9 \(.*refused\); start it"),
        server.pages(workspace, stores, server.free_port(), server.free_port()),
    ):
        pass
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", f"postgresql+asyncpg://{there}")
    with pytest.raises(OviError, match=r"DATABASE_CONNECTION_URL: no database answers"), server.prefect(workspace):
        pass
    assert not (workspace.root / "out" / "logs").exists()  # none was started
    for passes in ("sqlite:///out/mlflow.db", "http://mlflow.team:5000", None):
        server.require_database("tracking.uri", passes)


def test_an_announcement_counts_while_its_process_lives(workspace: Workspace, healthy: str) -> None:
    assert server.find_prefect(workspace) is None
    me = {"url": healthy, "pid": os.getpid(), "started": psutil.Process().create_time()}
    for told, expected in (
        (me, healthy),
        ({**me, "started": 1.0}, None),  # the number belongs to another process now
        ({**me, "pid": 2**22 + 1}, None),
        ({**me, "url": "http://127.0.0.1:9"}, None),
        ({"url": healthy}, None),
    ):
        storage.write_json(workspace.prefect / "server.json", told)
        assert server.find_prefect(workspace) == expected
    (workspace.prefect / "server.json").write_text("{")
    assert server.find_prefect(workspace) is None


def test_a_users_own_server_is_used_or_named(
    workspace: Workspace, healthy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"{healthy}/api")
    with server.prefect(workspace) as wait:
        wait()
        assert os.environ["PREFECT_API_URL"] == f"{healthy}/api"
        assert os.environ["PREFECT_HOME"] == str(workspace.prefect)
    assert not (workspace.root / "out" / "logs").exists()  # none was started
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(OviError, match="9/api does not answer"), server.prefect(workspace):
        pass


def test_loopback_passes_any_proxy(healthy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "example.org")
    assert not server.answers(healthy)
    environment.quiet()
    assert os.environ["no_proxy"] == "example.org,127.0.0.1,localhost"
    assert server.answers(healthy)


def test_stages_find_this_python_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    env = environment.for_stage({"A": "b"})
    assert env["PATH"].split(":")[0] == str(Path(sys.executable).parent)
    assert env["A"] == "b"
    assert env["DO_NOT_TRACK"] == "1"
