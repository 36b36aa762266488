"""The HTTP interface, version 1: create, look, follow, fetch, cancel, delete, list; validate, models, capacity.

A job is on disk before it is acknowledged with 202. Who may call is settled before (`guard`), what is posted is read
by `wanted`, and the rules are `backend`'s. Routes that only look run on other threads than those that create.
Try it: `ovi serve`, then open http://127.0.0.1:3000/ or see http://127.0.0.1:3000/openapi.json.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse, StreamingResponse

from ovi import storage
from ovi.diffusion.prompts import formatted, prompt_warnings
from ovi.errors import OviError
from services.generation import metrics, openapi, problems, wanted
from services.generation.backend import Backend
from services.generation.content import follow, serve
from services.generation.jobs import FINAL
from services.generation.keys import Caller
from services.generation.problems import Problem
from services.generation.results import VARIANTS
from services.generation.schemas import VideoJob, VideoList
from services.generation.table import Job
from services.generation.watch import Stream

PAGE = Path(__file__).with_name("playground.html")
PAGE_POLICY = (
    "default-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; frame-ancestors 'none'; form-action 'none'; base-uri 'none'"
)
MAX_WAIT_S = 50.0  # of a long poll; gateways give up at 60
FOLLOW_S = 0.05  # between two looks at a clip that is being written
LINK_S = 900  # how long a link to a clip in a bucket works
CREATORS = 4  # threads for creating, so that those who look never wait behind them


def create_app(backend: Backend, on_start: Callable[[], None] = lambda: None) -> FastAPI:
    """The app over one backend; `on_start` runs in the event loop's thread before the first request."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        on_start()
        yield

    app = FastAPI(
        title="Ovi video generation", version="1.0", description=__doc__, docs_url=None, redoc_url=None,
        redirect_slashes=False, lifespan=lifespan,
    )  # fmt: skip
    app.state.backend, app.state.creators = backend, CapacityLimiter(CREATORS)
    app.include_router(router)
    problems.install(app)
    openapi.install(app)
    return app


def _backend(request: Request) -> Backend:
    return request.app.state.backend


def _caller(request: Request) -> Caller:
    return request.state.caller


def _job(video_id: str, request: Request) -> Job:
    """The caller's job of this id; of another's it is as if there were none."""
    job = _backend(request).jobs.get(video_id)
    if job is None or job.tenant != _caller(request).name:
        raise _unknown()
    return job


router = APIRouter()
Here = Annotated[Backend, Depends(_backend)]
Asking = Annotated[Caller, Depends(_caller)]
Known = Annotated[Job, Depends(_job)]
Key = Annotated[
    str | None,
    Header(min_length=1, max_length=255, description="The same key and body give the same job, however often sent."),
]

Trace = Annotated[str | None, Header(max_length=200, description="W3C trace context: the job's spans go below it.")]


@router.post("/v1/videos", status_code=202, response_model=VideoJob, openapi_extra=wanted.OPENAPI)
async def create(
    request: Request, backend: Here, caller: Asking, response: Response, idempotency_key: Key = None,
    traceparent: Trace = None,
) -> VideoJob:  # fmt: skip
    """Puts a clip in the queue. 429 with Retry-After when the queue is full or the key's limits are reached."""
    posted = await wanted.read(request)
    limiter = request.app.state.creators
    job = await to_thread.run_sync(backend.submit, posted, caller, idempotency_key, traceparent, limiter=limiter)
    response.headers["Location"] = f"/v1/videos/{job.id}"
    return await to_thread.run_sync(backend.show, job)


@router.post("/v1/videos:validate", openapi_extra=wanted.OPENAPI)
async def validate(request: Request, backend: Here) -> dict[str, Any]:
    """What a request would run as, without running it: effective values, tokens, warnings, estimated seconds."""
    posted = await wanted.read(request)
    effective = await to_thread.run_sync(backend.resolve, posted)
    version, prompt = backend.served.version, posted.body.prompt
    tokens = await to_thread.run_sync(backend.tokens.count, formatted(prompt, version) if version else prompt)
    limit = backend.tokens.limit
    return {
        "object": "video.validation", "effective": effective,
        "tokens": {"prompt": tokens, "max": limit, "truncated": tokens > limit},
        "warnings": prompt_warnings(prompt, version) if version else [],
        "estimate": await to_thread.run_sync(backend.estimate, posted.body, effective["steps"]),
    }  # fmt: skip


