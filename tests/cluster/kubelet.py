"""The double's scheduler and node: pods are real processes below flows/guard.py, with logs, signals and exit codes.

One machine stands for all nodes. So pods share its network (every pod name of a headless Service means 127.0.0.1, a
declared container port becomes a free one, the same for all pods of a Job) and a volume claim is a folder, an emptyDir
a new one of the pod's own; the container's `/work` is that folder. https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil

from tests.cluster.store import Object, Refused, Store, now, set_condition

GUARD = Path(__file__).parents[2] / "flows" / "guard.py"
PORT_OF = "batch.kubernetes.io/controller-uid"


@dataclass
class Node:
    """What the one machine has for pods, and what is wrong with it."""

    claims: dict[str, Path] = field(default_factory=dict)
    images: set[str] = field(default_factory=lambda: {"ovi-train:0.1.0"})
    capacity: dict[str, float] = field(default_factory=lambda: {"cpu": 1000.0, "nvidia.com/gpu": 64.0})
    env: dict[str, str] = field(default_factory=dict)
    start_delay_s: float = 0.0
    lost_after_s: float = 1.0  # from a node's death until its pods are collected; minutes in a real cluster


class Kubelet:
    def __init__(self, store: Store, node: Node, disk: Path) -> None:
        self._store, self.node, self._disk = store, node, disk
        self.containers: dict[str, Container] = {}  # by pod uid
        self._ports: dict[tuple[str, str], int] = {}

    def reconcile(self, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        container = self.containers.get(uid)
        if pod["status"]["phase"] in ("Succeeded", "Failed"):
            self._store.remove_stopped_pod(pod["metadata"]["namespace"], pod["metadata"]["name"])
        elif container is not None and container.lost_at is not None:
            if time.monotonic() - container.lost_at > self.node.lost_after_s:
                self._collect(pod)
        elif "deletionTimestamp" in pod["metadata"]:
            if container is None:
                self._edit(pod, lambda it: it["status"].update(phase="Failed"))
            else:
                container.stop(pod["metadata"]["deletionGracePeriodSeconds"])
                self._note_end(pod, container)
        elif container is not None:
            self._note_end(pod, container)
        else:
            self._start(pod)

    def forget_gone(self, alive: set[str]) -> None:
        """Containers of pods that were removed by force are killed; folders of pods that are gone go too."""
        for uid, container in self.containers.items():
            if uid in alive:
                continue
            if container.running:
                container.kill()
            elif (self._disk / uid).exists():
                shutil.rmtree(self._disk / uid)

    def close(self) -> None:
        for container in self.containers.values():
            container.kill()
        for container in self.containers.values():
            container.reader.join(10)
        shutil.rmtree(self._disk, ignore_errors=True)

    def _start(self, pod: Object) -> None:
        why = self._unschedulable(pod)
        if why:
            self._edit(pod, lambda it: set_condition(it, "PodScheduled", "False", "Unschedulable", why))
            return
        self._edit(pod, lambda it: set_condition(it, "PodScheduled", "True", ""))
        if (
            time.time() - datetime.fromisoformat(pod["metadata"]["creationTimestamp"]).timestamp()
            < self.node.start_delay_s
        ):
            return
        spec = pod["spec"]["containers"][0]
        if spec["image"] not in self.node.images:
            self._wait(pod, "ImagePullBackOff", f'Back-off pulling image "{spec["image"]}"')
            return
        try:
            env = self._environment(pod, spec)
        except Refused as error:
            self._wait(pod, "CreateContainerConfigError", str(error).replace("secrets ", "secret "))
            return
        command = [_expanded(word, env) for word in spec["command"]]
        if shutil.which(command[0], path=env["PATH"]) is None:
            message = f'exec: "{command[0]}": executable file not found in $PATH'
            self._end(pod, 128, "StartError", now(), message)
            return
        grace = float(pod["spec"].get("terminationGracePeriodSeconds", 30))
        container = Container(command, grace, self._folder(pod, spec), env)
        self.containers[pod["metadata"]["uid"]] = container

        def running(it: Object) -> None:
            it["status"].update(phase="Running", startTime=container.started_at, podIP="127.0.0.1")
            it["status"]["containerStatuses"] = [_status(it, {"running": {"startedAt": container.started_at}}, True)]
            set_condition(it, "Ready", "True", "")

        self._edit(pod, running)

    def _unschedulable(self, pod: Object) -> str | None:
        """https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#PodStatus (PodScheduled)"""
        for volume in pod["spec"].get("volumes", []):
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim is not None and claim not in self.node.claims:
                return f'persistentvolumeclaim "{claim}" not found'
        requests = pod["spec"]["containers"][0].get("resources", {}).get("requests", {})
        for name, room in self.node.capacity.items():
            if _quantity(requests.get(name, "0")) > room:
                return f"0/1 nodes are available: 1 Insufficient {name}."
        return None

    def _environment(self, pod: Object, spec: Object) -> dict[str, str]:
        values = {
            **{name: os.environ[name] for name in ("LANG", "TMPDIR") if name in os.environ},
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.defpath]),
            "HOME": str(self._folder(pod, spec)),
            "HOSTNAME": pod["spec"].get("hostname", pod["metadata"]["name"]),
            "GLOO_SOCKET_IFNAME": "lo",
            **self.node.env,
        }
        for source in spec.get("envFrom", []):
            secret = self._store.get("secrets", pod["metadata"]["namespace"], source["secretRef"]["name"])
            values.update({name: base64.b64decode(text).decode() for name, text in secret["data"].items()})
        for item in spec.get("env", []):
            value = item.get("value", "")
            path = item.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
            values[item["name"]] = self._networked(pod, spec, value) if path is None else _field(pod, path)
        return values

    def _networked(self, pod: Object, spec: Object, value: str) -> str:
        """https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/: <hostname>.<subdomain> is a pod"""
        namespace = pod["metadata"]["namespace"]
        services = {it["metadata"]["name"] for it in self._store.list("services", namespace)}
        found = re.fullmatch(r"[a-z0-9-]+\.([a-z0-9-]+)", value)
        if found and found[1] in services and found[1] == pod["spec"].get("subdomain"):
            return "127.0.0.1"
        if value in {str(port["containerPort"]) for port in spec.get("ports", [])}:
            key = (pod["metadata"]["labels"].get(PORT_OF, pod["metadata"]["uid"]), value)
            if key not in self._ports:
                self._ports[key] = _free_port()
            return str(self._ports[key])
        return value

    def _folder(self, pod: Object, spec: Object) -> Path:
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
        for mount in spec.get("volumeMounts", []):
            volume = volumes[mount["name"]]
            if mount["mountPath"] != spec.get("workingDir"):
                continue
            if "persistentVolumeClaim" in volume:
                return self.node.claims[volume["persistentVolumeClaim"]["claimName"]]
            own = self._disk / pod["metadata"]["uid"]
            own.mkdir(parents=True, exist_ok=True)
            return own
        return Path("/")

    def _note_end(self, pod: Object, container: Container) -> None:
        code = container.exit_code
        if code is not None:
            reason = "OOMKilled" if container.out_of_memory else "Completed" if code == 0 else "Error"
            self._end(pod, code, reason, container.started_at)

    def _end(self, pod: Object, code: int, reason: str, began: str, message: str = "") -> None:
        state = {"exitCode": code, "reason": reason, "startedAt": began, "finishedAt": now()}
        if message:
            state["message"] = message

        def ended(it: Object) -> None:
            it["status"]["phase"] = "Succeeded" if code == 0 else "Failed"
            it["status"]["containerStatuses"] = [_status(it, {"terminated": state}, False)]
            set_condition(it, "Ready", "False", "PodCompleted")

        self._edit(pod, ended)

    def _wait(self, pod: Object, reason: str, message: str) -> None:
        def waiting(it: Object) -> None:
            it["status"]["containerStatuses"] = [
                _status(it, {"waiting": {"reason": reason, "message": message}}, False)
            ]

        self._edit(pod, waiting)

    def _collect(self, pod: Object) -> None:
        """The pod garbage collector takes pods whose node is gone.

        https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-garbage-collection
        """

        def orphaned(it: Object) -> None:
            set_condition(it, "DisruptionTarget", "True", "DeletionByPodGC", "PodGC: node no longer exists")
            it["status"]["phase"] = "Failed"

        self._edit(pod, orphaned)
        with contextlib.suppress(Refused):
            self._store.delete("pods", pod["metadata"]["namespace"], pod["metadata"]["name"], "Background", 0)

    def _edit(self, pod: Object, edit: object) -> None:
        with contextlib.suppress(Refused):  # it may be gone
            self._store.change("pods", pod["metadata"]["namespace"], pod["metadata"]["name"], edit)  # type: ignore[arg-type]

    def evict(self, namespace: str, name: str, reason: str = "EvictionByEvictionAPI") -> None:
        """https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions"""
        message = (
            "Eviction API: evicting" if reason == "EvictionByEvictionAPI" else "a pod of higher priority needs the room"
        )
        pod = self._store.get("pods", namespace, name)
        self._edit(pod, lambda it: set_condition(it, "DisruptionTarget", "True", reason, message))
        self._store.delete("pods", namespace, name, "Background")

    def evict_for_memory(self, namespace: str, name: str) -> None:
        """https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/: the pod stays, as Failed"""
        pod = self._store.get("pods", namespace, name)
        container = self.containers[pod["metadata"]["uid"]]
        container.kill()
        message = "The node was low on resource: memory."

        def evicted(it: Object) -> None:
            set_condition(it, "DisruptionTarget", "True", "TerminationByKubelet", message)
            it["status"].update(phase="Failed", reason="Evicted", message=message)

        self._edit(pod, evicted)

    def run_out_of_memory(self, namespace: str, name: str) -> None:
        """The kernel kills the container's processes: exit code 137, reason OOMKilled."""
        container = self.containers[self._store.get("pods", namespace, name)["metadata"]["uid"]]
        container.out_of_memory = True
        container.kill(guard=False)

    def lose_node(self, namespace: str, name: str) -> None:
        """The machine under a pod is gone without a word."""
        container = self.containers[self._store.get("pods", namespace, name)["metadata"]["uid"]]
        container.lost_at = time.monotonic()
        container.kill()


