"""One line for everything that can be wrong with a pod, from the API's own objects."""

from __future__ import annotations

from typing import Any

import pytest

from flows.diagnose import ending, waiting
from flows.jobs import Status

Object = dict[str, Any]


def pod(**state: Any) -> Object:
    conditions = state.pop("conditions", [])
    status = {"phase": state.pop("phase", "Failed"), "conditions": conditions, **state.pop("status", {})}
    if state:
        status["containerStatuses"] = [{"name": "stage", "state": state}]
    return {"metadata": {"name": "x"}, "spec": {}, "status": status}


def ended(code: int, reason: str = "Error", **more: Any) -> Object:
    return pod(terminated={"exitCode": code, "reason": reason, **more})


def disrupted(reason: str, code: int | None = None) -> Object:
    item = pod(conditions=[{"type": "DisruptionTarget", "status": "True", "reason": reason, "message": ""}])
    if code is not None:
        item["status"]["containerStatuses"] = ended(code)["status"]["containerStatuses"]
    return item


def top(kind: str | None = "Failed", reason: str = "BackoffLimitExceeded", **spec: Any) -> Object:
    conditions = [{"type": kind, "status": "True", "reason": reason, "message": "it failed"}] if kind else []
    return {"spec": spec, "status": {"conditions": conditions}}


@pytest.mark.parametrize(
    ("pods", "job", "status", "code", "said"),
    [
        ([ended(0, "Completed")], top("Complete"), Status.SUCCEEDED, 0, ""),
        ([disrupted("EvictionByEvictionAPI", 75), ended(0)], top("Completed"), Status.SUCCEEDED, 0, ""),
        ([ended(78), ended(75)], top(reason="PodFailurePolicy"), Status.CONFIG_ERROR, 78, ""),
        ([ended(1), ended(75)], top(), Status.FAILED, 1, ""),  # the other one saved when it was stopped
        ([ended(143), ended(3)], top(), Status.FAILED, 3, ""),
        ([ended(137, "OOMKilled"), ended(1)], top(), Status.FAILED, 137, "out of memory (OOMKilled)"),
        ([ended(139)], top(), Status.FAILED, 139, ""),
        ([ended(75), ended(75)], top(), Status.PREEMPTED, 75, ""),
        ([disrupted("EvictionByEvictionAPI", 75), ended(75)], top(), Status.PREEMPTED, 75, "evicted"),
        ([disrupted("PreemptionByScheduler", 137)], top(), Status.PREEMPTED, 75,
         "preempted by a pod of higher priority"),
        ([ended(1), disrupted("DeletionByPodGC")], top(), Status.PREEMPTED, 75, "its node was lost"),  # 1: a lost peer
        ([disrupted("DeletionByTaintManager")], top(), Status.PREEMPTED, 75, "its node went away"),
        ([pod(status={"reason": "Evicted"})], top(), Status.PREEMPTED, 75, "evicted by its node"),
        ([ended(78), disrupted("DeletionByPodGC")], top(), Status.CONFIG_ERROR, 78, ""),  # would end so again
        ([ended(143)], top(reason="DeadlineExceeded"), Status.TIMED_OUT, 1, ""),
        ([ended(128, "StartError", message="no ovi")], top(), Status.FAILED, 128,
         "the command cannot be started: no ovi"),
        ([], top(), Status.FAILED, 1, "it failed"),
    ],
)  # fmt: skip
def test_how_it_ended(pods: list[Object], job: Object, status: Status, code: int, said: str) -> None:
    found = ending(pods, job)
    assert (found.status, found.exit_code, found.said) == (status, code, said)
    assert found.advice or status is Status.SUCCEEDED


def held(reason: str, message: str) -> Object:
    return pod(phase="Pending", waiting={"reason": reason, "message": message})


def unscheduled(message: str) -> Object:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return pod(phase="Pending", conditions=[condition])


QUOTA = 'Error creating: pods "x" is forbidden: exceeded quota: team, requested: pods=1'


@pytest.mark.parametrize(
    ("pods", "job", "events", "said", "mends_itself"),
    [
        ([held("ImagePullBackOff", "gone")], top(None), [], "the image cannot be pulled: gone", False),
        ([held("ErrImagePull", "denied")], top(None), [], "the image cannot be pulled: denied", False),
        ([held("CreateContainerConfigError", "no secret")], top(None), [], "the container cannot be made", False),
        ([unscheduled("0/3 nodes")], top(None), [], "no node can take it: 0/3 nodes", True),
        ([unscheduled('persistentvolumeclaim "w" not found')], top(None), [], "no node can take it: pers", False),
        ([], top(None, suspend=True), [], "waits in the queue", True),
        ([], top("Suspended", "JobSuspended"), [], "waits in the queue", True),
        ([], top(None), [{"reason": "FailedCreate", "message": QUOTA}], "its pods are refused: exceeded quota", True),
        ([], top(None), [{"reason": "FailedCreate", "message": "bad spec"}], "its pods are refused: bad spec", False),
    ],
)  # fmt: skip
def test_what_it_waits_for(
    pods: list[Object], job: Object, events: list[Object], said: str, mends_itself: bool
) -> None:
    found = waiting(pods, job, events)
    assert found is not None
    assert found.said.startswith(said)
    assert found.mends_itself is mends_itself
    assert found.advice


def test_what_runs_waits_for_nothing() -> None:
    assert waiting([pod(phase="Running", running={"startedAt": "x"})], top(None), []) is None
