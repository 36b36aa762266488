"""Where each stage runs: `executor` in the settings says it for all, `resources.<stage>.executor` for one.

The cluster is spoken to before anything is spent, and only if some stage runs there.
Try it: `ovi demo --set executor=kubernetes`.
"""

from __future__ import annotations

from pathlib import Path

from flows.jobs import Executor, JobSpec, Listener, Outcome
from flows.local import LocalExecutor
from ovi import storage
from ovi.config import Settings
from ovi.errors import ConfigError

LOCAL, KUBERNETES = "local", "kubernetes"


class Executors:
    """An Executor that hands each job to the one its stage is meant for."""

    def __init__(
        self, root: str | Path, settings: Settings, stages: list[str], keep_open: tuple[int, ...] = ()
    ) -> None:
        """Raises OviError when a stage is meant for a cluster and none can be reached."""
        self._where = {stage: place(settings, stage) for stage in stages}
        self._local = LocalExecutor(root, keep_open)
        self._cluster: Executor | None = None
        if KUBERNETES in self._where.values():
            from flows.cluster import Cluster  # importing the client takes a second
            from flows.remote import ClusterExecutor

            where = settings.cluster
            if where.claim is None:
                _check_buckets(settings, stages)
            self._cluster = ClusterExecutor(root, Cluster(where.namespace, where.context), where)

    def run(self, spec: JobSpec, listen: Listener) -> Outcome:
        if self._where[spec.stage] == KUBERNETES:
            assert self._cluster is not None
            return self._cluster.run(spec, listen)
        return self._local.run(spec, listen)


def shares_a_folder(settings: Settings, stage: str) -> bool:
    """Whether the stage works in the flow's own folder; else its inputs and outputs travel (flows/parcel.py)."""
    return place(settings, stage) == LOCAL or settings.cluster.claim is not None


def place(settings: Settings, stage: str) -> str:
    """The executor of a stage: local or kubernetes."""
    needs = settings.resources.get(stage)
    return (needs.executor if needs else None) or settings.executor


def _check_buckets(settings: Settings, stages: list[str]) -> None:
    """Without a shared folder, what a pod leaves behind is in a bucket or lost."""
    needed = {
        "data.remote": (settings.data.remote, "inputs and outputs travel by it"),
        "training.mirror": (settings.training.mirror, "checkpoints of a pod that goes are there"),
    }
    if any(settings.resources[stage].apart for stage in stages if stage in settings.resources):
        needed["curation.work"] = (settings.curation.work, "what shares make is put together from there")
    for name, (address, why) in needed.items():
        if not storage.is_remote(address or ""):
            raise ConfigError(f"{name}: {address}; with cluster.claim: null it must be s3://bucket/prefix: {why}")
