"""Errors over HTTP as problem+json (RFC 9457), with an `error` object beside it for clients of the `/v1/videos` shape.

An answer names the field at fault where there is one, and never carries a traceback, a server path or the input.
Try it: `pytest tests/services/test_api.py`.
"""

from __future__ import annotations

import http
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ovi.errors import OviError, one_line
from services.generation.log import log

MAX_BODY, MAX_UPLOAD = 1 << 20, 12 << 20  # bytes of a body; with a picture


class Problem(Exception):
    """Raised by a route; becomes the answer."""

    def __init__(
        self, status: int, code: str, detail: str, field: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail, self.field, self.headers = status, code, detail, field, headers

    def answer(self, errors: list[dict[str, str]] | None = None) -> JSONResponse:
        body: dict[str, Any] = {
            "type": f"urn:ovi:problem:{self.code}",
            "title": http.HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "error": {
                "type": "server_error" if self.status >= 500 else "invalid_request_error",
                "code": self.code,
                "param": self.field,
                "message": self.detail,
            },
        }
        if errors is None and self.field is not None:
            errors = [{"field": self.field, "message": self.detail}]
        if errors is not None:
            body["errors"] = errors
        return JSONResponse(body, self.status, self.headers, media_type="application/problem+json")


def install(app: FastAPI) -> None:
    """Makes every error of the app a problem."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    for away in (OperationalError, PoolTimeout, OviError):
        app.add_exception_handler(away, _store_away)
    app.add_exception_handler(Exception, _defect)


class BodyLimit:
    """Refuses bodies over MAX_BODY, multipart ones over MAX_UPLOAD, announced or not, before anything reads them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        kind = Headers(scope=scope).get("content-type", "")
        limit = MAX_UPLOAD if kind.lower().startswith("multipart/form-data") else MAX_BODY
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > limit:
                problem = Problem(413, "payload_too_large", f"the body may have at most {limit} bytes")
                return await problem.answer()(scope, receive, send)
        whole: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Message:
            return whole.pop() if whole else await receive()

        return await self._app(scope, replay, send)


def _problem(_: Request, problem: Exception) -> JSONResponse:
    assert isinstance(problem, Problem)
    return problem.answer()


def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = error.errors()
    if any(item["type"] == "json_invalid" for item in errors):
        return Problem(400, "invalid_json", f"the body is not valid JSON: {errors[0]['ctx']['error']}").answer()
    listed = [{"field": _field(item["loc"]), "message": item["msg"].removeprefix("Value error, ")} for item in errors]
    detail = "; ".join(f"{item['field']}: {item['message']}" for item in listed)
    return Problem(422, "validation_error", detail, listed[0]["field"]).answer(listed)


def _field(location: tuple[int | str, ...]) -> str:
    """('body', 'guidance', 'video') -> 'guidance.video'; ('header', 'idempotency-key') -> 'Idempotency-Key'."""
    where, *rest = location or ("body",)
    if where == "header":
        return str(rest[0]).replace("_", "-").title()
    parts = rest if where in ("query", "path", "body") and rest else location or ("body",)
    name = ".".join(str(part) for part in parts)
    return name[:100].encode("utf-8", "replace").decode()  # an unknown field's name is the caller's own text


def _http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method_not_allowed", 400: "invalid_body"}
    code, headers = codes.get(error.status_code, "http_error"), dict(error.headers) if error.headers else None
    return Problem(error.status_code, code, str(error.detail), headers=headers).answer()


def _store_away(_: Request, error: Exception) -> JSONResponse:
    log("store_away", error=one_line(error))
    words = "what the service keeps its jobs and clips in does not answer; try again"
    return Problem(503, "store_unavailable", words, headers={"Retry-After": "2"}).answer()


def _defect(_: Request, __: Exception) -> JSONResponse:
    """Our fault: the server's log has the traceback, the caller has none of it."""
    return Problem(500, "internal_error", "the service failed; its log has the details").answer()
