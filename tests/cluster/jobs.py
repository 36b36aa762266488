"""The double's Job controller: batch/v1 Jobs with Indexed completion, as far as the platform uses them.

https://kubernetes.io/docs/concepts/workloads/controllers/job/ is what it copies; each function names its section.
"""

from __future__ import annotations

import copy
from typing import Any

from tests.cluster.store import (
    Object,
    Refused,
    Store,
    condition,
    controller_reference,
    now,
    owned_by,
    seconds_since,
    set_condition,
    suffix,
)

INDEX = "batch.kubernetes.io/job-completion-index"
TRACKED = "batch.kubernetes.io/job-tracking"


def reconcile(store: Store, job: Object) -> None:
    meta = job["metadata"]
    if _finished(job):
        ttl = job["spec"].get("ttlSecondsAfterFinished")
        if ttl is not None and seconds_since(_finished(job)["lastTransitionTime"]) > ttl:  # type: ignore[index]
            store.delete("jobs", meta["namespace"], meta["name"], "Background")
        _release(store, job)
        return
    if "deletionTimestamp" in meta:
        _release(store, job)
        return
    job = {**job, "status": copy.deepcopy(job.get("status", {}))}
    if job["spec"].get("suspend"):
        _suspend(store, job)
    else:
        _run(store, job)
    store.change("jobs", meta["namespace"], meta["name"], lambda it: it.update(status=job["status"]))
    for pod in job.get("_counted", []):  # only now that it is on record
        _untrack(store, pod)


def _suspend(store: Store, job: Object) -> None:
    """Pods of a suspended Job get SIGTERM; they are no failures, and its clock starts anew when it resumes.

    https://kubernetes.io/docs/concepts/workloads/controllers/job/#suspending-a-job
    """
    for pod in pods_of(store, job):
        _delete(store, pod)
        if _terminal(pod):
            _untrack(store, pod)
    job["status"].pop("startTime", None)
    job["status"].update(active=0, ready=0)
    set_condition(job, "Suspended", "True", "JobSuspended", "Job suspended")


def _run(store: Store, job: Object) -> None:
    spec, status = job["spec"], job["status"]
    if condition(job, "Suspended"):
        set_condition(job, "Suspended", "False", "JobResumed", "Job resumed")
    status.setdefault("startTime", now())
    _count(store, job)
    pods = pods_of(store, job)
    living = [pod for pod in pods if not _terminal(pod)]
    status.update(active=len(living), ready=sum(condition(pod, "Ready") is not None for pod in living))
    verdict = condition(job, "FailureTarget") or condition(job, "SuccessCriteriaMet")
    if verdict is None:
        verdict = _judge(job)
        if verdict is not None:
            set_condition(job, verdict["type"], "True", verdict["reason"], verdict["message"])
    if verdict is not None:
        # .../controllers/job/#terminal-job-conditions: pods stop before the Job has ended
        for pod in living:
            _delete(store, pod)
        if not living:
            kind = "Complete" if verdict["type"] == "SuccessCriteriaMet" else "Failed"
            set_condition(job, kind, "True", verdict["reason"], verdict["message"])
            status["completionTime"] = now()
        return
    done = set(status.get("_succeeded", [])) | set(status.get("_lost", []))
    # podReplacementPolicy Failed: an index gets its next pod once the last one has ended, not while it is ending
    busy = {pod["metadata"]["annotations"][INDEX] for pod in living}
    missing = [str(index) for index in range(spec["completions"]) if str(index) not in done | busy]
    for index in missing[: max(spec.get("parallelism", 1) - len(living), 0)]:
        _create(store, job, index)


def _count(store: Store, job: Object) -> None:
    """Each ended pod counts once: its finalizer goes when it has.

    https://kubernetes.io/docs/concepts/workloads/controllers/job/#job-tracking-with-finalizers
    """
    status = job["status"]
    for pod in pods_of(store, job):
        if not _terminal(pod) or TRACKED not in pod["metadata"].get("finalizers", []):
            continue
        index = pod["metadata"]["annotations"][INDEX]
        if pod["status"]["phase"] == "Succeeded":
            status["_succeeded"] = sorted({*status.get("_succeeded", []), index}, key=int)
            status["succeeded"] = len(status["_succeeded"])
            status["completedIndexes"] = ",".join(status["_succeeded"])
        else:
            rule = _rule(job, pod)
            if rule is not None and rule["action"] == "FailJob":
                name, code = pod["metadata"]["name"], _exit_code(pod)
                how = f"exit code {code}" if "onExitCodes" in rule else "condition DisruptionTarget"
                where = f"{pod['metadata']['namespace']}/{name}"
                message = f"Container stage for pod {where} failed with {how} matching FailJob rule"
                set_condition(job, "FailureTarget", "True", "PodFailurePolicy", message)
            if rule is None or rule["action"] != "Ignore":
                status["failed"] = status.get("failed", 0) + 1
                status.setdefault("_failures", {}).setdefault(index, 0)
                status["_failures"][index] += 1
                limit = job["spec"].get("backoffLimitPerIndex")
                if limit is not None and status["_failures"][index] > limit:
                    status["_lost"] = sorted({*status.get("_lost", []), index}, key=int)
                    status["failedIndexes"] = ",".join(status["_lost"])
        job.setdefault("_counted", []).append(pod)


