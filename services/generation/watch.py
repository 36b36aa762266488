"""Waiting for jobs to change, for any number of callers with one look at the table a moment; and events made of it.

A worker of this server says at once that a job has ended; whatever else happens anywhere is found by looking.

Events are not kept: each carries the job's revision as its id, so whoever comes back with the last one it saw gets what
is new since, whichever server it asks. Try it: `pytest tests/services/test_events.py`.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from anyio import to_thread

from services.generation.jobs import FINAL, JobStore
from services.generation.schemas import VideoJob
from services.generation.table import Job

LOOK_S = 0.05
QUIET_S = 15.0  # a comment goes out, so that nothing between takes the stream for dead
BETWEEN_S = 0.1  # events of one stream

State = tuple[int, int | None]  # revision and place in the queue


class Watch:
    """One for all callers of a server; belongs to its event loop."""

    def __init__(self, jobs: JobStore) -> None:
        self._jobs = jobs
        self._waiting: dict[asyncio.Future[None], tuple[str, State]] = {}
        self._task: asyncio.Task[None] | None = None
        self._now: asyncio.Event | None = None  # set: do not wait for the next look
        self._loop: asyncio.AbstractEventLoop | None = None
        self.closed = False

    async def change(self, identity: str, seen: State, seconds: float) -> None:
        """Returns when the job is no longer as seen, is gone, `seconds` are over, or the server shall end."""
        if self.closed:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[future] = (identity, seen)
        if self._task is None or self._task.done():
            self._loop, self._now = asyncio.get_running_loop(), asyncio.Event()
            self._task = asyncio.create_task(self._look(self._now))
        try:
            await asyncio.wait_for(future, seconds)
        except TimeoutError:
            pass
        finally:
            self._waiting.pop(future, None)

    def look(self) -> None:
        """Something has changed: look now. From any thread."""
        if self._loop is not None and self._now is not None:
            with suppress(RuntimeError):  # the loop has ended: nobody waits
                self._loop.call_soon_threadsafe(self._now.set)

    def close(self) -> None:
        """Lets everybody go. Called in the event loop."""
        self.closed = True
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def _look(self, now: asyncio.Event) -> None:
        while self._waiting:
            identities = {identity for identity, _ in self._waiting.values()}
            try:
                states = await to_thread.run_sync(self._jobs.revisions, identities)
            except Exception as error:  # whoever waits looks for themselves, and answers as it deserves
                for future in self._waiting:
                    if not future.done():
                        future.set_exception(error)
                return
            for future, (identity, seen) in list(self._waiting.items()):
                if states.get(identity) != seen and not future.done():
                    future.set_result(None)
            with suppress(TimeoutError):
                await asyncio.wait_for(now.wait(), LOOK_S)
            now.clear()


class Stream:
    """The events of one job for one caller: state, step, preview, done."""

    def __init__(self, jobs: JobStore, watch: Watch, show: Callable[[Job], VideoJob]) -> None:
        self._jobs, self._watch, self._show = jobs, watch, show

    async def events(self, identity: str, after: int) -> AsyncIterator[str]:
        """Server-sent events from revision `after` on, until the job has ended or the server ends."""
        told: tuple[Any, ...] | None = None
        picture: bytes | None = None
        while True:
            job = await to_thread.run_sync(self._jobs.get, identity)
            if job is None:
                yield _event("deleted", {"id": identity})
                return
            view = await to_thread.run_sync(self._show, job)
            state = (job.status, job.attempt, job.cancel_requested, view.queue_position)
            if job.revision > after or (told is not None and state != told):
                name = "step" if state == told else "state"
                step = {"step": job.step, "steps": job.steps, "progress": view.progress, "eta_s": view.eta_s}
                data = step if name == "step" else view.model_dump(mode="json")
                if job.status in FINAL:
                    yield _event("done", view.model_dump(mode="json"), job.revision)
                    return
                yield _event(name, data, job.revision)
                if job.status == "in_progress":
                    fresh = await to_thread.run_sync(self._jobs.attachment, identity, "preview")
                    if fresh is not None and fresh != picture:
                        picture = fresh
                        yield _event("preview", {"step": job.step, "image": _data_url(fresh)}, job.revision)
                after = job.revision
            elif job.status in FINAL:
                return
            else:
                yield ": still here\n\n"
            told = state
            await asyncio.sleep(BETWEEN_S)
            await self._watch.change(identity, (job.revision, view.queue_position), QUIET_S)
            if self._watch.closed:
                return


def _event(name: str, data: dict[str, Any], revision: int | None = None) -> str:
    identity = "" if revision is None else f"id: {revision}\n"
    return f"{identity}event: {name}\ndata: {json.dumps(data)}\n\n"


def _data_url(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
