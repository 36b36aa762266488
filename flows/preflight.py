"""What a cluster lacks for this clone's stages, asked of its API server; nothing is made or changed.

API groups by discovery, rights by access reviews, and the objects that the settings name by looking for them.
Try it: `ovi preflight`.
"""

from __future__ import annotations

from dataclasses import dataclass

from flows.cluster import JOBSET, Cluster, ClusterError
from ovi import config

OLDEST = (1, 31)
NEEDED = (  # (verbs, API group, resource), as infra/k8s/base/access.yaml gives them
    (("create", "get", "list", "watch", "patch", "delete"), "coordination.k8s.io", "leases"),
    (("create", "get", "list", "watch", "delete"), "batch", "jobs"),
    (("create", "get", "list", "watch", "delete"), "jobset.x-k8s.io", "jobsets"),
    (("create", "get", "list", "delete"), "", "services"),
    (("get", "list", "watch", "delete"), "", "pods"),
    (("get",), "", "pods/log"),
    (("list",), "", "events"),
)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `needed` False: stages run without it, only not as well."""

    what: str
    found: bool
    words: str
    needed: bool = True

    def line(self) -> str:
        mark = "ok" if self.found else "missing" if self.needed else "without"
        return f"{mark:8}{self.what}: {self.words}"


def look(cluster: Cluster, where: config.Cluster) -> list[Finding]:
    """Raises OviError when the API server does not answer."""
    version = cluster.version()
    parts = version.lstrip("v").split(".")
    new_enough = tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in parts[:2]) >= OLDEST
    jobset = cluster.serves(JOBSET)
    kueue = any(cluster.serves(f"kueue.x-k8s.io/{name}") for name in ("v1beta2", "v1beta1"))
    wanted = where.kind == "jobset"
    findings = [
        Finding("Kubernetes", new_enough, f"{version}, 1.31 or newer is needed"),
        Finding("JobSet", jobset, "its controller restarts a gang by itself" if jobset else
                "not installed; Indexed Jobs are used, and the flow restarts gangs", wanted),
        Finding("Kueue", kueue, "queues and quotas" if kueue else "not installed; leave cluster.queue unset",
                where.queue is not None),
    ]  # fmt: skip
    return [*findings, *_rights(cluster, jobset), *_objects(cluster, where)]


def _rights(cluster: Cluster, jobset: bool) -> list[Finding]:
    findings = []
    for verbs, group, resource in NEEDED:
        if resource == "jobsets" and not jobset:
            continue
        name, _, sub = resource.partition("/")
        denied = [verb for verb in verbs if not cluster.may(verb, group, name, sub)]
        words = (
            f"may not {', '.join(denied)}; apply infra/k8s/base/access.yaml" if denied else f"may {', '.join(verbs)}"
        )
        findings.append(Finding(f"right to {resource}", not denied, words))
    return findings


def _objects(cluster: Cluster, where: config.Cluster) -> list[Finding]:
    findings = []
    named = [("PersistentVolumeClaim", where.claim, "cluster.claim")] if where.claim else []
    named += [("ServiceAccount", where.service_account, "cluster.service_account")]
    for kind, name, setting in named:
        try:
            found = cluster.get(kind, name) is not None
            words = "is there" if found else f"is not in namespace {where.namespace}; make it, or change {setting}"
        except ClusterError as error:
            found, words = error.code == 403, "may not be looked at"
        findings.append(Finding(f"{kind} {name}", found, words))
    return findings
