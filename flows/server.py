"""The Prefect and MLflow servers of this clone: started on loopback behind a guard, waited for, stopped as trees.

A clone has at most one Prefect server, announced in out/prefect/server.json; who finds it alive uses it. With
PREFECT_API_URL set, that server is used and none is started. Imports neither prefect nor mlflow.
Try it: `ovi ui`.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from flows import environment
from flows.local import Tree, log_path, start
from flows.workspace import Workspace
from ovi import storage
from ovi.config import Settings, Tracking
from ovi.errors import OviError

HOST = "127.0.0.1"
START_S = 180.0  # a first start compiles and migrates a database: 15 s on an idle machine, a minute on a busy one
STOP_S = 10.0
CONNECT_S = 10.0
POSTGRES = 5432
CONNECTIONS = "80"  # 40 threads of MLflow's server take two each; with fewer they wait for each other, then give up
DATABASE = "PREFECT_API_DATABASE_CONNECTION_URL"  # Prefect's own variable


class Server:
    """One server process tree; `ready` waits until it answers, `stop` leaves nothing of it."""

    def __init__(
        self, root: Path, name: str, command: tuple[str, ...], port: int, health: str, env: dict[str, str]
    ) -> None:
        self.name, self.url = name, f"http://{HOST}:{port}"
        self._health = f"{self.url}{health}"
        self._log = log_path(root, name)
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("wb") as sink:
            self._tree = Tree(start((sys.executable, "-m", *command), STOP_S, root, env, sink))

    @property
    def alive(self) -> bool:
        return self._tree.alive

    @property
    def pid(self) -> int:
        return self._tree.pid

    def ready(self) -> None:
        """Raises OviError when the server ends or is silent for START_S; the line names its log."""
        until = time.monotonic() + START_S
        while not (answers(self._health) and self.alive):
            if not self.alive:
                raise OviError(f"the {self.name} server did not start: {_last_line(self._log)} (log: {self._log})")
            if time.monotonic() > until:
                raise OviError(f"the {self.name} server did not answer within {START_S:.0f} s (log: {self._log})")
            time.sleep(0.1)

    def stop(self) -> None:
        self._tree.stop(STOP_S)


def start_prefect(workspace: Workspace, port: int) -> Server:
    """A Prefect server; its database is a file in out/prefect unless DATABASE is set. OviError when that is away."""
    require_database(DATABASE, os.environ.get(DATABASE))
    command = ("prefect", "server", "start", "--host", HOST, "--port", str(port))
    env = {"PREFECT_HOME": str(workspace.prefect), "PREFECT_UI_URL": f"http://{HOST}:{port}"}  # for links in notices
    return Server(workspace.root, "prefect", command, port, "/api/health", env)


def start_mlflow(workspace: Workspace, tracking: Tracking, port: int) -> Server:
    """The MLflow pages over the store the stages write to. OviError when its database is away."""
    require_database("tracking.uri", tracking.uri)
    stores = {
        "MLFLOW_BACKEND_STORE_URI": tracking.uri, "MLFLOW_DEFAULT_ARTIFACT_ROOT": tracking.artifacts,
        "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": CONNECTIONS,
    }  # fmt: skip
    options = ("--no-serve-artifacts", "--workers", "1", "--host", HOST, "--port", str(port))
    return Server(workspace.root, "mlflow", ("mlflow", "server", *options), port, "/health", stores)


def find_prefect(workspace: Workspace) -> str | None:
    """Address of the running Prefect server of this clone, if there is one."""
    announcement = workspace.prefect / "server.json"
    if not announcement.exists():
        return None
    with contextlib.suppress(OviError, KeyError, TypeError, psutil.NoSuchProcess):
        told = storage.read_json(announcement)
        same = psutil.Process(told["pid"]).create_time() == told["started"]  # else another clone may have its port now
        return str(told["url"]) if same and answers(f"{told['url']}/api/health") else None
    return None


@contextlib.contextmanager
def prefect(workspace: Workspace) -> Iterator[Callable[[], None]]:
    """Environment variables that lead to a Prefect server: the user's, this clone's, or one for the block alone.

    Yields what waits until it answers. Import prefect inside the block: it reads the variables once.
    """
    os.environ.update(
        PREFECT_HOME=str(workspace.prefect),
        PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL="CRITICAL",  # its words go to its pages; the terminal is ours
        PREFECT_INTERNAL_LOGGING_LEVEL="CRITICAL",
        PREFECT_RESULTS_PERSIST_BY_DEFAULT="false",
    )
    found = find_prefect(workspace)
    url = os.environ.get("PREFECT_API_URL") or (f"{found}/api" if found else None)
    if url:
        if not answers(f"{url}/health"):
            raise OviError(f"PREFECT_API_URL: {url} does not answer; start that server or unset the variable")
        os.environ["PREFECT_API_URL"] = url
        yield lambda: None
        return
    server = start_prefect(workspace, free_port())  # not Prefect's usual one: two clones may start at once
    os.environ["PREFECT_API_URL"] = f"{server.url}/api"
    try:
        yield lambda: _announce(workspace, server)
    finally:
        del os.environ["PREFECT_API_URL"]
        server.stop()


@contextlib.contextmanager
def pages(workspace: Workspace, settings: Settings, mlflow_port: int, prefect_port: int) -> Iterator[dict[str, str]]:
    """Both servers while the block lasts: addresses by name. A Prefect server that runs here already is only named.

    Raises OviError when a port is in use.
    """
    environment.quiet()
    found = find_prefect(workspace)
    require_port(HOST, mlflow_port, "--mlflow-port")
    if found is None:
        require_port(HOST, prefect_port, "--prefect-port")
    servers = []
    try:
        servers.append(start_mlflow(workspace, settings.tracking, mlflow_port))
        if found is None:
            servers.append(start_prefect(workspace, prefect_port))
        servers[0].ready()
        if found is None:
            _announce(workspace, servers[1])
        yield {"mlflow": servers[0].url, "prefect": found or servers[1].url}
    finally:
        for server in servers:
            server.stop()


def require_port(host: str, port: int, setting: str) -> None:
    """OviError when `port` is taken; port 0 always passes (any free one)."""
    if not _is_free(host, port):
        raise OviError(f"{setting}: port {port} on {host} is in use; stop what listens there or choose another port")


def require_database(setting: str, url: str | None) -> None:
    """OviError when nobody listens where the URL of a database server leads; a file always passes."""
    there = urlsplit(url or "")
    if there.hostname is None or there.scheme.startswith("http"):
        return
    port = there.port or POSTGRES
    try:
        socket.create_connection((there.hostname, port), timeout=CONNECT_S).close()
    except OSError as error:
        raise OviError(
            f"{setting}: no database answers at {there.hostname}:{port} ({error.strerror or error}); "
            "start it or correct the address"
        ) from None


def free_port() -> int:
    """A port nobody listens on, picked by the system."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    try:
        with urllib.request.build_opener().open(url, timeout=2) as reply:  # urlopen's own keeps an old proxy setting
            return bool(reply.status == 200)
    except (urllib.error.URLError, http.client.HTTPException, OSError):
        return False


def _announce(workspace: Workspace, server: Server) -> None:
    """Wait for the Prefect server, then tell other commands of this clone where it is."""
    server.ready()
    started = psutil.Process(server.pid).create_time()
    storage.write_json(workspace.prefect / "server.json", {"url": server.url, "pid": server.pid, "started": started})


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
