"""What a caller posts, as JSON or as a form with a picture: read, checked, and nothing else looked at.

A form has the same fields as the JSON; those inside others are written `guidance.video`. Its picture is `image`, or
`input_reference` as other servers of `/v1/videos` call it. Try it: `pytest tests/services/test_api.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from anyio import CapacityLimiter, to_thread
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import UploadFile

from ovi.diffusion.prompts import prompt_problems
from ovi.errors import OviError
from services.generation.pictures import first_frame
from services.generation.problems import Problem
from services.generation.schemas import VideoRequest

MAX_IMAGE = 10 << 20  # bytes of the file
IMAGE_NAMES = ("image", "input_reference")

_reference = {"$ref": "#/components/schemas/VideoRequest"}
_form = {"allOf": [_reference], "description": "The same fields, and a picture in `image`."}
OPENAPI = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": _reference}, "multipart/form-data": {"schema": _form}},
    }
}


@dataclass(frozen=True)
class Wanted:
    body: VideoRequest
    image: bytes | None = None  # PNG
    shape: tuple[int, int] | None = None  # its (height, width)


async def read(request: Request) -> Wanted:
    """The request for a clip. Raises Problem or RequestValidationError."""
    try:
        wanted = await _read(request)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_input=False)) from None
    if found := prompt_problems(wanted.body.prompt):
        raise Problem(422, "validation_error", found[0], "prompt")
    return wanted


async def _read(request: Request) -> Wanted:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _form_of(request)
    if kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json")):
        return Wanted(VideoRequest.model_validate_json(await request.body()))
    raise Problem(415, "unsupported_media_type", "send the body as application/json or multipart/form-data")


async def _form_of(request: Request) -> Wanted:
    fields: dict[str, Any] = {}
    upload: UploadFile | None = None
    async with request.form(max_files=1, max_fields=40, max_part_size=64 << 10) as form:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if name not in IMAGE_NAMES:
                    raise Problem(422, "validation_error", "a file is sent as `image`", name[:100])
                upload = value
            else:
                _put(fields, name, value)
        body = VideoRequest.model_validate_strings(fields, strict=False)
        if upload is None:
            return Wanted(body)
        data = await upload.read()
    if len(data) > MAX_IMAGE:
        raise Problem(413, "payload_too_large", f"the picture may have at most {MAX_IMAGE} bytes", "image")
    try:
        image, shape = await to_thread.run_sync(first_frame, data, limiter=_decoding())
    except OviError as error:
        raise Problem(422, "invalid_image", str(error), "image") from None
    return Wanted(body, image, shape)


def _put(fields: dict[str, Any], name: str, value: str) -> None:
    """`guidance.video` goes into `guidance`; nothing is said twice."""
    outer, _, inner = name.partition(".")
    target = fields.setdefault(outer, {}) if inner else fields
    if not isinstance(target, dict) or (inner or outer) in target:
        raise Problem(422, "validation_error", "is given twice", name[:100])
    target[inner or outer] = value


_limiter: CapacityLimiter | None = None


def _decoding() -> CapacityLimiter:
    """Few at a time, so that pictures never keep the threads from those who only look."""
    global _limiter
    if _limiter is None:
        _limiter = CapacityLimiter(2)
    return _limiter
