"""The Bento: the HTTP interface mounted in a BentoML service, which serves the model that lies beside it in the bundle.

State, the jobs and the clips, is kept in the folder OVI_SERVICE_STATE names; one service a folder. /livez and /readyz
are BentoML's: ready means that a worker has its model loaded and warm. There is no authentication yet: bind it to
loopback or put a gateway before it. BentoML imports this module in every one of its processes, so it imports little.
Try it: `ovi serve`, or `bentoml serve` with the folder of a built Bento.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import bentoml

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from services.generation.server import Server

STATE = "OVI_SERVICE_STATE"

_running: list[Server] = []


async def _app(scope: Scope, receive: Receive, send: Send) -> None:
    """The HTTP interface; BentoML starts the service before it takes requests."""
    await _running[0].app(scope, receive, send)


# BentoML's own metrics keep a series for every address ever asked; /metrics is ours, from the job table.
@bentoml.service(name="ovi", workers=1, metrics={"enabled": False})
@bentoml.asgi_app(_app, path="/")
class Generation:
    """One per server process."""

    def __init__(self) -> None:
        from services.generation.server import Server

        _running[:] = [Server(Path(os.environ.get(STATE) or _default_state()).absolute())]

    def __is_ready__(self) -> bool:
        return _running[0].workers.ready()

    @bentoml.on_shutdown
    def drain(self) -> None:
        _running[0].close()


def _default_state() -> Path:
    """Beside what BentoML itself keeps: the working directory is inside the Bento by the time this is asked."""
    from bentoml._internal.configuration.containers import BentoMLContainer

    return Path(BentoMLContainer.bentoml_home.get()) / "ovi-service"
