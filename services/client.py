"""A client of the service's HTTP interface: ask for a clip, follow it, fetch it. Plain calls over httpx, jobs as dicts.

What may pass (a server that restarts, a full queue, a cut connection) is waited for and asked again, as long as
`patience_s` says; a creation carries an idempotency key, so asking again never makes a second clip. It imports nothing
of the service itself. Try it:

    from services.client import Client
    with Client("http://127.0.0.1:3000") as ovi:
        ovi.generate("A red lamp blinks. <AUDCAP>Beeps.<ENDAUDCAP>", "clip.mp4", seed=1)
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from ovi import storage
from ovi.errors import OviError

ENDED = frozenset({"completed", "failed", "cancelled"})
POLL_S = 30  # of one long poll
PASSING = frozenset({429, 502, 503})
PAUSE_S = 0.5  # before asking again, where the service does not say
Job = dict[str, Any]


class ServiceError(OviError):
    """What the service refused, with its own words, its code and the field at fault."""

    def __init__(self, status: int, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.field = status, code, field


class ClipFailed(OviError):
    """The job ended without a clip; `job` says how."""

    def __init__(self, job: Job) -> None:
        super().__init__(f"{job['id']}: {job['status']}: {(job['error'] or {}).get('message', 'no clip was made')}")
        self.job = job


@dataclass(frozen=True)
class Event:
    name: str  # state, step, preview, done, deleted
    data: dict[str, Any]
    id: int | None  # where to go on from


class Client:
    """One service. Safe to use from several threads."""

    def __init__(self, url: str = "http://127.0.0.1:3000", key: str | None = None, patience_s: float = 60.0) -> None:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._patience_s = patience_s
        self._http = httpx.Client(base_url=url, headers=headers, timeout=POLL_S + 30, trust_env=False)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def generate(self, prompt: str, path: str | Path, image: str | Path | bytes | None = None, **settings: Any) -> Job:
        """Writes the clip to `path`; the completed job. Raises ClipFailed, ServiceError, OviError."""
        job = self.wait(self.create(prompt, image, **settings)["id"])
        self.download(job["id"], path)
        return job

    def create(
        self, prompt: str, image: str | Path | bytes | None = None, idempotency_key: str | None = None, **settings: Any
    ) -> Job:
        """The new job. `settings` are the fields of POST /v1/videos: seed, steps, size, guidance={"video": 4.0}, ..."""
        headers = {"Idempotency-Key": idempotency_key or secrets.token_hex(16)}
        return self._json("POST", "/v1/videos", headers=headers, **_body(prompt, image, settings))

    def validate(self, prompt: str, image: str | Path | bytes | None = None, **settings: Any) -> dict[str, Any]:
        """What would run, without running it."""
        return self._json("POST", "/v1/videos:validate", **_body(prompt, image, settings))

    def get(self, identity: str) -> Job:
        return self._json("GET", f"/v1/videos/{identity}")

    def wait(self, identity: str, seconds: float | None = None) -> Job:
        """The completed job. Raises ClipFailed, or OviError when it has not ended after `seconds`."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            left = POLL_S if deadline is None else min(POLL_S, max(0.0, deadline - time.monotonic()))
            job = self._json("GET", f"/v1/videos/{identity}", params={"wait": left})
            if job["status"] == "completed":
                return job
            if job["status"] in ENDED:
                raise ClipFailed(job)
            if deadline is not None and time.monotonic() >= deadline:
                raise OviError(f"{identity}: still {job['status']} after {seconds:g} s")

    def events(self, identity: str, after: int | None = None) -> Iterator[Event]:
        """What happens to a job until it has ended, from the event `after` on; goes on when the connection is cut."""
        last = after
        while True:
            headers = {} if last is None else {"Last-Event-ID": str(last)}
            answer = self._open(f"/v1/videos/{identity}/events", headers)
            try:
                for event in _parsed(answer.iter_lines()):
                    last = event.id if event.id is not None else last
                    yield event
                    if event.name in ("done", "deleted"):
                        return
            except httpx.TransportError:
                pass
            finally:
                answer.close()
            if answer.status_code == 204:
                return
            time.sleep(PAUSE_S)

    def download(self, identity: str, path: str | Path, variant: str = "video") -> Path:
        """A job's file, whole or not at all; the clip's sha256 is checked. Goes on where a connection was cut."""
        with storage.atomic_path(path) as temporary, open(temporary, "wb") as file:
            digest, total, patience = hashlib.sha256(), None, time.monotonic() + self._patience_s
            while total is None or file.tell() < total:
                if time.monotonic() > patience:
                    raise OviError(f"{identity}: the connection is cut again and again")
                headers = {"Range": f"bytes={file.tell()}-"} if file.tell() else {}
                answer = self._open(f"/v1/videos/{identity}/content", headers, {"variant": variant})
                total = file.tell() + int(answer.headers["content-length"])
                try:
                    for chunk in answer.iter_raw():
                        digest.update(chunk)
                        file.write(chunk)
                        patience = time.monotonic() + self._patience_s
                except httpx.TransportError:
                    time.sleep(PAUSE_S)
                finally:
                    answer.close()
            promised = self.get(identity)["sha256"] if variant == "video" else None
            if promised not in (None, digest.hexdigest()):
                raise OviError(f"the downloaded clip has sha256 {digest.hexdigest()}, the job promised {promised}")
        return Path(path)

    def cancel(self, identity: str) -> Job:
        return self._json("POST", f"/v1/videos/{identity}/cancel")

    def delete(self, identity: str) -> None:
        self._json("DELETE", f"/v1/videos/{identity}")

    def jobs(self) -> Iterator[Job]:
        """All of the caller's, newest first."""
        page: dict[str, Any] = {"has_more": True, "last_id": None}
        while page["has_more"]:
            params = {"limit": 100} | ({"after": page["last_id"]} if page["last_id"] else {})
            page = self._json("GET", "/v1/videos", params=params)
            yield from page["data"]

    def models(self) -> list[dict[str, Any]]:
        return list(self._json("GET", "/v1/models")["data"])

    def capacity(self) -> dict[str, Any]:
        return self._json("GET", "/v1/capacity")

    def _json(self, method: str, path: str, **how: Any) -> dict[str, Any]:
        answer = self._patiently(lambda: self._http.request(method, path, **how))
        return dict(answer.json())

    def _open(self, path: str, headers: dict[str, str], params: dict[str, str] | None = None) -> httpx.Response:
        """An answer whose body is still to be read."""

        def ask() -> httpx.Response:
            answer = self._http.send(self._http.build_request("GET", path, headers=headers, params=params), stream=True)
            if not answer.is_success:
                answer.read()
            return answer

        return self._patiently(ask)

    def _patiently(self, ask: Callable[[], httpx.Response]) -> httpx.Response:
        """The answer; what may pass is asked again for `patience_s`. Raises ServiceError, OviError where none is."""
        deadline = time.monotonic() + self._patience_s
        while True:
            pause = PAUSE_S
            try:
                answer = ask()
                if answer.is_success:
                    return answer
                problem: OviError = _problem(answer)
                pause = float(answer.headers.get("retry-after") or PAUSE_S)
                if answer.status_code not in PASSING:
                    raise problem
            except httpx.TransportError as error:
                problem = OviError(f"{self._http.base_url}: no answer ({error})")
            if time.monotonic() + pause > deadline:
                raise problem
            time.sleep(pause)


