"""The HTTP interface, version 1: create, look, fetch, cancel, delete, list; models, capacity, metrics, the playground.

A job is on disk before it is acknowledged with 202. The app knows the job store, the results and what is served;
who runs the jobs is behind `Workers`. There is no authentication yet: serve it on loopback only, or behind a gateway.
Try it: `ovi serve`, then open http://127.0.0.1:3000/ or see http://127.0.0.1:3000/openapi.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request, Response
from fastapi.responses import FileResponse, HTMLResponse

from ovi.diffusion.prompts import prompt_problems
from services.generation import metrics, problems
from services.generation.jobs import Job, JobStore, KeyConflict, QueueFull
from services.generation.problems import Problem
from services.generation.results import ResultStore
from services.generation.schemas import Refused, Served, VideoJob, VideoList, VideoRequest, fingerprint, resolve, view

PAGE = Path(__file__).with_name("playground.html")
PAGE_POLICY = "default-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; frame-ancestors 'none'"


class Workers(Protocol):
    """Those who run the jobs."""

    def wake(self) -> None:
        """There is a new job."""

    def states(self) -> list[dict[str, Any]]:
        """One record a worker: name, state, restarts."""


@dataclass(frozen=True)
class Backend:
    """What the routes work on."""

    jobs: JobStore
    results: ResultStore
    served: Served
    workers: Workers
    meter: metrics.Meter

    def show(self, job: Job) -> VideoJob:
        return view(job, self.jobs.position(job))


def create_app(backend: Backend) -> FastAPI:
    """The app over one backend."""
    app = FastAPI(
        title="Ovi video generation", version="1.0", description=__doc__, docs_url=None, redoc_url=None,
        redirect_slashes=False,
    )  # fmt: skip
    app.state.backend = backend
    app.include_router(router)
    problems.install(app)
    return app


def _backend(request: Request) -> Backend:
    return request.app.state.backend


def _job(video_id: str, backend: Annotated[Backend, Depends(_backend)]) -> Job:
    job = backend.jobs.get(video_id)
    if job is None:
        raise _unknown()
    return job


router = APIRouter()
Here = Annotated[Backend, Depends(_backend)]
Known = Annotated[Job, Depends(_job)]
Key = Annotated[
    str | None,
    Header(min_length=1, max_length=255, description="The same key and body give the same job, however often sent."),
]


@router.post("/v1/videos", status_code=202, response_model=VideoJob)
def create(body: VideoRequest, backend: Here, response: Response, idempotency_key: Key = None) -> VideoJob:
    """Puts a clip in the queue. 429 with Retry-After when the queue is full."""
    if found := prompt_problems(body.prompt):
        raise Problem(422, "validation_error", found[0], "prompt")
    try:
        effective = resolve(body, backend.served)
        job, created = backend.jobs.submit(
            effective, bound=backend.served.queue, fingerprint=fingerprint(body), idempotency_key=idempotency_key
        )
    except Refused as refusal:
        raise Problem(422, "validation_error", str(refusal), refusal.field) from None
    except QueueFull as full:
        backend.meter.rejected["queue_full"] += 1
        raise Problem(429, "queue_full", str(full), headers={"Retry-After": str(full.retry_after)}) from None
    except KeyConflict as conflict:
        backend.meter.rejected["idempotency_conflict"] += 1
        raise Problem(409, "idempotency_conflict", str(conflict), "Idempotency-Key") from None
    if created:
        backend.workers.wake()
    response.headers["Location"] = f"/v1/videos/{job.id}"
    return backend.show(job)


@router.get("/v1/videos", response_model=VideoList)
def listing(
    backend: Here,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(max_length=64, description="Jobs older than this one.")] = None,
) -> VideoList:
    """Jobs, newest first."""
    if after is not None and backend.jobs.get(after) is None:
        raise Problem(422, "validation_error", "no job has this id", "after")
    jobs = backend.jobs.newest(limit + 1, after)
    page = [backend.show(job) for job in jobs[:limit]]
    first, last = (page[0].id, page[-1].id) if page else (None, None)
    return VideoList(data=page, first_id=first, last_id=last, has_more=len(jobs) > limit)


@router.get("/v1/videos/{video_id}", response_model=VideoJob)
def look(job: Known, backend: Here, response: Response) -> VideoJob:
    """Status, progress, place in the queue; what really ran; the error if there was one."""
    response.headers["Cache-Control"] = "no-store"
    return backend.show(job)


@router.get("/v1/videos/{video_id}/content", response_class=FileResponse)
def content(job: Known, backend: Here) -> FileResponse:
    """The mp4. Range requests are answered with the part asked for."""
    if job.status in ("queued", "in_progress"):
        raise Problem(409, "not_completed", f"the video is {job.status}; its content exists when it is completed")
    path = backend.results.path(job.id)
    if job.status != "completed" or not path.is_file():
        raise Problem(410, "no_content", f"the video is {job.status} and has no content")
    headers = {"ETag": f'"{job.sha256}"', "Cache-Control": "private, max-age=3600", "X-Content-Type-Options": "nosniff"}
    return FileResponse(
        path, media_type="video/mp4", filename=path.name, content_disposition_type="inline", headers=headers
    )


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
        "seconds": served.whole_seconds, "frames": served.frames, "fps": served.fps, "sample_rate": served.sample_rate,
        "defaults": served.sampling.model_dump(mode="json"),
    }  # fmt: skip
    return {"object": "list", "data": [model]}


@router.get("/v1/capacity")
def capacity(backend: Here) -> dict[str, Any]:
    """How many jobs wait and may wait, and how the workers are."""
    counts = backend.jobs.statistics()["counts"]
    queue = {"waiting": counts["queued"], "running": counts["in_progress"], "bound": backend.served.queue}
    return {"queue": queue, "workers": backend.workers.states()}


@router.get("/metrics", include_in_schema=False)
def metrics_page(backend: Here) -> Response:
    states = backend.workers.states()
    up, restarts = sum(state["state"] == "ready" for state in states), sum(state["restarts"] for state in states)
    return Response(backend.meter.page(up, restarts), media_type=metrics.CONTENT_TYPE)


@router.get("/", include_in_schema=False)
def playground() -> HTMLResponse:
    headers = {"Content-Security-Policy": PAGE_POLICY, "X-Content-Type-Options": "nosniff"}
    return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers=headers)


@router.get("/favicon.ico", include_in_schema=False)
def favicon() -> Response:
    return Response(status_code=204)


def _unknown() -> Problem:
    return Problem(404, "not_found", "no video has this id", "id")
