"""Stages in pods of empty folders, with nothing but an S3 store between them and the flow."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from flows import manifests
from flows.executors import Executors, shares_a_folder
from flows.graph import Graph
from flows.jobs import JobSpec, Outcome, Status
from flows.local import LocalExecutor
from flows.parcel import ENTRY, MADE, Parcel, work
from flows.workspace import Workspace
from ovi import config, storage
from ovi.errors import ConfigError, OviError
from ovi.progress import Silent
from tests.cluster.double import NAMESPACE
from tests.flows import toy
from tests.flows.clustered import Bench, bench
from tests.waiting import wait_for

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # DVC's


def clone(root: Path, remote: str | None = None) -> Graph:
    toy.make(root, whole=True)
    Workspace(root).prepare(toy.settings(root, *([f"data.remote={remote}"] if remote else [])))
    return Graph(root, remote=remote)


def run_here(graph: Graph, *stages: str) -> None:
    for stage in stages or graph.order:
        running = graph.begin(stage)
        outcome = LocalExecutor(graph.root).run(JobSpec(stage, graph.command(stage)), lambda _: None)
        assert outcome.status is Status.SUCCEEDED
        graph.commit(running)


@pytest.fixture
def remote(bucket: str) -> str:
    return f"{bucket}/ovi"


@pytest.fixture
def pods(tmp_path: Path, bucket: str) -> Iterator[Bench]:
    """A cluster whose pods find the store's keys in a Secret, and no folder of ours."""
    with bench(tmp_path, jobset=False, claim=None, secrets=["ovi-s3"]) as made:
        shutil.rmtree(made.work)
        made.double.add_secret("ovi-s3", {name: value for name, value in os.environ.items() if name.startswith("AWS_")})
        yield made


def run_there(graph: Graph, stage: str, remote: str, b: Bench, nodes: int = 1, apart: bool = False) -> Outcome:
    spec = JobSpec(stage, graph.command(stage), nodes=nodes, apart=apart, grace_s=5, deadline_s=120)
    running = graph.begin(stage)
    with Parcel(graph, running, remote) as parcel:
        outcome = b.run(replace(spec, parcel=parcel.address))
        if outcome.status is Status.SUCCEEDED:
            parcel.receive()
    return outcome


def instead(graph: Graph, script: str, *words: str) -> None:
    """Stage `first` runs that script."""
    stages = yaml.safe_load((graph.root / "dvc.yaml").read_text())
    (graph.root / "own.py").write_text(script)
    stages["stages"]["first"] |= {"cmd": " ".join(["python", "own.py", *words]), "deps": ["own.py"]}
    (graph.root / "dvc.yaml").write_text(yaml.safe_dump(stages))
    graph.refresh()


def locked(graph: Graph) -> dict[str, object]:
    return {stage: graph.entry(stage) for stage in graph.order}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_pipeline_in_empty_folders_leaves_what_one_here_leaves(pods: Bench, remote: str, tmp_path: Path) -> None:
    here, there = clone(tmp_path / "here"), clone(pods.work, remote)
    run_here(here)
    run_here(there, "first")  # not pushed: whoever needs it sends it
    for stage, nodes in (("second", 2), ("third", 1)):
        outcome = run_there(there, stage, remote, pods, nodes)
        assert (outcome.status, dict(outcome.result)) == (Status.SUCCEEDED, {"files": 2, "name": stage})
    log = (pods.work / "out/logs/second.log").read_text()
    assert all(f'[{pod}] {{"event": "note", "text": "1 files fetched' in log for pod in (0, 1))  # every pod of a gang
    assert locked(there) == locked(here)
    assert files(pods.work / "data") == files(tmp_path / "here/data")
    assert (pods.work / "out/third.json").read_bytes() == (tmp_path / "here/out/third.json").read_bytes()
    assert all(there.reasons(stage) == [] for stage in there.order)
    assert toy.ran(pods.work) == ["first"]  # here
    assert storage.list_files(f"{remote}/parcels") == []
    assert pods.double.left() == []
    assert not list((tmp_path / "double/disk").iterdir())


