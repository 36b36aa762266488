"""`make platform`: both pages, a worker, a deployed run through all of them, nothing left at Ctrl-C, all kept.

On PostgreSQL where it is installed, else on the files of a clone.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
import sqlalchemy as sql

from flows import server
from ovi import tracking
from ovi.config import Tracking
from tests.flows import asking, toy
from tests.services import postgres
from tests.waiting import wait_for

RUN_S = 240.0
DONE = ("COMPLETED", "FAILED", "CRASHED")


@pytest.fixture
def databases() -> Iterator[dict[str, str]]:
    """An empty PostgreSQL database for each server; none where PostgreSQL is not installed."""
    if postgres.missing():
        yield {}
        return
    with postgres.postgres() as url:
        engine = sql.create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as db:
            for name in ("mlflow", "prefect"):
                db.exec_driver_sql(f"CREATE DATABASE {name}")
        engine.dispose()
        there = url.removesuffix("/postgres")
        yield {"mlflow": f"{there}/mlflow", "prefect": f"{there.replace('+psycopg', '+asyncpg')}/prefect"}


@contextmanager
def running(root: Path, databases: dict[str, str]) -> Iterator[dict[str, str]]:
    """The addresses `make platform` prints. Ends it as a terminal does; no process of it may be left."""
    ports = [str(server.free_port()) for _ in range(2)]
    recipe = subprocess.run(
        ["make", "-n", "--no-print-directory", "platform"],
        cwd=toy.REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    program, *words = recipe.stdout.splitlines()[-1].split()
    assert program.endswith("/ovi")
    words += ["--mlflow-port", ports[0], "--prefect-port", ports[1]]
    env = dict(os.environ)
    if databases:
        words += ["--set", f"tracking.uri={databases['mlflow']}"]
        env["PREFECT_API_DATABASE_CONNECTION_URL"] = databases["prefect"]
    process = subprocess.Popen(
        [Path(sys.executable).with_name("ovi"), *words],
        cwd=root, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    tree: list[psutil.Process] = []
    try:
        lines = [process.stdout.readline() for _ in range(5)]
        assert lines[-1] == "Ctrl-C closes them\n", (lines, process.communicate()[1])
        yield dict(line.split() for line in lines[1:4])
        tree = psutil.Process(process.pid).children(recursive=True)
    finally:
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert said == "\novi: stopped by Ctrl-C; the platform is closed\n"
    assert process.returncode == 130
    assert len(tree) >= 6  # a guard and a process for each of three servers
    assert psutil.wait_procs(tree, timeout=5)[1] == []
    assert [port for port in ports if server.answers(f"http://127.0.0.1:{port}/health")] == []


def ended(api: httpx.Client, deployment: str) -> tuple[str, str]:
    """(id, state) of a new run of the deployment, once it has ended."""
    run = api.post(f"/deployments/{deployment}/create_flow_run", json={"parameters": {"sets": ["seed=3"]}}).json()["id"]
    wait_for(lambda: api.get(f"/flow_runs/{run}").json()["state"]["type"] in DONE, RUN_S)
    return run, api.get(f"/flow_runs/{run}").json()["state"]["type"]


@pytest.mark.e2e
def test_one_command_runs_all_and_keeps_all(tmp_path: Path, databases: dict[str, str]) -> None:
    root = toy.make(tmp_path / "clone")
    shutil.copy(toy.REPOSITORY / "prefect.yaml", root)
    settings = toy.settings(root, *([f"tracking.uri={databases['mlflow']}"] if databases else []))
    with running(root, databases) as urls, asking.client(f"{urls['prefect']}/api") as api:
        for name, title in (("mlflow", "<title>MLflow</title>"), ("prefect", "<title>Prefect Server</title>")):
            assert title in httpx.get(urls[name], follow_redirects=True).text
        wait_for(lambda: [it["status"] for it in api.post("/work_pools/ovi/workers/filter").json()] == ["ONLINE"], 30)
        assert httpx.get(f"{urls['worker']}/health").status_code == 200
        (nightly,) = api.get("/deployments/name/ovi/nightly").json()["schedules"]
        assert nightly["active"] is False  # nobody's machine starts to train by itself
        deployment = api.get("/deployments/name/ovi/on-demand").json()["id"]
        run, state = ended(api, deployment)
        assert state == "COMPLETED"
        assert finished(settings.tracking.model_copy(update={"uri": urls["mlflow"]})) >= {"first", "second", "third"}
    assert toy.ran(root) == ["first", "second", "third"]
    assert finished(settings.tracking) >= {"first", "second", "third"}
    assert (root / "out/prefect/prefect.db").exists() is not bool(databases)
    assert (root / "out/mlflow.db").exists() is not bool(databases)
    kept = (
        databases["prefect"].replace("+asyncpg", "+psycopg")
        if databases
        else f"sqlite:///{root}/out/prefect/prefect.db"
    )
    with sql.create_engine(kept).connect() as db:
        found = db.execute(
            sql.text("SELECT CAST(id AS TEXT), state_type FROM flow_run WHERE deployment_id IS NOT NULL")
        )
        assert (run, "COMPLETED") in [tuple(row) for row in found]


def finished(where: Tracking) -> set[str]:
    return {it["name"] for it in tracking.find_runs(where, "tags.`ovi.key` != ''") if it["status"] == "FINISHED"}
