"""A JobSpec as Kubernetes objects: a batch/v1 Indexed Job and, for several nodes, the headless Service they meet at.

Pure: dictionaries in, dictionaries out, no cluster and no client. Exit codes keep their meaning there: 78 fails the Job
at once. A disruption (eviction, node drain) moves a single pod and ends a gang at once, because one lost rank is a lost
step for all; starting the gang again is the flow's business (backoffLimit 0).
Try it: `python -m flows.manifests > job.yaml`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml

from flows.jobs import JobSpec
from ovi.errors import EXIT_CONFIG, ConfigError

PORT = 29500  # where rank 0 listens
NAME = 63  # longest DNS label; a pod's host name is <job>-<index>
SHUTDOWN_MARGIN_S = 30  # the launcher gives up this long before Kubernetes does


@dataclass(frozen=True)
class Placement:
    """What a cluster says about a job and the job does not say of itself."""

    image: str
    namespace: str = "ovi"
    service_account: str = "ovi-stage"
    claim: str = "ovi-work"  # the volume claim mounted as the clone's folder
    shared_memory_gib: float = 1.0


def render(spec: JobSpec, run: str, where: Placement) -> list[dict[str, Any]]:
    """The objects of one attempt, named <stage>-<run>. ConfigError when the name cannot be a DNS name.

    `run`: what tells attempts apart, lower-case letters, digits and dashes.
    """
    name = f"{spec.stage.replace('_', '-')}-{run}"
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) or len(f"{name}-{spec.nodes}") > NAME:
        raise ConfigError(
            f"{name}: not a name Kubernetes takes: letters, digits, dashes, at most {NAME} with the index"
        )
    labels = {
        "app.kubernetes.io/name": "ovi",
        "app.kubernetes.io/component": spec.stage.replace("_", "-"),
        "app.kubernetes.io/managed-by": "ovi-flows",
        "ovi.dev/run": run,
        **spec.labels,
    }
    service = [_service(name, labels, where)] if spec.nodes > 1 else []
    return [*service, _job(name, labels, spec, where)]


def to_yaml(objects: list[dict[str, Any]]) -> str:
    return yaml.dump_all(objects, Dumper=_NoAliases, sort_keys=False)


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _service(name: str, labels: dict[str, str], where: Placement) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": where.namespace, "labels": labels},
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,  # ranks look rank 0 up before it is ready
            "selector": {"batch.kubernetes.io/job-name": name},
            "ports": [{"name": "rendezvous", "port": PORT}],
        },
    }


def _job(name: str, labels: dict[str, str], spec: JobSpec, where: Placement) -> dict[str, Any]:
    disrupted = "Ignore" if spec.nodes == 1 else "FailJob"
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": where.namespace, "labels": labels},
        "spec": {
            "completionMode": "Indexed",
            "completions": spec.nodes,
            "parallelism": spec.nodes,
            "backoffLimit": 0,
            "activeDeadlineSeconds": int(spec.deadline_s),
            "ttlSecondsAfterFinished": 86400,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "FailJob",
                        "onExitCodes": {"containerName": "stage", "operator": "In", "values": [EXIT_CONFIG]},
                    },
                    {"action": disrupted, "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                ]
            },
            "template": {"metadata": {"labels": labels}, "spec": _pod(name, spec, where)},
        },
    }


def _pod(name: str, spec: JobSpec, where: Placement) -> dict[str, Any]:
    several = {"subdomain": name} if spec.nodes > 1 else {}
    return {
        **several,
        "restartPolicy": "Never",
        "serviceAccountName": where.service_account,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": int(spec.grace_s),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "fsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "stage",
                "image": where.image,
                "command": list(spec.command),
                "workingDir": "/work",
                "env": _environment(name, spec),
                "resources": _resources(spec, where),
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                "volumeMounts": [{"name": "work", "mountPath": "/work"}, {"name": "shm", "mountPath": "/dev/shm"}],
            }
        ],
        "volumes": [
            {"name": "work", "persistentVolumeClaim": {"claimName": where.claim}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": _gib(where.shared_memory_gib)}},
        ],
    }


def _environment(name: str, spec: JobSpec) -> list[dict[str, Any]]:
    """What torchrun reads (PET_*), how long it may take to stop, and the stage's own variables."""
    index = {"fieldRef": {"fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"}}
    fixed = {
        "PET_NNODES": str(spec.nodes),
        "PET_NPROC_PER_NODE": str(spec.processes),
        "PET_MASTER_ADDR": f"{name}-0.{name}" if spec.nodes > 1 else "127.0.0.1",
        "PET_MASTER_PORT": str(PORT),
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(max(int(spec.grace_s) - SHUTDOWN_MARGIN_S, 1)),
        **spec.env,
    }
    return [{"name": "PET_NODE_RANK", "valueFrom": index}, *({"name": key, "value": fixed[key]} for key in fixed)]


def _resources(spec: JobSpec, where: Placement) -> dict[str, Any]:
    """Requests equal limits: a stage gets what it asked for and no more. Shared memory counts as memory."""
    amounts = {"cpu": f"{int(spec.cpus * 1000)}m", "memory": _gib(spec.memory_gib + where.shared_memory_gib)}
    if spec.gpus:
        amounts["nvidia.com/gpu"] = str(spec.gpus)
    return {"requests": amounts, "limits": dict(amounts)}


def _gib(amount: float) -> str:
    return f"{int(amount * 1024)}Mi"


EXAMPLE = JobSpec(
    stage="train_fusion",
    command=(
        "ovi",
        "train",
        "fusion",
        "--params",
        "out/settings.yaml",
        "--latents",
        "data/latents",
        "--models",
        "models",
    ),
    nodes=2,
    processes=8,
    cpus=64,
    memory_gib=512,
    gpus=8,
    grace_s=600,
    deadline_s=7 * 86400,
)

if __name__ == "__main__":
    print(to_yaml(render(EXAMPLE, "example", Placement(image="ovi-train:0.1.0"))), end="")
