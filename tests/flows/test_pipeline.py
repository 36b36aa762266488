"""The whole flow on a small clone, with a real Prefect server and MLflow store: run, skip, fail, be killed, go on."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows import server
from flows.workspace import Workspace
from tests.cluster.double import Double
from tests.flows import asking, toy
from tests.waiting import wait_for

pytestmark = pytest.mark.e2e
ALL_FINISHED = {name: ["FINISHED"] for name in ("pipeline", "first", "second", "third")}
OVI = Path(sys.executable).with_name("ovi")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return toy.make(tmp_path / "clone")


def demo(root: Path, api: str | None, *words: str, **more: str) -> subprocess.Popen[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_API")} | more
    return subprocess.Popen(
        [OVI, "demo", *words],
        cwd=root,
        env={**env, **({"PREFECT_API_URL": api} if api else {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def runs(root: Path) -> dict[str, list[str]]:
    """MLflow's runs: name -> statuses."""
    with closing(sqlite3.connect(root / "out" / "mlflow.db")) as base:
        found: dict[str, list[str]] = {}
        for name, status in base.execute("select name, status from runs order by start_time"):
            found.setdefault(name, []).append(status)
        return found


def tags(root: Path, name: str) -> dict[str, str]:
    with closing(sqlite3.connect(root / "out" / "mlflow.db")) as base:
        query = "select key, value from tags join runs using (run_uuid) where name = ?"
        return dict(base.execute(query, (name,)).fetchall())


def flow_states(api: str, root: Path) -> list[str]:
    """States of the clone's flow runs in Prefect: our flow run's id is a tag of the pipeline's MLflow run."""
    run = tags(root, "pipeline")["ovi.flow_run"]
    with asking.client(api) as prefect:
        state = prefect.get(f"/flow_runs/{run}").json()["state"]["type"]
        found = prefect.post("/task_runs/filter", json={"flow_runs": {"id": {"any_": [run]}}}).json()
    tasks = sorted((item["name"], item["state"]["type"]) for item in found)
    return [state, *(f"{name} {kind}" for name, kind in tasks)]


def sleepers(root: Path) -> list[psutil.Process]:
    """The processes of a sleeping stage: itself and its rank."""
    path = root / "out" / "pids.txt"
    wait_for(lambda: path.exists() and path.read_text().strip(), 120)
    return [psutil.Process(int(word)) for word in path.read_text().split()]


def gone(processes: list[psutil.Process], seconds: float = 30) -> bool:
    return not psutil.wait_procs(processes, timeout=seconds)[1]


def test_runs_once_then_has_nothing_to_do(root: Path, api: str) -> None:
    code, out, err = finish(demo(root, api))
    assert (code, err) == (0, "")
    assert toy.ran(root) == ["first", "second", "third"]
    assert json.loads((root / "out" / "third.json").read_text()) == {"score": 2}
    assert "files 2" in out
    assert runs(root) == ALL_FINISHED
    assert flow_states(api, root) == ["COMPLETED", *(f"{stage} COMPLETED" for stage in ("first", "second", "third"))]
    second = tags(root, "second")
    assert re.fullmatch(r"[0-9a-f]{32}", second["ovi.input.data/first.txt"])
    assert second["ovi.output.data/second"].endswith(".dir")
    assert set(second) >= {"ovi.key", "mlflow.parentRunId", "mlflow.source.git.commit", "ovi.git_dirty"}
    stage_run = (root / "out" / "ran.txt").read_text().splitlines()[1].split()[1]
    assert json.loads((root / "out" / "runs" / "second.json").read_text())["run"] == stage_run

    lock = (root / "dvc.lock").read_bytes()
    code, out, err = finish(demo(root, "http://127.0.0.1:9/api"))  # nobody there: nothing to do needs no server
    assert (code, err) == (0, "")
    assert "nothing to do: all 3 stages are unchanged" in out
    assert (root / "dvc.lock").read_bytes() == lock

    code, out, _ = finish(demo(root, api, "--set", "sampling.steps=9"))
    assert code == 0
    assert toy.ran(root)[3:] == ["second", "third"]
    assert "parameter sampling.steps changed (50 -> 9)" in out
    assert re.search(r"first +. unchanged", out)


