"""Objects of an S3 store by address, s3://bucket/key. The only module that imports boto3; rooms call ovi.storage.

Settings come from the usual AWS_* variables (AWS_ENDPOINT_URL for MinIO and the like). Answers that may pass (500, 503,
a cut connection) are asked for again, others become one line. It does not know what the bytes mean.
Try it: `python -c "from ovi import s3; print(s3.listing('s3://bucket/prefix'))"`.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from ovi.errors import OviError

ATTEMPTS = 5
CONNECT_S, READ_S = 10, 60
AHEAD = 1 << 20  # bytes of a ranged read
MISSING = ("404", "NoSuchKey")


def get(address: str, offset: int = 0, length: int | None = None) -> bytes:
    """`length` bytes from `offset`, all of the rest when None."""
    if length == 0:
        return b""
    bucket, key = split(address)
    span = {}
    if offset or length is not None:
        span["Range"] = f"bytes={offset}-{'' if length is None else offset + length - 1}"
    with explained(address):
        return _body(Bucket=bucket, Key=key, **span)


def put(address: str, data: bytes) -> None:
    bucket, key = split(address)
    with explained(address):
        client().put_object(Bucket=bucket, Key=key, Body=data)


def upload(path: Path, address: str) -> None:
    """A file of any size, in parts; the object is there when all of it is."""
    bucket, key = split(address)
    with explained(address):
        client().upload_file(str(path), bucket, key)


def download(address: str, path: Path) -> None:
    bucket, key = split(address)
    with explained(address):
        client().download_file(bucket, key, str(path))


def size(address: str) -> int:
    return int(_head(address)["ContentLength"])


def exists(address: str) -> bool:
    from botocore.exceptions import ClientError

    bucket, key = split(address)
    with explained(address):
        try:
            client().head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if _code(error) in MISSING:
                return False
            raise
    return True


def delete(address: str) -> None:
    """It is no error if there is no such object."""
    bucket, key = split(address)
    with explained(address):
        client().delete_object(Bucket=bucket, Key=key)


def listing(address: str) -> list[tuple[str, int, str]]:
    """(address, bytes, version) of all objects below the prefix, sorted."""
    bucket, prefix = split(address.rstrip("/") + "/")
    with explained(address):
        pages = client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        found = [item for page in pages for item in page.get("Contents", [])]
    return sorted((f"s3://{bucket}/{item['Key']}", int(item["Size"]), str(item["ETag"])) for item in found)


def presigned(address: str, seconds: int, filename: str | None = None, content_type: str | None = None) -> str:
    """A URL by which anyone may read the object for so long."""
    bucket, key = split(address)
    wanted = {"Bucket": bucket, "Key": key}
    if filename is not None:
        wanted["ResponseContentDisposition"] = f"attachment; filename*=UTF-8''{quote(filename, safe='')}"
    if content_type is not None:
        wanted["ResponseContentType"] = content_type
    with explained(address):
        return str(client().generate_presigned_url("get_object", Params=wanted, ExpiresIn=seconds))


def open_read(address: str) -> BinaryIO:
    """The object as a seekable file. Its bytes are fetched when they are read; a change meanwhile is an error."""
    return io.BufferedReader(_Ranges(address), AHEAD)


class Seekable(io.RawIOBase):
    """A file whose bytes come from elsewhere. A subclass reads from `_at` in `readinto`, and moves it."""

    def __init__(self, size: int) -> None:
        self._size, self._at = size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at


class _Ranges(Seekable):
    """Each read is one ranged request for the version that was opened."""

    def __init__(self, address: str) -> None:
        head = _head(address)
        super().__init__(int(head["ContentLength"]))
        self._address, self._version = address, head["ETag"]

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._size - self._at)
        if length <= 0:
            return 0
        bucket, key = split(self._address)
        span = f"bytes={self._at}-{self._at + length - 1}"
        with explained(self._address):
            data = _body(Bucket=bucket, Key=key, Range=span, IfMatch=self._version)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def split(address: str) -> tuple[str, str]:
    bucket, _, key = address.removeprefix("s3://").partition("/")
    if not bucket:
        raise OviError(f"{address}: no bucket in it; write s3://bucket/key")
    return bucket, key


def client() -> Any:
    """One a process: connections must not be shared with a fork."""
    return _client(os.getpid())


@cache
def _client(_pid: int) -> Any:
    import boto3
    from botocore.config import Config

    # Checksums beyond the required ones are refused by several stores that speak S3.
    return boto3.client("s3", config=Config(
        retries={"mode": "standard", "max_attempts": ATTEMPTS}, connect_timeout=CONNECT_S, read_timeout=READ_S,
        request_checksum_calculation="when_required", response_checksum_validation="when_required",
    ))  # fmt: skip


@contextlib.contextmanager
def explained(address: str) -> Iterator[None]:
    """What the store or the way to it says becomes one line that says what to do."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        raise OviError(f"{address}: {_advice(error)}") from None
    except (BotoCoreError, Boto3Error) as error:
        if isinstance(error.__context__, ClientError):  # a transfer wraps what the store said
            raise OviError(f"{address}: {_advice(error.__context__)}") from None
        raise OviError(f"{address}: cannot be reached ({error}); check the address and the AWS_* variables") from None


def _advice(error: Any) -> str:
    code = _code(error)
    if code in MISSING:
        return "no such file"
    if code == "NoSuchBucket":
        return "no such bucket; create it or correct the address"
    if code in ("PreconditionFailed", "412"):
        return "changed while it was read; run the same command again"
    if code in ("416", "InvalidRange"):
        return "ends before the bytes asked for; it was cut short, write it again"
    if code in ("403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"):
        return f"the store refuses ({code}); check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the rights of the key"
    return f"the store answers {code} ({error}); run the same command again"


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown"))


def _head(address: str) -> dict[str, Any]:
    bucket, key = split(address)
    with explained(address):
        return dict(client().head_object(Bucket=bucket, Key=key))


def _body(**wanted: Any) -> bytes:
    """The answer's bytes. The client itself asks again only until the answer begins, not when it is cut short."""
    from botocore.exceptions import HTTPClientError, IncompleteReadError

    for attempt in range(1, ATTEMPTS + 1):
        stream = client().get_object(**wanted)["Body"]
        try:
            return bytes(stream.read())
        except (HTTPClientError, IncompleteReadError):
            if attempt == ATTEMPTS:
                raise
    raise AssertionError("a loop that returns or raises")
