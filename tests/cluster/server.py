"""The double's API server: HTTP in, the store's answers out, as https://kubernetes.io/docs/reference/using-api/ says.

Discovery, create, get, list, watch with bookmarks, merge patch, delete with grace and propagation, pods/log,
pods/eviction, access reviews. Bodies are validated strictly by Kubernetes' own schemas. Knows no controller.
"""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate

from tests.cluster.faults import Fault, Faults
from tests.cluster.kubelet import Container, Kubelet
from tests.cluster.store import Change, Object, Refused, Store

VERSION = "1.34"
CORE = {"pods": "Pod", "services": "Service", "events": "Event", "secrets": "Secret", "resourcequotas": "ResourceQuota",
        "namespaces": "Namespace", "persistentvolumeclaims": "PersistentVolumeClaim",
        "serviceaccounts": "ServiceAccount"}  # fmt: skip
GROUPS = {
    "batch/v1": {"jobs": "Job"},
    "coordination.k8s.io/v1": {"leases": "Lease"},
    "authorization.k8s.io/v1": {"selfsubjectaccessreviews": "SelfSubjectAccessReview"},
}
JOBSETS = {"jobset.x-k8s.io/v1alpha2": {"jobsets": "JobSet"}}
NO_SCHEMA = {"JobSet"}  # a custom resource: its own definition validates it
PATH = re.compile(
    r"/(?:api/v1|apis/(?P<group>[^/]+/[^/]+))(?:/namespaces/(?P<namespace>[^/]+))?/(?P<resource>[a-z]+)"
    r"(?:/(?P<name>[^/]+))?(?:/(?P<sub>log|eviction|status))?"
)


@dataclass
class Api:
    """What every request sees."""

    store: Store
    kubelet: Kubelet
    faults: Faults
    tokens: set[str]
    groups: dict[str, dict[str, str]]
    forbidden: set[tuple[str, str]]  # (verb, resource) the token may not
    bookmark_s: float = 1.0


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client that was killed is none of our errors
            super().handle_error(request, client_address)