def test_a_failing_stage_is_one_line_and_the_rest_is_kept(root: Path, api: str) -> None:
    toy.behave(root, "second", "fail")
    code, _, err = finish(demo(root, api))
    assert code == 1
    assert err.count("\n") == 1
    assert "stage second: failed with exit code 1: the toy is broken" in err
    assert "out/logs/second.log" in err
    assert runs(root) == {"pipeline": ["FAILED"], "first": ["FINISHED"], "second": ["FAILED"]}
    assert flow_states(api, root) == ["FAILED", "first COMPLETED", "second FAILED"]
    toy.behave(root, "second", "nothing")
    code, _, err = finish(demo(root, api))
    assert (code, err.count("\n")) == (1, 1)
    assert "stage second: ended well without an output" in err
    toy.behave(root, "second", "")
    assert finish(demo(root, api))[0] == 0
    assert toy.ran(root) == ["first", "second", "second", "second", "third"]
    assert runs(root) == ALL_FINISHED  # the attempts at a stage were one run, those at the pipeline too


@pytest.mark.parametrize(("number", "go_on"), [(signal.SIGTERM, True), (signal.SIGINT, False)])
def test_stopping_leaves_nothing_and_the_next_run_continues(
    root: Path, api: str, number: signal.Signals, go_on: bool
) -> None:
    toy.behave(root, "second", "sleep")
    process = demo(root, api)
    children = sleepers(root)
    process.send_signal(number)
    code, _, err = finish(process)
    assert code == 128 + number
    assert "what is finished stays; the same command continues" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert gone(children, 0)
    assert runs(root) == {"pipeline": ["KILLED"], "first": ["FINISHED"], "second": ["KILLED"]}
    assert flow_states(api, root) == ["CRASHED", "first COMPLETED", "second CRASHED"]
    if go_on:
        toy.behave(root, "second", "")
        assert finish(demo(root, api))[0] == 0
        assert toy.ran(root) == ["first", "second", "second", "third"]
        assert runs(root) == ALL_FINISHED


def test_stages_go_on_without_the_prefect_server_and_its_end_is_one_line(tmp_path: Path) -> None:
    """Killed while a stage runs, in a pipeline that is well and in one whose stage fails then."""
    running = server.start_prefect(Workspace(toy.make(tmp_path / "server")), server.free_port())
    clones = {how: toy.make(tmp_path / (how or "well")) for how in ("", "fail")}
    pipelines: dict[str, subprocess.Popen[str]] = {}
    try:
        running.ready()
        for how, root in clones.items():
            toy.behave(root, "second", "wait")
            words = ("--set", "resources.second.deadline_s=600")
            pipelines[how] = demo(root, f"{running.url}/api", *words, PREFECT_CLIENT_MAX_RETRIES="2")
            wait_for(lambda root=root: "second" in toy.ran(root))  # type: ignore[misc]
    finally:
        running.stop()
    for how, root in clones.items():
        toy.behave(root, "second", how)
    code, _, err = finish(pipelines["fail"])
    assert (code, err.count("\n")) == (1, 1)
    assert "stage second: failed with exit code 1: the toy is broken" in err
    code, _, err = finish(pipelines[""])
    assert (code, err.count("\n")) == (1, 1)
    assert f"PREFECT_API_URL: {running.url}/api cannot be used (" in err
    assert toy.ran(clones[""]) == ["first", "second", "third"]
    assert finish(demo(clones[""], f"{running.url}/api"))[0] == 0  # nothing is left to do


def test_the_same_pipeline_in_a_cluster(root: Path, api: str, tmp_path: Path) -> None:
    """Stages in pods, the flow here; stopped in the middle it leaves no pod, and goes on where it was."""
    toy.behave(root, "second", "sleep")
    with Double(tmp_path / "double", {"ovi-work": root}) as double:
        words = ("--set", "executor=kubernetes", "--set", "resources.third={nodes: 1, executor: local}")
        process = demo(root, api, *words, KUBECONFIG=str(double.kubeconfig))
        children = sleepers(root)
        process.send_signal(signal.SIGTERM)
        code, _, err = finish(process)
        assert (code, "Traceback" in err) == (143, False)
        assert double.left() == []
        assert gone(children, 0)
        toy.behave(root, "second", "")
        code, out, err = finish(demo(root, api, *words, KUBECONFIG=str(double.kubeconfig)))
        assert (code, err) == (0, "")
        assert "second: its pod runs" in out
        assert len(double.kubelet.containers) == 3
        assert double.left() == []
    assert toy.ran(root) == ["first", "second", "second", "third"]
    assert runs(root) == ALL_FINISHED
    assert re.fullmatch(r"ovi-train@sha256:[0-9a-f]{64}", tags(root, "second")["ovi.image"])
    assert "ovi.image" not in tags(root, "third")


