"""Staleness by content on a small real DVC workspace: a change re-runs what depends on it and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows import environment
from flows.graph import Graph
from flows.workspace import Workspace
from ovi.errors import OviError
from tests.flows import toy

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # DVC's


@pytest.fixture
def root(tmp_path: Path) -> Path:
    clone = toy.make(tmp_path / "clone")
    Workspace(clone).prepare(toy.settings(clone))
    return clone


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    clone = toy.make(tmp_path_factory.mktemp("template") / "clone")
    Workspace(clone).prepare(toy.settings(clone))
    assert run_stale(clone) == ["first", "second", "third"]
    return clone


@pytest.fixture
def done(template: Path, tmp_path: Path) -> Path:
    """A clone in which everything ran."""
    return Path(shutil.copytree(template, tmp_path / "done"))


def run_stale(root: Path) -> list[str]:
    """What the pipeline does, without Prefect and MLflow: run what is stale, in order. Returns the names run."""
    graph, names = Graph(root), []
    for name in graph.order:
        if graph.reasons(name):
            running = graph.begin(name)
            command = (sys.executable, *running.inputs.command[1:])
            subprocess.run(command, cwd=root, env=environment.for_stage({}), check=True, stdout=subprocess.DEVNULL)
            graph.commit(running)
            names.append(name)
    graph.close()
    return names


def test_order_is_read_from_the_file(root: Path) -> None:
    graph = Graph(root)
    assert graph.order == ["first", "second", "third"]  # listed third, first, second
    assert graph.after == {"first": set(), "second": {"first"}, "third": {"second"}}
    assert graph.command("third") == ("python", "stage.py", "third")
    assert graph.outputs("second") == ["data/second"]


def test_everything_runs_once_and_dvc_agrees(root: Path) -> None:
    assert run_stale(root) == ["first", "second", "third"]
    assert run_stale(root) == []
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    dvc = Path(sys.executable).with_name("dvc")
    said = subprocess.run([dvc, "status"], cwd=root, capture_output=True, text=True, check=True).stdout
    assert "up to date" in said


def prepare(*sets: str) -> Callable[[Path], None]:
    return lambda root: Workspace(root).prepare(toy.settings(root, *sets))


def write(path: str, text: str) -> Callable[[Path], None]:
    return lambda root: (root / path).write_text(text) and None


def recommand(root: Path) -> None:
    stages = json.loads(json.dumps(toy.STAGES))
    stages["stages"]["second"]["cmd"] += " again"
    (root / "dvc.yaml").write_text(yaml.safe_dump(stages, sort_keys=False))


def nothing(root: Path) -> None:
    """Things that change no content."""
    cached = root / "code" / "third" / "__pycache__"
    cached.mkdir()
    (cached / "a.cpython-311.pyc").write_text("x")
    os.utime(root / "code" / "second.py")
    prepare("resources.second.grace_s=3", "service.port=1234", "training.fusion.steps=9")(root)


CHANGES: list[tuple[str, Callable[[Path], None], list[str], str]] = [
    ("parameter", prepare("seed=7"), ["first", "second", "third"], "parameter seed changed (0 -> 7)"),
    ("parameter of two", prepare("sampling.steps=3"), ["second", "third"], "sampling.steps changed (50 -> 3)"),
    ("leaf of a section", prepare("evaluation.show=3"), ["third"], "parameter evaluation.show changed (6 -> 3)"),
    ("code folder", write("code/third/b.py", "y = 1\n"), ["third"], "code code/third changed"),
    ("code file, equal result", write("code/first/a.py", "y = 2\n"), ["first"], "code code/first changed"),
    (
        "byte of an output",
        write("data/second/b.txt", "B"),
        ["second"],
        "output data/second is not what the stage wrote",
    ),
    ("missing output", lambda root: (root / "out" / "third.json").unlink(), ["third"], "out/third.json is missing"),
    ("command", recommand, ["second"], "its command changed"),
    ("nothing", nothing, [], ""),
]


@pytest.mark.parametrize(
    ("change", "expected", "reason"), [row[1:] for row in CHANGES], ids=[row[0] for row in CHANGES]
)
def test_a_change_reruns_what_depends_on_it(
    done: Path, change: Callable[[Path], None], expected: list[str], reason: str
) -> None:
    change(done)
    graph = Graph(done)
    reasons = [why for name in graph.order for why in graph.reasons(name)]
    assert reasons[:1] == [why for why in reasons if reason in why][:1], reasons
    assert bool(reasons) is bool(expected)
    assert run_stale(done) == expected
    assert run_stale(done) == []


def test_users_files_are_an_input_by_name_size_and_time(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "a.mp4").write_text("a")
    settings = toy.settings(root, f"corpus.source={folder}")
    Workspace(root).prepare(settings)
    run_stale(root)
    (folder / "b.mp4").write_text("b")
    assert Workspace(root).source_changed(settings)
    Workspace(root).prepare(settings)
    assert run_stale(root) == ["first"]  # what it wrote is the same, so nothing follows


def test_looking_ahead_writes_nothing(done: Path) -> None:
    root = done
    before = {path: path.read_bytes() for path in sorted(root.glob("*")) + sorted(root.glob("out/*")) if path.is_file()}
    values: dict[str, Any] = toy.settings(root, "sampling.shift=2.0").model_dump(mode="json")
    graph = Graph(root, values, changed=frozenset({"out/source.json"}))
    assert graph.reasons("first") == ["input out/source.json changed"]
    assert graph.reasons("second") == ["parameter sampling.shift changed (5.0 -> 2.0)"]
    assert graph.reasons("third") == []
    assert before == {path: path.read_bytes() for path in before}


def test_an_edit_made_while_the_stage_runs_makes_it_stale_again(root: Path) -> None:
    graph = Graph(root)
    running = graph.begin("first")
    (root / "code" / "first" / "a.py").write_text("edited = True\n")
    subprocess.run([sys.executable, "stage.py", "first"], cwd=root, check=True, stdout=subprocess.DEVNULL)
    graph.commit(running)
    assert graph.reasons("first") == ["code code/first changed"]


def test_the_key_names_everything_read(root: Path) -> None:
    graph = Graph(root)
    inputs = graph.begin("first").inputs
    assert set(inputs.data) == {"out/source.json"}
    assert set(inputs.code) == {"code/first"}
    assert inputs.params == {"seed": 0}
    assert inputs.key == graph.begin("first").inputs.key
    prepare("seed=1")(root)
    graph.refresh()
    assert graph.begin("first").inputs.key != inputs.key


def test_beginning_removes_what_an_earlier_run_left(done: Path) -> None:
    root = done
    (root / "data" / "second" / "stray.txt").write_text("half a result of a run that was killed")
    assert run_stale(root) == ["second"]
    assert sorted(os.listdir(root / "data" / "second")) == ["a.txt", "b.txt"]


def test_missing_inputs_and_outputs_are_one_line(root: Path) -> None:
    graph = Graph(root)
    with pytest.raises(OviError, match=r"stage second: .*data/first\.txt.* does not exist"):
        graph.begin("second")
    running = graph.begin("first")
    with pytest.raises(OviError, match=r"stage first: ended well without an output: .*data/first\.txt"):
        graph.commit(running)
    assert not (root / "dvc.lock").exists()


def test_a_bad_file_is_one_line(root: Path) -> None:
    (root / "dvc.yaml").write_text("stages: [1, 2\n")
    with pytest.raises(OviError, match="the stages cannot be read") as caught:
        Graph(root)
    assert "\n" not in str(caught.value)


def test_locks_of_the_dead_are_forgotten(done: Path) -> None:
    root = done
    lists = root / ".dvc" / "tmp" / "rwlock"
    for content in ("", '{"write": {', owned_by(root, 2**22 + 1), owned_by(root, os.getpid(), written=1.0)):
        lists.parent.mkdir(parents=True, exist_ok=True)
        lists.write_text(content.partition("@")[0])
        if "@" in content:
            os.utime(lists, (1.0, 1.0))  # written long before the process that now has the number started
        (root / "data" / "first.txt").unlink(missing_ok=True)
        assert "first" in run_stale(root)


def test_a_living_dvc_is_named(root: Path) -> None:
    other = subprocess.Popen(["sleep", "60"])
    try:
        graph = Graph(root)
        running = graph.begin("first")
        subprocess.run([sys.executable, "stage.py", "first"], cwd=root, check=True, stdout=subprocess.DEVNULL)
        (root / ".dvc" / "tmp" / "rwlock").write_text(owned_by(root, other.pid))
        with pytest.raises(OviError, match=rf"another DVC command is at work here.*PID {other.pid}"):
            graph.commit(running)
    finally:
        other.kill()
        other.wait()
    graph.commit(running)


def owned_by(root: Path, pid: int, written: float | None = None) -> str:
    owner = {"pid": pid, "cmd": "dvc repro"}
    return json.dumps({"write": {str(root / "data" / "first.txt"): owner}, "read": {}}) + ("@" if written else "")
