"""API keys: who may call, how often, with how many jobs at a time. Only their hashes are kept.

A key is 32 random bytes, so one round of sha256 is as good as many. The file is JSON; `ovi key NAME` adds to it.
Try it: `ovi key team-a --keys out/keys.json`.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import secrets
import threading
import time
from collections import deque
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ovi import storage
from ovi.errors import OviError
from services.generation.table import LOCAL

WINDOW_S = 60.0
PREFIX = "ovi_"


class Caller(BaseModel):
    """Who calls, and what they may. Jobs belong to the name; no other caller sees them."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    per_minute: Annotated[int, Field(ge=1)] = 60  # jobs submitted
    concurrency: Annotated[int, Field(ge=1)] = 8  # unfinished jobs


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")
    keys: list[Caller]


class Keys:
    """The callers of a file, and how often each has called of late."""

    def __init__(self, callers: list[Caller]) -> None:
        self._callers = callers
        self._times: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    @classmethod
    def read(cls, path: Path) -> Keys:
        try:
            return cls(_File.model_validate_json(storage.read_bytes(path)).keys)
        except ValidationError:
            raise OviError(f"{path}: not a file of API keys; make one with `ovi key NAME`") from None

    def caller(self, key: str) -> Caller | None:
        """Whose key this is. It takes as long whoever it is, and if it is nobody's."""
        given, found = hashlib.sha256(key.encode("utf-8", "replace")).hexdigest(), None
        for caller in self._callers:
            if hmac.compare_digest(caller.sha256, given):
                found = caller
        return found

    def wait(self, caller: Caller) -> int:
        """0, and one more submission is counted; or the whole seconds after which there is room for one."""
        now = time.monotonic()
        with self._lock:
            times = self._times.setdefault(caller.name, deque())
            while times and times[0] <= now - WINDOW_S:
                times.popleft()
            if len(times) >= caller.per_minute:
                return max(1, math.ceil(times[0] + WINDOW_S - now))
            times.append(now)
            return 0


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def add(path: Path, name: str, per_minute: int, concurrency: int) -> str:
    """A new key for a new name; the key itself is returned once and kept nowhere."""
    callers = Keys.read(path)._callers if path.exists() else []
    if name == LOCAL:
        raise OviError(f"{name!r}: is who calls where there are no keys; choose another name")
    if any(caller.name == name for caller in callers):
        raise OviError(f"{path}: has a key for {name} already; remove that entry first")
    key = PREFIX + secrets.token_urlsafe(32)
    try:
        caller = Caller(
            name=name, sha256=hashlib.sha256(key.encode()).hexdigest(), per_minute=per_minute, concurrency=concurrency,
        )  # fmt: skip
    except ValidationError:
        raise OviError(f"{name!r}: a name has letters, digits, dots, dashes, at most 64 of them") from None
    storage.write_json(path, {"keys": [one.model_dump() for one in (*callers, caller)]})
    return key
