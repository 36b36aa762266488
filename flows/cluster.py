"""The door to a Kubernetes API server: objects as plain dictionaries, errors as one line, hiccups waited out.

The only module that imports kubernetes. Answers are read as JSON, never as the client's models: those differ from
release to release (36 returns logs as the text of a bytes literal), the API's JSON does not. The server validates
bodies, strictly. It does not know what a stage is.
Try it: `ovi preflight`.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException

from ovi.errors import OviError

Object = dict[str, Any]
JOBSET = "jobset.x-k8s.io/v1alpha2"
CUSTOM = {"Job": ("batch", "v1", "jobs"), "JobSet": ("jobset.x-k8s.io", "v1alpha2", "jobsets"),
          "Lease": ("coordination.k8s.io", "v1", "leases")}  # fmt: skip
CORE = {"Pod": "pod", "Service": "service", "Event": "event", "ServiceAccount": "service_account",
        "PersistentVolumeClaim": "persistent_volume_claim"}  # fmt: skip
HICCUPS = (429, 500, 502, 503, 504)  # the server's, worth asking again
PATIENCE_S = 120.0  # how long an API server may be away
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 10.0
ANSWER_S = 30.0  # to one request
QUIET_S = 60.0  # without a line, after which a log's connection may be dead
EXPIRED = 410  # a watch from a version the server has forgotten: list again


class ClusterError(OviError):
    """What the API server refused, with its code and reason; 0: no answer at all."""

    def __init__(self, text: str, code: int = 0, reason: str = "") -> None:
        super().__init__(text)
        self.code, self.reason = code, reason


class Cluster:
    """One namespace of one cluster. Safe to share among threads."""

    def __init__(
        self, namespace: str, context: str | None = None, kubeconfig: str | None = None, patience_s: float = PATIENCE_S
    ) -> None:
        """Reads `kubeconfig`, else KUBECONFIG or ~/.kube/config, in a pod its service account. OviError without one."""
        self.namespace = namespace
        self._context, self._kubeconfig, self._patience_s = context, kubeconfig, patience_s
        self._lock = threading.Lock()
        self._connect()

    def serves(self, group_version: str) -> bool:
        """API discovery: whether objects of that group and version can be made."""
        group, version = group_version.split("/")
        with contextlib.suppress(ClusterError):
            self._ask(lambda: self._custom.get_api_resources(group, version, _preload_content=False, **_TIMEOUT))
            return True
        return False

    def version(self) -> str:
        return str(self._ask(lambda: self._version.get_code(_preload_content=False, **_TIMEOUT))["gitVersion"])

    def create(self, item: Object) -> Object:
        """The object as the server keeps it. One that a first try made unheard is ours, as its labels tell."""
        kind, name = item["kind"], item["metadata"]["name"]
        try:
            return self._ask(lambda: self._create(kind, item))
        except ClusterError as error:
            if error.code != 409:
                raise
            found = self.get(kind, name)
            if found is not None and found["metadata"].get("labels") == item["metadata"].get("labels"):
                return found
            raise

    def get(self, kind: str, name: str) -> Object | None:
        try:
            return self._ask(lambda: self._call("get", kind, name=name))
        except ClusterError as error:
            if error.code == 404:
                return None
            raise

    def list(self, kind: str, labels: str = "", fields: str = "") -> tuple[list[Object], str]:
        """Objects and the version to watch from."""
        found = self._ask(lambda: self._call("list", kind, label_selector=labels, field_selector=fields))
        return found["items"], found["metadata"]["resourceVersion"]

    def watch(self, kind: str, labels: str, since: str, timeout_s: int) -> Iterator[tuple[str, Object]]:
        """(ADDED | MODIFIED | DELETED | BOOKMARK, object) until `timeout_s` or the server ends it.

        Raises ClusterError with code 410 when `since` is forgotten; a connection that breaks is one with code 0.
        """
        stream = self._open(lambda: self._call(
            "list", kind, raw=True, label_selector=labels, resource_version=since, watch=True,
            timeout_seconds=timeout_s, allow_watch_bookmarks=True, _request_timeout=(ANSWER_S, timeout_s + ANSWER_S),
        ))  # fmt: skip
        for line in _lines(stream):
            event = json.loads(line)
            if event["type"] == "ERROR":
                status = event["object"]
                raise ClusterError(f"watch: {status.get('message')}", status.get("code", 0), status.get("reason", ""))
            yield event["type"], event["object"]

    def patch(self, kind: str, name: str, change: Object) -> Object:
        """Merge patch."""
        return self._ask(lambda: self._call("patch", kind, name=name, body=change))

    def delete(self, kind: str, name: str, grace_s: int | None = None) -> None:
        """Foreground: the object stays until all it owns is gone. One that is not there is no error."""
        grace: dict[str, Any] = {} if grace_s is None else {"grace_period_seconds": grace_s}
        try:
            self._ask(lambda: self._call("delete", kind, name=name, propagation_policy="Foreground", **grace))
        except ClusterError as error:
            if error.code != 404:
                raise

    def logs(self, pod: str, since_s: int | None, follow: bool = True) -> Iterator[tuple[str, str]]:
        """(time, line) of a pod's log until it ends. Raises ClusterError: 400 before it starts, 0 when it breaks."""
        since = {} if since_s is None else {"since_seconds": since_s}
        stream = self._open(lambda: self._core.read_namespaced_pod_log(
            pod, self.namespace, follow=follow, timestamps=True, _preload_content=False,
            _request_timeout=(ANSWER_S, QUIET_S), **since,
        ))  # fmt: skip
        for line in _lines(stream):
            moment, _, text = line.decode(errors="replace").partition(" ")
            yield moment, text

    def may(self, verb: str, group: str, resource: str, sub: str = "") -> bool:
        """Whether who we are may do that in the namespace: a SelfSubjectAccessReview."""
        asked = {"namespace": self.namespace, "verb": verb, "group": group, "resource": resource, "subresource": sub}
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
                "spec": {"resourceAttributes": {key: value for key, value in asked.items() if value}}}  # fmt: skip
        review = self._ask(lambda: self._reviews.create_self_subject_access_review(
            body, _preload_content=False, **_TIMEOUT))  # fmt: skip
        return bool(review["status"]["allowed"])

    def _connect(self) -> None:
        settings = client.Configuration()
        where = self._kubeconfig or os.environ.get("KUBECONFIG")  # the client reads the variable once, when imported
        try:
            if os.environ.get("KUBERNETES_SERVICE_HOST") and not where:
                config.load_incluster_config(settings)
            else:
                config.load_kube_config(where, self._context, client_configuration=settings)
        except (ConfigException, OSError, TypeError) as error:
            raise OviError(
                f"{where or '~/.kube/config'}: no cluster to talk to ({_words(error)}); "
                "set KUBECONFIG, or executor: local"
            ) from None
        settings.retries = False  # ours below waits longer and knows which to repeat
        settings.connection_pool_maxsize = 64  # a follower a pod
        api = client.ApiClient(settings)
        self._core: Any = client.CoreV1Api(api)  # Any: their annotations know nothing of dictionaries
        self._custom: Any = client.CustomObjectsApi(api)
        self._reviews: Any = client.AuthorizationV1Api(api)
        self._version: Any = client.VersionApi(api)

    def _create(self, kind: str, item: Object) -> Any:
        if kind in CUSTOM:
            return self._custom.create_namespaced_custom_object(
                *CUSTOM[kind][:2], self.namespace, CUSTOM[kind][2], item, field_validation="Strict",
                _preload_content=False, **_TIMEOUT,
            )  # fmt: skip
        make = getattr(self._core, f"create_namespaced_{CORE[kind]}")
        return make(self.namespace, item, field_validation="Strict", _preload_content=False, **_TIMEOUT)

    def _call(self, verb: str, kind: str, raw: bool = False, name: str | None = None, **more: Any) -> Any:
        options = {**({} if raw else _TIMEOUT), "_preload_content": False, **{k: v for k, v in more.items() if v != ""}}
        if kind in CUSTOM:
            group, version, plural = CUSTOM[kind]
            words = [group, version, self.namespace, plural, *([name] if name else [])]
            if verb == "patch":
                options["_content_type"] = "application/merge-patch+json"
                words.append(options.pop("body"))
            return getattr(self._custom, f"{verb}_namespaced_custom_object")(*words, **options)
        spoken = {"get": "read"}.get(verb, verb)
        words = [*([name] if name else []), self.namespace]
        return getattr(self._core, f"{spoken}_namespaced_{CORE[kind]}")(*words, **options)

    def _ask(self, request: Callable[[], Any]) -> Any:
        """The JSON of an answer, asked for again while the server hiccups, once with fresh credentials after a 401."""
        until = time.monotonic() + self._patience_s
        wait, renewed = FIRST_WAIT_S, False
        while True:
            try:
                with request() as answer:
                    return json.loads(answer.read())
            except ApiException as error:
                refused = _refused(error)
                if refused.code == 401 and not renewed:
                    renewed = True
                    with self._lock:
                        self._connect()
                    continue
                if refused.code not in HICCUPS or time.monotonic() > until:
                    raise refused from None
                wait = _wait(wait, _asked_to_wait(error))
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                if time.monotonic() > until:
                    raise ClusterError(f"the API server does not answer: {_words(error)}; is it up?") from None
                wait = _wait(wait)

    def _open(self, request: Callable[[], Any]) -> Any:
        """A stream, asked for once: who follows it knows where to go on."""
        try:
            return request()
        except ApiException as error:
            if error.status == 401:
                with self._lock:
                    self._connect()
            raise _refused(error) from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ClusterError(f"the API server does not answer: {_words(error)}") from None


