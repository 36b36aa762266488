"""A run that does not end well is told, by a real Prefect server to a real webhook; others are not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows import environment
from flows.cli import app
from ovi.errors import ConfigError, OviError
from tests.flows import asking, toy
from tests.flows.webhook import Webhook, webhook

SOON_S = 60.0


@pytest.fixture
def receiver() -> Iterator[Webhook]:
    with webhook() as here:
        yield here


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = toy.make(tmp_path / "clone")
    shutil.copy(toy.REPOSITORY / "prefect.yaml", root)
    monkeypatch.chdir(root)
    return root


def test_a_deployed_run_that_does_not_end_well_is_told(
    api: str, receiver: Webhook, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", api)
    monkeypatch.setenv("OVI_WEBHOOK", f"{receiver.url}/old")
    done = CliRunner().invoke(app, ["deploy"], catch_exceptions=False)
    assert done.stdout.splitlines() == [
        "work pool ovi",
        "the deployments of prefect.yaml",
        "a notice to OVI_WEBHOOK of every run that does not end well",
    ]
    again = environment.for_stage({"OVI_WEBHOOK": f"{receiver.url}/team", "PREFECT_HOME": str(clone / "out/prefect")})
    subprocess.run([sys.executable, "-m", "flows.notices"], check=True, env=again)

    with asking.client(api) as server:
        deployments = {name: server.get(f"/deployments/name/ovi/{name}").json() for name in ("on-demand", "nightly")}
        assert [it["paused"] for it in deployments.values()] == [False, False]
        assert deployments["nightly"]["schedules"][0]["active"] is False
        assert len(server.post("/automations/filter", json={}).json()) == 1
        other = server.post("/flows/", json={"name": "ovi-pipeline"}).json()["id"]
        quiet = server.post("/flow_runs/", json={"flow_id": other, "name": "quiet"}).json()["id"]
        told = {
            name: server.post(f"/deployments/{deployments[at]['id']}/create_flow_run", json={"name": name}).json()["id"]
            for name, at in (("good", "on-demand"), ("broken", "on-demand"), ("lost", "nightly"))
        }
        reason = 'stage train_fusion: "out of memory"\n(log: out/logs/train_fusion.log)'
        for run, kind, message in (
            (quiet, "FAILED", "of the flow below"),
            (told["good"], "COMPLETED", "All states completed."),
            (told["broken"], "FAILED", reason),
            (told["lost"], "CRASHED", None),
        ):
            state = {"type": kind, "name": kind.capitalize(), "message": message}
            answer = server.post(f"/flow_runs/{run}/set_state", json={"state": state, "force": True})
            assert answer.json()["status"] == "ACCEPT", answer.text

    posts = sorted((receiver.posts.get(timeout=SOON_S) for _ in range(2)), key=lambda post: post[2]["text"])
    pages = api.removesuffix("/api")
    assert [post[:2] for post in posts] == [("/team", "application/json")] * 2
    assert [post[2] for post in posts] == [
        {"text": f"ovi run broken (on-demand): Failed: {reason} {pages}/runs/flow-run/{told['broken']}"},
        {"text": f"ovi run lost (nightly): Crashed: no reason given {pages}/runs/flow-run/{told['lost']}"},
    ]
    assert receiver.posts.empty()


def test_what_cannot_be_deployed_is_one_line(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)

    def deploy() -> None:
        CliRunner().invoke(app, ["deploy"], catch_exceptions=False)

    with pytest.raises(ConfigError, match="PREFECT_API_URL: not set; name the team's server"):
        deploy()
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("OVI_WEBHOOK", "hooks.example.org/secret")
    with pytest.raises(ConfigError, match="OVI_WEBHOOK: not an address that can be posted to") as refused:
        deploy()
    assert "secret" not in str(refused.value)
    os.environ.pop("OVI_WEBHOOK")
    (clone / "prefect.yaml").unlink()
    with pytest.raises(OviError, match=r"no prefect\.yaml here; run from the top"):
        deploy()
