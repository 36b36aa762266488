"""The Bento: the HTTP interface mounted in a BentoML service, which serves the model that lies beside it in the bundle.

What it keeps is where the OVI_SERVICE_* variables say (`places`); one service a state folder. /livez and /readyz are
BentoML's: ready means that a worker has its model loaded and warm, and that the service is not about to end.
BentoML imports this module in every one of its processes, so it imports little.
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
        from services.generation.places import STATE, Places
        from services.generation.server import Server

        state = None if os.environ.get(STATE) else _default_state()
        _running[:] = [Server(Places.read(state))]

    @bentoml.on_startup
    async def listen(self) -> None:
        _running[0].hear_the_end()

    def __is_ready__(self) -> bool:
        return _running[0].ready()

    @bentoml.on_shutdown
    def drain(self) -> None:
        _running[0].close()


def _default_state() -> Path:
    """Beside what BentoML itself keeps: the working directory is inside the Bento by the time this is asked."""
    from bentoml._internal.configuration.containers import BentoMLContainer

    return Path(BentoMLContainer.bentoml_home.get()) / "ovi-service"
