"""The service in Prometheus' words, counted from the job table and the workers at the moment of asking.

Nothing is kept in memory but what the table cannot know (rejections). Try it: `curl -s 127.0.0.1:3000/metrics`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily

from services.generation.jobs import JobStore

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Meter:
    """Renders the metrics page; `rejected` counts refusals by reason."""

    def __init__(self, jobs: JobStore) -> None:
        self._jobs = jobs
        self.rejected: Counter[str] = Counter()

    def page(self, workers_up: int, restarts: int) -> bytes:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Snapshot(self._families(workers_up, restarts)))
        return generate_latest(registry)

    def _families(self, workers_up: int, restarts: int) -> list[Metric]:
        statistics = self._jobs.statistics()
        counts = statistics["counts"]
        jobs = GaugeMetricFamily("ovi_jobs", "Jobs in the table, by status.", labels=["status"])
        for status, number in counts.items():
            jobs.add_metric([status], number)
        rejected = CounterMetricFamily("ovi_rejected", "Requests refused, by reason.", labels=["reason"])
        for reason in ("queue_full", "idempotency_conflict"):
            rejected.add_metric([reason], self.rejected[reason])
        seconds = SummaryMetricFamily("ovi_job_seconds", "Seconds of completed jobs, by stage.", labels=["stage"])
        for stage, total in sorted(statistics["seconds"].items()):
            seconds.add_metric([stage], counts["completed"], total)
        return [
            jobs, rejected, seconds,
            GaugeMetricFamily("ovi_queue_depth", "Jobs that wait.", value=counts["queued"]),
            GaugeMetricFamily("ovi_workers_up", "Workers with a model loaded and warm.", value=workers_up),
            CounterMetricFamily("ovi_worker_restarts", "Workers started again after they ended.", value=restarts),
        ]  # fmt: skip


class _Snapshot:
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