@router.post("/v1/videos/sync", response_model=VideoJob, openapi_extra=wanted.OPENAPI)
async def create_and_wait(
    request: Request, backend: Here, caller: Asking, idempotency_key: Key = None, traceparent: Trace = None,
    wait: Annotated[float, Query(gt=0, le=MAX_WAIT_S)] = MAX_WAIT_S,
) -> VideoJob:  # fmt: skip
    """The job once it has ended. 504 after `wait` seconds, and the job is cancelled."""
    posted = await wanted.read(request)
    limiter = request.app.state.creators
    job = await to_thread.run_sync(backend.submit, posted, caller, idempotency_key, traceparent, limiter=limiter)
    ended = await _ended(backend, job, wait)
    if ended is None or ended.status not in FINAL:
        await to_thread.run_sync(backend.jobs.cancel, job.id)
        raise Problem(504, "timeout", f"the clip was not done within {wait:g} s and was cancelled")
    return await to_thread.run_sync(backend.show, ended)


@router.get("/v1/videos", response_model=VideoList)
def listing(
    backend: Here, caller: Asking,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(max_length=64, description="Jobs older than this one.")] = None,
) -> VideoList:  # fmt: skip
    """Jobs, newest first."""
    if after is not None and ((job := backend.jobs.get(after)) is None or job.tenant != caller.name):
        raise Problem(422, "validation_error", "no job has this id", "after")
    jobs = backend.jobs.newest(limit + 1, after, caller.name)
    page = [backend.show(job) for job in jobs[:limit]]
    first, last = (page[0].id, page[-1].id) if page else (None, None)
    return VideoList(data=page, first_id=first, last_id=last, has_more=len(jobs) > limit)


@router.get("/v1/videos/{video_id}", response_model=VideoJob)
async def look(
    job: Known, backend: Here, response: Response,
    wait: Annotated[float, Query(ge=0, le=MAX_WAIT_S, description="Seconds to wait for the job's end.")] = 0.0,
) -> VideoJob:  # fmt: skip
    """Status, progress, place in the queue; what really ran; the error if there was one."""
    response.headers["Cache-Control"] = "no-store"
    ended = await _ended(backend, job, wait) if wait else job
    if ended is None:
        raise _unknown()
    return await to_thread.run_sync(backend.show, ended)


@router.get("/v1/videos/{video_id}/events", response_class=StreamingResponse, responses={204: {}})
def events(
    job: Known, backend: Here,
    last_event_id: Annotated[int | None, Header(ge=0, le=2**31 - 1, description="Go on after this one.")] = None,
) -> Response:  # fmt: skip
    """Server-sent events: `state` and `done` carry the job, `step` how far it is, `preview` a picture."""
    after = last_event_id or 0
    if job.status in FINAL and after >= job.revision:
        return Response(status_code=204)  # tells a browser not to come back
    stream = Stream(backend.jobs, backend.watch, backend.show)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(stream.events(job.id, after), media_type="text/event-stream", headers=headers)


@router.get("/v1/videos/{video_id}/content", response_class=StreamingResponse, responses={206: {}, 304: {}, 307: {}})
async def content(
    job: Known, backend: Here, request: Request,
    variant: Annotated[
        Literal["video", "audio", "thumbnail", "manifest", "stream"],
        Query(description="`stream`: the video, as a fragmented MP4 while its pictures are still being decoded."),
    ] = "video",
    link: Annotated[bool, Query(description="Where clips are in S3: 307 to a link that works for 15 minutes.")] = False,
) -> Response:  # fmt: skip
    """The mp4, its sound alone, a picture of it, or where it comes from. Ranges are answered with their part."""
    if variant == "stream":
        growing, job = await _growing(backend, job)
        if growing is not None:
            return growing
        variant = "video"
    if job.status not in FINAL:
        raise _not_yet(job)
    if job.status != "completed":
        raise _no_content(job)
    address, kind = backend.results.address(job.id, variant), VARIANTS[variant][1]
    if link and backend.results.remote:
        name = address.rpartition("/")[2]
        url = await to_thread.run_sync(storage.presigned, address, LINK_S, name, kind)
        return RedirectResponse(url, headers={"Cache-Control": "no-store"})
    try:
        return await serve(address, kind, f'"{job.sha256}-{variant}"', request.headers)
    except OviError:
        if await to_thread.run_sync(storage.exists, address):
            raise
        raise _no_content(job) from None


@router.post("/v1/videos/{video_id}/cancel", response_model=VideoJob)
def cancel(job: Known, backend: Here) -> VideoJob:
    """Ends a waiting job at once, a running one at its next step. Doing it again changes nothing."""
    ended = backend.jobs.cancel(job.id)
    if ended is None:
        raise _unknown()
    if ended.status in ("completed", "failed"):
        raise Problem(409, "already_ended", f"the video is already {ended.status}")
    return backend.show(ended)


