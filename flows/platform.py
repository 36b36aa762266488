"""What a team shares, on one machine: the MLflow and Prefect servers, and a worker that takes runs of `prefect.yaml`.

Everything of one clone, on loopback; in a cluster infra/k8s/servers has the same three.
Try it: `ovi platform`, then in another terminal `PREFECT_API_URL=... prefect deployment run ovi/on-demand`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from flows import environment, server
from flows.server import HOST, Server
from flows.workspace import Workspace
from ovi.config import Settings
from ovi.errors import OviError

POOL = "ovi"
DEPLOYMENTS = "prefect.yaml"


@contextlib.contextmanager
def platform(workspace: Workspace, settings: Settings, mlflow_port: int, prefect_port: int) -> Iterator[dict[str, str]]:
    """All three while the block lasts: addresses by name. Raises OviError when one of them does not start."""
    if not (workspace.root / DEPLOYMENTS).is_file():
        raise OviError(f"{workspace.root}: no {DEPLOYMENTS} here; run from the top of the repository")
    with server.pages(workspace, settings, mlflow_port, prefect_port) as urls:
        port = server.free_port()
        env = {
            "PREFECT_API_URL": f"{urls['prefect']}/api",
            "PREFECT_HOME": str(workspace.prefect),
            "PREFECT_WORKER_WEBSERVER_HOST": HOST,
            "PREFECT_WORKER_WEBSERVER_PORT": str(port),
            "OVI_CLONE": str(workspace.root),
        }
        _prefect(workspace.root, env, "work-pool", "create", POOL, "--type", "process", "--overwrite")
        _prefect(workspace.root, env, "--no-prompt", "deploy", "--all")
        command = ("prefect", "worker", "start", "--pool", POOL, "--with-healthcheck")
        worker = Server(workspace.root, "worker", command, port, "/health", env)
        try:
            worker.ready()
            yield {**urls, "worker": worker.url}
        finally:
            worker.stop()


def _prefect(root: Path, env: dict[str, str], *words: str) -> None:
    command = [sys.executable, "-m", "prefect", *words]
    everything = {**environment.for_stage(env), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, cwd=root, env=everything, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines() or [os.strerror(done.returncode)]
        raise OviError(f"prefect {' '.join(words)}: {lines[-1].strip()}")
