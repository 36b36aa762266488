"""Files over HTTP: whole or a range of them from wherever they are kept, and a clip while it is still being written.

Nothing is loaded whole; a file in a bucket is read in ranges, too. It knows nothing of jobs.
Try it: `curl -r 0-99 http://127.0.0.1:3000/v1/videos/ID/content`.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import BinaryIO

from anyio import to_thread
from starlette.datastructures import Headers
from starlette.responses import Response, StreamingResponse

from ovi import storage
from services.generation.problems import Problem

CHUNK = 256 << 10
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


async def serve(address: str, media_type: str, etag: str, asked: Headers) -> Response:
    """The file at the address, or the part of it that the request's headers ask for.

    Raises OviError when there is none, Problem 416 for a range it does not have.
    """
    headers = {
        "ETag": etag, "Cache-Control": "private, max-age=3600", "Accept-Ranges": "bytes",
        "Content-Disposition": f'inline; filename="{address.rpartition("/")[2]}"',
    }  # fmt: skip
    if etag in [one.strip() for one in asked.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    file = await to_thread.run_sync(storage.open_read, address)
    try:
        size = await to_thread.run_sync(file.seek, 0, os.SEEK_END)
        first, last, status = 0, size - 1, 200
        if (span := _range(asked, etag, size)) is not None:
            first, last, status = *span, 206
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        await to_thread.run_sync(file.seek, first)
    except BaseException:
        file.close()
        raise
    headers["Content-Length"] = str(last - first + 1)
    return StreamingResponse(_read(file, last - first + 1), status, headers, media_type)


def follow(path: Path, media_type: str, over: Callable[[], Awaitable[bool]]) -> Response:
    """A file that grows, from its beginning until `over` says that no more comes. OSError when there is none."""
    file = open(path, "rb")  # noqa: SIM115  # closed by who reads it
    return StreamingResponse(_grow(file, over), media_type=media_type, headers={"Cache-Control": "no-store"})


def _range(asked: Headers, etag: str, size: int) -> tuple[int, int] | None:
    """(first, last) byte of the one range that is asked for; None for all of it, as for several ranges at once."""
    found = _RANGE.fullmatch(asked.get("range", "").strip())
    if found is None or asked.get("if-range", etag) != etag or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    span = (int(first), min(int(last or size), size - 1)) if first else (max(0, size - int(last)), size - 1)
    if span[0] > span[1]:
        headers = {"Content-Range": f"bytes */{size}"}
        raise Problem(416, "no_such_range", f"the file has {size} bytes", "Range", headers)
    return span


async def _read(file: BinaryIO, left: int) -> AsyncIterator[bytes]:
    try:
        while left and (data := await to_thread.run_sync(file.read, min(left, CHUNK))):
            left -= len(data)
            yield data
    finally:
        file.close()


async def _grow(file: BinaryIO, over: Callable[[], Awaitable[bool]]) -> AsyncIterator[bytes]:
    try:
        ended = False
        while True:
            while data := await to_thread.run_sync(file.read, CHUNK):
                yield data
            if ended:
                return
            ended = await over()
    finally:
        file.close()
