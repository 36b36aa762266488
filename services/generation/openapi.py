"""The OpenAPI description: FastAPI's own, with the request's schema, the problems every route may answer, and keys.

Try it: `curl -s 127.0.0.1:3000/openapi.json`.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from services.generation.schemas import VideoRequest

REFERENCE = "#/components/schemas/{model}"
CODES = {
    "400": "Malformed", "401": "No valid key", "403": "Not from here", "404": "No such video", "409": "Conflict",
    "410": "Gone", "413": "Too large", "415": "Another media type", "416": "No such range", "422": "A field is wrong",
    "429": "Too many; see Retry-After", "503": "Not now; see Retry-After", "504": "Not in time",
}  # fmt: skip


class Problem(BaseModel):
    """RFC 9457, with an `error` object as other servers of /v1/videos have it."""

    type: str
    title: str
    status: int
    detail: str
    error: dict[str, Any]
    errors: list[dict[str, str]] = []


def install(app: FastAPI) -> None:
    app.openapi = lambda: _schema(app)  # type: ignore[method-assign]


def _schema(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        known = schema["components"]["schemas"]
        for model in (VideoRequest, Problem):
            made = model.model_json_schema(ref_template=REFERENCE)
            known |= made.pop("$defs", {}) | {model.__name__: made}
        problem = {"application/problem+json": {"schema": {"$ref": REFERENCE.format(model="Problem")}}}
        answers = {code: {"description": words, "content": problem} for code, words in CODES.items()}
        for methods in schema["paths"].values():
            for operation in methods.values():
                operation["responses"] = answers | {
                    code: answer for code, answer in operation["responses"].items() if code != "422"
                }
        schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{"key": []}, {}]
        for unused in ("HTTPValidationError", "ValidationError"):
            known.pop(unused, None)
        app.openapi_schema = schema
    return app.openapi_schema