@router.delete("/v1/videos/{video_id}")
def delete(job: Known, backend: Here) -> dict[str, Any]:
    """Forgets the job and its clip, in any state; a running one stops at its next step."""
    backend.jobs.delete(job.id)
    backend.results.delete(job.id)
    return {"id": job.id, "object": "video.deleted", "deleted": True}


@router.get("/v1/models")
def models(backend: Here) -> dict[str, Any]:
    """The served model and what it makes when not told otherwise."""
    served = backend.served
    model = {
        "id": served.model, "object": "model", "owned_by": "ovi", "digest": served.digest, "size": served.size,
        "area": served.area, "seconds": served.whole_seconds, "frames": served.frames, "fps": served.fps,
        "sample_rate": served.sample_rate, "version": served.version, "max_tokens": served.max_tokens,
        "defaults": served.sampling.model_dump(mode="json"),
    }  # fmt: skip
    return {"object": "list", "data": [model]}


@router.get("/v1/capacity")
def capacity(backend: Here) -> dict[str, Any]:
    """How many jobs wait and may wait, how the workers are, seconds a step of late."""
    statistics, pace = backend.jobs.statistics(), backend.jobs.pace()
    counts = statistics["counts"]
    queue = {"waiting": counts["queued"], "running": counts["in_progress"], "bound": backend.served.queue}
    return {
        "queue": queue | {"by_priority": statistics["queued"]}, "workers": backend.workers.states(),
        "seconds_a_step": pace and round(pace, 4), "draining": backend.draining,
    }  # fmt: skip


@router.get("/livez", include_in_schema=False)
def livez() -> dict[str, str]:
    return {"status": "alive"}


@router.get("/startupz", include_in_schema=False)
@router.get("/readyz", include_in_schema=False)
def readyz(backend: Here) -> dict[str, str]:
    if backend.draining:
        raise Problem(503, "draining", "the service is about to end", headers={"Retry-After": "5"})
    if not backend.workers.ready():
        raise Problem(503, "not_ready", "no worker has its model loaded yet", headers={"Retry-After": "2"})
    return {"status": "ready"}


@router.get("/metrics", include_in_schema=False)
def metrics_page(backend: Here) -> Response:
    return Response(backend.meter.page(backend.workers.states()), media_type=metrics.CONTENT_TYPE)


@router.get("/", include_in_schema=False)
def playground() -> HTMLResponse:
    return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers={"Content-Security-Policy": PAGE_POLICY})


@router.get("/favicon.ico", include_in_schema=False)
def favicon() -> Response:
    return Response(status_code=204)


async def _ended(backend: Backend, job: Job, seconds: float) -> Job | None:
    """The job when it has ended or the seconds are over; None when it was deleted meanwhile."""
    deadline, current = time.monotonic() + seconds, job
    while current.status not in FINAL and not backend.watch.closed:
        left = deadline - time.monotonic()
        if left <= 0:
            break
        position = await to_thread.run_sync(backend.jobs.position, current)
        await backend.watch.change(current.id, (current.revision, position), left)
        fresh = await to_thread.run_sync(backend.jobs.get, current.id)
        if fresh is None:
            return None
        current = fresh
    return current


async def _growing(backend: Backend, job: Job) -> tuple[Response | None, Job]:
    """The clip while it is written on this server; else the job when it has ended."""
    deadline, attempt = time.monotonic() + MAX_WAIT_S, job.attempt

    async def over() -> bool:
        await backend.watch.change(job.id, (job.revision, None), FOLLOW_S)
        fresh = await to_thread.run_sync(backend.jobs.get, job.id)
        return fresh is None or (fresh.status, fresh.attempt) != ("in_progress", attempt) or backend.watch.closed

    while job.status not in FINAL:
        attempt = job.attempt
        if job.step == job.steps:
            with suppress(FileNotFoundError):
                return follow(backend.results.live(job.id, job.attempt), "video/mp4", over), job
        if time.monotonic() > deadline or backend.watch.closed:
            raise _not_yet(job)
        position = await to_thread.run_sync(backend.jobs.position, job)
        await backend.watch.change(job.id, (job.revision, position), FOLLOW_S if job.step == job.steps else 5.0)
        fresh = await to_thread.run_sync(backend.jobs.get, job.id)
        if fresh is None:
            raise _unknown()
        job = fresh
    return None, job


def _not_yet(job: Job) -> Problem:
    words = f"the video is {job.status}; its content exists when it is completed"
    return Problem(409, "not_completed", words, headers={"Retry-After": "5"})


def _no_content(job: Job) -> Problem:
    return Problem(410, "no_content", f"the video is {job.status} and has no content")


def _unknown() -> Problem:
    return Problem(404, "not_found", "no video has this id", "id")
