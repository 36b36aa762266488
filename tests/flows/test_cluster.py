"""The executor of a cluster on the API double: what it hears, how it goes on, what it leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cluster import Cluster
from flows.diagnose import condition
from flows.executors import Executors, place
from flows.jobs import JobSpec, Status, Word
from flows.lease import reap
from flows.preflight import look
from flows.remote import ClusterExecutor
from flows.watching import _age
from ovi import config
from ovi.errors import OviError
from tests.cluster.double import NAMESPACE
from tests.cluster.store import Object
from tests.flows import toy
from tests.flows.clustered import CLAIM, TRAIN, Bench, bench, curve, train
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=[False, True], ids=["job", "jobset"])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path, jobset=request.param) as made:
        yield made


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path, jobset=False) as made:
        yield made


def test_every_pod_is_logged_and_the_first_one_is_heard(both: Bench) -> None:
    outcome = both.run(train(5, 0.01))
    assert (outcome.status, outcome.attempts, dict(outcome.result)) == (Status.SUCCEEDED, 1, {"steps": 5})
    lines = (both.work / "out/logs/train_fusion.log").read_text().splitlines()
    for rank in ("[0]", "[1]"):
        assert sum(line.startswith(f'{rank} {{"event": "progress"') for line in lines) == 5
        assert f"{rank} from step 0" in lines
    assert [word["done"] for word in both.heard if word["event"] == "progress"] == [1, 2, 3, 4, 5]  # of the first alone
    told = {word["text"] for word in both.heard if word["event"] == "line"}
    assert told == {"from step 0", "[1] from step 0"}
    assert both.double.left() == []


def test_an_evicted_gang_goes_on_at_the_step_it_saved(both: Bench) -> None:
    def evict(pod: Object) -> None:
        other = both.double.kubelet.containers[both.pod(0)["metadata"]["uid"]]
        both.double.kubelet.evict(NAMESPACE, pod["metadata"]["name"])
        wait_for(lambda: not other.running)  # held until it is asked: ranks of a gang take no step without each other

    both.at_step(7, evict, rank=1)
    outcome = both.run(train(40, 0.05))
    assert (outcome.status, outcome.attempts) == (Status.SUCCEEDED, 2)
    said = [str(word["text"]) for word in both.heard if word["event"] == "line" and not word["text"].startswith("[")]
    told = [text for text in said if text.startswith(("saved", "from"))]
    assert told == ["from step 0", "saved step 7", "from step 7"]
    assert (both.curve(0), both.curve(1)) == (curve(40), curve(40))


class Stop(BaseException):
    """What a signal raises."""


@pytest.mark.parametrize("words", [1, 20])
def test_whatever_is_raised_nothing_is_left_and_the_state_is_saved(both: Bench, words: int) -> None:
    heard: list[Word] = []

    def listen(word: Word) -> None:
        heard.append(word)
        if len(heard) == words:
            raise Stop

    with pytest.raises(Stop):
        both.executor().run(train(10_000, 0.02), listen)
    assert both.double.left() == []
    if words > 2:
        assert "saved step" in (both.work / "out/logs/train_fusion.log").read_text()


def test_a_second_stop_does_not_wait_for_the_grace(one: Bench) -> None:
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
    heard: list[Word] = []

    def listen(word: Word) -> None:
        heard.append(word)
        if word["event"] == "line":
            one.meanwhile(lambda: (wait_for(lambda: _leaving(one)), _interrupt()))  # type: ignore[func-returns-value]
            raise Stop

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        one.executor().run(JobSpec("train_fusion", ("python", "-c", stubborn), grace_s=300.0), listen)
    assert time.monotonic() - began < 60
    assert one.double.left() == []


def _leaving(b: Bench) -> bool:
    return any("deletionTimestamp" in pod["metadata"] for pod in b.double.pods())


def _interrupt() -> None:
    os.kill(os.getpid(), 2)


FLOW = """
import sys
from flows.cluster import Cluster
from flows.jobs import JobSpec
from flows.remote import ClusterExecutor
from ovi import config
kubeconfig, work, *command = sys.argv[1:]
executor = ClusterExecutor(work, Cluster("ovi", kubeconfig=kubeconfig), config.Cluster())
executor.run(JobSpec("train_fusion", tuple(command), nodes=2, grace_s=5), print)
"""


def killed_flow(b: Bench) -> None:
    """A flow that is killed while its two pods run."""
    command = [
        sys.executable,
        "-c",
        FLOW,
        str(b.double.kubeconfig),
        str(b.work),
        "python",
        "-c",
        TRAIN,
        "10000",
        "0.02",
    ]
    flow = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    wait_for(lambda: len(b.double.pods("Running")) == 2)
    flow.kill()
    flow.wait()


def test_a_killed_flow_is_reaped(one: Bench) -> None:
    killed_flow(one)
    cluster = Cluster(NAMESPACE, kubeconfig=str(one.double.kubeconfig))
    assert reap(cluster, 600) == []  # it may still be alive
    assert len(one.double.pods()) == 2
    (name,) = reap(cluster, -1)
    assert name.startswith("train-fusion-")
    wait_for(lambda: one.double.left() == [], 20)


def test_the_next_flow_ends_what_a_killed_one_left_before_it_starts(one: Bench) -> None:
    killed_flow(one)
    before = {pod["metadata"]["uid"] for pod in one.double.pods()}
    outcome = one.run(train(5, 0.01, nodes=1))
    assert outcome.status is Status.SUCCEEDED
    ended = [one.double.kubelet.containers[uid] for uid in before]
    assert not any(container.running for container in ended)
    assert one.double.left() == []


def test_gpu_seconds_are_those_of_the_pods(one: Bench) -> None:
    one.at_step(10, lambda pod: one.double.kubelet.run_out_of_memory(NAMESPACE, pod["metadata"]["name"]), rank=1)
    outcome = one.run(train(1000, 0.2, gpus=4))
    truth = 4 * sum(container.seconds for container in one.double.kubelet.containers.values())
    assert outcome.status is Status.FAILED
    assert abs(outcome.gpu_seconds - truth) <= 4 * 2 * 2  # the API's times are whole seconds
    assert 0 < outcome.gpu_seconds_lost < outcome.gpu_seconds  # the other pod had saved its state


def test_a_stage_that_hangs_is_noticed_long_before_its_deadline(one: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.remote.SILENT_S", 0.5)
    hang = "import pathlib, time\nwhile not pathlib.Path('noticed').exists(): time.sleep(0.01)"
    one.meanwhile(lambda: (wait_for(lambda: "no word for" in one.notes), (one.work / "noticed").touch()))  # type: ignore[func-returns-value]
    assert one.run(JobSpec("train_fusion", ("python", "-c", hang), deadline_s=60.0)).status is Status.SUCCEEDED


@pytest.mark.parametrize("hours", [0, 2, -5])
def test_a_log_goes_on_where_it_broke_whatever_the_time_zone_of_its_node(hours: int) -> None:
    moment = datetime.now(timezone(timedelta(hours=hours))) - timedelta(seconds=100)
    age = _age(moment.strftime("%Y-%m-%dT%H:%M:%S.%f") + "789" + f"{hours:+03d}:00")
    assert age is not None
    assert 100 <= age - 30 <= 110


def test_a_run_renews_its_lease(one: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.lease.RENEW_S", 0.1)
    seen: set[str] = set()

    def look_at_it() -> None:
        while not seen or len(seen) < 4:
            seen.update(it["spec"]["renewTime"] for it in one.double.store.list("leases"))
            time.sleep(0.02)

    thread = one.meanwhile(look_at_it)
    one.run(train(60, 0.05, nodes=1))
    thread.join(10)
    assert len(seen) >= 4


def test_the_settings_say_where_a_stage_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    root = toy.make(tmp_path / "clone")
    some = toy.settings(root, "resources.second={executor: kubernetes}")
    assert [place(some, stage) for stage in ("first", "second")] == ["local", "kubernetes"]
    rest = toy.settings(root, "executor=kubernetes", "resources.second={executor: local}")
    assert [place(rest, stage) for stage in ("first", "second", "third")] == ["kubernetes", "local", "kubernetes"]
    outcome = Executors(root, toy.settings(root), ["first"]).run(JobSpec("first", ("true",)), print)
    assert outcome.status is Status.SUCCEEDED
    with pytest.raises(OviError, match=r"none: no cluster to talk to .*set KUBECONFIG, or executor: local"):
        Executors(root, some, ["first", "second"])


def test_a_server_that_is_away_is_one_line(one: Bench, tmp_path: Path) -> None:
    config_of_nobody = tmp_path / "nobody"
    text = one.double.kubeconfig.read_text()
    port = text.split("127.0.0.1:")[1].split()[0]
    config_of_nobody.write_text(text.replace(f":{port}", ":9"))
    cluster = Cluster(NAMESPACE, kubeconfig=str(config_of_nobody), patience_s=0.5)
    with pytest.raises(OviError, match="the API server does not answer"):
        ClusterExecutor(tmp_path, cluster, config.Cluster(kind="job")).run(train(), print)


def test_preflight_names_what_is_missing(both: Bench) -> None:
    cluster = Cluster(NAMESPACE, kubeconfig=str(both.double.kubeconfig))
    both.double.api.forbidden.update({("create", "jobs"), ("get", "pods/log")})
    both.double.store.create("serviceaccounts", NAMESPACE, {"metadata": {"name": "ovi-stage"}})
    found = {finding.what: finding for finding in look(cluster, config.Cluster(queue="team"))}
    missing = {what for what, finding in found.items() if finding.needed and not finding.found}
    assert missing == {"Kueue", "right to jobs", "right to pods/log", f"PersistentVolumeClaim {CLAIM}"}
    assert not any("VolumeClaim" in finding.what for finding in look(cluster, config.Cluster(claim=None)))
    assert found["JobSet"].found is cluster.serves("jobset.x-k8s.io/v1alpha2")
    assert "may not create; apply infra/k8s/base/access.yaml" in found["right to jobs"].line()


def test_reap_and_preflight_are_commands(one: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.cli import app

    monkeypatch.setenv("KUBECONFIG", str(one.double.kubeconfig))
    params = ["--params", str(ROOT / "params.yaml")]
    done = CliRunner().invoke(app, ["reap", *params])
    assert (done.exit_code, done.output) == (0, "nothing to remove\n")
    done = CliRunner().invoke(app, ["preflight", *params])
    assert done.exit_code == 1
    assert "missing PersistentVolumeClaim ovi-work: is not in namespace ovi" in done.output
    assert "ok      right to jobs" in done.output


def test_a_queue_admits_what_is_suspended(tmp_path: Path) -> None:
    with bench(tmp_path, jobset=True, queue="team", priority="high") as b:

        def admit() -> None:
            wait_for(lambda: b.double.store.list("jobsets"))
            (item,) = b.double.store.list("jobsets")
            meta = item["metadata"]
            assert (meta["labels"]["kueue.x-k8s.io/queue-name"], meta["labels"]["kueue.x-k8s.io/priority-class"]) == (
                "team",
                "high",
            )
            wait_for(lambda: condition(b.double.store.get("jobsets", NAMESPACE, meta["name"]), "Suspended"))
            wait_for(lambda: "waits in the queue" in b.notes)
            assert b.double.pods() == []
            b.double.store.change("jobsets", NAMESPACE, meta["name"], lambda it: it["spec"].update(suspend=False))

        thread = b.meanwhile(admit)
        assert b.run(train(5, 0.01)).status is Status.SUCCEEDED
        thread.join(10)
