"""Prefect's API, asked as its own client asks it: again where the server says 503, as on SQLite when two write at once.

Not its own client: that reads the environment once a process, and here each test has another server.
"""

from __future__ import annotations

import time

import httpx

PATIENCE_S = 60.0


def client(api: str) -> httpx.Client:
    """For the server whose API is at `api`. An answer that is an error fails the test with its own words."""
    return httpx.Client(base_url=api, timeout=30, transport=_Patient(), event_hooks={"response": [_accept]})


class _Patient(httpx.HTTPTransport):
    def __init__(self) -> None:
        # No connection is kept: the server closes one that waits for 5 s, be it that a request is on its way.
        super().__init__(limits=httpx.Limits(max_keepalive_connections=0))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        until = time.monotonic() + PATIENCE_S
        while True:
            response = super().handle_request(request)
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > until:
                return response
            response.close()
            time.sleep(0.1)


def _accept(response: httpx.Response) -> None:
    assert response.is_success, f"{response.request.method} {response.url}: {response.status_code} {response.read()!r}"
