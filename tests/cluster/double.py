"""A Kubernetes cluster in this process: an API server on loopback, controllers, and pods as real processes.

For tests of what talks to a cluster. Only the official client speaks to it, over HTTP; nothing under flows/ knows it.
Try it: `python -m tests.cluster.double FOLDER`, then `kubectl --kubeconfig FOLDER/kubeconfig get pods`.
"""

from __future__ import annotations

import base64
import contextlib
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Self

import yaml

from tests.cluster import jobs, jobsets
from tests.cluster.faults import Faults
from tests.cluster.kubelet import Kubelet, Node
from tests.cluster.server import GROUPS, JOBSETS, Api, serve
from tests.cluster.store import Object, Refused, Store

TICK_S = 0.05
NAMESPACE = "ovi"


class Double:
    """`with Double(folder, claims={"ovi-work": clone}) as cluster:`; `cluster.kubeconfig` is what a client needs."""

    def __init__(self, folder: Path, claims: dict[str, Path] | None = None, jobset: bool = True) -> None:
        self.store = Store()
        self.node = Node(claims=claims or {})
        self.kubelet = Kubelet(self.store, self.node, folder / "disk")
        self.faults = Faults()
        groups = {**GROUPS, **(JOBSETS if jobset else {})}
        self.api = Api(self.store, self.kubelet, self.faults, {"token-1"}, groups, set())
        self.failures: list[str] = []  # of the controllers themselves; a test that finds one fails
        self._folder = folder
        self.kubeconfig = folder / "kubeconfig"

    def __enter__(self) -> Self:
        self._server = serve(self.api)
        self._folder.mkdir(parents=True, exist_ok=True)
        self.write_kubeconfig("token-1")
        self._controllers = threading.Thread(target=self._control, daemon=True)
        self._controllers.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.store.close()
        self._controllers.join(30)
        self.kubelet.close()
        self._server.shutdown()
        self._server.server_close()
        assert not self.failures, self.failures[0]

    def write_kubeconfig(self, token: str) -> None:
        """https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/"""
        url = f"http://127.0.0.1:{self._server.server_port}"
        value = {
            "apiVersion": "v1", "kind": "Config", "current-context": "double",
            "clusters": [{"name": "double", "cluster": {"server": url}}],
            "users": [{"name": "flow", "user": {"token": token}}],
            "contexts": [{"name": "double", "context": {"cluster": "double", "user": "flow", "namespace": NAMESPACE}}],
        }  # fmt: skip
        self.kubeconfig.write_text(yaml.safe_dump(value))

    def add_secret(self, name: str, values: dict[str, str]) -> None:
        """https://kubernetes.io/docs/concepts/configuration/secret/: data is base64"""
        data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
        self.store.create("secrets", NAMESPACE, {"metadata": {"name": name}, "data": data})

    def pods(self, phase: str | None = None) -> list[Object]:
        return self.store.list("pods", NAMESPACE, lambda pod: phase in (None, pod["status"]["phase"]))

    def left(self) -> list[str]:
        """Every object of a run that is still there, and every process."""
        kinds = ("leases", "jobsets", "jobs", "pods", "services")
        objects = [f"{kind}/{it['metadata']['name']}" for kind in kinds for it in self.store.list(kind, NAMESPACE)]
        return objects + [f"process {c.pid}" for c in self.kubelet.containers.values() if c.running]

    def _control(self) -> None:
        while not self.store.closed:
            try:
                for jobset in self.store.list("jobsets"):
                    self._try(jobsets.reconcile, jobset)
                for job in self.store.list("jobs"):
                    self._try(jobs.reconcile, job)
                self.store.collect()
                pods = self.store.list("pods")
                for pod in pods:
                    self.kubelet.reconcile(pod)
                self.kubelet.forget_gone({pod["metadata"]["uid"] for pod in pods})
            except Exception:
                self.failures.append(traceback.format_exc())
            time.sleep(TICK_S)

    def _try(self, reconcile: Callable[[Store, Object], None], item: Object) -> None:
        with contextlib.suppress(Refused):  # somebody deleted it meanwhile; the next round sees that
            reconcile(self.store, item)


if __name__ == "__main__":
    with Double(Path(sys.argv[1]), {"ovi-work": Path(sys.argv[1])}) as double:
        print(double.kubeconfig)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
