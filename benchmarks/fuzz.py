"""Requests drawn from a running service's OpenAPI description, right ones and wrong ones: none may be its fault.

Try it: `.venv/bin/python -m benchmarks.fuzz http://127.0.0.1:3000 1000`.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter

import httpx
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable

TRACE = "".join(("Trace", "back (most"))  # in pieces: Hypothesis sends what stands in the source as a whole


def main(url: str, count: int) -> int:
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [operation.ok() for operation in schema.get_all_operations()]
    answered: Counter[int] = Counter()
    wrong: list[str] = []

    def ask(case: schemathesis.Case) -> None:
        bounded = {"wait": "0.01"} if case.path.endswith("/sync") else None
        answer = case.call(base_url=url, params=bounded, headers={"X-Request-ID": "fuzz"})
        answered[answer.status_code] += 1
        kind = (answer.headers.get("content-type") or [""])[0]
        ours = answer.status_code >= 500 and answer.status_code != 504
        unnamed = answer.status_code >= 400 and answer.status_code != 416 and "problem+json" not in kind
        if ours or unnamed or TRACE in answer.text:
            told = answer.text[max(0, answer.text.find(TRACE) - 100) :][:200]
            wrong.append(f"{case.method} {case.formatted_path}: {answer.status_code} {told}")

    while sum(answered.values()) < count:
        for operation in operations:
            for mode in schemathesis.GenerationMode:
                each = 2 + count // len(operations) // 2
                few = settings(max_examples=each, deadline=None, database=None, suppress_health_check=list(HealthCheck))
                with contextlib.suppress(Unsatisfiable):  # there is no wrong way to call a route without parameters
                    few(given(operation.as_strategy(generation_mode=mode))(ask))()
        httpx.get(f"{url}/livez", trust_env=False).raise_for_status()
    print("\n".join(wrong))
    print(f"{sum(answered.values())} requests, {dict(sorted(answered.items()))}, {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
