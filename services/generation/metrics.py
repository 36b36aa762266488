"""The service in Prometheus' words, counted from the job table and the workers at the moment of asking.

Nothing is kept in memory but what the table cannot know (rejections). Try it: `curl -s 127.0.0.1:3000/metrics`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily

from services.generation.jobs import JobStore

CONTENT_TYPE = CONTENT_TYPE_LATEST
REASONS = ("queue_full", "too_many_jobs", "rate_limited", "draining", "idempotency_conflict", "policy_refused")


class Meter:
    """Renders the metrics page; `rejected` counts refusals by reason."""

    def __init__(self, jobs: JobStore) -> None:
        self._jobs = jobs
        self.rejected: Counter[str] = Counter(dict.fromkeys(REASONS, 0))

    def page(self, workers: list[dict[str, Any]]) -> bytes:
        """`workers` as the supervisor tells of them."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Snapshot(self._families(workers)))
        return generate_latest(registry)

    def _families(self, workers: list[dict[str, Any]]) -> list[Metric]:
        statistics = self._jobs.statistics()
        counts, denoising = statistics["counts"], statistics["seconds"].get("denoise", 0.0)
        seconds = SummaryMetricFamily("ovi_job_seconds", "Seconds of completed jobs, by stage.", labels=["stage"])
        for stage, total in sorted(statistics["seconds"].items()):
            seconds.add_metric([stage], counts["completed"], total)
        memory = GaugeMetricFamily("ovi_worker_memory_bytes", "What workers hold.", labels=["worker", "kind"])
        for worker in workers:
            for kind, held in worker["memory"].items():
                memory.add_metric([worker["name"], kind], held)
        return [
            _labelled(GaugeMetricFamily("ovi_jobs", "Jobs in the table, by status.", labels=["status"]), counts),
            _labelled(
                CounterMetricFamily("ovi_rejected", "Requests refused, by reason.", labels=["reason"]), self.rejected
            ),
            seconds,
            SummaryMetricFamily(
                "ovi_denoise_step_seconds", "Seconds a denoising step.", statistics["steps"], denoising
            ),
            _labelled(
                GaugeMetricFamily("ovi_queue_depth", "Jobs that wait.", labels=["priority"]), statistics["queued"]
            ),
            GaugeMetricFamily("ovi_workers_up", "Workers with a model loaded and warm.", value=_up(workers)),
            _labelled(
                GaugeMetricFamily("ovi_worker_up", "1: has its model loaded and is warm.", labels=["worker"]),
                {worker["name"]: float(worker["state"] == "ready") for worker in workers},
            ),
            CounterMetricFamily(
                "ovi_worker_restarts", "Workers started again after they ended.",
                value=sum(worker["restarts"] for worker in workers),
            ),
            memory,
        ]  # fmt: skip


def _up(workers: list[dict[str, Any]]) -> int:
    return sum(worker["state"] == "ready" for worker in workers)


def _labelled(family: Any, values: Mapping[str, float]) -> Metric:
    for label, value in values.items():
        family.add_metric([label], value)
    return family


class _Snapshot:
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
