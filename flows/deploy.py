"""The flow that `prefect.yaml` deploys: a whole pipeline, on a schedule or on demand, in the clone the worker runs in.

It is `ovi demo` with its settings as parameters; what is stale runs as a flow of its own below it. Imported by a
Prefect worker, which has set PREFECT_API_URL. One run at a time: the deployment queues a second one, and the clone's
lock would refuse it.
Try it: `ovi deploy`, then `prefect deployment run 'ovi/on-demand' --param sets='["seed=3"]'`.
"""

from __future__ import annotations

import os
from pathlib import Path

from prefect import flow

from flows import environment
from flows.demo import demo
from flows.signals import one_line_stop
from ovi import config

PARAMS = "params.yaml"


@flow(name="ovi", persist_result=False)
def ovi(profile: str | None = None, sets: list[str] | None = None) -> None:
    """Bring the clone up to date with a profile and `section.key=value` words laid over it."""
    store = os.environ.get(environment.TRACKING)
    ours = [f"tracking.uri={store}"] if store else []
    with one_line_stop("what is finished stays; the next run continues"):
        demo(Path(), config.load(PARAMS, profile, [*ours, *(sets or [])]))
