"""`ovi plan` looks ahead on the real repository and on a toy: in order, with reasons, touching nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flows.plan import look_ahead, words
from flows.workspace import Workspace
from ovi.errors import ConfigError
from tests.flows import toy
from tests.flows.test_graph import run_stale

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # DVC's


def test_what_runs_what_may_and_what_does_not(tmp_path: Path) -> None:
    root = toy.make(tmp_path / "clone")
    workspace = Workspace(root)
    assert [step.state for step in look_ahead(workspace, toy.settings(root))] == ["run", "run", "run"]
    assert not (root / "out").exists()
    workspace.prepare(toy.settings(root))
    run_stale(root)
    assert [step.state for step in look_ahead(workspace, toy.settings(root))] == ["unchanged"] * 3
    steps = look_ahead(workspace, toy.settings(root, "sampling.steps=8"))
    assert [(step.state, step.after) for step in steps] == [("unchanged", []), ("run", []), ("after", ["second"])]
    text = words(steps)
    assert "parameter sampling.steps changed (50 -> 8)" in text
    assert "after second, if that changes" in text
    assert "1 of 3 stages run for certain" in text


def test_the_plan_says_where_and_what_it_may_cost(tmp_path: Path) -> None:
    root = toy.make(tmp_path / "clone")
    sets = ("executor=kubernetes", "cluster.queue=team", "resources.second={gpus: 8, nodes: 2, deadline_s: 7200}")
    workspace = Workspace(root)
    steps = look_ahead(workspace, toy.settings(root, *sets, "resources.third={executor: local}"))
    assert [step.place for step in steps] == ["kubernetes/team", "kubernetes/team", "local"]
    text = words(steps)
    assert "2 x 2 CPUs, 6 GiB, 8 GPUs, kubernetes/team" in text
    assert text.endswith("3 of 3 stages run for certain; 32.0 GPU-hours at most, by the deadlines of what never ran")
    workspace.record("second", seconds=900.0)
    text = words(look_ahead(workspace, toy.settings(root, *sets)))
    assert text.endswith("run for certain; 4.0 GPU-hours")


def test_resources_of_no_stage_are_one_line(tmp_path: Path) -> None:
    root = toy.make(tmp_path / "clone")
    settings = toy.settings(root, "resources.fourth.cpus=1")
    with pytest.raises(ConfigError, match=r"resources\.fourth: no such stage; dvc\.yaml has first, second, third"):
        look_ahead(Workspace(root), settings)


def test_the_plan_of_this_repository_is_whole_and_writes_nothing() -> None:
    watched = [toy.REPOSITORY / "out" / "settings.yaml", toy.REPOSITORY / "dvc.lock"]
    before = [path.read_bytes() if path.exists() else None for path in watched]
    command = [Path(sys.executable).with_name("ovi"), "plan", "--json"]
    done = subprocess.run(command, cwd=toy.REPOSITORY, capture_output=True, text=True, check=True)
    stages = json.loads(done.stdout)["stages"]
    names = [stage["stage"] for stage in stages]
    assert names.index("curate") < names.index("encode") < names.index("train_fusion") < names.index("evaluate")
    assert all(stage["resources"]["cpus"] > 0 for stage in stages)
    assert before == [path.read_bytes() if path.exists() else None for path in watched]
