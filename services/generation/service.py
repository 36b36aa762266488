"""The Bento: the HTTP interface mounted in a BentoML service, which serves the model that lies beside it in the bundle.

What it keeps is where the OVI_SERVICE_* variables say (`places`); one service a state folder. /livez and /readyz are
BentoML's: ready means that a worker has its model loaded and warm, and that the service is not about to end.
BentoML's own clients call `generate` or the task `generate_task`; both make an ordinary job and answer with it.
Every address, theirs too, is behind `guard`. BentoML imports this module in all of its processes, so it imports little.
Try it: `ovi serve`, or `bentoml serve` with the folder of a built Bento.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bentoml

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from services.generation.server import Server

_running: list[Server] = []


async def _app(scope: Scope, receive: Receive, send: Send) -> None:
    """The HTTP interface; BentoML starts the service before it takes requests."""
    await _running[0].api(scope, receive, send)


class Gate:
    """What BentoML serves itself is for the same callers as the rest."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        # a mounted interface does not see addresses with a line break; BentoML would answer in words of its own
        app = _app if "\n" in scope["path"] else self._app
        await _running[0].guarded(app)(scope, receive, send)


# BentoML's own metrics keep a series for every address ever asked: /metrics is ours, from the job table; so is the log.
@bentoml.service(name="ovi", workers=1, metrics={"enabled": False}, logging={"access": {"enabled": False}})
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

    @bentoml.api
    async def generate(
        self, ctx: bentoml.Context, prompt: str, seed: int | None = None, settings: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The job once it has ended, or as it is after 50 s; `settings` are the other fields of POST /v1/videos."""
        return await _ask(ctx, prompt, seed, settings, patient=False)

    @bentoml.task
    async def generate_task(
        self, ctx: bentoml.Context, prompt: str, seed: int | None = None, settings: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The same, however long it takes. The task is forgotten when the server ends, the job is not."""
        return await _ask(ctx, prompt, seed, settings, patient=True)

    def __is_ready__(self) -> bool:
        return _running[0].ready()

    @bentoml.on_shutdown
    def drain(self) -> None:
        _running[0].close()


Generation.add_asgi_middleware(Gate)  # type: ignore[attr-defined]  # the decorator made a bentoml.Service of it


async def _ask(
    ctx: bentoml.Context, prompt: str, seed: int | None, settings: dict[str, Any] | None, patient: bool
) -> dict[str, Any]:
    """The answer of the HTTP interface, asked in this process as the caller asked BentoML."""
    from services.generation.native import make

    body = (settings or {}) | {"prompt": prompt} | ({} if seed is None else {"seed": seed})
    ctx.response.status_code, answer = await make(_running[0], ctx.request.headers, body, patient)
    return answer


def _default_state() -> Path:
    """Beside what BentoML itself keeps: the working directory is inside the Bento by the time this is asked."""
    from bentoml._internal.configuration.containers import BentoMLContainer

    return Path(BentoMLContainer.bentoml_home.get()) / "ovi-service"
