"""Where the time of a job went, as OpenTelemetry spans: one for the job in its caller's trace, one below it a stage.

They go where OTEL_EXPORTER_OTLP_ENDPOINT says; without it none are made. An MLflow server takes them, too, and shows
them with the run that made the model: set OTEL_EXPORTER_OTLP_HEADERS to x-mlflow-experiment-id=ID.
Try it: `pytest tests/services/test_strict.py`.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping
from typing import Any

from services.generation.schemas import Served
from services.generation.table import Job

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
RUN_HEADER = "x-mlflow-run-id"
FLUSH_MS = 3000
NOBODY = "0" * 16  # the parent of a job's span that its caller did not trace
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def traceparent(given: str | None) -> str:
    """The caller's place in its trace (W3C trace context), or the beginning of a new trace."""
    if given is not None and _TRACEPARENT.fullmatch(given):
        return given
    return f"00-{secrets.token_hex(16)}-{NOBODY}-01"


class Tracer:
    """Spans of one worker process."""

    def __init__(self, served: Served) -> None:
        self._provider: Any = None
        if not any(os.environ.get(name) for name in ENDPOINTS):
            return
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

        class Ids(RandomIdGenerator):
            """Of the trace that its job was given: stores take a trace without a first span for one under way."""

            trace = 0

            def generate_trace_id(self) -> int:
                return self.trace

        run = served.origin.get("mlflow_run")
        self._origin = {f"ovi.{name}": said for name, said in served.origin.items()}
        exporter = OTLPSpanExporter(headers=None if run is None else _headers() | {RUN_HEADER: run})
        self._ids = Ids()
        self._provider = TracerProvider(resource=Resource.create({"service.name": "ovi"}), id_generator=self._ids)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
        self._tracer = self._provider.get_tracer("services.generation")

    def tell(self, job: Job, ended: float, status: str, times: Mapping[str, tuple[float, float]]) -> None:
        """A job that ended so."""
        if self._provider is None:
            return
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = traceparent(None) if job.trace is None else job.trace
        self._ids.trace = int(parent.split("-")[1], 16)
        caller = TraceContextTextMapPropagator().extract({"traceparent": parent})  # NOBODY is no parent
        about = self._origin | {
            "ovi.job": job.id, "ovi.status": status, "ovi.attempt": job.attempt, "ovi.steps": job.steps,
            "ovi.size": str(job.effective["size"]), "ovi.seed": str(job.effective["seed"]),
        }  # fmt: skip
        span = self._tracer.start_span("video", caller, attributes=about, start_time=_ns(job.created_at))
        below = trace.set_span_in_context(span)
        for stage, (began, over) in {"queue": (job.created_at, job.started_at or ended), **times}.items():
            self._tracer.start_span(stage, below, start_time=_ns(began)).end(_ns(over))
        if status != "completed":
            span.set_status(trace.StatusCode.ERROR, status)
        span.end(_ns(ended))

    def flush(self) -> None:
        if self._provider is not None:
            self._provider.force_flush(FLUSH_MS)


def _headers() -> dict[str, str]:
    """What OTEL_EXPORTER_OTLP_HEADERS says; headers given in code take its place."""
    pairs = (pair.partition("=") for pair in os.environ.get("OTEL_EXPORTER_OTLP_HEADERS", "").split(",") if "=" in pair)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
