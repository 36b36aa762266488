"""What BentoML's own clients get: the same jobs by the same rules, asked of the HTTP interface inside the process.

It adds waiting and nothing else. Try it: `bentoml.SyncHTTPClient("http://127.0.0.1:3000").generate(prompt="A lamp.")`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from services.generation.api import MAX_WAIT_S
from services.generation.jobs import FINAL
from services.generation.server import Server

PASSED = ("authorization", "idempotency-key", "x-request-id", "traceparent")  # headers that mean the same here


async def make(
    server: Server, headers: Mapping[str, str], body: dict[str, Any], patient: bool
) -> tuple[int, dict[str, Any]]:
    """(status, the job or the problem): when the job has ended, or, unless `patient`, when a long poll is over."""
    passed = {name: headers[name] for name in PASSED if name in headers}
    inside = httpx.ASGITransport(server.guarded(server.api))
    async with httpx.AsyncClient(transport=inside, base_url="http://127.0.0.1", headers=passed, timeout=None) as client:
        answer = await client.post("/v1/videos", json=body)
        while answer.is_success and answer.json()["status"] not in FINAL and not server.backend.draining:
            answer = await client.get(answer.headers.get("location", answer.url.path), params={"wait": MAX_WAIT_S})
            if not patient:
                break
        return (200 if answer.is_success else answer.status_code), answer.json()
