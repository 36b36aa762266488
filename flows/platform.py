"""What a team shares, on one machine: the MLflow and Prefect servers, and a worker that takes runs of `prefect.yaml`.

Everything of one clone, on loopback; in a cluster infra/k8s/servers has the same three. Each server keeps its state in
a file under out/ or in PostgreSQL: MLflow's is `tracking.uri`, Prefect's PREFECT_API_DATABASE_CONNECTION_URL.
Try it: `ovi platform`, then in another terminal `PREFECT_API_URL=... prefect deployment run ovi/on-demand`.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from flows import environment, server
from flows.server import HOST, Server
from flows.workspace import Workspace
from ovi.config import Settings
from ovi.errors import ConfigError, OviError

POOL = "ovi"
DEPLOYMENTS = "prefect.yaml"
WEBHOOK = "OVI_WEBHOOK"  # where runs that do not end well are told (flows/notices.py)


@contextlib.contextmanager
def platform(workspace: Workspace, settings: Settings, mlflow_port: int, prefect_port: int) -> Iterator[dict[str, str]]:
    """All three while the block lasts: addresses by name. Raises OviError when one of them does not start."""
    _check(workspace)
    with server.pages(workspace, settings, mlflow_port, prefect_port) as urls:
        api = f"{urls['prefect']}/api"
        deploy(workspace, api)
        port = server.free_port()
        env = {
            **_client(workspace, api),
            "PREFECT_WORKER_WEBSERVER_HOST": HOST,
            "PREFECT_WORKER_WEBSERVER_PORT": str(port),
            "OVI_CLONE": str(workspace.root),
            environment.TRACKING: settings.tracking.uri,
        }
        command = ("prefect", "worker", "start", "--pool", POOL, "--with-healthcheck")
        worker = Server(workspace.root, "worker", command, port, "/health", env)
        try:
            worker.ready()
            yield {**urls, "worker": worker.url}
        finally:
            worker.stop()


def deploy(workspace: Workspace, api: str) -> list[str]:
    """What the Prefect server at `api` has afterwards, in words: the pool, prefect.yaml's deployments, who is told.

    Deploying again replaces what was there. Raises OviError with the server's words, ConfigError for a bad OVI_WEBHOOK.
    """
    _check(workspace)
    env = _client(workspace, api)
    _python(workspace.root, env, "prefect", "work-pool", "create", POOL, "--type", "process", "--overwrite")
    _python(workspace.root, env, "prefect", "--no-prompt", "deploy", "--all")
    said = [f"work pool {POOL}", f"the deployments of {DEPLOYMENTS}"]
    if os.environ.get(WEBHOOK):
        _python(workspace.root, env, "flows.notices")
        said.append(f"a notice to {WEBHOOK} of every run that does not end well")
    return said


def _check(workspace: Workspace) -> None:
    """What can be told before anything is started."""
    if not (workspace.root / DEPLOYMENTS).is_file():
        raise OviError(f"{workspace.root}: no {DEPLOYMENTS} here; run from the top of the repository")
    url = os.environ.get(WEBHOOK)
    if url and not re.fullmatch(r"https?://[^\s/]+\S*", url):
        raise ConfigError(f"{WEBHOOK}: not an address that can be posted to; write https://host/path")


def _client(workspace: Workspace, api: str) -> dict[str, str]:
    return {"PREFECT_API_URL": api, "PREFECT_HOME": str(workspace.prefect)}


def _python(root: Path, env: dict[str, str], module: str, *words: str) -> None:
    command = [sys.executable, "-m", module, *words]
    everything = {**environment.for_stage(env), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, cwd=root, env=everything, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines() or [os.strerror(done.returncode)]
        raise OviError(f"{module} {' '.join(words)}: {lines[-1].strip()}")
