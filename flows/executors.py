"""Where each stage runs: `executor` in the settings says it for all, `resources.<stage>.executor` for one.

The cluster is spoken to before anything is spent, and only if some stage runs there.
Try it: `ovi demo --set executor=kubernetes`.
"""

from __future__ import annotations

from pathlib import Path

from flows.jobs import Executor, JobSpec, Listener, Outcome
from flows.local import LocalExecutor
from ovi.config import Settings

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
            self._cluster = ClusterExecutor(root, Cluster(where.namespace, where.context), where)

    def run(self, spec: JobSpec, listen: Listener) -> Outcome:
        if self._where[spec.stage] == KUBERNETES:
            assert self._cluster is not None
            return self._cluster.run(spec, listen)
        return self._local.run(spec, listen)


def place(settings: Settings, stage: str) -> str:
    """The executor of a stage: local or kubernetes."""
    needs = settings.resources.get(stage)
    return (needs.executor if needs else None) or settings.executor
