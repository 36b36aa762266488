"""How a flow ends for Prefect: its server hears all of it, or one line says that the server is away.

Stages need no server while they run, only the flow's own states do. So a server that is restarted during a stage of
days is not noticed; one that is away when the flow ends has stages that are done, and a flow run that it takes for
running. Imports prefect, once PREFECT_API_URL is set.
Try it: `PREFECT_API_URL=http://127.0.0.1:4200/api ovi demo`, and end that server meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

import httpx
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker

from ovi.errors import OviError, one_line

DRAIN_S = 10.0


@contextlib.contextmanager
def prefect_told() -> Iterator[None]:
    """Around a flow. Raises OviError when the server is away, unless something else went wrong before."""
    logging.raiseExceptions = False  # what the server does not take of the log is no word for the terminal
    try:
        yield
    except httpx.HTTPError as away:
        raise _first(away) or OviError(
            f"PREFECT_API_URL: {os.environ['PREFECT_API_URL']} cannot be used ({one_line(away)}); what ran is kept: "
            "the same command goes on"
        ) from None
    finally:  # while the server still lives: at the process's end Prefect would wait a minute for one that is gone
        EventsWorker.drain_all(timeout=DRAIN_S)
        APILogWorker.drain_all(timeout=DRAIN_S)


def _first(error: BaseException) -> BaseException | None:
    """What Prefect could not be told: a stage's failure, Ctrl-C or a signal."""
    reason = error.__context__
    while reason and isinstance(reason, Exception) and not isinstance(reason, OviError):
        reason = reason.__context__
    return reason
