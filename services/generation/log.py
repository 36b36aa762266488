"""One JSON line on stderr for everything worth knowing later; the same words for the server and its workers.

A line has its time (UTC), its `event`, and what belongs to it, as the request, the job and the trace.
Try it: `ovi serve 2>&1 | grep '^{' | jq .event`.
"""

from __future__ import annotations

import json
import sys
import traceback
from datetime import UTC, datetime


def log(event: str, **facts: object) -> None:
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event} | facts
    print(json.dumps(line, default=str), file=sys.stderr, flush=True)


def defect(event: str, error: BaseException, **facts: object) -> None:
    """What should not have happened, with its traceback."""
    log(event, **facts, traceback="".join(traceback.format_exception(error)))
