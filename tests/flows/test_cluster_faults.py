"""The fault matrix: whatever goes wrong in a cluster ends in the right outcome, with one line of advice, and soon.

All cases run at once, each on a double of its own, because most of a case is waiting.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flows.jobs import JobSpec, Outcome, Status
from ovi.errors import OviError
from tests.cluster.double import NAMESPACE
from tests.cluster.faults import Fault
from tests.flows.clustered import Bench, bench, curve, train
from tests.waiting import wait_for

STEPS = 25
GANG, POD = train(STEPS, 0.02), train(STEPS, 0.02, nodes=1)
WATCH, JOBS = "watch=true", "/jobs"


@dataclass(frozen=True)
class Case:
    """What is done, and what has to come of it. `said` is in the error's line, `noted` among the notes."""

    do: Callable[[Bench], Any] = lambda b: None
    status: Status | None = Status.SUCCEEDED  # None: an OviError is raised
    said: str = ""
    noted: str = ""
    resumed: bool = False
    spec: JobSpec = field(default_factory=lambda: POD)
    jobset: bool = True
    where: dict[str, Any] = field(default_factory=dict)


def faults(*rules: Fault) -> Callable[[Bench], None]:
    return lambda b: b.double.faults.add(*rules)


def at(step: int, act: str, rank: int = 0) -> Callable[[Bench], Any]:
    """Something that happens to a pod: a method of the double's kubelet."""

    def do(b: Bench) -> None:
        b.at_step(step, lambda pod: getattr(b.double.kubelet, act)(NAMESPACE, pod["metadata"]["name"]), rank)

    return do


def forgets(b: Bench) -> None:
    """The server compacts its history while it cuts the watches."""
    b.double.faults.add(Fault(WATCH, cut_after=1, times=2))
    b.at_step(3, lambda _: b.double.store.forget())


def new_token(b: Bench) -> None:
    def renew() -> None:
        b.double.write_kubeconfig("token-2")
        b.double.api.tokens = {"token-2"}

    b.at_step(3, lambda _: renew())


def preempted_by_kueue(b: Bench) -> None:
    """Kueue suspends what it preempts, and starts it again when there is room."""

    def suspend(value: bool) -> None:
        kind = "jobsets" if b.double.store.list("jobsets") else "jobs"
        for it in b.double.store.list(kind, NAMESPACE):
            b.double.store.change(kind, NAMESPACE, it["metadata"]["name"], lambda it: it["spec"].update(suspend=value))

    def act() -> None:
        wait_for(lambda: b.double.store.list("jobsets") or b.double.store.list("jobs"))
        wait_for(lambda: "waits in the queue" in b.notes)
        suspend(False)

    def preempt(_: Any) -> None:
        suspend(True)
        wait_for(lambda: not b.double.pods())
        suspend(False)

    b.meanwhile(act)
    b.at_step(3, preempt)


def quota_for_a_while(b: Bench) -> None:
    limit = {"metadata": {"name": "team"}, "spec": {"hard": {"pods": "0"}}}
    b.double.store.create("resourcequotas", NAMESPACE, limit)

    def raise_it() -> None:
        wait_for(lambda: "exceeded quota" in b.notes)
        b.double.store.delete("resourcequotas", NAMESPACE, "team", "Background")

    b.meanwhile(raise_it)


def quota_forever(b: Bench) -> None:
    b.double.store.create("resourcequotas", NAMESPACE, {"metadata": {"name": "team"}, "spec": {"hard": {"pods": "0"}}})


def taken_name(b: Bench) -> None:
    """Somebody's Job has every name that is asked for."""
    real = b.double.store.create

    def create(resource: str, namespace: str, item: dict[str, Any]) -> dict[str, Any]:
        if resource == "jobs" and "ownerReferences" in item["metadata"]:
            other = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": item["metadata"]["name"]},
                     "spec": {**item["spec"], "suspend": True}}  # fmt: skip
            real(resource, namespace, other)
        return real(resource, namespace, item)

    b.double.store.create = create  # type: ignore[method-assign]


def somebody_deletes(kind: str) -> Callable[[Bench], Any]:
    def do(b: Bench) -> None:
        def act(_: Any) -> None:
            for it in b.double.store.list(kind, NAMESPACE):
                b.double.store.delete(kind, NAMESPACE, it["metadata"]["name"], "Foreground")

        b.at_step(3, act)

    return do


def image_gone(b: Bench) -> None:
    b.double.node.images.clear()


def python(code: str, **more: Any) -> JobSpec:
    return JobSpec("train_fusion", ("python", "-c", code), **{"grace_s": 2.0, "deadline_s": 60.0, "nodes": 2, **more})