def _judge(job: Object) -> Object | None:
    """FailureTarget or SuccessCriteriaMet, once it is decided.

    https://kubernetes.io/docs/concepts/workloads/controllers/job/#job-termination-and-cleanup
    """
    spec, status = job["spec"], job["status"]
    lost, done = len(status.get("_lost", [])), len(status.get("_succeeded", []))
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and seconds_since(status["startTime"]) >= deadline:
        return _failure("DeadlineExceeded", "Job was active longer than specified deadline")
    if "backoffLimitPerIndex" not in spec and status.get("failed", 0) > spec.get("backoffLimit", 6):
        return _failure("BackoffLimitExceeded", "Job has reached the specified backoff limit")
    if lost > spec.get("maxFailedIndexes", spec["completions"]):
        return _failure("MaxFailedIndexesExceeded", "Job has exceeded the specified maximal number of failed indexes")
    if lost and lost + done == spec["completions"]:
        return _failure("FailedIndexes", "Job has failed indexes")
    if done == spec["completions"]:
        message = "Reached expected number of succeeded pods"
        return {"type": "SuccessCriteriaMet", "reason": "CompletionsReached", "message": message}
    return None


def _failure(reason: str, message: str) -> Object:
    return {"type": "FailureTarget", "reason": reason, "message": message}


def _rule(job: Object, pod: Object) -> Object | None:
    """The first rule that matches. https://kubernetes.io/docs/concepts/workloads/controllers/job/#pod-failure-policy"""
    for rule in job["spec"].get("podFailurePolicy", {}).get("rules", []):
        wanted: Any = rule.get("onExitCodes")
        if wanted is not None:
            code = _exit_code(pod)
            inside = code in wanted["values"]
            if code not in (None, 0) and inside is (wanted["operator"] == "In"):
                return dict(rule)
        elif any(condition(pod, it["type"]) for it in rule.get("onPodConditions", [])):
            return dict(rule)
    return None


def _create(store: Store, job: Object, index: str) -> None:
    """https://kubernetes.io/docs/concepts/workloads/controllers/job/#completion-mode: names, labels and host names"""
    meta, template = job["metadata"], job["spec"]["template"]
    labels = {
        **template.get("metadata", {}).get("labels", {}),
        INDEX: index,
        "batch.kubernetes.io/job-name": meta["name"],
        "batch.kubernetes.io/controller-uid": meta["uid"],
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{meta['name']}-{index}-{suffix()}",
            "labels": labels,
            "annotations": {**template.get("metadata", {}).get("annotations", {}), INDEX: index},
            "ownerReferences": [controller_reference(job)],
            "finalizers": [TRACKED],
        },
        "spec": {"hostname": f"{meta['name']}-{index}", **copy.deepcopy(template["spec"])},
        "status": {"phase": "Pending"},
    }
    for container in pod["spec"]["containers"]:
        container.setdefault("env", []).append({"name": "JOB_COMPLETION_INDEX", "value": index})
    try:
        check_quota(store, meta["namespace"], pod)
        store.create("pods", meta["namespace"], pod)
    except Refused as error:
        tell(store, job, "FailedCreate", f"Error creating: {error}")


def check_quota(store: Store, namespace: str, pod: Object) -> None:
    """https://kubernetes.io/docs/concepts/policy/resource-quotas/: a pod beyond it is forbidden"""
    for quota in store.list("resourcequotas", namespace):
        hard = quota["spec"]["hard"]
        if "pods" in hard:
            used = sum(not _terminal(it) for it in store.list("pods", namespace))
            if used + 1 > int(hard["pods"]):
                name, limit = quota["metadata"]["name"], hard["pods"]
                pod_name = pod["metadata"]["name"]
                raise Refused(
                    403, "Forbidden",
                    f'pods "{pod_name}" is forbidden: exceeded quota: {name}, requested: pods=1, used: pods={used}, '
                    f"limited: pods={limit}",
                )  # fmt: skip


def tell(store: Store, about: Object, reason: str, message: str) -> None:
    """An Event, one a reason and object: https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/"""
    meta = about["metadata"]
    name = f"{meta['name']}.{reason.lower()}"
    event = {
        "apiVersion": "v1", "kind": "Event", "type": "Warning", "reason": reason, "message": message,
        "metadata": {"name": name}, "lastTimestamp": now(),
        "involvedObject": {"kind": about["kind"], "name": meta["name"], "uid": meta["uid"]},
    }  # fmt: skip
    try:
        store.create("events", meta["namespace"], event)
    except Refused:
        store.change("events", meta["namespace"], name, lambda it: it.update(message=message))


def pods_of(store: Store, job: Object) -> list[Object]:
    return store.list("pods", job["metadata"]["namespace"], lambda pod: owned_by(pod, job))


def _finished(job: Object) -> Object | None:
    return condition(job, "Complete") or condition(job, "Failed")


def _terminal(pod: Object) -> bool:
    gone = pod["metadata"].get("deletionGracePeriodSeconds") == 0
    return pod["status"]["phase"] in ("Succeeded", "Failed") or gone


def _exit_code(pod: Object) -> int | None:
    for container in pod["status"].get("containerStatuses", []):
        ended = container["state"].get("terminated")
        if ended:
            return int(ended["exitCode"])
    return None


def _delete(store: Store, pod: Object) -> None:
    if "deletionTimestamp" not in pod["metadata"]:
        store.delete("pods", pod["metadata"]["namespace"], pod["metadata"]["name"], "Background")


def _untrack(store: Store, pod: Object) -> None:
    def drop(it: Object) -> None:
        it["metadata"]["finalizers"] = [name for name in it["metadata"].get("finalizers", []) if name != TRACKED]

    store.change("pods", pod["metadata"]["namespace"], pod["metadata"]["name"], drop)


def _release(store: Store, job: Object) -> None:
    """A Job that ended or goes holds no pod back."""
    for pod in pods_of(store, job):
        if _terminal(pod) and TRACKED in pod["metadata"].get("finalizers", []):
            _untrack(store, pod)
