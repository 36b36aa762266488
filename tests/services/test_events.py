"""Following a job: server-sent events with resume, long polls, and a service that is about to end."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread
from fastapi.testclient import TestClient

from services.generation.backend import Backend
from tests.services.test_api import GOOD, finish, problem
from tests.waiting import wait_for

Event = tuple[int, str, dict[str, Any]]


def events(client: TestClient, job: str, after: int | None = None) -> Iterator[Event]:
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    with client.stream("GET", f"/v1/videos/{job}/events", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for block in "".join(answer.iter_text()).split("\n\n"):
            lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if lines:
                yield int(lines.get("id", 0)), lines["event"], json.loads(lines["data"])


def once_waited_for(backend: Backend, action: Callable[[], Any]) -> threading.Thread:
    """Acts when somebody waits for a job to change."""

    def run() -> None:
        wait_for(lambda: backend.watch._waiting)
        action()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def whenever_told(backend: Backend, monkeypatch: pytest.MonkeyPatch, *actions: Any) -> None:
    """Does the next action each time a listener has told all that it saw, before it waits for more."""
    wait, left = backend.watch.change, iter(actions)

    async def change(*seen: Any) -> None:
        if (action := next(left, None)) is not None:
            await to_thread.run_sync(action)
        await wait(*seen)

    monkeypatch.setattr(backend.watch, "change", change)


def test_a_job_tells_its_life_and_a_listener_may_come_back(
    client: TestClient, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, job = (client.post("/v1/videos", json=GOOD).json()["id"] for _ in range(2))
    backend.jobs.cancel(first)
    leases: list[Any] = []
    whenever_told(
        backend, monkeypatch,
        lambda: leases.append(backend.jobs.claim("a")),
        lambda: backend.jobs.renew(leases[0], 1, b"\xff\xd8jpeg"),
        lambda: backend.jobs.renew(leases[0], 2),
        lambda: backend.jobs.complete(leases[0], "0" * 64, 1, {}, {"solver": "unipc"}),
    )  # fmt: skip
    told = list(events(client, job))
    assert [name for _, name, _ in told] == ["state", "state", "step", "preview", "step", "done"]
    assert [data["status"] for _, name, data in told if name in ("state", "done")] == [
        "queued", "in_progress", "completed"
    ]  # fmt: skip
    assert told[0][2]["queue_position"] == 1
    step, preview = told[2][2], told[3][2]
    assert (step["step"], step["steps"], step["progress"], preview["step"]) == (1, 4, 25, 1)
    assert step["eta_s"] > 0
    assert base64.b64decode(preview["image"].removeprefix("data:image/jpeg;base64,")) == b"\xff\xd8jpeg"
    numbers = [number for number, _, _ in told]
    assert numbers == sorted(numbers)
    assert told[-1][2]["ran"] == {"solver": "unipc"}
    (again,) = events(client, job, after=numbers[2])
    assert again == told[-1]
    over = client.get(f"/v1/videos/{job}/events", headers={"Last-Event-ID": str(numbers[-1])})
    assert (over.status_code, over.content) == (204, b"")


def test_a_place_in_the_queue_and_a_deletion_are_told(
    client: TestClient, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, job = (client.post("/v1/videos", json=GOOD).json()["id"] for _ in range(2))
    whenever_told(backend, monkeypatch, lambda: backend.jobs.cancel(first), lambda: backend.jobs.delete(job))
    told = list(events(client, job))
    assert [data.get("queue_position") for _, _, data in told] == [2, 1, None]
    assert told[-1][1] == "deleted"


@pytest.mark.parametrize("after", ["x", "-1", "1.5", str(2**40)])
def test_a_wrong_last_event_id_is_named(client: TestClient, after: str) -> None:
    job = client.post("/v1/videos", json=GOOD).json()["id"]
    problem(client.get(f"/v1/videos/{job}/events", headers={"Last-Event-ID": after}), 422, "Last-Event-Id")


def test_a_long_poll_answers_when_the_job_ends_or_the_time_is_over(client: TestClient, backend: Backend) -> None:
    job = client.post("/v1/videos", json=GOOD).json()["id"]
    began = time.monotonic()
    assert client.get(f"/v1/videos/{job}", params={"wait": 0.2}).json()["status"] == "queued"
    assert 0.2 <= time.monotonic() - began < 5
    once_waited_for(backend, lambda: backend.jobs.cancel(job))
    assert client.get(f"/v1/videos/{job}", params={"wait": 30}).json()["status"] == "cancelled"
    assert time.monotonic() - began < 20
    problem(client.get(f"/v1/videos/{job}", params={"wait": 1000}), 422, "wait")


def test_a_bounded_call_gives_the_clip_or_cancels(
    client: TestClient, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    whenever_told(backend, monkeypatch, lambda: finish(backend, b"clip"))
    assert client.post("/v1/videos/sync", json=GOOD).json()["status"] == "completed"
    late = client.post("/v1/videos/sync", json=GOOD, params={"wait": 0.1})
    assert problem(late, 504)["error"]["code"] == "timeout"
    assert backend.jobs.newest(1)[0].status == "cancelled"


def test_a_service_about_to_end_takes_nothing_and_lets_listeners_go(client: TestClient, backend: Backend) -> None:
    job = client.post("/v1/videos", json=GOOD).json()["id"]
    assert client.portal is not None
    once_waited_for(backend, lambda: client.portal.call(backend.watch.close))  # type: ignore[union-attr]
    assert [name for _, name, _ in events(client, job)] == ["state"]
    backend.draining = True
    answer = client.post("/v1/videos", json=GOOD)
    assert problem(answer, 503)["error"]["code"] == "draining"
    assert int(answer.headers["retry-after"]) > 0
    problem(client.get("/readyz"), 503)
    assert client.get(f"/v1/videos/{job}", params={"wait": 5}).json()["status"] == "queued"


@pytest.mark.parametrize("variant", ["audio", "thumbnail", "manifest"])
def test_what_belongs_to_a_clip_is_served_in_parts_too(client: TestClient, backend: Backend, variant: str) -> None:
    job = client.post("/v1/videos", json=GOOD).json()["id"]
    finish(backend, b"clip")
    where = f"/v1/videos/{job}/content"
    problem(client.get(where, params={"variant": variant}), 410)
    Path(backend.results.address(job, variant)).write_bytes(b"0123456789")
    part = client.get(where, params={"variant": variant}, headers={"Range": "bytes=2-4"})
    assert (part.status_code, part.content) == (206, b"234")
    client.delete(f"/v1/videos/{job}")
    assert not Path(backend.results.address(job, variant)).exists()
    problem(client.get(where, params={"variant": "../jobs.db"}), 404)


def test_a_worker_that_speaks_is_heard_before_the_next_look(
    client: TestClient, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.generation.watch.LOOK_S", 1000.0)
    job = client.post("/v1/videos", json=GOOD).json()["id"]
    lease = backend.jobs.claim("a")
    assert lease is not None

    def end() -> None:
        backend.jobs.complete(lease, "0" * 64, 1, {}, {})
        backend.watch.look()

    worker = once_waited_for(backend, end)
    began = time.monotonic()
    assert client.get(f"/v1/videos/{job}", params={"wait": 30}).json()["status"] == "completed"
    assert time.monotonic() - began < 10
    worker.join()
