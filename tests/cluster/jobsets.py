"""The double's JobSet controller: jobset.x-k8s.io/v1alpha2, as far as the platform uses it.

https://jobset.sigs.k8s.io/docs/overview/ and KEP-262 (configurable failure policy) of kubernetes-sigs/jobset.
"""

from __future__ import annotations

import copy

from tests.cluster.store import Object, Refused, Store, condition, controller_reference, owned_by, set_condition

NAME, ATTEMPT = "jobset.sigs.k8s.io/jobset-name", "jobset.sigs.k8s.io/restart-attempt"


def reconcile(store: Store, jobset: Object) -> None:
    meta, spec = jobset["metadata"], jobset["spec"]
    if "deletionTimestamp" in meta:
        return
    namespace = meta["namespace"]
    jobs = store.list("jobs", namespace, lambda job: owned_by(job, jobset))
    status = copy.deepcopy(jobset.get("status", {}))
    jobset = {**jobset, "status": status}
    if status.get("terminalState"):
        for job in jobs:  # what still runs is deleted once the JobSet has ended
            if not (condition(job, "Complete") or condition(job, "Failed")):
                _delete(store, job)
        return
    status.setdefault("restarts", 0)
    status.setdefault("restartsCountTowardsMax", 0)
    _service(store, jobset)
    attempt = str(status["restarts"])
    for job in jobs:
        if job["metadata"]["labels"][ATTEMPT] != attempt:
            _delete(store, job)
    current = {job["metadata"]["name"]: job for job in jobs if job["metadata"]["labels"][ATTEMPT] == attempt}
    suspended = bool(spec.get("suspend"))
    if suspended or condition(jobset, "Suspended"):
        reason = "SuspendedJobs" if suspended else "ResumeJobs"
        set_condition(
            jobset, "Suspended", str(suspended), reason, f"jobset is {'suspended' if suspended else 'resumed'}"
        )
    for job in current.values():
        if bool(job["spec"].get("suspend")) != suspended:
            name = job["metadata"]["name"]
            store.change("jobs", namespace, name, lambda it: it["spec"].update(suspend=suspended))
    failed = [job for job in current.values() if condition(job, "Failed")]
    wanted = _wanted(jobset, attempt, suspended)
    if failed:
        _on_failure(jobset, failed)
    elif current and all(condition(job, "Complete") for job in current.values()) and len(current) == len(wanted):
        set_condition(jobset, "Completed", "True", "AllJobsCompleted", "jobset completed successfully")
        status["terminalState"] = "Completed"
    else:
        for job in wanted:
            # Recreate: an old Job of that name has to be gone first
            if not any(old["metadata"]["name"] == job["metadata"]["name"] for old in jobs):
                try:
                    store.create("jobs", namespace, job)
                except Refused:
                    continue
    store.change("jobsets", namespace, meta["name"], lambda it: it.update(status=status))


def _on_failure(jobset: Object, failed: list[Object]) -> None:
    """The first rule that matches says what becomes of it; without one it counts towards maxRestarts.

    https://github.com/kubernetes-sigs/jobset/tree/main/keps/262-ConfigurableFailurePolicy
    """
    status, policy = jobset["status"], jobset["spec"].get("failurePolicy")
    first = failed[0]["metadata"]["name"]

    def end(reason: str, message: str) -> None:
        set_condition(jobset, "Failed", "True", reason, f"{message} (first failed job: {first})")
        status["terminalState"] = "Failed"

    if policy is None:
        end("FailedJobs", "jobset failed due to one or more job failures")
        return
    reasons = [condition(job, "Failed")["reason"] for job in failed]  # type: ignore[index]
    rules = policy.get("rules", [])
    actions = [r["action"] for r in rules if any(x in r.get("onJobFailureReasons", [x]) for x in reasons)]
    action = actions[0] if actions else "RestartJobSet"
    if action == "FailJobSet":
        end("FailJobSetFailurePolicyAction", "applying FailJobSet failure policy action")
    elif action == "RestartJobSet" and status["restartsCountTowardsMax"] >= policy.get("maxRestarts", 0):
        end("ReachedMaxRestarts", "jobset failed due to reaching max number of restarts")
    else:
        status["restarts"] += 1
        status["restartsCountTowardsMax"] += action == "RestartJobSet"


def _wanted(jobset: Object, attempt: str, suspended: bool) -> list[Object]:
    """https://jobset.sigs.k8s.io/docs/concepts/#conventions: names, labels and the subdomain its pods share"""
    meta = jobset["metadata"]
    jobs = []
    for replicated in jobset["spec"]["replicatedJobs"]:
        for number in range(replicated.get("replicas", 1)):
            template = copy.deepcopy(replicated["template"])
            labels = {
                NAME: meta["name"],
                "jobset.sigs.k8s.io/replicatedjob-name": replicated["name"],
                "jobset.sigs.k8s.io/job-index": str(number),
                ATTEMPT: attempt,
            }
            pods = template["spec"]["template"]
            pods.setdefault("metadata", {}).setdefault("labels", {}).update(labels)
            pods["spec"].setdefault("subdomain", subdomain(jobset))
            jobs.append(
                {
                    "apiVersion": "batch/v1",
                    "kind": "Job",
                    "metadata": {
                        "name": f"{meta['name']}-{replicated['name']}-{number}",
                        "labels": {**template.get("metadata", {}).get("labels", {}), **labels},
                        "ownerReferences": [controller_reference(jobset)],
                    },
                    "spec": {**template["spec"], "suspend": suspended},
                }
            )
    return jobs


def subdomain(jobset: Object) -> str:
    return str(jobset["spec"].get("network", {}).get("subdomain") or jobset["metadata"]["name"])


def _service(store: Store, jobset: Object) -> None:
    if not jobset["spec"].get("network", {}).get("enableDNSHostnames", True):
        return
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": subdomain(jobset), "ownerReferences": [controller_reference(jobset)]},
        "spec": {
            "clusterIP": "None",
            "selector": {NAME: jobset["metadata"]["name"]},
            "publishNotReadyAddresses": jobset["spec"].get("network", {}).get("publishNotReadyAddresses", True),
        },
    }
    try:
        store.create("services", jobset["metadata"]["namespace"], service)
    except Refused:
        return


def _delete(store: Store, job: Object) -> None:
    if "deletionTimestamp" not in job["metadata"]:
        store.delete("jobs", job["metadata"]["namespace"], job["metadata"]["name"], "Foreground")
