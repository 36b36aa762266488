"""Errors over HTTP as problem+json (RFC 9457), with an `error` object beside it for clients of the `/v1/videos` shape.

An answer names the field at fault where there is one, and never carries a traceback, a server path or the input.
Try it: `pytest tests/services/test_api.py`.
"""

from __future__ import annotations

import http
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 1 << 20  # bytes


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
    app.add_exception_handler(Exception, _defect)


class BodyLimit:
    """Refuses bodies over MAX_BODY, announced or not, before anything reads them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > MAX_BODY:
                problem = Problem(413, "payload_too_large", f"the body may have at most {MAX_BODY} bytes")
                return await problem.answer()(scope, receive, send)
        whole: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Message:
            return whole.pop() if whole else await receive()

        return await self._app(scope, replay, send)


def _problem(_: Request, problem: Exception) -> JSONResponse:
    assert isinstance(problem, Problem)
    return problem.answer()


def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(item["type"] == "json_invalid" for item in found):
        return Problem(400, "invalid_json", f"the body is not valid JSON: {found[0]['ctx']['error']}").answer()
    if request.method == "POST" and not _is_json(request.headers.get("content-type", "")):
        return Problem(415, "unsupported_media_type", "send the body as Content-Type: application/json").answer()
    errors = [{"field": _field(item["loc"]), "message": item["msg"].removeprefix("Value error, ")} for item in found]
    detail = "; ".join(f"{item['field']}: {item['message']}" for item in errors)
    return Problem(422, "validation_error", detail, errors[0]["field"]).answer(errors)


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _field(location: tuple[int | str, ...]) -> str:
    """('body', 'guidance', 'video') -> 'guidance.video'; ('header', 'idempotency-key') -> 'Idempotency-Key'."""
    where, *rest = location
    if where == "header":
        return str(rest[0]).replace("_", "-").title()
    name = ".".join(str(part) for part in rest) or str(where)
    return name[:100].encode("utf-8", "replace").decode()  # an unknown field's name is the caller's own text


def _http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method_not_allowed", 400: "invalid_body"}
    code, headers = codes.get(error.status_code, "http_error"), dict(error.headers) if error.headers else None
    return Problem(error.status_code, code, str(error.detail), headers=headers).answer()


def _defect(_: Request, __: Exception) -> JSONResponse:
    """Our fault: the server's log has the traceback, the caller has none of it."""
    return Problem(500, "internal_error", "the service failed; its log has the details").answer()
