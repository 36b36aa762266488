"""A JobSpec as Kubernetes objects: a JobSet, or a batch/v1 Indexed Job and the headless Service its pods meet at.

Pure: dictionaries in, dictionaries out, no cluster and no client. Every pod runs the same command; torchrun reads
where it stands from PET_*. Exit codes keep their meaning: 78 fails the Job at once. A disruption (eviction, node drain)
ends a gang at once, because one lost rank is a lost step for all: a JobSet starts it again by itself, a Job is started
again by the flow (backoffLimit 0). Nodes that work apart are always an Indexed Job: each index is retried by itself.
Everything is owned by the run's Lease, so that nothing outlives it.
Try it: `python -m flows.manifests > job.yaml`.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from flows.jobs import JobSpec
from ovi.config import Cluster
from ovi.errors import EXIT_CONFIG, ConfigError

PORT = 29500  # where rank 0 listens
NAME = 63  # longest DNS label; a pod's host name is <job>-<index>
SHUTDOWN_MARGIN_S = 30  # the launcher gives up this long before Kubernetes does
MANAGER = "ovi-flows"
MANAGED = f"app.kubernetes.io/managed-by={MANAGER}"
RUN = "ovi.dev/run"
INDEX = "batch.kubernetes.io/job-completion-index"
AFTER_FLOW_S = 60  # a deadline is the flow's to keep; the cluster keeps it for a flow that is dead
LEASE_S = 120  # a flow that has not renewed its Lease for so long is dead
CLONE = "ovi.dev/clone"  # whose runs they are
SHARE = ("--shard", "$(JOB_COMPLETION_INDEX)/{nodes}")  # the kubelet puts the number in
LAUNCH = ("ovi", "launch", "--")  # a gang's first process: ranks as PET_* say, exit codes kept
WORK = ("ovi", "work")  # before both: fetches what the command reads, sends what it makes
WORKERS = "node"  # the JobSet's one replicated job

Object = dict[str, Any]
EMPTY: Object = {"emptyDir": {}}  # a folder of the pod's own


def render(
    spec: JobSpec, name: str, run: str, where: Cluster, jobset: bool, owner: Object | None = None
) -> list[Object]:
    """The objects of one attempt at a stage, the last one on top. ConfigError when `name` cannot be a DNS name.

    `run`: what all attempts at it share; `owner`: the owner reference they carry.
    """
    where = _its_own(spec, where)
    longest = f"{name}-{WORKERS}-0-{spec.nodes}"
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) or len(longest) > NAME:
        raise ConfigError(
            f"{name}: not a name Kubernetes takes: letters, digits, dashes, at most {NAME} with the index"
        )
    meta: Object = {"name": name, "namespace": where.namespace, "labels": labels(spec.stage, run, where, spec.labels)}
    if owner:
        meta["ownerReferences"] = [owner]
    if jobset and not spec.apart:
        return [_jobset(meta, spec, where)]
    service = [_service(meta)] if _gang(spec) else []
    return [*service, {"apiVersion": "batch/v1", "kind": "Job", "metadata": _queued(meta, where),
                       "spec": {**_job(meta, spec, where, f"{name}-0.{name}"), **_suspended(where)}}]  # fmt: skip


def _its_own(spec: JobSpec, where: Cluster) -> Cluster:
    """The cluster as this stage asks for it."""
    names = ("image", "queue", "priority", "shared_memory_gib", "secrets")
    return where.model_copy(update={name: value for name in names if (value := getattr(spec, name)) is not None})


def lease(name: str, stage: str, where: Cluster, moment: str, holder: str, owner: Object | None = None) -> Object:
    """The object that stands for a running flow: renewed while it lives, and the owner of all that it starts.

    `moment`: when it is renewed, RFC 3339 with microseconds.
    """
    meta: Object = {"name": name, "namespace": where.namespace, "labels": labels(stage, name, where)}
    if owner:
        meta["ownerReferences"] = [owner]
    spec = {"holderIdentity": holder, "leaseDurationSeconds": LEASE_S, "acquireTime": moment, "renewTime": moment}
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}


def labels(stage: str, run: str, where: Cluster, more: Any = None) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "ovi",
        "app.kubernetes.io/component": dns(stage),
        "app.kubernetes.io/managed-by": MANAGER,
        CLONE: where.clone or where.claim or "",
        RUN: run,
        **(more or {}),
    }


def dns(stage: str) -> str:
    return stage.replace("_", "-")


def to_yaml(objects: list[Object]) -> str:
    return yaml.dump_all(objects, Dumper=_NoAliases, sort_keys=False)


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _service(meta: Object) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta,
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,  # ranks look rank 0 up before it is ready
            "selector": {"batch.kubernetes.io/job-name": meta["name"]},
            "ports": [{"name": "rendezvous", "port": PORT}],
        },
    }


def _jobset(meta: Object, spec: JobSpec, where: Cluster) -> Object:
    name = meta["name"]
    rank_0 = f"{name}-{WORKERS}-0-0.{name}"
    job = _job(meta, spec, where, rank_0)
    job.pop("ttlSecondsAfterFinished")
    # Only a disruption may end a Job with reason PodFailurePolicy here, so that the rule below means disruptions alone;
    # exit code 78 ends it by the backoff limit, and the flow sees the code itself.
    job["podFailurePolicy"]["rules"] = [_on_disruption("FailJob")]
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": _queued(meta, where),
        "spec": {
            **_suspended(where),
            "ttlSecondsAfterFinished": 86400,
            "network": {"enableDNSHostnames": True, "subdomain": name, "publishNotReadyAddresses": True},
            "successPolicy": {"operator": "All"},
            "failurePolicy": {
                "maxRestarts": 0,  # what counts as a failure is retried by the flow
                "restartStrategy": "BlockingRecreate",
                "rules": [
                    {
                        "name": "disruption",
                        "action": "RestartJobSetAndIgnoreMaxRestarts",
                        "onJobFailureReasons": ["PodFailurePolicy"],
                    }
                ],
            },
            "replicatedJobs": [
                {"name": WORKERS, "replicas": 1, "template": {"metadata": {"labels": meta["labels"]}, "spec": job}}
            ],
        },
    }


def _job(meta: Object, spec: JobSpec, where: Cluster, rank_0: str) -> Object:
    return {
        "completionMode": "Indexed",
        "completions": spec.nodes,
        "parallelism": spec.nodes,
        **({"backoffLimitPerIndex": spec.retries} if spec.apart else {"backoffLimit": 0}),
        "activeDeadlineSeconds": int(spec.deadline_s + spec.grace_s) + AFTER_FLOW_S,
        "ttlSecondsAfterFinished": 86400,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": "stage", "operator": "In", "values": [EXIT_CONFIG]},
                },
                _on_disruption("FailJob" if _gang(spec) else "Ignore"),
            ]
        },
        "template": {"metadata": {"labels": meta["labels"]}, "spec": _pod(meta["name"], spec, where, rank_0)},
    }


def _on_disruption(action: str) -> Object:
    return {"action": action, "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}


def _queued(meta: Object, where: Cluster) -> Object:
    """Kueue's labels belong on the top object."""
    words = {"kueue.x-k8s.io/queue-name": where.queue, "kueue.x-k8s.io/priority-class": where.priority}
    return {**meta, "labels": {**meta["labels"], **{key: value for key, value in words.items() if value}}}


