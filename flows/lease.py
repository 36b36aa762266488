"""A run's Lease: renewed while its flow lives, owner of everything the flow starts. Deleting it ends all of that.

Kubernetes' garbage collector does the work: Jobs, JobSets and Services are owned by the Lease, pods by their Job, so
one foreground deletion reaches every pod (SIGTERM, grace, SIGKILL), and the Lease is gone once they are. A flow that
was killed stops renewing: `ovi reap` finds its Lease expired. In a pod, the Lease itself is owned by the flow's pod.
Try it: `ovi reap`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Self

from flows import manifests
from flows.cluster import Cluster, ClusterError, Object
from flows.jobs import JobSpec
from ovi import config
from ovi.errors import OviError

RENEW_S = 20.0
LEFTOVER_S = 900.0  # for what a killed flow left to save its state and go
AFTER_GRACE_S = 20.0  # for what the cluster does besides waiting for the pods
POLL_S = 0.2


class Lease:
    """`with Lease(...) as lease:` ends with nothing left in the cluster, whatever is raised inside."""

    def __init__(
        self, cluster: Cluster, where: config.Cluster, name: str, spec: JobSpec, meanwhile: Callable[[], None]
    ) -> None:
        """`meanwhile` is called while waiting for the end: what the pods say as they stop is heard."""
        self._cluster, self._where, self.name, self._spec, self._meanwhile = cluster, where, name, spec, meanwhile
        self._stopped = threading.Event()
        self._refused: OviError | None = None
        self.reference: Object = {}

    def __enter__(self) -> Self:
        try:
            remove_all(self._cluster, f"{manifests.CLONE}={self._where.clone or self._where.claim}")
            holder = f"{socket.gethostname()}:{os.getpid()}"
            item = manifests.lease(self.name, self._spec.stage, self._where, _now(), holder, _flow_pod())
            made = self._cluster.create(item)
        except BaseException:
            self._end()
            raise
        self.reference = reference(made)
        threading.Thread(target=self._renew, daemon=True, name="lease").start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        try:
            self._end()
        except ClusterError as error:
            raise OviError(f"run {self.name} cannot be removed now: {error}; `ovi reap` does it later") from None

    def check(self) -> None:
        """Raises OviError when somebody removed the Lease: what it owned is gone."""
        if self._refused is not None:
            raise self._refused

    def _end(self) -> None:
        """Delete it and wait until it is gone. An interrupt while waiting means: at once."""
        until = time.monotonic() + self._spec.grace_s + AFTER_GRACE_S
        impatient: BaseException | None = None
        forced = False
        self._cluster.delete("Lease", self.name)
        while self._cluster.get("Lease", self.name) is not None:
            try:
                self._meanwhile()
                if time.monotonic() > until:
                    if forced:
                        where = self._where.namespace
                        raise OviError(f"run {self.name}: pods are left in namespace {where}; `ovi reap` removes them")
                    forced, until = True, time.monotonic() + AFTER_GRACE_S
                    self._kill()
                time.sleep(POLL_S)
            except OviError:
                raise
            except BaseException as interrupt:
                if impatient is not None:
                    raise
                impatient, forced, until = interrupt, True, time.monotonic() + AFTER_GRACE_S
                self._kill()
        self._meanwhile()
        if impatient is not None:
            raise impatient

    def _kill(self) -> None:
        for pod in self._cluster.list("Pod", f"{manifests.RUN}={self.name}")[0]:
            self._cluster.delete("Pod", pod["metadata"]["name"], grace_s=0)

    def _renew(self) -> None:
        while not self._stopped.wait(RENEW_S):
            try:
                self._cluster.patch("Lease", self.name, {"spec": {"renewTime": _now()}})
            except ClusterError as error:
                if error.code == 404 and not self._stopped.is_set():
                    self._refused = OviError(
                        f"run {self.name} was removed from the cluster; run the same command again"
                    )
                    return
            except OviError:
                continue


def reap(cluster: Cluster, older_s: float) -> list[str]:
    """Remove every run that was not renewed for `older_s` seconds, with all its pods; their names."""
    leases, _ = cluster.list("Lease", manifests.MANAGED)
    dead = [it for it in leases if time.time() - _renewed(it) > older_s]
    for item in dead:
        cluster.delete("Lease", item["metadata"]["name"])
    return [item["metadata"]["name"] for item in dead]


def remove_all(cluster: Cluster, labels: str) -> None:
    """Remove runs and wait until they are gone. Who holds a clone's lock may: their flows are dead."""
    leases, _ = cluster.list("Lease", f"{manifests.MANAGED},{labels}")
    for item in leases:
        cluster.delete("Lease", item["metadata"]["name"])
    until = time.monotonic() + LEFTOVER_S
    for item in leases:
        while cluster.get("Lease", item["metadata"]["name"]) is not None:
            if time.monotonic() > until:
                name = item["metadata"]["name"]
                raise OviError(f"run {name}: its pods do not end; `kubectl -n {cluster.namespace} get pods` shows them")
            time.sleep(POLL_S)


def reference(owner: Object) -> Object:
    """What an object carries that is owned by `owner` and holds its deletion up."""
    meta = owner["metadata"]
    return {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": meta["name"], "uid": meta["uid"],
            "blockOwnerDeletion": True}  # fmt: skip


def _flow_pod() -> Object | None:
    """The pod this flow runs in, as its manifest tells it (downward API); None outside a cluster."""
    name, uid = os.environ.get("OVI_POD_NAME"), os.environ.get("OVI_POD_UID")
    if not name or not uid:
        return None
    return {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}


def _renewed(item: Object) -> float:
    with contextlib.suppress(KeyError, ValueError, TypeError):
        return datetime.fromisoformat(item["spec"]["renewTime"]).timestamp()
    return 0.0


def _now() -> str:
    """metav1.MicroTime."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