# Saves where it is in the bucket, when it is asked to stop, and there alone.
SAVES = """
import json, os, signal, sys, time
from ovi import storage
address, steps = sys.argv[1], int(sys.argv[2])
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
step = storage.read_json(address) if storage.exists(address) else 0
print(f"from step {step}", flush=True)
while step < steps:
    if asked:
        storage.write_json(address, step)
        print(f"saved step {step}", flush=True)
        sys.exit(75)
    time.sleep(0.02)
    step += 1
    print(json.dumps({"event": "progress", "done": step}), flush=True)
    while step == 10 and not asked and not storage.exists(address):
        time.sleep(0.02)
os.makedirs("data")
open("data/first.txt", "w").write(f"{step} steps")
"""


def test_an_evicted_pod_goes_on_in_another_folder(pods: Bench, remote: str) -> None:
    graph = clone(pods.work, remote)
    instead(graph, SAVES, f"{remote}/state.json", "20")

    def evict() -> None:
        wait_for(lambda: pods.done() >= 10)
        pods.double.kubelet.evict(NAMESPACE, pods.pod()["metadata"]["name"])

    thread = pods.meanwhile(evict)
    outcome = run_there(graph, "first", remote, pods)
    thread.join(10)
    assert (outcome.status, outcome.attempts) == (Status.SUCCEEDED, 2)
    said = [word["text"] for word in pods.heard if word["event"] == "line"]
    assert said == ["from step 0", "saved step 10", "from step 10"]
    assert (pods.work / "data/first.txt").read_text() == "20 steps"


# Each share leaves its part in the bucket, where the command itself finds them all.
SHARES = """
import os, sys
from ovi import storage
work, *share = sys.argv[1:]
if share:
    storage.write_bytes(f"{work}/{share[1].partition('/')[0]}", f"share {share[1]}".encode())
else:
    os.makedirs("data")
    open("data/first.txt", "wb").write(b", ".join(map(storage.read_bytes, sorted(storage.list_files(work)))))
"""


def test_shares_without_a_common_folder_meet_in_the_bucket(pods: Bench, remote: str) -> None:
    graph = clone(pods.work, remote)
    instead(graph, SHARES, f"{remote}/work")
    outcome = run_there(graph, "first", remote, pods, nodes=2, apart=True)
    assert outcome.status is Status.SUCCEEDED
    assert len(pods.double.kubelet.containers) == 3  # a share each, and what puts them together
    assert (pods.work / "data/first.txt").read_text() == "share 0/2, share 1/2"
    assert graph.reasons("first") == []
    assert storage.list_files(f"{remote}/parcels") == []
    assert pods.double.left() == []


def damage(remote: str, entry: object, text: bytes | None) -> None:
    """Put other bytes, or nothing, where the remote has a file of that hash."""
    value = str(entry)
    address = f"{remote}/files/md5/{value[:2]}/{value[2:]}"
    assert storage.exists(address)
    storage.delete(address) if text is None else storage.write_bytes(address, text)


def test_a_damaged_input_is_one_line_of_the_pod(pods: Bench, remote: str) -> None:
    graph = clone(pods.work, remote)
    run_here(graph, "first")
    graph.push("first")
    value = graph.hash("data/first.txt")
    damage(remote, value, b"seed 1")
    outcome = run_there(graph, "second", remote, pods)
    assert (outcome.status, outcome.exit_code) == (Status.FAILED, 1)
    assert outcome.last_line == (
        f"ovi: data.remote: {remote}: data/first.txt (md5 {value}) is missing or damaged there; remove the object that "
        "is not what its name says, and `ovi push` from a clone that has it"
    )
    assert graph.record("second") is None


def test_a_file_of_a_folder_that_is_not_whole_in_the_remote_is_one_line(remote: str, tmp_path: Path) -> None:
    graph = clone(tmp_path / "here", remote)
    run_here(graph, "first", "second")
    graph.push()
    running = graph.begin("third")
    for name, text in (("damaged", b"c"), ("missing", None)):
        damage(remote, "92eb5ffee6ae2fec3ad71c777531578f", text)  # of "b"
        with (
            Parcel(graph, running, remote) as parcel,
            pytest.raises(OviError, match=rf"data\.remote: {remote}: .*(is missing or damaged|not all) there") as told,
        ):
            work(parcel.address, ["true"], False, tmp_path / name, Silent())
        assert "\n" not in str(told.value)