def _suspended(where: Cluster) -> Object:
    return {"suspend": True} if where.queue else {}  # until Kueue admits it


def _pod(name: str, spec: JobSpec, where: Cluster, rank_0: str) -> Object:
    several = {"subdomain": name} if _gang(spec) else {}
    secrets = {"envFrom": [{"secretRef": {"name": secret}} for secret in where.secrets]} if where.secrets else {}
    adds = {"add": ["IPC_LOCK"]} if any("rdma" in device or "efa" in device for device in spec.devices) else {}
    return {
        **several,
        "restartPolicy": "Never",
        "serviceAccountName": where.service_account,
        "automountServiceAccountToken": False,
        "shareProcessNamespace": True,  # no stage is process 1, which would not hear SIGTERM before it handles it
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
                "command": _command(spec),
                "workingDir": "/work",
                "ports": [{"name": "rendezvous", "containerPort": PORT, "protocol": "TCP"}],
                **secrets,
                "env": _environment(spec, where, rank_0),
                "resources": _resources(spec, where),
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"], **adds}},
                "volumeMounts": [{"name": "work", "mountPath": "/work"}, {"name": "shm", "mountPath": "/dev/shm"}],
            }
        ],
        "volumes": [
            {"name": "work", **({"persistentVolumeClaim": {"claimName": where.claim}} if where.claim else EMPTY)},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": _gib(where.shared_memory_gib)}},
        ],
    }


def _gang(spec: JobSpec) -> bool:
    return spec.nodes > 1 and not spec.apart


def _command(spec: JobSpec) -> list[str]:
    """The kubelet replaces $(NAME); a stage's own dollars are doubled, so that they stay."""
    words = [word.replace("$", "$$") for word in spec.command]
    if spec.apart:
        words += [word.format(nodes=spec.nodes) for word in SHARE]
    elif _gang(spec):
        words = [*LAUNCH, *words]
    if not spec.parcel:
        return words
    return [*WORK, spec.parcel, *(["--share"] if spec.apart else []), "--", *words]


def _environment(spec: JobSpec, where: Cluster, rank_0: str) -> list[Object]:
    """What torchrun reads (PET_*), how long it may take to stop, and the stage's own variables."""
    fixed = {
        "PET_NNODES": str(spec.nodes),
        "PET_NPROC_PER_NODE": str(spec.processes),
        "PET_MASTER_ADDR": rank_0 if _gang(spec) else "127.0.0.1",
        "PET_MASTER_PORT": str(PORT),
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(max(int(spec.grace_s) - SHUTDOWN_MARGIN_S, 1)),
        **where.env,
        **spec.env,
    }
    index = {"fieldRef": {"fieldPath": f"metadata.annotations['{INDEX}']"}}
    return [{"name": "PET_NODE_RANK", "valueFrom": index}, *({"name": key, "value": fixed[key]} for key in fixed)]


def _resources(spec: JobSpec, where: Cluster) -> Object:
    """Requests equal limits: a stage gets what it asked for and no more. Shared memory counts as memory."""
    amounts = {"cpu": f"{int(spec.cpus * 1000)}m", "memory": _gib(spec.memory_gib + where.shared_memory_gib)}
    if spec.gpus:
        amounts["nvidia.com/gpu"] = str(spec.gpus)
    amounts.update({device: str(count) for device, count in sorted(spec.devices.items())})
    return {"requests": amounts, "limits": dict(amounts)}


def _gib(amount: float) -> str:
    return f"{int(amount * 1024)}Mi"


EXAMPLE = JobSpec(
    stage="train_fusion",
    command=(
        "ovi", "train", "fusion", "--params", "out/settings.yaml", "--latents", "data/latents", "--models", "models",
    ),
    nodes=2,
    processes=8,
    cpus=64,
    memory_gib=512,
    gpus=8,
    grace_s=600,
    deadline_s=7 * 86400,
)  # fmt: skip

if __name__ == "__main__":
    print(to_yaml(render(EXAMPLE, "train-fusion-example", "example", Cluster(), jobset=False)), end="")
