"""What is wrong with a pod or its Job, in one line with advice. Pure: the API's objects in, a Diagnosis out.

Reasons are Kubernetes' own: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/,
https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions and
https://kubernetes.io/docs/concepts/workloads/controllers/job/#job-termination-and-cleanup.
Try it: `pytest tests/flows/test_diagnose.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flows.jobs import Status, judge
from ovi.errors import EXIT_CONFIG, EXIT_FAILED, EXIT_PREEMPTED

Object = dict[str, Any]
NO_IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
OUT_OF_MEMORY = 128 + 9


@dataclass(frozen=True)
class Diagnosis:
    """`said`: what happened; `advice`: what to do. For what has not ended, `status` is what it would end as."""

    status: Status
    exit_code: int
    said: str
    advice: str
    mends_itself: bool = False  # waiting may help: a queue, a full cluster


def ending(pods: list[Object], top: Object) -> Diagnosis:
    """Why a Job or JobSet that has ended, ended. One pod's own fault outweighs what it did to the others."""
    if condition(top, "Complete") or condition(top, "Completed"):
        return Diagnosis(Status.SUCCEEDED, 0, "", "")
    own = sorted((_own_fault(pod) for pod in pods), key=lambda found: found[0])
    own_fault = own[0] if own else (9, None)
    if own_fault[0] <= 1 and own_fault[1]:  # settings or memory: another attempt ends the same way
        return own_fault[1]
    for pod in pods:
        why = disrupted(pod)
        if why:
            return Diagnosis(Status.PREEMPTED, EXIT_PREEMPTED, why, "it goes on by itself")
    reason = condition(top, "Failed") or {}
    if reason.get("reason") == "DeadlineExceeded":
        return Diagnosis(Status.TIMED_OUT, EXIT_FAILED, "", judge(0, timed_out=True)[1])
    if own_fault[1]:
        return own_fault[1]
    return Diagnosis(
        Status.FAILED, EXIT_FAILED, reason.get("message", ""), "`kubectl describe` the pods, or run it again"
    )


def waiting(pods: list[Object], top: Object, events: list[Object]) -> Diagnosis | None:
    """What keeps a stage from running; None when nothing does."""
    if condition(top, "Suspended") or top["spec"].get("suspend"):
        return _wait("waits in the queue", "Kueue starts it when there is room: `kubectl get workloads`", True)
    for event in events:
        if event.get("reason") == "FailedCreate":
            message = str(event.get("message", ""))
            said = message.partition("forbidden: ")[2] or message
            advice = "wait for other jobs, lower resources.<stage>, or raise the namespace's quota"
            return _wait(f"its pods are refused: {said}", advice, "quota" in said)
    for pod in pods:
        state = _state(pod, "waiting")
        reason, message = state.get("reason", ""), state.get("message", "")
        if reason in NO_IMAGE:
            return _wait(f"the image cannot be pulled: {message}", "set cluster.image to one the nodes can pull", False)
        if reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
            return _wait(
                f"the container cannot be made: {message}", "make that object, or drop it from cluster.*", False
            )
        unscheduled = condition(pod, "PodScheduled", "False")
        if unscheduled:
            said = unscheduled.get("message", "")
            advice = "lower resources.<stage>, or add nodes that have it"
            if "persistentvolumeclaim" in said:
                return _wait(f"no node can take it: {said}", "make the claim, or name another in cluster.claim", False)
            return _wait(f"no node can take it: {said}", advice, True)
    return None


def disrupted(pod: Object) -> str:
    """In words, who took the pod away; empty when nobody did."""
    found = condition(pod, "DisruptionTarget")
    if found is None:
        return "evicted by its node" if pod["status"].get("reason") == "Evicted" else ""
    words = {
        "EvictionByEvictionAPI": "evicted",
        "PreemptionByScheduler": "preempted by a pod of higher priority",
        "DeletionByTaintManager": "its node went away",
        "DeletionByPodGC": "its node was lost",
        "TerminationByKubelet": "evicted by its node",
    }
    said = found.get("message", "")
    why = str(found["reason"])
    return words.get(why, why) + (f" ({said})" if said else "")


def finished(top: Object) -> bool:
    """Whether a Job or JobSet has come to its end."""
    return any(condition(top, kind) for kind in ("Complete", "Completed", "Failed"))


def condition(item: Object, kind: str, status: str = "True") -> Object | None:
    for found in item.get("status", {}).get("conditions", []):
        if found["type"] == kind and found["status"] == status:
            return dict(found)
    return None


def exit_code(pod: Object) -> int | None:
    code = _state(pod, "terminated").get("exitCode")
    return None if code is None else int(code)


def _own_fault(pod: Object) -> tuple[int, Diagnosis | None]:
    """What the pod did wrong by itself, and how near that is to a cause (0: nearest)."""
    ended = _state(pod, "terminated")
    code = exit_code(pod)
    if code is None or code == 0:
        return 9, None
    if code == EXIT_CONFIG:
        return 0, Diagnosis(Status.CONFIG_ERROR, code, "", judge(code)[1])
    if ended.get("reason") == "OOMKilled":
        advice = "raise resources.<stage>.memory_gib, or lower its batch or workers"
        return 1, Diagnosis(Status.FAILED, OUT_OF_MEMORY, "out of memory (OOMKilled)", advice)
    if ended.get("reason") in ("StartError", "ContainerCannotRun"):
        said = f"the command cannot be started: {ended.get('message', '')}"
        return 2, Diagnosis(Status.FAILED, code, said, "build cluster.image from this commit")
    status, advice = judge(code)
    if status is Status.PREEMPTED:
        return 8, Diagnosis(status, code, "", advice)
    if code in (128 + 15, 128 + 9):  # stopped because of another pod, most often
        return 7, Diagnosis(status, code, "", advice)
    return 3, Diagnosis(status, code, "", advice)


def _state(pod: Object, kind: str) -> Object:
    for container in pod["status"].get("containerStatuses", []):
        if kind in container.get("state", {}):
            return dict(container["state"][kind])
    return {}


def _wait(said: str, advice: str, mends_itself: bool) -> Diagnosis:
    return Diagnosis(Status.FAILED, EXIT_FAILED, said, advice, mends_itself)
