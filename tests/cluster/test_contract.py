"""What the platform relies on of a Kubernetes API server, asked of the double or, by OVI_TEST_KUBECONFIG, of a cluster.

With a real one: OVI_TEST_NAMESPACE (default ovi-test, must exist) and OVI_TEST_IMAGE, an image with `python` that the
restricted pod security level lets run. Only the official client speaks to either.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException, NotFoundException

from tests.cluster.double import NAMESPACE, Double
from tests.cluster.store import Object

REAL = os.environ.get("OVI_TEST_KUBECONFIG")
IMAGE = os.environ.get("OVI_TEST_IMAGE", "python:3.11-slim")
WAIT_S = 300.0 if REAL else 30.0
SAVES = """
import signal, sys, time
def stop(*_):
    print("saved", flush=True)
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(600)
"""


class Api:
    """The official client, with a name and a label for what one test makes."""

    def __init__(self, kubeconfig: str, namespace: str) -> None:
        settings = client.Configuration()
        config.load_kube_config(kubeconfig, client_configuration=settings)
        self.connection = client.ApiClient(settings)
        self.core, self.batch = client.CoreV1Api(self.connection), client.BatchV1Api(self.connection)
        self.custom = client.CustomObjectsApi(self.connection)
        self.namespace, self.name = namespace, f"t-{uuid.uuid4().hex[:8]}"
        self.label = f"ovi.dev/test={self.name}"

    def job(self, code: str, **spec: Any) -> Object:
        """A Job of pods that run Python code; `spec` over the defaults, `grace` for the pods' grace period."""
        labels = dict([self.label.split("=")])
        pod = {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": spec.pop("grace", 20),
            "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "stage", "image": IMAGE, "command": ["python", "-c", code],
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        }  # fmt: skip
        defaults = {
            "completionMode": "Indexed", "completions": 1, "parallelism": 1, "backoffLimit": 0,
            "podReplacementPolicy": "Failed", "template": {"metadata": {"labels": labels}, "spec": pod},
        }  # fmt: skip
        meta = {"name": self.name, "labels": labels}
        return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": {**defaults, **spec}}

    def start(self, code: str, **spec: Any) -> Object:
        return raw(self.batch.create_namespaced_job(self.namespace, self.job(code, **spec), _preload_content=False))

    def read(self) -> Object | None:
        with contextlib.suppress(NotFoundException):
            return dict(raw(self.batch.read_namespaced_job(self.name, self.namespace, _preload_content=False)))
        return None

    def pods(self) -> list[Object]:
        found = self.core.list_namespaced_pod(self.namespace, label_selector=self.label, _preload_content=False)
        return list(raw(found)["items"])

    def until(self, wanted: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + WAIT_S
        while not (found := wanted()):
            assert time.monotonic() < deadline, (self.read(), self.pods())
            time.sleep(0.05)
        return found

    def running(self) -> list[Object]:
        """Pods that said they are ready to be stopped."""
        return [pod for pod in self.pods() if pod["status"]["phase"] == "Running" and "ready" in self.log(pod)]

    def log(self, pod: Object) -> str:
        name = pod["metadata"]["name"]
        return self.core.read_namespaced_pod_log(name, self.namespace, _preload_content=False).data.decode()

    def condition(self, kind: str) -> Object | None:
        job = self.read() or {}
        conditions = job.get("status", {}).get("conditions", [])
        return next((dict(c) for c in conditions if c["type"] == kind and c["status"] == "True"), None)

    def delete(self, policy: str | None = "Foreground") -> None:
        more = {} if policy is None else {"propagation_policy": policy}
        self.batch.delete_namespaced_job(self.name, self.namespace, _preload_content=False, **more)


def raw(answer: Any) -> Any:
    return json.loads(answer.data)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    if REAL:
        yield REAL, os.environ.get("OVI_TEST_NAMESPACE", "ovi-test")
        return
    with Double(tmp_path_factory.mktemp("double")) as double:
        double.node.images.add(IMAGE)
        yield str(double.kubeconfig), NAMESPACE


@pytest.fixture
def api(server: tuple[str, str]) -> Iterator[Api]:
    made = Api(*server)
    try:
        yield made
    finally:
        if made.read() is not None:
            made.delete()
        for pod in made.pods():
            with contextlib.suppress(NotFoundException):
                made.core.delete_namespaced_pod(pod["metadata"]["name"], made.namespace, grace_period_seconds=0)
        made.connection.close()


def refused(request: Callable[[], Any]) -> ApiException:
    with pytest.raises(ApiException) as caught:
        request()
    return caught.value


def test_an_indexed_job_runs_to_its_end_and_keeps_its_logs(api: Api) -> None:
    api.start("print('one'); print('two')", completions=2, parallelism=2)
    done = api.until(lambda: api.condition("Complete") and api.read())
    assert done["status"]["succeeded"] == 2
    assert done["status"]["completedIndexes"] in ("0-1", "0,1")
    indexes = sorted(pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"] for pod in api.pods())
    assert indexes == ["0", "1"]
    for pod in api.pods():
        state = pod["status"]["containerStatuses"][0]["state"]["terminated"]
        assert (state["exitCode"], state["reason"]) == (0, "Completed")
        assert pod["spec"]["hostname"].startswith(f"{api.name}-")
        assert api.log(pod) == "one\ntwo\n"
        name = pod["metadata"]["name"]
        stamped = api.core.read_namespaced_pod_log(
            name, api.namespace, timestamps=True, follow=True, since_seconds=600, _preload_content=False
        )
        first, second = (line.split(" ") for line in stamped.data.decode().splitlines())
        assert (first[1], second[1]) == ("one", "two")
        assert first[0] < second[0]


def test_names_are_taken_once_and_bodies_are_checked(api: Api) -> None:
    api.start("pass")
    assert refused(lambda: api.start("pass")).status == 409
    unknown = {**api.job("pass"), "metadata": {"name": f"{api.name}-x"}}
    unknown["spec"]["colour"] = "red"
    strict = {
        "group": "batch",
        "version": "v1",
        "namespace": api.namespace,
        "plural": "jobs",
        "field_validation": "Strict",
    }
    error = refused(lambda: api.custom.create_namespaced_custom_object(**strict, body=unknown))
    assert (error.status, "colour" in str(error.body)) == (400, True)
    wrong = {**api.job("pass"), "metadata": {"name": f"{api.name}-y"}}
    wrong["spec"]["completions"] = "two"
    assert refused(lambda: api.custom.create_namespaced_custom_object(**strict, body=wrong)).status in (400, 422)
    gone = refused(lambda: api.core.read_namespaced_pod("no-such-pod", api.namespace))
    assert json.loads(gone.body)["reason"] == "NotFound"


def test_exit_code_78_fails_the_job_by_its_policy(api: Api) -> None:
    rules = [{"action": "FailJob", "onExitCodes": {"containerName": "stage", "operator": "In", "values": [78]}}]
    api.start("import sys; sys.exit(78)", podFailurePolicy={"rules": rules}, backoffLimit=3)
    assert api.until(lambda: api.condition("Failed"))["reason"] == "PodFailurePolicy"


def test_other_failures_end_at_the_backoff_limit_and_stop_the_peers(api: Api) -> None:
    code = f"import os\nif os.environ['JOB_COMPLETION_INDEX'] == '1': raise SystemExit(3)\n{SAVES}"
    api.start(code, completions=2, parallelism=2)
    assert api.until(lambda: api.condition("Failed"))["reason"] == "BackoffLimitExceeded"


def test_deleting_in_the_foreground_waits_for_pods_that_save(api: Api) -> None:
    api.start(SAVES, completions=2, parallelism=2)
    api.until(lambda: len(api.running()) == 2)
    name = api.pods()[0]["metadata"]["name"]
    follower = api.core.read_namespaced_pod_log(name, api.namespace, follow=True, _preload_content=False)
    api.delete()
    left = api.read()
    assert left is None or "foregroundDeletion" in left["metadata"]["finalizers"]
    api.until(lambda: api.read() is None)
    assert api.pods() == []
    assert b"".join(follower.stream()) == b"ready\nsaved\n"  # a follower hears it to its end


def test_a_pod_that_does_not_stop_is_killed_after_its_grace(api: Api) -> None:
    api.start(
        "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)", grace=1
    )
    api.until(api.running)
    began = time.monotonic()
    api.delete()
    api.until(lambda: api.read() is None)
    assert time.monotonic() - began > 0.9


def test_deleting_a_job_without_a_policy_leaves_its_pods(api: Api) -> None:
    """Jobs are the one kind that orphans by default; who forgets the policy leaks GPUs."""
    api.start(SAVES)
    api.until(api.running)
    api.delete(policy=None)
    api.until(lambda: api.read() is None)
    (pod,) = api.pods()
    assert "ownerReferences" not in pod["metadata"] or not pod["metadata"]["ownerReferences"]
    assert "deletionTimestamp" not in pod["metadata"]


def test_an_owner_takes_all_it_owns_with_it(api: Api) -> None:
    """A Lease owns the Job, the Job its pods: deleted in the foreground, the Lease outlives them all."""
    lease = ("coordination.k8s.io", "v1", api.namespace, "leases")
    body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": api.name},
            "spec": {"holderIdentity": "me", "leaseDurationSeconds": 60}}  # fmt: skip
    made = api.custom.create_namespaced_custom_object(*lease, body)
    owner = {"apiVersion": made["apiVersion"], "kind": "Lease", "name": api.name, "uid": made["metadata"]["uid"],
             "blockOwnerDeletion": True}  # fmt: skip
    job = api.job(SAVES)
    job["metadata"]["ownerReferences"] = [owner]
    api.batch.create_namespaced_job(api.namespace, job, _preload_content=False)
    api.until(api.running)
    api.custom.delete_namespaced_custom_object(*lease, api.name, propagation_policy="Foreground")

    def gone() -> bool:
        left = (api.read(), api.pods())  # read before the Lease: they may only go first
        with contextlib.suppress(NotFoundException):
            api.custom.get_namespaced_custom_object(*lease, api.name)
            return False
        assert left == (None, [])
        return True

    api.until(gone)


def test_an_eviction_marks_the_pod_and_the_job_replaces_it(api: Api) -> None:
    rules = [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
    api.start(SAVES, podFailurePolicy={"rules": rules})
    (pod,) = api.until(api.running)
    version = api.core.list_namespaced_pod(api.namespace).metadata.resource_version
    name = pod["metadata"]["name"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": api.namespace}}
    api.core.create_namespaced_pod_eviction(name, api.namespace, eviction, _preload_content=False)
    (fresh,) = api.until(lambda: [it for it in api.running() if it["metadata"]["uid"] != pod["metadata"]["uid"]])
    assert fresh["metadata"]["annotations"] == pod["metadata"]["annotations"]
    events = api.core.list_namespaced_pod(
        api.namespace, label_selector=api.label, watch=True, resource_version=version, timeout_seconds=1,
        _preload_content=False,
    )  # fmt: skip
    seen = [json.loads(line) for line in events.data.splitlines()]
    last = next(it["object"] for it in seen if it["type"] == "DELETED" and it["object"]["metadata"]["name"] == name)
    assert last["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 75
    (why,) = (c for c in last["status"]["conditions"] if c["type"] == "DisruptionTarget")
    assert (why["status"], why["reason"]) == ("True", "EvictionByEvictionAPI")


def test_a_watch_goes_on_from_a_version_and_ends_when_asked_to(api: Api) -> None:
    version = api.batch.list_namespaced_job(api.namespace).metadata.resource_version
    api.start("pass")
    api.until(lambda: api.condition("Complete"))
    api.delete()
    api.until(lambda: api.read() is None)
    stream = api.batch.list_namespaced_job(
        api.namespace, label_selector=api.label, watch=True, resource_version=version, timeout_seconds=1,
        allow_watch_bookmarks=True, _preload_content=False,
    )  # fmt: skip
    kinds = [json.loads(line)["type"] for line in stream.data.splitlines()]
    kinds = [kind for kind in kinds if kind != "BOOKMARK"]
    assert (kinds[0], kinds[-1], set(kinds[1:-1])) == ("ADDED", "DELETED", {"MODIFIED"})


def test_a_version_that_is_forgotten_is_410(api: Api) -> None:
    def code() -> int:
        try:
            stream = api.core.list_namespaced_pod(
                api.namespace, watch=True, resource_version="1", timeout_seconds=1, _preload_content=False
            )
        except ApiException as error:
            return int(error.status or 0)
        event = json.loads(stream.data.splitlines()[0])
        assert event["type"] == "ERROR"
        return int(event["object"]["code"])

    assert code() == 410


def test_a_suspended_job_gives_its_pods_back_and_goes_on(api: Api) -> None:
    api.start(SAVES)
    api.until(api.running)
    jobs = ("batch", "v1", api.namespace, "jobs", api.name)
    merge = {"_content_type": "application/merge-patch+json"}
    api.custom.patch_namespaced_custom_object(*jobs, {"spec": {"suspend": True}}, **merge)
    api.until(lambda: api.condition("Suspended") and not api.pods())
    assert not api.read()["status"].get("failed")  # type: ignore[index]
    api.custom.patch_namespaced_custom_object(*jobs, {"spec": {"suspend": False}}, **merge)
    api.until(api.running)
    assert api.condition("Suspended") is None


def test_a_deadline_ends_the_job(api: Api) -> None:
    api.start(SAVES, activeDeadlineSeconds=1)
    assert api.until(lambda: api.condition("Failed"))["reason"] == "DeadlineExceeded"


def test_indexes_of_a_fan_out_are_retried_each_for_itself(api: Api) -> None:
    code = "import os, sys; sys.exit(os.environ['HOSTNAME'].endswith('-1'))"
    api.start(code, completions=3, parallelism=3, backoffLimitPerIndex=1, maxFailedIndexes=2, backoffLimit=10)
    assert api.until(lambda: api.condition("Failed"))["reason"] == "FailedIndexes"
    job = api.read()
    assert job is not None
    assert (job["status"]["failedIndexes"], job["status"]["completedIndexes"]) == ("1", "0,2")


def test_a_full_quota_is_an_event_of_the_job(api: Api) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": api.name}}
    quota["spec"] = {"hard": {"pods": "0"}}
    api.core.create_namespaced_resource_quota(api.namespace, quota, _preload_content=False)
    try:
        api.start("pass")
        events = api.until(
            lambda: raw(api.core.list_namespaced_event(
                api.namespace, field_selector=f"involvedObject.name={api.name}", _preload_content=False
            ))["items"]
        )  # fmt: skip
        assert "exceeded quota" in events[0]["message"]
    finally:
        api.core.delete_namespaced_resource_quota(api.name, api.namespace, _preload_content=False)


def test_discovery_and_rights(api: Api) -> None:
    assert "leases" in {found.name for found in api.custom.get_api_resources("coordination.k8s.io", "v1").resources}
    assert refused(lambda: api.custom.get_api_resources("no.such.group", "v1")).status == 404
    asked = {"resourceAttributes": {"namespace": api.namespace, "verb": "list", "resource": "pods"}}
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": asked}
    review = client.AuthorizationV1Api(api.connection).create_self_subject_access_review(body, _preload_content=False)
    assert raw(review)["status"]["allowed"] is True
