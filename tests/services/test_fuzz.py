"""Requests drawn from the served OpenAPI description, good ones and broken ones: no answer may be our fault.

`make bench-serving` draws a thousand from a real server; here are enough to notice a change.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from starlette.testclient import TestClient

from services.generation.api import create_app
from services.generation.backend import Backend
from services.generation.guard import Guard
from services.generation.problems import BodyLimit

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed; see the dev extra")
EACH = 4  # requests an operation and kind


def test_no_drawn_request_breaks_the_service(backend: Backend) -> None:
    app = Guard(BodyLimit(create_app(backend)), None)
    description = TestClient(app, base_url="http://127.0.0.1").get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(description)
    schema.app = app
    answered: Counter[int] = Counter()

    def ask(case):  # type: ignore[no-untyped-def]
        answer = case.call(base_url="http://127.0.0.1", params={"wait": 0.01} if "sync" in case.path else None)
        answered[answer.status_code] += 1
        assert answer.status_code < 500 or answer.status_code == 504, case
        assert "Traceback (most" not in answer.text
        if answer.status_code >= 400 and answer.status_code != 416:
            assert answer.headers["content-type"][0].startswith("application/problem+json"), case

    for operation in schema.get_all_operations():
        for mode in schemathesis.GenerationMode:
            drawn = operation.ok().as_strategy(generation_mode=mode)
            few = settings(max_examples=EACH, deadline=None, database=None, suppress_health_check=list(HealthCheck))
            with suppress(Unsatisfiable):  # there is no wrong way to call a route without parameters
                few(given(drawn)(ask))()
    assert sum(answered.values()) > 40
    assert set(answered) >= {404, 422}, answered
