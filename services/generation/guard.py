"""Who gets in: the first thing a request meets, before anything of its body is read.

With keys, every route but the page and the health checks wants one. Without, only connections over loopback are served,
and only by that name, so that no page from elsewhere can reach in through a browser. Each answer carries a request id.
Try it: `pytest tests/services/test_guard.py`.
"""

from __future__ import annotations

import re
import secrets
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.generation.keys import Caller, Keys, is_loopback
from services.generation.log import log
from services.generation.problems import Problem
from services.generation.table import LOCAL

OPEN = frozenset({"/", "/favicon.ico", "/openapi.json", "/livez", "/readyz", "/startupz"})
NOBODY = Caller(name=LOCAL, sha256="0" * 64, per_minute=10**9, concurrency=10**9)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,100}")


class Guard:
    """Puts the caller into the request's state, or answers 401 or 403."""

    def __init__(self, app: ASGIApp, keys: Keys | None) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers, began, status = Headers(scope=scope), time.monotonic(), 0
        given = headers.get("x-request-id", "")
        identity = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                answered = MutableHeaders(scope=message)
                answered["X-Request-ID"] = identity
                answered["X-Content-Type-Options"] = "nosniff"
            await send(message)

        caller: Caller | None = None
        try:
            caller = _whose(scope, headers, self._keys)
            scope.setdefault("state", {})["caller"] = caller
        except Problem as problem:
            await problem.answer()(scope, receive, answer)
        else:
            await self._app(scope, receive, answer)
        finally:
            if scope["method"] != "GET" or (status >= 500 and scope["path"] not in OPEN):
                _log(scope, identity, caller, status, time.monotonic() - began)
        return None


def _whose(scope: Scope, headers: Headers, keys: Keys | None) -> Caller:
    host = urlsplit("//" + headers.get("host", "")).hostname or ""
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != headers.get("host"):
        raise Problem(403, "cross_origin", "pages of other origins may not call this service")
    if keys is None:
        arrived = scope.get("server") or ("", None)
        if not is_loopback(str(arrived[0])) or not is_loopback(host):
            raise Problem(403, "loopback_only", "without keys this service answers on loopback only; see service.keys")
        return NOBODY
    if scope["path"] in OPEN:
        return NOBODY
    scheme, _, key = headers.get("authorization", "").partition(" ")
    caller = keys.caller(key.strip()) if scheme.lower() == "bearer" else None
    if caller is None:
        challenge = {"WWW-Authenticate": "Bearer"}
        raise Problem(401, "unauthorized", "send a valid key as Authorization: Bearer KEY", headers=challenge)
    return caller


def _log(scope: Scope, identity: str, caller: Caller | None, status: int, seconds: float) -> None:
    """The path without its query, nothing of the body, no key."""
    log(
        "request", request=identity, caller=caller and caller.name, method=scope["method"], path=scope["path"][:200],
        status=status, ms=round(1000 * seconds, 1),
    )  # fmt: skip