class Container:
    """One process tree and the lines it said, each with the time at which it came."""

    def __init__(self, command: list[str], grace_s: float, folder: Path, env: dict[str, str]) -> None:
        self.lines: list[tuple[str, bytes]] = []
        self.said = threading.Condition()
        self.ended = False
        self.out_of_memory = False
        self.lost_at: float | None = None
        self._stop_at: float | None = None
        self.started_at, self._began = now(), time.monotonic()
        self.seconds = 0.0  # the truth that costs are compared with
        self._guard = subprocess.Popen(
            [sys.executable, "-I", str(GUARD), str(os.getpid()), str(grace_s), *command],
            cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    @property
    def running(self) -> bool:
        return self._guard.poll() is None

    @property
    def pid(self) -> int:
        return self._guard.pid

    @property
    def exit_code(self) -> int | None:
        """None until all it said was read."""
        if self.running or not self.ended:
            return None
        code = self._guard.returncode
        return code if code >= 0 else 128 - code

    def stop(self, grace_s: float) -> None:
        """SIGTERM to the first process, and after the grace SIGKILL to all."""
        if not self.running:
            return
        if self._stop_at is None:
            self._guard.send_signal(signal.SIGTERM)
            self._stop_at = time.monotonic()
        elif time.monotonic() > self._stop_at + grace_s:
            self.kill(guard=False)

    def kill(self, guard: bool = True) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self._guard.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        if guard:
            self._guard.kill()

    def _read(self) -> None:
        assert self._guard.stdout is not None
        with self._guard.stdout as stream:
            for line in stream:
                stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + f"{len(self.lines) % 1000:03d}Z"
                with self.said:
                    self.lines.append((stamp, line))
                    self.said.notify_all()
        self._guard.wait()
        self.seconds = time.monotonic() - self._began
        with self.said:
            self.ended = True
            self.said.notify_all()


def _status(pod: Object, state: Object, ready: bool) -> Object:
    spec = pod["spec"]["containers"][0]
    return {
        "name": spec["name"],
        "image": spec["image"],
        "imageID": f"{spec['image'].partition(':')[0]}@sha256:{hashlib.sha256(spec['image'].encode()).hexdigest()}",
        "ready": ready,
        "restartCount": 0,
        "state": state,
    }


def _field(pod: Object, path: str) -> str:
    annotation = re.fullmatch(r"metadata\.annotations\['(.+)'\]", path)
    if annotation:
        return str(pod["metadata"]["annotations"].get(annotation[1], ""))
    section, _, name = path.partition(".")
    return str(pod[section].get(name, ""))


def _expanded(word: str, env: dict[str, str]) -> str:
    """$(NAME) becomes what the variable holds, one that is not set stays, and $$ is a dollar.

    https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#entrypoint (command)
    """
    return re.sub(r"\$\$|\$\(([^)]*)\)", lambda it: "$" if it[1] is None else env.get(it[1], it[0]), word)


def _quantity(text: str) -> float:
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