def test_a_stage_in_a_pod_that_has_nothing_of_this_folder(api: str, bucket: str, tmp_path: Path) -> None:
    root = toy.make(tmp_path / "clone", whole=True)
    sets = ["cluster.claim=null", "cluster.secrets=[ovi-s3]", f"data.remote={bucket}",
            f"training.mirror={bucket}/mirror",
            "resources.second={executor: kubernetes, grace_s: 2, deadline_s: 120}"]  # fmt: skip
    words = [word for one in sets for word in ("--set", one)]
    with Double(tmp_path / "double") as double:
        double.add_secret("ovi-s3", {name: value for name, value in os.environ.items() if name.startswith("AWS_")})
        code, out, err = finish(demo(root, api, *words, KUBECONFIG=str(double.kubeconfig)))
        assert (code, err) == (0, "")
        assert "1 files fetched from data.remote" in out
        assert double.left() == []
    assert toy.ran(root) == ["first", "third"]  # here
    assert runs(root) == ALL_FINISHED
    assert tags(root, "second")["ovi.output.data/second"].endswith(".dir")
    code, out, _ = finish(demo(root, api, *words))
    assert "nothing to do: all 3 stages are unchanged" in out


def test_a_second_flow_is_refused_and_a_killed_one_leaves_nothing(root: Path) -> None:
    """With the clone's own Prefect server: it too is gone."""
    toy.behave(root, "second", "sleep")
    process = demo(root, None)
    children = [*sleepers(root), *psutil.Process(process.pid).children(recursive=True)]
    assert any("prefect" in " ".join(child.cmdline()) for child in children)
    code, _, err = finish(demo(root, None, "--set", "seed=9"))
    assert code == 1
    assert f"another run is working here (pid {process.pid})" in err
    assert not (root / "out" / "settings.yaml").read_text().count("seed: 9")
    process.kill()
    finish(process)
    assert gone(children)
    toy.behave(root, "second", "")
    code, _, err = finish(demo(root, None, "--set", "sampling.steps=3"))
    assert (code, err) == (0, "")
    assert toy.ran(root) == ["first", "second", "second", "third"]
    assert sorted(runs(root)["second"]) == ["FINISHED", "KILLED"]  # other settings, another run
    assert sorted(runs(root)["pipeline"]) == ["FINISHED", "KILLED"]


def test_a_port_in_use_is_found_before_anything_is_spent(root: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, err = finish(demo(root, None, "--port", str(port)))
    assert code == 1
    assert err.count("\n") == 1
    assert f"service.port: port {port} on 127.0.0.1 is in use" in err
    assert toy.ran(root) == []


def test_the_pages_of_a_clone(root: Path) -> None:
    ports = [server.free_port() for _ in range(2)]
    command = [OVI, "ui", "--mlflow-port", str(ports[0]), "--prefect-port", str(ports[1])]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(4)]
    assert [line.split()[-1] for line in said[1:3]] == [f"http://127.0.0.1:{port}" for port in ports]
    for url in (f"http://127.0.0.1:{ports[0]}/", f"http://127.0.0.1:{ports[1]}/api/health"):
        assert server.answers(url)
    assert server.find_prefect(Workspace(root)) == f"http://127.0.0.1:{ports[1]}"  # a flow of this clone would use it
    children: list[Any] = psutil.Process(process.pid).children(recursive=True)
    again = subprocess.run(command[:4], cwd=root, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert f"--mlflow-port: port {ports[0]} on 127.0.0.1 is in use" in again.stderr
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert (code, err.splitlines()[-1]) == (130, "ovi: stopped by Ctrl-C; the pages are closed")
    assert gone(children, 0)
    assert server.find_prefect(Workspace(root)) is None