def serve(api: Api) -> ThreadingHTTPServer:
    handler = type("Bound", (Handler,), {"api": api})
    server = Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: Api

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self._body = json.loads(self.rfile.read(length)) if length else {}
        fault = self.api.faults.take(f"{self.command} {self.path}")
        try:
            if fault is not None:
                time.sleep(fault.delay_s)
                if fault.code and not fault.after:
                    raise _injected(fault)
            if self.headers.get("Authorization", "").removeprefix("Bearer ") not in self.api.tokens:
                raise Refused(401, "Unauthorized", "Unauthorized")
            answer = self._route(fault)
            if fault is not None and fault.code and fault.after:
                raise _injected(fault)
            if answer is not None:
                self._send(201 if self.command == "POST" else 200, answer)
        except Refused as error:
            retry = {} if fault is None or fault.retry_after_s is None else {"Retry-After": str(fault.retry_after_s)}
            self._send(error.code, _status(error), retry)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = _handle

    def _route(self, fault: Fault | None) -> Object | None:
        url = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        discovery = self._discovery(url.path)
        if discovery is not None:
            return discovery
        found = PATH.fullmatch(url.path)
        kinds = CORE if found is None or found["group"] is None else self.api.groups.get(found["group"], {})
        if found is None or found["resource"] not in kinds:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        resource, namespace, name = found["resource"], found["namespace"] or "default", found["name"]
        if resource == "selfsubjectaccessreviews":
            return self._review()
        verb = {"POST": "create", "GET": "get" if name else "list", "PATCH": "patch", "DELETE": "delete"}[self.command]
        self._authorize("watch" if query.get("watch") == "true" else verb, resource, found["sub"])
        store = self.api.store
        if found["sub"] == "log":
            return self._log(store.get("pods", namespace, name), query, fault)
        if found["sub"] == "eviction":
            self.api.kubelet.evict(namespace, name)
            return {"kind": "Status", "apiVersion": "v1", "status": "Success", "code": 201}
        if self.command == "POST":
            self._validate(kinds[resource], query.get("fieldValidation", "Warn"))
            return _shown(store.create(resource, namespace, self._body))
        if self.command == "PATCH":
            return _shown(store.change(resource, namespace, name, lambda it: _merge(it, self._body)))
        if self.command == "DELETE":
            return _shown(self._delete(resource, namespace, name, query))
        if name:
            return _shown(store.get(resource, namespace, name))
        wanted = _selector(query)
        if query.get("watch") == "true":
            return self._watch(resource, found["namespace"], query, wanted, fault)
        with store.changed:
            items = [_shown(item) for item in store.list(resource, found["namespace"], wanted)]
            version = str(store.version)
        return {
            "kind": f"{kinds[resource]}List",
            "apiVersion": "v1",
            "metadata": {"resourceVersion": version},
            "items": items,
        }

    def _discovery(self, path: str) -> Object | None:
        """https://kubernetes.io/docs/concepts/overview/kubernetes-api/#discovery-api"""
        if path.rstrip("/") == "/version":
            major, minor = VERSION.split(".")
            return {"major": major, "minor": minor, "gitVersion": f"v{VERSION}.0"}
        if path == "/apis":
            versions = []
            for group in self.api.groups:
                version = {"groupVersion": group, "version": group.split("/")[1]}
                versions.append({"name": group.split("/")[0], "versions": [version], "preferredVersion": version})
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": versions}
        group = path.removeprefix("/apis/")
        if group in self.api.groups:
            resources = [{"name": name, "kind": kind, "namespaced": True, "singularName": "", "verbs": []}
                         for name, kind in self.api.groups[group].items()]  # fmt: skip
            return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group, "resources": resources}
        return None

    def _authorize(self, verb: str, resource: str, sub: str | None) -> None:
        whole = f"{resource}/{sub}" if sub else resource
        if (verb, whole) in self.api.forbidden:
            message = f'{whole} is forbidden: User "ovi-flow" cannot {verb} resource "{whole}" in API group ""'
            raise Refused(403, "Forbidden", message)

    def _review(self) -> Object:
        asked = self._body["spec"]["resourceAttributes"]
        whole = "/".join(filter(None, [asked["resource"], asked.get("subresource")]))
        return {**self._body, "status": {"allowed": (asked["verb"], whole) not in self.api.forbidden}}

    def _validate(self, kind: str, strictness: str) -> None:
        """Unknown fields are refused when Strict is asked for; a wrong type or a missing field always.

        https://kubernetes.io/docs/reference/using-api/api-concepts/#field-validation
        """
        if self._body.get("kind") != kind:
            raise Refused(400, "BadRequest", f"the body is no {kind}")
        if kind not in NO_SCHEMA:
            try:
                kubernetes_validate.validate(self._body, VERSION, strict=strictness == "Strict")
            except kubernetes_validate.ValidationError as error:
                if "Additional properties" in error.message:
                    raise Refused(400, "BadRequest", f"strict decoding error: {error.message}") from None
                raise Refused(422, "Invalid", f"{kind} is invalid: {error.message}") from None
        name = self._body["metadata"].get("name", "x")
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", name) or len(name) > 63:
            raise Refused(422, "Invalid", f"{kind} is invalid: metadata.name: {name!r} is no DNS label")

    def _delete(self, resource: str, namespace: str, name: str, query: dict[str, str]) -> Object:
        """Without a policy, Jobs of batch/v1 orphan their pods, everything else goes in the background.

        https://kubernetes.io/docs/tasks/administer-cluster/use-cascading-deletion/
        """
        default = "Orphan" if resource == "jobs" else "Background"
        policy = query.get("propagationPolicy") or self._body.get("propagationPolicy") or default
        grace = query.get("gracePeriodSeconds", self._body.get("gracePeriodSeconds"))
        return self.api.store.delete(resource, namespace, name, policy, None if grace is None else int(grace))

    def _watch(
        self, resource: str, namespace: str | None, query: dict[str, str], wanted: Callable[[Object], bool],
        fault: Fault | None,
    ) -> None:  # fmt: skip
        """With bookmarks, as .../using-api/api-concepts/#efficient-detection-of-changes and #watch-bookmarks say."""
        until = time.monotonic() + float(query.get("timeoutSeconds", 3600))
        since = int(query.get("resourceVersion") or self.api.store.version)
        bookmarks, told = query.get("allowWatchBookmarks") == "true", time.monotonic()
        sent = 0
        self._begin_stream("application/json")
        try:
            for change in self.api.store.watch(resource, namespace, since):
                if fault is not None and fault.cut_after is not None and sent >= fault.cut_after:
                    self.close_connection = True
                    return  # no last chunk: the client sees a connection that broke
                event = None if change is None else _event(change, wanted)
                if event is not None:
                    self._chunk(json.dumps(event).encode() + b"\n")
                    sent += 1
                elif bookmarks and time.monotonic() - told > self.api.bookmark_s:
                    told = time.monotonic()
                    mark = {"metadata": {"resourceVersion": str(self.api.store.version)}}
                    self._chunk(json.dumps({"type": "BOOKMARK", "object": mark}).encode() + b"\n")
                if time.monotonic() > until:
                    break
        except Refused as error:
            self._chunk(json.dumps({"type": "ERROR", "object": _status(error)}).encode() + b"\n")
        self._chunk(b"")

    def _log(self, pod: Object, query: dict[str, str], fault: Fault | None) -> None:
        """https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#get-read-log-of-the-specified-pod"""
        container = self.api.kubelet.containers.get(pod["metadata"]["uid"])
        if container is None or container.lost_at is not None:
            name = pod["metadata"]["name"]
            raise Refused(
                400, "BadRequest", f'container "stage" in pod "{name}" is waiting to start: ContainerCreating'
            )
        earliest = ""
        if "sinceSeconds" in query:
            moment = time.gmtime(time.time() - int(query["sinceSeconds"]))
            earliest = time.strftime("%Y-%m-%dT%H:%M:%S", moment)
        self._begin_stream("text/plain")
        for number, (stamp, line) in enumerate(_lines(container, query.get("follow") == "true")):
            if fault is not None and fault.cut_after is not None and number >= fault.cut_after:
                self.close_connection = True
                return
            if stamp >= earliest:
                self._chunk(stamp.encode() + b" " + line if query.get("timestamps") == "true" else line)
        self._chunk(b"")

    def _begin_stream(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def _send(self, code: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


def _lines(container: Container, follow: bool) -> Iterator[tuple[str, bytes]]:
    at = 0
    while True:
        with container.said:
            news = container.lines[at:]
            if not news and follow and not container.ended:
                container.said.wait(0.5)
                continue
        yield from news
        at += len(news)
        if not news:
            return


def _event(change: Change, wanted: Callable[[Object], bool]) -> Object | None:
    """An object that leaves the selection is told as deleted, one that enters it as added."""
    was = change.before is not None and wanted(change.before)
    is_now = wanted(change.after)
    if change.kind == "DELETED":
        return {"type": "DELETED", "object": _shown(change.after)} if was or is_now else None
    if not is_now:
        return {"type": "DELETED", "object": _shown(change.after)} if was else None
    return {"type": "MODIFIED" if was else "ADDED", "object": _shown(change.after)}


def _selector(query: dict[str, str]) -> Callable[[Object], bool]:
    """https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors: a=b and plain a"""
    labels = [part.partition("=") for part in query.get("labelSelector", "").replace("==", "=").split(",") if part]
    fields = [part.partition("=") for part in query.get("fieldSelector", "").replace("==", "=").split(",") if part]

    def wanted(item: Object) -> bool:
        have = item["metadata"].get("labels", {})
        if not all(have.get(key) == value if equals else key in have for key, equals, value in labels):
            return False
        return all(_at(item, key) == value for key, _, value in fields)

    return wanted


def _at(item: Any, dotted: str) -> Any:
    for key in dotted.split("."):
        item = item.get(key, {})
    return item


def _merge(target: Object, patch: Object) -> None:
    """https://datatracker.ietf.org/doc/html/rfc7386"""
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict):
            _merge(target.setdefault(key, {}), value)
        else:
            target[key] = value


def _shown(item: Object) -> Object:
    """Without the controllers' own notes."""
    status = item.get("status")
    if status is None:
        return item
    return {**item, "status": {name: value for name, value in status.items() if not name.startswith("_")}}


def _injected(fault: Fault) -> Refused:
    reason = {429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable", 401: "Unauthorized"}
    return Refused(fault.code, reason.get(fault.code, "Unknown"), f"injected {fault.code}")


def _status(error: Refused) -> Object:
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": str(error),
            "reason": error.reason, "code": error.code}  # fmt: skip