def test_what_comes_back_is_taken_only_if_it_is_of_the_same_work(
    remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = clone(tmp_path / "here", remote)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}")
    with Parcel(graph, graph.begin("first"), remote) as parcel:
        assert work(parcel.address, graph.command("first"), False, tmp_path / "there", Silent()) == 0
        entry = storage.read_json(f"{parcel.address}/{ENTRY}")
        before = (tmp_path / "here/dvc.lock").exists()
        for wrong in ({**entry, "cmd": "true"}, {**entry, "outs": []}, {}, ["x"]):
            storage.write_bytes(f"{parcel.address}/{ENTRY}", json.dumps(wrong).encode())
            with pytest.raises(OviError, match="stage first: what came back is of other inputs than were sent"):
                parcel.receive()
        assert (tmp_path / "here/dvc.lock").exists() is before
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("stage.py"))
        for data, said in ((sink.getvalue(), "stage.py: came back in a parcel"), (b"x" * 600, "a parcel is damaged")):
            storage.write_bytes(f"{parcel.address}/{MADE}", data)
            with pytest.raises(OviError, match=said):
                parcel.receive()


def test_codes_of_the_command_are_kept_and_only_success_of_the_first_pod_is_sent(
    remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = clone(tmp_path / "here", remote)
    with Parcel(graph, graph.begin("first"), remote) as parcel:

        def code(name: str, *command: str, share: bool = False) -> int:
            found = work(parcel.address, command, share, tmp_path / name, Silent())
            assert not storage.exists(f"{parcel.address}/{ENTRY}")
            return found

        assert code("a", "sh", "-c", "exit 75") == 75
        assert code("b", "sh", "-c", "kill -9 $$") == 137
        assert code("c", "true", share=True) == 0
        with pytest.raises(ConfigError, match="no-such-command: cannot be run"):
            code("d", "no-such-command")
        with pytest.raises(OviError, match="ended well without an output"):
            code("e", "true")
        monkeypatch.setenv("PET_NODE_RANK", "1")
        assert code("f", "true") == 0


def test_a_stop_while_it_fetches_ends_it_at_once(
    remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = clone(tmp_path / "here", remote)
    run_here(graph, "first")
    with Parcel(graph, graph.begin("second"), remote) as parcel, monkeypatch.context() as patched:
        patched.setattr(Graph, "pull", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(SystemExit) as stop:
            work(parcel.address, ["true"], False, tmp_path / "there", Silent())
    assert stop.value.code == 143
    assert capsys.readouterr().err == "ovi: stopped by SIGTERM; nothing of the stage is lost\n"


def test_the_pod_has_a_folder_of_its_own_and_fetches_before_anything_else() -> None:
    where = config.Cluster(claim=None, clone="mine")
    words = {}
    for name, more in {"one": {}, "gang": {"nodes": 2}, "apart": {"nodes": 2, "apart": True}}.items():
        spec = JobSpec("curate", ("ovi", "curate"), parcel="s3://b/parcels/x", **more)  # type: ignore[arg-type]
        top = manifests.render(spec, "x", "x", where, False)[-1]
        pod = top["spec"]["template"]["spec"]
        assert pod["volumes"][0] == {"name": "work", "emptyDir": {}}
        assert top["metadata"]["labels"]["ovi.dev/clone"] == "mine"
        words[name] = " ".join(pod["containers"][0]["command"])
    assert words == {
        "one": "ovi work s3://b/parcels/x -- ovi curate",
        "gang": "ovi work s3://b/parcels/x -- ovi launch -- ovi curate",
        "apart": "ovi work s3://b/parcels/x --share -- ovi curate --shard $(JOB_COMPLETION_INDEX)/2",
    }


def test_without_a_shared_folder_the_settings_must_name_buckets(tmp_path: Path) -> None:
    root = toy.make(tmp_path / "clone")
    sets = ["cluster.claim=null", "resources.second={executor: kubernetes}", "data.remote=s3://team/ovi"]
    some = toy.settings(root, *sets)
    assert [shares_a_folder(some, stage) for stage in ("first", "second")] == [True, False]
    with pytest.raises(ConfigError, match=r"training\.mirror: None; with cluster\.claim: null it must be s3://"):
        Executors(root, some, ["first", "second"])
    with pytest.raises(ConfigError, match=r"data\.remote: /mnt/ovi; with cluster\.claim: null it must be s3://"):
        Executors(root, toy.settings(root, *sets, "data.remote=/mnt/ovi"), ["first", "second"])
    Executors(root, some, ["first"])  # none of them runs there