_TIMEOUT: dict[str, Any] = {"_request_timeout": ANSWER_S}


def _lines(stream: Any) -> Iterator[bytes]:
    """Whole lines of a streamed answer. ClusterError with code 0 when it breaks off."""
    rest = b""
    with stream:
        try:
            for block in stream.stream(1 << 16):
                *lines, rest = (rest + block).split(b"\n")
                yield from (line for line in lines if line)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ClusterError(f"the connection broke: {_words(error)}") from None
    if rest:
        yield rest


def _refused(error: ApiException) -> ClusterError:
    try:
        status = json.loads(str(error.body))
        said, reason = str(status.get("message", "")), str(status.get("reason", ""))
    except (TypeError, ValueError, AttributeError):
        said, reason = str(error.reason), ""
    code = int(error.status or 0)
    advice = {
        401: "; the credentials are refused: log in again, or renew the token in the kubeconfig",
        403: "; `ovi preflight` shows which rights are missing",
        409: "; somebody else's object has that name",
    }.get(code, "")
    return ClusterError(f"the cluster answered {code} {reason}: {' '.join(said.split())}{advice}", code, reason)


def _asked_to_wait(error: ApiException) -> float:
    with contextlib.suppress(TypeError, ValueError, AttributeError):
        return float(dict(error.headers or {}).get("Retry-After") or 0)
    return 0.0


def _wait(wait: float, at_least: float = 0.0) -> float:
    """Sleep with jitter; how long the next time."""
    time.sleep(max(at_least, wait * random.uniform(0.5, 1.0)))
    return min(wait * 2, LONGEST_WAIT_S)


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