FIRST_FAILS = "import os, sys, time\nif os.environ['PET_NODE_RANK'] == '1': sys.exit({})\ntime.sleep(60)"
# fmt: off
CASES = {
    "the watches are cut": Case(faults(Fault(WATCH, cut_after=1, times=6))),
    "the server forgot the version (410)": Case(forgets),
    "410 at once": Case(faults(Fault(WATCH, code=410, times=3))),
    "too many requests (429)": Case(faults(Fault("GET", code=429, retry_after_s=1, times=2))),
    "500 after the Job was made": Case(faults(Fault("POST /apis/batch", code=500, after=True)), jobset=False),
    "503 everywhere for a while": Case(faults(Fault("", code=503, times=6))),
    "a slow server": Case(faults(Fault("", delay_s=0.4, times=8))),
    "the token expires and there is a new one": Case(new_token),
    "the token expires": Case(lambda b: b.double.api.tokens.clear(), None, "log in again"),
    "a right is missing": Case(lambda b: b.double.api.forbidden.add(("create", "jobsets")), None, "`ovi preflight`"),
    "the logs are cut": Case(faults(Fault("/log", cut_after=2, times=6)), noted="its pod runs"),
    "the image is not there": Case(image_gone, Status.FAILED, "set cluster.image", where={"stuck_s": 1}),
    "no node has the GPUs": Case(
        status=Status.TIMED_OUT, said="Insufficient nvidia.com/gpu", noted="lower resources.<stage>",
        spec=train(gpus=512, nodes=1), where={"start_s": 1},
    ),
    "the claim is not there": Case(
        lambda b: b.double.node.claims.clear(), Status.FAILED, "cluster.claim", where={"stuck_s": 1}
    ),
    "a secret is not there": Case(
        status=Status.FAILED, said='secret "wandb" not found', where={"stuck_s": 1, "secrets": ["wandb"]}
    ),
    "the image lacks the command": Case(
        status=Status.FAILED, said="build cluster.image", spec=JobSpec("curate", ("no-such-command",))
    ),
    "out of memory": Case(at(3, "run_out_of_memory", 1), Status.FAILED, "<stage>.memory_gib", spec=GANG),
    "exit code 78 of one pod, with a Job": Case(
        status=Status.CONFIG_ERROR, said="change the setting", jobset=False,
        spec=python("raise SystemExit(78)", nodes=1),
    ),
    "exit code 78 of one pod, with a JobSet": Case(
        status=Status.CONFIG_ERROR, said="change the setting", spec=python(FIRST_FAILS.format(78))
    ),
    "one pod crashes": Case(status=Status.FAILED, said="rank 1 is broken",
                            spec=python(FIRST_FAILS.format("'ovi: rank 1 is broken'"))),
    "evicted, with a JobSet": Case(at(4, "evict", 1), resumed=True, spec=GANG),
    "evicted, with a Job": Case(at(4, "evict"), resumed=True, jobset=False, noted="evicted", spec=GANG),
    "evicted for memory by its node": Case(at(4, "evict_for_memory", 1), resumed=True, jobset=False, spec=GANG),
    "the node is lost": Case(at(4, "lose_node", 1), resumed=True, jobset=False, noted="its node was lost", spec=GANG),
    "a single pod is evicted": Case(at(4, "evict"), resumed=True, jobset=False),
    "preempted by Kueue": Case(preempted_by_kueue, resumed=True, where={"queue": "team"}, spec=GANG),
    "preempted by Kueue, with a Job": Case(preempted_by_kueue, resumed=True, jobset=False, where={"queue": "team"}),
    "the quota is full for a while": Case(quota_for_a_while, noted="exceeded quota: team"),
    "the quota is full": Case(quota_forever, Status.TIMED_OUT, "exceeded quota", where={"start_s": 1}),
    "the name is taken": Case(taken_name, None, "somebody else's object", jobset=False),
    "somebody deletes the Job": Case(somebody_deletes("jobs"), Status.CANCELLED, "somebody deleted", jobset=False),
    "somebody deletes the Lease": Case(somebody_deletes("leases"), Status.CANCELLED, "somebody deleted", jobset=False),
    "evicted again and again, with a JobSet": Case(
        lambda b: [at(4, "evict")(b), at(12, "evict")(b)], Status.PREEMPTED, "raise cluster.preemptions",
        resumed=True, where={"preemptions": 1},
    ),
    "evicted again and again, with a Job": Case(
        lambda b: [at(4, "evict")(b), at(12, "evict")(b)], Status.PREEMPTED, "it goes on by itself",
        resumed=True, where={"preemptions": 1}, jobset=False, spec=GANG,
    ),
    "the deadline passes": Case(
        status=Status.TIMED_OUT, said="raise resources", spec=train(10_000, deadline_s=1, nodes=1)
    ),
}  # fmt: skip
# fmt: on


@dataclass
class Result:
    outcome: Outcome | None
    line: str
    bench: Bench
    left: list[str]
    hung: bool


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Result]]:
    folder = tmp_path_factory.mktemp("faults")
    with ThreadPoolExecutor(16) as pool:
        futures = {name: pool.submit(_play, folder / str(n), CASES[name]) for n, name in enumerate(CASES)}
        yield {name: future.result(120) for name, future in futures.items()}


def _play(folder: Path, case: Case) -> Result:
    with bench(folder, case.jobset, **case.where) as b:
        case.do(b)
        outcome, line = None, ""
        timer = threading.Timer(60, b.double.store.close)
        timer.start()
        try:
            outcome = b.run(case.spec)
            if outcome.status is not Status.SUCCEEDED:
                line = str(outcome.error("train_fusion", "out/logs/train_fusion.log"))
        except OviError as error:
            line = str(error)
        hung = not timer.is_alive()
        timer.cancel()
        b.double.api.tokens.update({"token-1", "token-2"})
        return Result(outcome, line, b, b.double.left(), hung)


@pytest.mark.parametrize("name", CASES)
def test_every_fault_has_its_outcome_and_its_line(name: str, results: dict[str, Result]) -> None:
    case, result = CASES[name], results[name]
    assert not result.hung
    assert (result.outcome.status if result.outcome else None) is case.status, result.line
    assert case.said in result.line
    assert "\n" not in result.line
    assert case.noted in result.bench.notes
    if case.status is Status.SUCCEEDED:
        assert result.bench.curve() == curve(STEPS)
        assert [word["done"] for word in result.bench.heard if word["event"] == "progress"][-1] == STEPS
    assert (result.outcome is not None and result.outcome.attempts > 1) is case.resumed
    foreign = ["jobs/"] if name == "the name is taken" else []
    assert [what[:5] for what in result.left] == foreign
