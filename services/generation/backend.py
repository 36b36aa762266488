"""What the routes work on: the job store, the results, what is served, who runs it; and the few rules over all of it.

It knows nothing of HTTP but which problem an error is. Try it: `pytest tests/services/test_api.py`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Protocol

from services.generation import metrics
from services.generation.jobs import PRIORITIES, JobStore, KeyConflict, QueueFull
from services.generation.keys import Caller, Keys
from services.generation.policy import Policy
from services.generation.problems import Problem
from services.generation.results import ResultStore
from services.generation.schemas import Refused, Served, VideoJob, VideoRequest, fingerprint, resolve, view
from services.generation.table import Job
from services.generation.tokens import Tokens
from services.generation.tracing import traceparent
from services.generation.wanted import Wanted
from services.generation.watch import Watch

DRAINING_S = 5  # until another server, or this one again, is there


class Workers(Protocol):
    """Those who run the jobs."""

    def wake(self) -> None:
        """There is a new job."""

    def ready(self) -> bool:
        """At least one has its model loaded and warm."""

    def states(self) -> list[dict[str, Any]]:
        """One record a worker: name, state, restarts, memory."""


@dataclass
class Backend:
    jobs: JobStore
    results: ResultStore
    served: Served
    workers: Workers
    meter: metrics.Meter
    watch: Watch
    tokens: Tokens
    keys: Keys | None = None
    policy: Policy | None = None
    draining: bool = False

    def show(self, job: Job) -> VideoJob:
        position = self.jobs.position(job)
        return view(job, position, self._eta(job, position))

    def resolve(self, wanted: Wanted) -> dict[str, Any]:
        """Everything that would run. Raises Problem."""
        try:
            effective = resolve(wanted.body, self.served, wanted.shape)
        except Refused as refusal:
            raise Problem(422, "validation_error", str(refusal), refusal.field) from None
        if self.policy is not None and (reason := self.policy.prompt(effective, wanted.image)):
            self.meter.rejected["policy_refused"] += 1
            raise Problem(422, "policy_refused", reason, "prompt")
        return effective

    def submit(self, wanted: Wanted, caller: Caller, key: str | None, trace: str | None = None) -> Job:
        """The job, on disk. `trace`: the caller's traceparent. Raises Problem: 409, 422, 429 or 503."""
        if self.draining:
            raise self._refusal(503, "draining", "the service is about to end; try again", DRAINING_S)
        effective = self.resolve(wanted)
        if self.keys is not None and (wait := self.keys.wait(caller)):
            words = f"this key may submit {caller.per_minute} jobs a minute; try again in {wait} s"
            raise self._refusal(429, "rate_limited", words, wait)
        try:
            job, created = self.jobs.submit(
                effective, bound=self.served.queue, fingerprint=fingerprint(wanted.body, wanted.image),
                idempotency_key=key, tenant=caller.name, concurrency=caller.concurrency,
                priority=PRIORITIES[wanted.body.priority], image=wanted.image, trace=traceparent(trace),
            )  # fmt: skip
        except QueueFull as full:
            raise self._refusal(429, full.code, str(full), full.retry_after) from None
        except KeyConflict as conflict:
            self.meter.rejected["idempotency_conflict"] += 1
            raise Problem(409, "idempotency_conflict", str(conflict), "Idempotency-Key") from None
        if created:
            self.workers.wake()
        return job

    def estimate(self, request: VideoRequest, steps: int) -> dict[str, Any]:
        """Seconds that such a clip takes and waits, by the pace of the last ones, and the memory it takes."""
        pace = self.jobs.pace()
        waiting = self.jobs.statistics()["queued"]
        before = sum(number for name, number in waiting.items() if PRIORITIES[name] >= PRIORITIES[request.priority])
        return {
            "seconds": None if pace is None else round(pace * steps, 2),
            "wait_s": None if pace is None else round(pace * steps * before / self._slots, 2),
            "memory_bytes": self.served.memory,
        }

    @property
    def _slots(self) -> int:
        """Jobs that run at a time."""
        return len(self.workers.states())

    def _eta(self, job: Job, position: int | None) -> float | None:
        if job.status == "in_progress" and job.step and job.started_at is not None:
            return round((time.time() - job.started_at) / job.step * (job.steps - job.step), 2)
        if job.status not in ("queued", "in_progress") or (pace := self.jobs.pace()) is None:
            return None
        return round(pace * job.steps * (1 + ((position or 1) - 1) / self._slots), 2)

    def _refusal(self, status: int, code: str, words: str, seconds: int) -> Problem:
        self.meter.rejected[code] += 1
        return Problem(status, code, words, headers={"Retry-After": str(seconds)})