def _body(prompt: str, image: str | Path | bytes | None, settings: dict[str, Any]) -> dict[str, Any]:
    """JSON, or with a picture a form of the same fields."""
    fields = {"prompt": prompt} | settings
    if image is None:
        return {"json": fields}
    data = image if isinstance(image, bytes) else storage.read_bytes(image)
    form: dict[str, str] = {}
    for name, value in fields.items():
        inner = value.items() if isinstance(value, dict) else [(None, value)]
        form |= {name if key is None else f"{name}.{key}": str(said) for key, said in inner}
    return {"data": form, "files": {"image": ("image", data, "application/octet-stream")}}


def _problem(answer: httpx.Response) -> ServiceError:
    try:
        error = answer.json()["error"]
        code, message, field = str(error["code"]), str(error["message"]), error["param"]
    except (ValueError, KeyError, TypeError):
        code, message, field = "unknown", answer.reason_phrase, None
    where = f"{field}: " if field else ""
    words = f"the service answered {answer.status_code} to {answer.request.url.path}: {where}{message}"
    return ServiceError(answer.status_code, code, words, field)


def _parsed(lines: Iterator[str]) -> Iterator[Event]:
    """Server-sent events; comments are only signs of life."""
    said: dict[str, str] = {}
    for line in lines:
        if not line:
            if "event" in said:
                yield Event(said["event"], json.loads(said["data"]), int(said["id"]) if "id" in said else None)
            said = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            said[name] = value
